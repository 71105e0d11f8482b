"""What a finished batch keeps, and what may go."""

from pathlib import Path

import pytest
from filelock import FileLock

from medrep.cli import ERROR, OK, main
from tests.small_runs import Runs

PART = ("--num-parts", "2", "--part-id")


def run(*words: object) -> int:
    return main([*map(str, words), "--quiet"])


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".medrep" not in path.parts
    }


@pytest.fixture
def score(runs: Runs, tmp_path: Path) -> tuple[object, ...]:
    return ("score", runs("table"), tmp_path / "out", "--model", runs("table_model") / "model")


@pytest.mark.parametrize("command", ["score", "export", "counterfactual"])
def test_only_the_mark_is_left_and_what_was_written_stays(command: str, runs: Runs, tmp_path: Path) -> None:
    asked = {"score": (), "export": ("--remove", "site"), "counterfactual": ("--set", "age=50")}[command]
    out = tmp_path / "out"
    words = (command, runs("table"), out, "--model", runs("table_model") / "model", *asked)
    assert run(*words) == OK
    before = files(out)
    assert run("merge", out, "--prune") == OK
    assert [path.name for path in (out / ".medrep").iterdir()] == ["output.json"]
    assert files(out) == before


def test_what_was_pruned_is_not_gone_on_with_but_may_be_replaced(
    score: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*score) == OK
    before = files(tmp_path / "out")
    assert run("merge", tmp_path / "out", "--prune") == OK
    capsys.readouterr()
    assert run("merge", tmp_path / "out", "--prune") == ERROR
    assert "no batch was begun here" in capsys.readouterr().err
    assert run(*score) == ERROR
    assert "already holds files" in capsys.readouterr().err
    assert run(*score, "--overwrite") == OK
    assert files(tmp_path / "out") == before


def test_what_is_not_whole_keeps_everything(
    score: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*score, *PART, 1) == OK
    kept = sorted((tmp_path / "out" / ".medrep").rglob("*"))
    assert run("merge", tmp_path / "out", "--prune") == ERROR
    assert "people who are not done" in capsys.readouterr().err
    assert set(kept) <= set((tmp_path / "out" / ".medrep").rglob("*"))
    assert run(*score, *PART, 0) == OK
    assert run("merge", tmp_path / "out", "--prune") == OK


def test_a_part_that_somebody_works_on_is_waited_for(
    score: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*score) == OK
    lock = next((tmp_path / "out" / ".medrep").glob("part-*.lock"), tmp_path / "out/.medrep/part-00000-of-00001.lock")
    with FileLock(lock):
        assert run("merge", tmp_path / "out", "--prune") == ERROR
    assert "another process works on part-00000-of-00001" in capsys.readouterr().err
    assert (tmp_path / "out" / ".medrep" / "job.json").is_file()
