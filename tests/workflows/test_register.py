"""``medrep register``: where it registers, and models and audits that cannot be used."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from tests.tracking.registering import copied, not_known, seal_again, write_audit
from tests.workflows.conftest import run


@pytest.fixture(autouse=True)
def no_server_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def audit(table_model: Path, tmp_path: Path) -> Path:
    return write_audit(tmp_path / "audit", table_model)


def test_it_registers_where_train_logs(
    table_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], audit: Path
) -> None:
    out = copied(table_model.parent, tmp_path / "study" / "trained")
    assert run("register", out / "model", "--name", "brains", "--audit", audit) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "brains version 1, alias challenger" in said
    assert "15 findings of 120 people, 1 of them insufficient" in said
    assert "warning" not in said
    uri = f"sqlite:///{tmp_path / 'study' / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    assert client.get_registered_model("brains").aliases == {"challenger": 1}
    assert client.get_experiment_by_name("medrep") is not None

    not_known(audit)
    more = ("--alias", "candidate", "--experiment", "trials", "--tracking-uri", uri)
    assert run("register", out / "model", "--name", "brains", "--audit", audit, *more) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: the audit could not check" in said
    assert "promote will find too little evidence; train the model again, or audit it with --trained" in said
    assert client.get_registered_model("brains").aliases == {"challenger": 1, "candidate": 2}
    run_id = client.get_model_version("brains", "2").run_id
    assert client.get_run(run_id).info.experiment_id == client.get_experiment_by_name("trials").experiment_id
    assert client.get_model_version("brains", "2").tags["medrep.audit_unseen"] == "not checked"


def other_model(audit: Path) -> None:
    about = json.loads((audit / "audit.json").read_text())
    about["model"]["digest"] = "0" * 64
    (audit / "audit.json").write_text(json.dumps(about))
    seal_again(audit)


def other_kind(audit: Path) -> None:
    path = audit / "audit.json"
    path.write_text(path.read_text().replace('"linear"', '"conditional_vae"'))
    seal_again(audit)


def other_format(audit: Path) -> None:
    path = audit / "audit.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))


def half_written(audit: Path) -> None:
    path = audit / "audit.json"
    path.write_text(path.read_text()[:50])


def no_fingerprint(audit: Path) -> None:
    path = audit / "audit.json"
    path.write_text(path.read_text().replace('"fingerprint"', '"finger"'))


def no_table(audit: Path) -> None:
    (audit / "audit.tsv").unlink()


def no_rows(audit: Path) -> None:
    path = audit / "audit.tsv"
    path.write_text(path.read_text().splitlines()[0] + "\n")


def empty_table(audit: Path) -> None:
    (audit / "audit.tsv").write_text("")


def other_columns(audit: Path) -> None:
    table = pd.read_csv(audit / "audit.tsv", sep="\t")
    table.drop(columns="n").to_csv(audit / "audit.tsv", sep="\t", index=False)


def changed(audit: Path, before: str, after: str) -> None:
    path = audit / "audit.tsv"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))


def better_figure(audit: Path) -> None:
    changed(audit, "0.07", "0.01")


def another_table(audit: Path) -> None:
    """The table of a better audit, with its digest written in."""
    better_figure(audit)
    before = json.loads((audit / "audit.json").read_text())
    seal_again(audit)
    after = json.loads((audit / "audit.json").read_text())
    (audit / "audit.json").write_text(json.dumps({**before, "files": after["files"]}))


def another_cohort(audit: Path) -> None:
    path = audit / "audit.json"
    path.write_text(path.read_text().replace('"people": 120', '"people": 1200'))


def unsealed(audit: Path) -> None:
    about = json.loads((audit / "audit.json").read_text())
    (audit / "audit.json").write_text(json.dumps({k: v for k, v in about.items() if k not in ("seal", "files")}))


def no_number(audit: Path) -> None:
    changed(audit, "0.07", "small")


def no_status(audit: Path) -> None:
    changed(audit, "insufficient", "fine")


def turned_interval(audit: Path) -> None:
    changed(audit, "0.07", "-0.5")


def no_probability(audit: Path) -> None:
    changed(audit, "0.3\t", "1.3\t")


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (other_model, "an audit of another model: digest 000000000000..."),
        (other_kind, "it is of a conditional_vae model"),
        (other_format, "no format 1"),
        (half_written, "a damaged audit: audit.json"),
        (no_fingerprint, "cohort.fingerprint is absent"),
        (no_table, "not an audit: audit.tsv is absent; give the folder that medrep audit wrote"),
        (no_rows, "audit.tsv: holds no finding"),
        (empty_table, "a damaged audit: audit.tsv"),
        (other_columns, "has the columns metric, group, estimate"),
        (no_number, "row 1 (leakage_excess exported/site): ci_high 'small' is no number"),
        (no_status, "status 'fine' is neither ok nor insufficient"),
        (turned_interval, "its interval ends before it begins"),
        (no_probability, "p 1.3 is no probability"),
        (better_figure, "not as medrep audit wrote it: audit.tsv is not the one that the audit wrote; audit"),
        (another_table, "not as medrep audit wrote it: audit.json is not as the audit wrote it; audit the model again"),
        (
            another_cohort,
            "not as medrep audit wrote it: audit.json is not as the audit wrote it; audit the model again",
        ),
        (unsealed, "audit.json holds no seal (an earlier medrep wrote it), so that nothing binds the table"),
    ],
)
def test_an_audit_that_cannot_be_used_registers_nothing(
    table_model: Path, audit: Path, alter: object, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    alter(audit)  # type: ignore[operator]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert run("register", table_model, "--name", "brains", "--audit", audit, "--tracking-uri", uri) == 1
    line = capsys.readouterr().err
    assert said in line
    assert str(audit) in line
    assert not (tmp_path / "mlflow.db").exists()


def test_all_that_is_wrong_is_said_at_once(
    table_model: Path, audit: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = copied(table_model, tmp_path / "model")
    (model / "extra.pkl").write_bytes(b"\x80\x04.")
    no_status(audit)
    no_probability(audit)
    assert run("register", model, "--name", "brains", "--audit", audit) == 1
    said = capsys.readouterr().err
    assert "files that no model folder has (extra.pkl)" in said
    assert "status 'fine'" in said
    assert "p 1.3 is no probability" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--name", "a/b"), "name"),
        (("--name", "a@b"), "@, % and .. are not allowed"),
        (("--name", "brains", "--alias", "latest"), "latest"),
        (("--name", "brains", "--alias", "v1"), "alias"),
        (("--name", "a:b", "--alias", "v 1"), "names that cannot be used (2)"),
    ],
)
def test_names_that_mlflow_does_not_take_are_refused_first(
    table_model: Path,
    audit: Path,
    options: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert run("register", table_model, "--audit", audit, "--tracking-uri", uri, *options) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


def test_rows_of_persons_have_to_be_there_to_be_logged(
    table_model: Path, audit: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (audit / "people.tsv").unlink()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    options = ("--name", "brains", "--audit", audit, "--tracking-uri", uri, "--with-participants")
    assert run("register", table_model, *options) == 1
    assert "leave --with-participants out" in capsys.readouterr().err


def test_a_model_that_is_none_is_one_line(audit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("register", tmp_path, "--name", "brains", "--audit", audit) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no model.json" in said
    shutil.rmtree(audit)
    assert run("register", tmp_path, "--name", "brains", "--audit", audit) == 1
    assert "not an audit" in capsys.readouterr().err
