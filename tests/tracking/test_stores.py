"""A store is made and migrated once, whoever comes at once, and one of a later MLflow is left alone."""

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from mlflow import MlflowClient
from mlflow.store.db.utils import (
    _get_alembic_config,
    _get_latest_schema_revision,
    _get_schema_version,
    create_sqlalchemy_engine,
)
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

from medrep.errors import RegistryError
from medrep.models.saved import digest
from medrep.tracking.runs import find_experiment, session
from medrep.tracking.store import Store
from tests.tracking.registering import write_audit

# Everything that a training does after OUT is written, and a registration, by six processes; they share only the imports.
SIX_AT_ONCE = """
import os, sys, traceback
from pathlib import Path

import pandas as pd

from medrep.tracking.audits import read_audit
from medrep.tracking.registry import Candidate, register_version
from medrep.tracking.runs import log_training
from medrep.tracking.store import find_store, registry_store
from medrep.models.saved import digest

uri, model, audit = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])


def trained():
    history = pd.DataFrame({"metric": ["loss"] * 50, "name": ["train/all"] * 50, "value": 1.0, "epoch": range(50)})
    log_training(find_store(uri, Path()), "medrep", "trained", parameters={"seed": 0}, history=history)


def registered():
    candidate = Candidate(model, digest(model), "linear", "features", {}, "sheet")
    register_version(registry_store(uri, model), "medrep", "brains", "challenger", candidate, read_audit(audit))


started = []
for work in (trained, registered) * 3:
    started.append(os.fork())
    if not started[-1]:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
sys.exit(sum(os.waitpid(process, 0)[1] != 0 for process in started))
"""


def test_six_processes_that_start_at_once_on_no_database_all_succeed(features_model: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    where = [uri, str(features_model), str(write_audit(tmp_path / "audit", features_model))]
    six = subprocess.run(
        [sys.executable, "-c", SIX_AT_ONCE, *where], stderr=subprocess.PIPE, text=True, timeout=300, check=False
    )
    assert six.returncode == 0, six.stderr
    client = MlflowClient(uri, uri)
    runs = client.search_runs([client.get_experiment_by_name("medrep").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 6
    assert [run.data.metrics.get("loss/train/all") for run in runs].count(1.0) == 3
    versions = client.search_model_versions("name = 'brains'")
    assert sorted(int(version.version) for version in versions) == [1, 2, 3]
    assert {version.tags["medrep.digest"] for version in versions} == {digest(features_model)}


def test_a_database_of_earlier_tables_is_brought_up_once_and_a_copy_kept(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    store = Store(f"sqlite:///{file}", tmp_path / "mlartifacts", file)
    engine = create_sqlalchemy_engine(store.uri)
    InitialBase.metadata.create_all(engine)
    config = _get_alembic_config(store.uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "f5a4f2784254")
    engine.dispose()
    for _ in range(2):
        with session(store) as client:
            assert find_experiment(client, "kept", store)
    engine = create_sqlalchemy_engine(store.uri)
    assert _get_schema_version(engine) == _get_latest_schema_revision()
    engine.dispose()
    assert [path.name for path in tmp_path.glob("mlflow.db.*")] == ["mlflow.db.f5a4f2784254"]


def test_a_database_of_a_later_mlflow_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    store = Store(f"sqlite:///{file}", tmp_path / "mlartifacts", file)
    engine = create_sqlalchemy_engine(store.uri)
    InitialBase.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create table alembic_version (version_num varchar(32) primary key)"))
        connection.execute(sqlalchemy.text("insert into alembic_version values ('fffffffff')"))
    engine.dispose()
    before = file.read_bytes()
    with pytest.raises(RegistryError, match="cannot be brought up to this MLflow's tables"), session(store):
        pass
    assert file.read_bytes() == before
    assert not list(tmp_path.glob("mlflow.db.*"))
