"""One session with a store, and one training as one MLflow run, without any participant's data.

The client is the plain one, not ``mlflow.start_run``: that would add the user's name, the command line and the Git commit
as tags.
"""

import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from hashlib import sha256
from pathlib import Path

import pandas as pd
import sqlalchemy
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import (
    _get_latest_schema_revision,
    _get_schema_version,
    _upgrade_db,
    create_sqlalchemy_engine,
)
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
)
from requests import RequestException

from medrep.errors import RegistryError, mask
from medrep.tracking.store import Store

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
    """Yield a client of a store, of which a server may take ``patience_s`` to answer one request.

    An SQLite file is made, or brought up to this MLflow's tables with a copy of the old file kept beside it, by one process
    at a time; a server's database is its owner's to migrate. Who writes has to be ``alone``: the only process of medrep with
    an SQLite file until the end. Raises whatever MLflow, its database or its server raise, after seconds.
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
    """Turn what MLflow, a database or a server raise into a RegistryError of one line without a password."""
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


_CUT = "..."


def log_training(
    store: Store,
    experiment: str,
    run_name: str,
    *,
    parameters: Mapping[str, object],
    history: pd.DataFrame,
    artifacts: Sequence[Path] = (),
    tags: Mapping[str, str] | None = None,
) -> str:
    """Log a finished training and return the run's id; give nothing that tells people apart, since only secrets are masked.

    Nested parameters are logged under dotted names, long values cut. The history has the columns metric, name, value, and
    ``epoch`` if there is one: its rows become steps. Raises whatever MLflow, its database or its server raise, after seconds.
    """
    with session(store) as client:
        experiment_id = find_experiment(client, experiment, store)
        masked = {name: mask(value) for name, value in (tags or {}).items()}
        with open_run(client, experiment_id, run_name, masked) as run_id:
            params = [Param(key, value) for key, value in flat_parameters(parameters).items()]
            for start in range(0, len(params), MAX_PARAMS_TAGS_PER_BATCH):
                client.log_batch(run_id, params=params[start : start + MAX_PARAMS_TAGS_PER_BATCH])
            log_metrics(client, run_id, _metrics(history))
            for path in artifacts:
                client.log_artifact(run_id, str(path))
    return run_id


@contextmanager
def open_run(client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
    """Yield the id of a new run, which ends with the block: finished, or failed."""
    run_id = str(client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
    try:
        yield run_id
    except BaseException:
        with suppress(Exception):
            client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)


def log_metrics(client: MlflowClient, run_id: str, metrics: Sequence[Metric]) -> None:
    """Log any number of metrics."""
    for start in range(0, len(metrics), MAX_METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS_PER_BATCH])


def metric_key(metric: str, name: str) -> str:
    """Return MLflow's name for a row of a history table: ``mean_scale``, ``site=S0`` -> ``mean_scale/site:S0``.

    MLflow takes letters, digits and ``_-. :/``. ``=`` becomes ``:``, anything else ``::HEX:``, so that two rows never share
    a name.
    """
    return _bounded("/".join([_escaped(metric, "/"), *([_escaped(name)] if name else [])]))


def flat_parameters(parameters: Mapping[str, object]) -> dict[str, str]:
    """Return nested parameters under dotted names, values as text of a length that MLflow takes."""
    flat: dict[str, str] = {}

    def add(path: tuple[str, ...], value: object) -> None:
        if isinstance(value, Mapping) and value:
            for key, entry in value.items():
                add((*path, str(key)), entry)
            return
        text = mask(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
        cut = text if len(text) <= MAX_PARAM_VAL_LENGTH else text[: MAX_PARAM_VAL_LENGTH - len(_CUT)] + _CUT
        flat[_bounded(".".join(_escaped(key, ".") for key in path))] = cut

    for key, value in parameters.items():
        add((str(key),), value)
    return flat


def _escaped(text: str, also: str = "") -> str:
    """Escape what MLflow refuses, and what would make two texts one or change the path that a name must also be."""
    refused = rf"[^\w\-. =/]|=(?==)|(?<![^/])[./]|/\Z{f'|[{also}]' if also else ''}"
    return re.sub(refused, lambda found: f"::{ord(found[0]):X}:", text).replace("=", ":")


def _bounded(key: str) -> str:
    if len(key) <= MAX_ENTITY_KEY_LENGTH:
        return key
    digest = f"::h{sha256(key.encode()).hexdigest()[:16]}:"
    return key[: MAX_ENTITY_KEY_LENGTH - len(digest)] + digest


def _metrics(history: pd.DataFrame) -> list[Metric]:
    now = int(time.time() * 1000)
    epochs = history["epoch"] if "epoch" in history else pd.Series(0, index=history.index)
    rows = zip(history["metric"], history["name"], history["value"], epochs, strict=True)
    return [
        Metric(metric_key(str(metric), str(name)), float(value), now, 0 if math.isnan(epoch) else int(epoch))
        for metric, name, value, epoch in rows
    ]
