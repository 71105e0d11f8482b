"""``medrep promote``: its exit codes, what it prints, and the whole path from a cohort to scores by alias."""

import json
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from medrep.audit.finding import Finding
from medrep.cli import GATE_REFUSED, OK, TOO_LITTLE
from medrep.tracking.registry import UNSEEN
from tests.tracking.registering import CLEAN, not_known, write_audit
from tests.workflows.conftest import run

LEAK = Finding("leakage_excess", "exported/site", 120, 0.3, 0.2, 0.4, 0.001)
FEW = Finding("leakage_excess", "exported/site", 9, status="insufficient", note="under 20 people")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mlflow.db, where promote is run."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def registered(
    name: str, model: Path, home: Path, tmp_path: Path, findings: tuple[Finding, ...], *, known: bool = True
) -> None:
    audit = write_audit(tmp_path / "audit", model, findings)
    if not known:
        not_known(audit)
    uri = f"sqlite:///{home / 'mlflow.db'}"
    assert run("register", model, "--name", name, "--audit", audit, "--tracking-uri", uri, "--quiet") == OK


@pytest.mark.parametrize(
    ("name", "findings", "code", "why"),
    [
        ("clean", CLEAN, OK, ""),
        ("leaking", (*CLEAN[1:], LEAK), GATE_REFUSED, "a gate refused"),
        ("few", (*CLEAN[1:], FEW), TOO_LITTLE, "too little evidence"),
        ("both", (*CLEAN[1:], FEW, LEAK), GATE_REFUSED, "a gate refused"),
    ],
)
def test_the_exit_code_says_what_the_gates_said(
    name: str,
    findings: tuple[Finding, ...],
    code: int,
    why: str,
    table_model: Path,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    registered(name, table_model, home, tmp_path, findings)
    assert run("promote", name) == code
    said = capsys.readouterr()
    assert "removed covariates can hardly be read" in said.out
    assert f"models:/{name}@champion" in said.err if code == OK else f"{why}; champion stays where it is" in said.err
    assert run("promote", name, "--quiet") == code
    quiet = capsys.readouterr()
    assert quiet.out == ""
    assert (quiet.err == "") == (code == OK), "reasons are printed all the same"
    assert run("promote", name, "--json") == code
    document = json.loads(capsys.readouterr().out)
    assert document["exit_code"] == code
    assert document["promoted"] == (code == OK)
    assert document["decision"] == {OK: "passed", GATE_REFUSED: "refused", TOO_LITTLE: "insufficient"}[code]
    assert (document["name"], document["version"], document["alias"]) == (name, "1", "champion")
    assert bool(document["reasons"]) == (code != OK)
    assert all(reason in quiet.err for reason in document["reasons"])
    assert {gate["verdict"] for gate in document["gates"]} >= {document["decision"]}
    assert {gate["gate"]: gate["verdict"] for gate in document["gates"]}[UNSEEN] == "passed"
    if FEW in findings:
        assert "leakage_excess exported/site: insufficient (n = 9, under 20 people)" in quiet.err
    if LEAK in findings:
        assert "leakage_excess exported/site: estimate 0.3, allowed: at most 0.085 (n = 120)" in quiet.err


@pytest.mark.parametrize(("findings", "code"), [(CLEAN, TOO_LITTLE), ((*CLEAN[1:], LEAK), GATE_REFUSED)])
def test_people_of_whom_nobody_knows_are_no_evidence(
    findings: tuple[Finding, ...],
    code: int,
    table_model: Path,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"unknown-{code}"
    registered(name, table_model, home, tmp_path, findings, known=False)
    assert run("promote", name, "--json") == code
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert not document["promoted"]
    (own,) = (gate for gate in document["gates"] if gate["gate"] == UNSEEN)
    assert own["verdict"] == "insufficient"
    assert f"{UNSEEN}: the audit could not tell" in said.err
    assert "train the model again with this medrep, or audit it with --trained people.tsv" in said.err
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}", f"sqlite:///{home / 'mlflow.db'}")
    assert client.get_model_version(name, "1").tags["medrep.gate.champion"] == "refused"


def test_gates_of_ones_own_versions_and_aliases(
    table_model: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registered("own", table_model, home, tmp_path, (*CLEAN[1:], LEAK))
    lenient = tmp_path / "lenient.yaml"
    lenient.write_text("- {name: raw, metric: leakage_excess, group: raw/site, estimate: {max: 1}}\n")
    assert run("promote", "own", "--gates", "gates_strict.yaml") == GATE_REFUSED
    assert run("promote", "own", "--from", "1", "--to", "pilot", "--gates", lenient) == OK
    assert "pilot of own is now version 1" in capsys.readouterr().err
    assert run("promote", "own", "--from", "pilot", "--to", "champion") == GATE_REFUSED
    uri = f"sqlite:///{home / 'mlflow.db'}"
    assert run("promote", "own", "--gates", "configs/gates.yaml", "--tracking-uri", uri) == GATE_REFUSED


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody",), "no model 'nobody' is registered"),
        (("asked", "--from", "staging"), "no such alias; asked has challenger"),
        (("asked", "--from", "7"), "no such version"),
        (("asked", "--to", "latest"), "latest"),
        (("asked", "--gates", "nowhere.yaml"), "shipped ones: gates.yaml, gates_small.yaml, gates_strict.yaml"),
        (("asked", "--gates", "elsewhere/gates.yaml"), "no such gates"),
        (("asked", "--tracking-uri", "./mlruns"), "keeps no runs in plain folders"),
        (("asked", "--tracking-uri", "sqlite:////nowhere/mlflow.db"), "no such registry"),
    ],
)
def test_what_is_not_there_is_one_line(
    arguments: tuple[str, ...],
    said: str,
    table_model: Path,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if said.startswith("no model"):
        registered("asked", table_model, home, tmp_path, CLEAN)
    assert run("promote", *arguments) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert said in line


def test_a_cohort_is_scored_by_the_alias_only_of_what_passed(
    table_cohort: Path, table_model: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registered("brains", table_model, home, tmp_path, CLEAN)
    assert run("score", table_cohort, tmp_path / "s", "--model", "models:/brains@challenger") == 1
    assert "no gate passed" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
    assert run("promote", "brains", "--quiet") == OK
    assert run("score", table_cohort, tmp_path / "s", "--model", "models:/brains@champion", "--quiet") == 0
    assert run("score", table_cohort, tmp_path / "f", "--model", table_model, "--quiet") == 0
    by_alias, by_folder = (pd.read_csv(tmp_path / name / "scores.tsv", sep="\t") for name in "sf")
    pd.testing.assert_frame_equal(by_alias, by_folder)
