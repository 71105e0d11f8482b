"""``--json``: one document on standard output whatever happens, with the exit code; audit and promote are in their own files."""

import json
from pathlib import Path
from typing import Any

import pytest

from medrep.cli import main
from tests.workflows.conftest import run


def document(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """Return the one document that was written, and what was said beside it."""
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    return json.loads(said.out, parse_constant=pytest.fail), said.err


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
def test_a_check_that_finds_nothing(
    table_cohort: Path, quiet: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", table_cohort, "--json", *quiet) == 0
    found, said = document(capsys)
    assert set(found) == {
        "people",
        "scans",
        "problems",
        "warnings",
        "notes",
        "confounding",
        "interactions",
        "exit_code",
    }
    assert (found["people"], found["scans"], found["problems"], found["exit_code"]) == (160, 160, [], 0)
    assert {(row["first"], row["second"]) for row in found["confounding"]} == {
        ("age", "sex"),
        ("age", "site"),
        ("sex", "site"),
    }
    assert all(0 <= row["estimate"] <= 1 and row["verdict"] for row in found["confounding"])
    assert (said == "") == bool(quiet)
    assert quiet or ("Which covariates tell which" in said and "Summary" in said)


def test_a_check_that_finds_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"sub-{k:02d}\t{20 + k}\t{'MF'[k % 2]}\t{'AB'[k % 2]}" for k in range(12)]
    (tmp_path / "participants.tsv").write_text("\n".join(["participant_id\tage\tsex\tcenter", *rows]) + "\n")
    values = [f"sub-{k:02d}\t{k}\t{'n/a' if k == 3 else k * k}" for k in range(12)]
    (tmp_path / "features.tsv").write_text("\n".join(["participant_id\ta\tb", *values]) + "\n")
    assert run("check", tmp_path, "--json", "--quiet") == 1
    found, said = document(capsys)
    assert said == ""
    assert found["exit_code"] == 1
    aliased, hole = found["problems"]
    assert "sex and site" in aliased
    assert hole.startswith("sub-03: b is nan")
    few = [
        f"{name} has 6 people; its effect is estimated from few people"
        for name in ("sex 'F'", "sex 'M'", "site 'A'", "site 'B'")
    ]
    assert found["warnings"] == [
        *few,
        "features that are covariate age, not a measurement: a; take them out of features.tsv",
        "features that count the rows, not a measurement: a; take them out of features.tsv",
    ]
    assert found["notes"] == ["column 'center' is read as site"]
    assert run("check", tmp_path / "nowhere", "--json", "--quiet") == 1
    found, _ = document(capsys)
    assert "no such folder" in found["problems"][0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "cohort", "--set", "1"), "--set 1: write it as dotted.path=value"),
        (("audit", "cohort", "out", "--model", "nowhere"), "nowhere: no model.json"),
        (("promote", "nobody", "--gates", "nowhere.yaml"), "nowhere.yaml: no such gates"),
    ],
)
def test_an_error_is_a_document_too(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments, "--json") == 1
    found, err = document(capsys)
    assert found == {"error": found["error"], "exit_code": 1}
    assert said in found["error"]
    assert err == f"medrep {arguments[0]}: {found['error']}\n"


def test_wrong_usage_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["promote", "--json"])
    assert caught.value.code == 2
    found, said = document(capsys)
    assert found["exit_code"] == 2
    assert "usage: medrep promote" in said


def test_what_nobody_foresaw_is_a_document_and_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("medrep.workflows.check.read_cohort", lambda *_arguments, **_options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("check", "cohort", "--json")
    found, _ = document(capsys)
    assert found == {"error": "ZeroDivisionError: division by zero", "exit_code": 1}
