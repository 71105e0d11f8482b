"""What is logged, where, and what happens when nobody is there to take it."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, _validate_metric_name, _validate_param_name

from medrep.cli import main
from medrep.tracking.runs import flat_parameters, log_training, metric_key
from medrep.tracking.store import Store, find_store


@pytest.fixture(autouse=True)
def no_server_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort that the report has notes about, by name."""
    folder = tmp_path_factory.mktemp("tracked") / "cohort"
    assert main(["simulate", str(folder), "--n", "80", "--seed", "3", "--quiet"]) == 0
    table = pd.read_csv(folder / "participants.tsv", sep="\t", dtype=str)
    table.loc[3, "age"] = "n/a"
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    return folder


def train(cohort: Path, out: Path, *more: str) -> int:
    drop = ("--set", "covariates.age.missing=drop")
    return main(["train", str(cohort), str(out), "--quiet", "--overwrite", *drop, *more])


def runs_of(store: str | Path, experiment: str = "medrep") -> list[Run]:
    client = MlflowClient(store if isinstance(store, str) else f"sqlite:///{store}")
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def history(epochs: int = 3) -> pd.DataFrame:
    rows = [
        ("loss", f"{part}/all", 1 / (1 + epoch), epoch) for part in ("train", "held_out") for epoch in range(epochs)
    ]
    return pd.DataFrame(rows, columns=["metric", "name", "value", "epoch"])


def test_two_trainings_are_two_runs_with_their_settings_metrics_and_files(cohort: Path, tmp_path: Path) -> None:
    assert train(cohort, tmp_path / "straight", "--tracking", "auto", "--set", "settings.spline_degrees=1") == 0
    assert train(cohort, tmp_path / "curved", "--tracking", "auto", "--experiment", "medrep") == 0
    runs = {run.info.run_name: run for run in runs_of(tmp_path / "mlflow.db")}
    assert set(runs) == {"straight", "curved"}
    assert [runs[name].data.params["settings.spline_degrees"] for name in ("straight", "curved")] == ["1", "4"]
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        written = pd.read_csv(tmp_path / name / "history.tsv", sep="\t")
        keys = [
            metric_key(str(metric), str(part)) for metric, part in zip(written["metric"], written["name"], strict=True)
        ]
        assert run.data.metrics == pytest.approx(dict(zip(keys, written["value"], strict=True)))
        assert "mean_scale/site:S0" in run.data.metrics
        kept = tmp_path / "mlartifacts" / run.info.run_id / "artifacts"
        assert sorted(path.name for path in kept.iterdir()) == ["config.yaml", "history.tsv"]
        assert (kept / "config.yaml").read_bytes() == (tmp_path / name / "config.yaml").read_bytes()
    assert runs["straight"].data.tags["medrep.digest"] != runs["curved"].data.tags["medrep.digest"]


def test_nothing_that_is_logged_names_a_participant_or_the_user(cohort: Path, tmp_path: Path) -> None:
    people = pd.read_csv(cohort / "participants.tsv", sep="\t", dtype=str)["participant_id"].tolist()
    assert train(cohort, tmp_path / "out", "--tracking", "auto", "--exclude", people[0]) == 0
    assert people[3] in (tmp_path / "out" / "report.html").read_text(), "or this test would show nothing"
    (run,) = runs_of(tmp_path / "mlflow.db")
    tags = {"medrep.version", "medrep.model", "medrep.digest", "mlflow.runName"}
    assert set(run.data.tags) == tags
    assert run.info.user_id == "unknown"
    held = [path.read_bytes() for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()]
    held.append((tmp_path / "mlflow.db").read_bytes())
    assert not [who for who in people for content in held if who.encode() in content]


def test_epochs_are_steps_in_more_rows_than_one_batch_takes(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'runs.db'}", tmp_path / "files", tmp_path / "runs.db")
    parameters = {"settings": {f"width_{k}": k for k in range(230)}, "long": "x" * 9000}
    table = pd.concat([history(1100), pd.DataFrame({"metric": ["best"], "name": ["epoch"], "value": [7.0]})])
    run_id = log_training(store, "networks", "one", parameters=parameters, history=table, tags={"a": "b"})
    client = MlflowClient(store.uri)
    for part in ("train", "held_out"):
        steps = client.get_metric_history(run_id, f"loss/{part}/all")
        assert [(m.step, m.value) for m in steps] == [(epoch, 1 / (1 + epoch)) for epoch in range(1100)]
    data = client.get_run(run_id).data
    assert data.metrics["best/epoch"] == 7
    assert len(data.params) == 231
    assert data.params["settings.width_229"] == "229"
    assert data.params["long"] == "x" * (MAX_PARAM_VAL_LENGTH - 3) + "..."


def test_a_value_that_is_no_number_is_logged_too(tmp_path: Path) -> None:
    store = find_store("auto", tmp_path / "out")
    assert store is not None
    table = pd.DataFrame({"metric": ["loss"] * 2, "name": ["a", "b"], "value": [float("nan"), float("inf")]})
    log_training(store, "medrep", "odd", parameters={}, history=table)
    (run,) = runs_of(tmp_path / "mlflow.db")
    assert str(run.data.metrics["loss/a"]) == "nan"
    assert run.data.metrics["loss/b"] > 1e300


TEXT = st.text(st.sampled_from("a3DF=:./ -_~é\n%|"), max_size=12)


@given(st.tuples(TEXT.filter(bool), TEXT), st.tuples(TEXT.filter(bool), TEXT))
def test_metric_names_are_taken_and_never_shared(first: tuple[str, str], second: tuple[str, str]) -> None:
    keys = [metric_key(*first), metric_key(*second)]
    for key in keys:
        _validate_metric_name(key)
    assert (keys[0] == keys[1]) == (first == second)


@given(st.dictionaries(TEXT.filter(bool), st.dictionaries(TEXT.filter(bool), st.integers(), min_size=1, max_size=3)))
def test_parameter_names_are_taken_and_never_shared(nested: dict[str, dict[str, int]]) -> None:
    flat = flat_parameters(nested)
    assert len(flat) == sum(len(inner) for inner in nested.values())
    for key in flat:
        _validate_param_name(key)


def test_names_stay_readable_and_long_ones_stay_apart() -> None:
    assert metric_key("mae", "sex=F") == "mae/sex:F"
    assert metric_key("loss", "train/reconstruction") == "loss/train/reconstruction"
    assert metric_key("scale", "scanner=1.5T") == "scale/scanner:1.5T"
    assert metric_key("a=", "=3A=") != metric_key("a=", ":")
    long = [metric_key("m", "x" * 400 + end) for end in "ab"]
    assert [len(key) for key in long] == [250, 250]
    assert long[0] != long[1]


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "file:mlruns", "sqlite://", "sqlite:///:memory:"])
def test_a_place_that_keeps_no_runs_is_refused_before_training(
    cohort: Path, tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(cohort, tmp_path / "out", "--tracking", uri) == 1
    said = capsys.readouterr().err
    assert f"--tracking {uri!r}" in said
    assert f"write sqlite:///{tmp_path / 'mlflow.db'}" in said
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert train(cohort, tmp_path / "out", "--tracking", "auto") == 1
    assert "MLFLOW_TRACKING_URI" in capsys.readouterr().err


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_is_away_costs_one_warning_and_not_the_model(
    cohort: Path, tmp_path: Path, scheme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"{scheme}://me:secret@127.0.0.1:{closed_port()}"
    out = tmp_path / "out"
    began = time.monotonic()
    drop = "covariates.age.missing=drop"
    assert main(["train", str(cohort), str(out), "--tracking", uri, "--set", drop]) == 0
    assert time.monotonic() - began < 60
    assert (out / "model" / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert f"not logged to {scheme}://me:***@127.0.0.1" in warnings[0]
    assert "secret" not in warnings[0]


def test_a_file_that_is_no_database_costs_one_warning(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database\n" * 100)
    assert train(cohort, tmp_path / "out", "--tracking", "auto") == 0
    assert (tmp_path / "out" / "model" / "model.json").is_file()


def test_a_run_that_cannot_be_finished_is_marked_as_failed(tmp_path: Path) -> None:
    store = find_store("auto", tmp_path / "out")
    assert store is not None
    with pytest.raises(Exception, match="nowhere"):
        log_training(store, "medrep", "one", parameters={}, history=history(), artifacts=[tmp_path / "nowhere"])
    assert [run.info.status for run in runs_of(tmp_path / "mlflow.db")] == ["FAILED"]


def test_environment_and_rank_decide_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    assert find_store(None, out) is None
    assert find_store("none", out) is None
    beside = Store(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlartifacts", tmp_path / "mlflow.db")
    assert find_store("auto", out) == beside
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert find_store("auto", out) == Store("http://server:5000")
    own = Store(f"sqlite:///{tmp_path}/sub/own.db", tmp_path / "sub" / "mlartifacts", tmp_path / "sub" / "own.db")
    assert find_store(own.uri, out) == own
    shared = "postgresql+psycopg2://me@server/runs"
    assert find_store(shared, out) == Store(shared, tmp_path / "mlartifacts")
    monkeypatch.setenv("RANK", "1")
    assert find_store("auto", out) is None
    monkeypatch.setenv("RANK", "0")
    assert find_store(own.uri, out) == own


def test_variable_turns_it_off_and_the_option_turns_it_on(cohort: Path, tmp_path: Path) -> None:
    assert train(cohort, tmp_path / "out") == 0  # tests/conftest.py: MEDREP_TRACKING=none
    assert not (tmp_path / "mlflow.db").exists()


def test_training_imports_mlflow_only_to_log_and_its_telemetry_is_off() -> None:
    script = (
        "import sys, medrep.workflows.train, medrep.tracking.store\n"
        "print('mlflow' in sys.modules)\n"
        "import medrep.tracking.runs\n"
        "from mlflow.telemetry import get_telemetry_client\n"
        "print(get_telemetry_client())"
    )
    # Pytest's own variable would turn telemetry off as well.
    clean = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.split() == ["False", "None"]
