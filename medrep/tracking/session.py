"""A session with a store: one client, an SQLite file made and migrated once, and an end to waiting."""

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import sqlalchemy
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import (
    _get_latest_schema_revision,
    _get_schema_version,
    _upgrade_db,
    create_sqlalchemy_engine,
)
from requests import RequestException

from medrep.tracking.errors import RegistryError
from medrep.tracking.stores import Store

_LOCK_S = 60
_CONNECT_S = 5
_CONNECT_ARGUMENT = {
    "psycopg": "connect_timeout",
    "psycopg2": "connect_timeout",
    "pymysql": "connect_timeout",
    "mysqldb": "connect_timeout",
    "mysqlconnector": "connection_timeout",
    "pg8000": "timeout",
    "pyodbc": "timeout",
}
# MLflow's own defaults keep at it for minutes, and somebody waits for the command to end.
_IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Whatever lies in the current folder is not logged with a model.
    "MLFLOW_UV_AUTO_DETECT": "false",
}
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"


@contextmanager
def session(store: Store, *, alone: bool = True, patience_s: int = 10) -> Iterator[MlflowClient]:
    """Yield a client of a store.

    Args:
        store: The store. An SQLite file is made, or brought up to this MLflow's tables with a copy of the old file kept
            beside it, by one process at a time; a server's database is its owner's to migrate.
        alone: Whether to be the only process of medrep with an SQLite file until the end, as who writes has to.
        patience_s: How long a server may take to answer one request.

    Raises:
        Exception: Whatever MLflow, its database or its server raise, after seconds.
    """
    with _impatient(patience_s):
        with _lock(store):
            _answers(store)
            _bring_up(store)
            client = MlflowClient(tracking_uri=store.uri, registry_uri=store.uri)
            if alone:
                yield client
                return
        yield client


@contextmanager
def explained(store: Store) -> Iterator[None]:
    """Turn what MLflow, a database or a server raise into one line without a password.

    Raises:
        RegistryError: That line.
    """
    try:
        yield
    except Timeout:
        raise RegistryError(f"{store}: another process has kept it for {_LOCK_S} s; try again") from None
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, RequestException, ValueError, ImportError) as error:
        # The last two: a port that is no number, a driver that is not installed.
        reason = " ".join(store.hide(str(error)).split())
        cure = ""
        if re.search(r"error code 401|401 Client Error", reason):
            cure = "; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        elif re.search(r"error code 403|403 Client Error", reason):
            cure = "; the server does not let this user do so, or has no such model"
        raise RegistryError(f"{store}: {reason[:400]}{cure}") from None


def find_experiment(client: MlflowClient, name: str, store: Store) -> str:
    """Return the id of an experiment; it is made if there is none."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, store.artifacts.as_uri() if store.artifacts else None))
        except MlflowException as error:
            # Another process made it in between.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    return str(found.experiment_id)


def _bring_up(store: Store) -> None:
    """Do to an SQLite file what ``mlflow db upgrade`` does, if it needs it, and keep a copy of the file as it was."""
    if store.file is None or not store.file.is_file():
        return
    engine = create_sqlalchemy_engine(store.uri)
    try:
        revision = _get_schema_version(engine)
        if revision is None or revision == _get_latest_schema_revision():
            return
        copy = store.file.with_name(f"{store.file.name}.{revision}")
        shutil.copyfile(store.file, copy)
        try:
            _upgrade_db(engine)
        except Exception as error:
            engine.dispose()
            copy.replace(store.file)
            reason = " ".join(str(error).split())
            raise RegistryError(
                f"{store.file}: cannot be brought up to this MLflow's tables ({reason[:200]})"
            ) from None
    finally:
        engine.dispose()


def _answers(store: Store) -> None:
    """Connect once: MLflow would try a database that is away ten times, at growing intervals."""
    if store.artifacts is None:
        return
    url = sqlalchemy.make_url(store.uri)
    argument = _CONNECT_ARGUMENT.get(url.get_driver_name())
    engine = sqlalchemy.create_engine(url, connect_args={argument: _CONNECT_S} if argument else {})
    engine.connect().close()
    engine.dispose()


def _lock(store: Store) -> AbstractContextManager[object]:
    """Let one process at a time make an SQLite file's tables and write to it; others wait."""
    if store.file is None:
        return nullcontext()
    store.file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(store.file.with_name(f".{store.file.name}.lock"), timeout=_LOCK_S)


@contextmanager
def _impatient(patience_s: int) -> Iterator[None]:
    """Give up after seconds and keep MLflow's log off the terminal; a user's own settings stay."""
    wanted = {**_IMPATIENT, _TIMEOUT: str(patience_s)}
    set_here = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in set_here})
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
        for name in set_here:
            os.environ.pop(name, None)
