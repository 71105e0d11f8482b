"""Which outcome of somebody is the current one: counted and placed, not told by clocks of machines that disagree."""

import time
from pathlib import Path

import pytest

from medrep.batch.journal import Journal
from medrep.batch.progress import Progress, read_history
from medrep.derivatives.tasks import Result

YEAR = 365 * 86400.0


def _work(
    folder: Path, fingerprint: str, journal: str, clock: float, monkeypatch: pytest.MonkeyPatch, **kinds: object
) -> None:
    monkeypatch.setattr(time, "time", lambda: clock)
    progress = Progress(folder / journal, read_history(folder), {"a": fingerprint})
    progress.end(Result("a", **kinds))  # type: ignore[arg-type]
    progress.close()


@pytest.mark.parametrize(
    "second", ["part-00000-of-00001.jsonl", "part-00000-of-00002.jsonl", "part-00000-of-00000.jsonl"]
)
@pytest.mark.parametrize("ahead", [1e-3, 3600.0, 40 * YEAR])
@pytest.mark.parametrize("files", [(), ("a.nii.gz",)])
def test_an_outcome_from_the_future_does_not_stand_in_the_way(
    tmp_path: Path, second: str, ahead: float, files: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    _work(tmp_path, "before", "part-00000-of-00001.jsonl", now + ahead, monkeypatch, files=files)
    assert read_history(tmp_path).current("a", "now") is None
    _work(tmp_path, "now", second, now, monkeypatch, files=files)
    history = read_history(tmp_path)
    found = history.current("a", "now")
    assert found is not None
    assert found.fingerprint == history.ended["a"].fingerprint == "now"


def test_a_person_who_is_tried_again_on_a_slow_machine_is_no_failure_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _work(tmp_path, "now", "part-00000-of-00001.jsonl", 2e9, monkeypatch, error="broken", stage="read")
    _work(tmp_path, "now", "part-00000-of-00002.jsonl", 1e9, monkeypatch)
    found = read_history(tmp_path).current("a", "now")
    assert found is not None
    assert (found.failed, found.attempts) == (False, 2)


def test_covariates_that_were_changed_back_are_worked_on_again_where_the_file_was_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fingerprint, clock in (("one", 3e9), ("other", 1e9)):
        _work(tmp_path, fingerprint, "part-00000-of-00001.jsonl", clock, monkeypatch, files=("a.nii.gz",))
    assert read_history(tmp_path).current("a", "one") is None
    _work(tmp_path, "one", "part-00000-of-00002.jsonl", 1.0, monkeypatch, files=("a.nii.gz",))
    assert read_history(tmp_path).current("a", "one") is not None


def test_an_outcome_without_a_file_that_fits_again_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fingerprint in ("one", "other"):
        _work(tmp_path, fingerprint, "part-00000-of-00001.jsonl", 1e9, monkeypatch)
    found = read_history(tmp_path).current("a", "one")
    assert found is not None
    assert found.start == 0


def test_journals_of_before_hold_no_count_and_the_fitting_outcome_wins(tmp_path: Path) -> None:
    for name, fingerprint, clock in (("part-0.jsonl", "before", 3e9), ("part-1.jsonl", "now", 1e9)):
        journal = Journal(tmp_path / name)
        result = Result("a", files=("a.nii.gz",)).to_json()
        end = {"event": "end", "keys": ["a"], "fingerprint": fingerprint, "failed": False, "attempts": 1, "time": clock}
        journal.append(end | {"outcome": result})
        journal.close()
    found = read_history(tmp_path).current("a", "now")
    assert found is not None
    assert found.journal.name == "part-1.jsonl"
