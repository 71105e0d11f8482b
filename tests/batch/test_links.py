"""Whoever may write to OUT cannot make medrep write, cut or remove files elsewhere."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from medrep._files import STATE
from medrep.batch.journal import Journal, read_event, read_events
from medrep.batch.merge import sweep
from medrep.batch.store import Job, Part, open_job, read_job
from medrep.errors import MedrepError

NAMES = ("part-00000-of-00001.jsonl", "part-00000-of-00001.lock", "job.lock", "people.tsv", "model", "adapting.jsonl")


def job(out: Path, *, overwrite: bool = False) -> Job:
    return open_job(out, {"command": "score"}, lambda folder: {}, Part(), overwrite=overwrite)


def linked(path: Path, to: Path) -> None:
    path.symlink_to(to)


def second_name(path: Path, to: Path) -> None:
    os.link(to, path)


def pipe(path: Path, to: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plant", [linked, second_name, pipe])
@pytest.mark.parametrize("begun", [True, False])
def test_what_stands_in_the_jobs_folder_for_a_file_elsewhere_is_refused(
    tmp_path: Path, name: str, plant: Callable[[Path, Path], None], begun: bool
) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious, and no end of line")
    if begun:
        job(out)
    (out / STATE).mkdir(parents=True, exist_ok=True)
    (out / STATE / name).unlink(missing_ok=True)
    plant(out / STATE / name, victim)
    for call in (lambda: job(out), lambda: job(out, overwrite=True), lambda: read_job(out)):
        with pytest.raises(MedrepError, match=f"links or special files .*{STATE}/{name}"):
            call()
    assert victim.read_text() == "precious, and no end of line"


def test_a_journal_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    victim, journal = tmp_path / "victim", tmp_path / "part-0.jsonl"
    victim.write_text("precious, and no end of line")
    journal.symlink_to(victim)
    for call in (lambda: Journal(journal), lambda: list(read_events(journal)), lambda: read_event(journal, 0)):
        with pytest.raises(OSError, match="symbolic link"):
            call()
    assert victim.read_text() == "precious, and no end of line"


def test_a_job_whose_folder_is_a_link_is_not_merged(tmp_path: Path) -> None:
    job(tmp_path / "other")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / STATE).symlink_to(tmp_path / "other" / STATE)
    with pytest.raises(MedrepError, match="is a link"):
        read_job(tmp_path / "out")


@pytest.mark.parametrize("name", ["../victim", "{tmp}/victim", "away/victim"])
def test_files_that_a_journal_names_elsewhere_are_not_removed(tmp_path: Path, name: str) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    done = job(out)
    (out / "away").symlink_to(tmp_path)
    (out / "old.nii.gz").touch()
    files = (name.format(tmp=tmp_path), "old.nii.gz")
    sweep(done, files)
    assert victim.exists()
    assert not (out / "old.nii.gz").exists()


def test_a_planted_event_that_is_nested_without_end_is_passed_over(tmp_path: Path) -> None:
    body = b"[" * 100_000 + b"]" * 100_000
    (tmp_path / "j.jsonl").write_bytes(b"%08x %s\n" % (zlib.crc32(body), body))
    assert list(read_events(tmp_path / "j.jsonl")) == []
