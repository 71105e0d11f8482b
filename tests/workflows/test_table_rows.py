"""Rows of a table: beside the journal while a job runs, in OUT's tables once it is whole."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from medrep.batch.journal import ENDING, read_events
from medrep.cli import OK, SOME_FAILED, main

TABLES = ("features.tsv", "latents.tsv", "participants.tsv")


def export(cohort: Path, out: Path, model: Path, *more: object) -> int:
    command = ["export", cohort, out, "--model", model, "--remove", "site", "--quiet", *more]
    return main([str(word) for word in command])


def tables(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in TABLES]


def worked_on(out: Path) -> list[str]:
    events = [event for path in sorted((out / ".medrep").glob("part-*.jsonl")) for _, event in read_events(path)]
    return [key for event in events if event["event"] == "rows" for key in event["keys"]]


@pytest.fixture
def cohort(table_cohort: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(table_cohort, tmp_path / "cohort"))


def test_a_whole_job_holds_each_row_once(cohort: Path, table_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(cohort, out, table_model) == OK
    assert not list((out / ".medrep").glob(f"*{ENDING}"))
    before, state = tables(out), (out / "features.tsv").stat().st_mtime_ns
    assert export(cohort, out, table_model) == OK
    assert (out / "features.tsv").stat().st_mtime_ns == state  # nothing was written again
    assert len(worked_on(out)) == len(pd.read_csv(out / "participants.tsv", sep="\t"))
    assert tables(out) == before


def test_somebody_who_comes_later_is_worked_on_alone(cohort: Path, table_model: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert export(cohort, whole, table_model) == OK
    people = (cohort / "participants.tsv").read_text().splitlines(keepends=True)
    (cohort / "participants.tsv").write_text("".join(people[:-3]))
    assert export(cohort, out, table_model) == OK
    (cohort / "participants.tsv").write_text("".join(people))
    assert export(cohort, out, table_model) == OK
    assert len(worked_on(out)) == len(set(worked_on(out))) == len(people) - 1
    assert tables(out) == tables(whole)
    # Who leaves, and comes back, is not worked on again.
    (cohort / "participants.tsv").write_text("".join(people[:1] + people[4:]))
    assert export(cohort, out, table_model) == OK
    assert len(pd.read_csv(out / "features.tsv", sep="\t")) == len(people) - 4


@pytest.mark.parametrize("how", ["edited", "removed"])
def test_a_table_that_somebody_changed_is_made_anew(how: str, cohort: Path, table_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(cohort, out, table_model) == OK
    before = tables(out)
    if how == "edited":
        text = (out / "features.tsv").read_text()
        (out / "features.tsv").write_text(text.replace("1", "2"))
    else:
        (out / "latents.tsv").unlink()
    assert export(cohort, out, table_model) == OK
    assert tables(out) == before


def journals(out: Path) -> list[Path]:
    return sorted((out / ".medrep").glob("part-*.jsonl"))


@pytest.mark.parametrize("how", ["replaced", "cut", "forbidden"])
@pytest.mark.parametrize("command", ["export", "score"])
def test_a_finished_job_is_repeated_without_its_journals(
    command: str, how: str, cohort: Path, table_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    more = ["--remove", "site"] if command == "export" else []
    words = [command, str(cohort), str(out), "--model", str(table_model), "--quiet", *more]
    assert main(words) == OK
    names = sorted(path.name for path in out.iterdir())
    before = {path: path.read_bytes() for path in out.glob("*.tsv")}
    for path in journals(out):
        if how == "replaced":
            path.write_bytes(b"no journal\n" * 10)
        elif how == "cut":
            path.write_bytes(b"")
        else:  # root may read everything
            monkeypatch.setattr("medrep.batch.run.read_history", refused)
            monkeypatch.setattr("medrep.batch.merge.read_history", refused)
    assert main(words) == OK
    assert sorted(path.name for path in out.iterdir()) == names
    assert {path: path.read_bytes() for path in out.glob("*.tsv")} == before


def refused(*_: object) -> None:
    raise AssertionError("a journal is read")


def test_a_repeated_job_says_that_everybody_is_done(
    cohort: Path, table_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["export", str(cohort), str(out), "--model", str(table_model), "--remove", "site"]
    assert main(words) == OK
    said = [line for line in "".join(capsys.readouterr()).splitlines() if "delivered" in line or "report" in line]
    for path in journals(out):
        path.write_bytes(b"")
    assert main(words) == OK
    again = "".join(capsys.readouterr())
    count = len((out / "participants.tsv").read_text().splitlines()) - 1
    assert f"{count} people are done already" in again
    assert said
    assert all(line in again for line in said)


@pytest.mark.parametrize("name", ["features.tsv", "participants.tsv", "features.json"])
def test_an_edited_file_is_made_anew_from_the_journals(
    name: str, cohort: Path, table_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert export(cohort, out, table_model) == OK
    before = (out / name).read_bytes()
    (out / name).write_bytes(before.replace(b"s", b"t", 1))
    kept = {path: path.read_bytes() for path in journals(out)}
    for path in journals(out):
        path.write_bytes(b"")  # so everybody is worked on again
    assert export(cohort, out, table_model) == OK
    assert (out / name).read_bytes() == before
    assert [path for path in journals(out) if path.read_bytes()] == list(kept)


@pytest.mark.parametrize("name", ["scores.tsv", "scores.json", "participants.tsv", "latents.tsv"])
@pytest.mark.parametrize("how", ["edited", "removed"])
def test_whatever_else_was_written_is_written_again(
    name: str, how: str, cohort: Path, table_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["score", str(cohort), str(out), "--model", str(table_model), "--quiet"]
    assert main(command) == OK
    before = (out / name).read_bytes()
    if how == "edited":
        (out / name).write_bytes(before.replace(b"s", b"t", 1))
    else:
        (out / name).unlink()
    assert main(command) == OK
    assert (out / name).read_bytes() == before


@pytest.mark.parametrize("how", ["cut", "flipped", "removed"])
def test_rows_that_were_lost_are_worked_on_again(how: str, cohort: Path, table_model: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert export(cohort, whole, table_model) == OK
    assert export(cohort, out, table_model, "--num-parts", 2, "--part-id", 0) == OK
    (rows,) = (out / ".medrep").glob(f"*{ENDING}")
    body = bytearray(rows.read_bytes())
    if how == "removed":
        rows.unlink()
    elif how == "cut":
        rows.write_bytes(body[:-5])
    else:
        body[10] ^= 1
        rows.write_bytes(body)
    for part in (0, 1):
        assert export(cohort, out, table_model, "--num-parts", 2, "--part-id", part) == OK
    assert main(["merge", str(out), "--quiet"]) == OK
    assert tables(out) == tables(whole)


def test_workers_give_the_same_bytes(
    cohort: Path, table_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(cohort, tmp_path / "inline", table_model) == OK
    monkeypatch.setattr("medrep.batch.run._MANY_CELLS", 1)
    assert export(cohort, tmp_path / "workers", table_model, "--workers", 2) == OK
    assert tables(tmp_path / "workers") == tables(tmp_path / "inline")


def test_ids_that_stand_behind_features_stay_there(cohort: Path, table_model: Path, tmp_path: Path) -> None:
    features = pd.read_csv(cohort / "features.tsv", sep="\t", dtype=str, keep_default_na=False)
    features = features[[*features.columns[1:3], "participant_id", *features.columns[3:]]]
    features.to_csv(cohort / "features.tsv", sep="\t", index=False)
    out = tmp_path / "out"
    assert export(cohort, out, table_model) == OK
    before = tables(out)
    assert list(pd.read_csv(out / "features.tsv", sep="\t")) == list(features)
    people = (cohort / "participants.tsv").read_text().splitlines(keepends=True)
    (cohort / "participants.tsv").write_text("".join(people[:-1]))
    assert export(cohort, out, table_model) in (OK, SOME_FAILED)
    (cohort / "participants.tsv").write_text("".join(people))
    assert export(cohort, out, table_model) == OK
    assert tables(out) == before
