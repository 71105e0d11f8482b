"""Who is tried how often, with workers that die as a script says; real workers are in test_local_pool.py."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.batch.pool import QUARANTINE, Finished, Pool, Scheduler, WorkerCrashed
from medrep.batch.progress import (
    ALONE,
    DEATHS,
    SINGLE,
    TOGETHER,
    Progress,
    RetryState,
    read_history,
)
from medrep.cohort.samples import Sample
from medrep.derivatives.tasks import Result
from tests.batch.steps import people


class ScriptedPool(Pool):
    """Dies whenever one of the killers is in a group, and keeps who was worked on at the same time."""

    def __init__(self, killers: set[str], workers: int = 2) -> None:
        self.workers, self.killers = workers, killers
        self.busy: list[tuple[Sample, ...]] = []
        self.seen: list[tuple[str, ...]] = []
        self.beside: dict[str, int] = {}

    def submit(self, people: tuple[Sample, ...]) -> None:
        assert len(self.busy) < self.workers
        self.busy.append(people)
        self.seen.append(tuple(one.key for one in people))
        for one in people:
            self.beside[one.key] = sum(map(len, self.busy)) - 1

    def wait(self) -> list[Finished | WorkerCrashed]:
        people = self.busy.pop(0)
        if self.killers & {one.key for one in people}:
            return [WorkerCrashed(people, "was killed")]
        return [Finished(people, tuple(Result(one.key, figures={"x": 1.0}) for one in people))]

    def close(self) -> None:
        self.busy.clear()


def worked_off(
    folder: Path, everybody: list[Sample], pool: Pool, retries: dict[str, RetryState] | None = None
) -> dict[str, Result]:
    prints = {one.key: "same" for one in everybody}
    progress = Progress(folder / "part-0.jsonl", read_history(folder), prints)
    found = Scheduler(pool, progress, 4, lambda line: None).run(everybody, retries or {})
    results = [one for some in found for one in some]
    progress.close()
    assert len(results) == len({one.key for one in results})
    return {one.key: one for one in results}


@settings(deadline=None)
@given(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=6), st.integers(1, 5))
def test_everybody_has_one_outcome_and_only_killers_are_quarantined(
    tmp_path_factory: pytest.TempPathFactory, count: int, killers: set[int], workers: int
) -> None:
    everybody = people(*(f"sub-{k}" for k in range(count)))
    pool = ScriptedPool({f"sub-{k}" for k in killers}, workers)
    folder = tmp_path_factory.mktemp("job")
    results = worked_off(folder, everybody, pool)
    assert set(results) == {one.key for one in everybody}
    bad = {key for key, result in results.items() if result.error}
    assert bad == pool.killers & set(results)
    assert all(results[key].stage == QUARANTINE for key in bad)
    history = read_history(folder)
    assert not history.retries
    assert {key: one.attempts for key, one in history.ended.items()} == {
        key: DEATHS if key in bad else 1 for key in results
    }
    for key in bad:
        assert pool.beside[key] == 0  # the last time nobody else was worked on
        assert sum(key in group for group in pool.seen) <= 1 + DEATHS


def test_groups_stay_within_blocks_of_the_cohort(tmp_path: Path) -> None:
    everybody = people(*(f"sub-{k}" for k in range(11)))
    pool = ScriptedPool(set())
    worked_off(tmp_path, [one for one in everybody if one.key not in {"sub-1", "sub-4"}], pool)
    assert pool.seen == [
        ("sub-0", "sub-2", "sub-3"),
        ("sub-5", "sub-6", "sub-7"),
        ("sub-8", "sub-9", "sub-10"),
    ]


def test_a_person_without_a_file_never_reaches_a_worker(tmp_path: Path) -> None:
    pool = ScriptedPool(set())
    results = worked_off(tmp_path, [Sample("sub-1", 0, None, {}, "no sub-*_T1w.nii[.gz] under sub-1/")], pool)
    assert (results["sub-1"].stage, pool.seen) == ("find", [])


def test_who_was_begun_when_the_whole_job_died_is_tried_more_carefully(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "part-0.jsonl", read_history(tmp_path), {})
    progress.begin(["a", "b"], TOGETHER)
    progress.close()
    assert read_history(tmp_path).retries == {"a": RetryState(SINGLE, 0), "b": RetryState(SINGLE, 0)}
    for stage, deaths in ((SINGLE, 0), (ALONE, 1), (ALONE, 2)):
        progress = Progress(tmp_path / "part-0.jsonl", read_history(tmp_path), {})
        progress.begin(["a"], stage)
        progress.close()
        assert read_history(tmp_path).retries == {"a": RetryState(ALONE, deaths), "b": RetryState(SINGLE, 0)}
    pool = ScriptedPool(set())
    results = worked_off(tmp_path, people("a", "b"), pool, dict(read_history(tmp_path).retries))
    assert results["a"].stage == QUARANTINE
    assert not results["b"].error
    assert pool.seen == [("b",)]


def test_a_job_that_is_killed_at_random_moments_quarantines_nobody_who_is_innocent(tmp_path: Path) -> None:
    everybody = people(*(f"sub-{k}" for k in range(30)))
    prints = {one.key: "same" for one in everybody}
    for stop in (1, 2, 5, 3, 1, 1, 7, 2, 1, 4):
        history = read_history(tmp_path)
        left = [one for one in everybody if history.current(one.key, "same") is None]
        progress = Progress(tmp_path / "part-0.jsonl", history, prints)
        found = Scheduler(ScriptedPool(set()), progress, 4, lambda line: None).run(left, history.retries)
        for _ in zip(range(stop), found, strict=False):
            pass
        found.close()
        progress.close()
    history = read_history(tmp_path)
    left = [one for one in everybody if history.current(one.key, "same") is None]
    assert 0 < len(left) < 30
    results = worked_off(tmp_path, left, ScriptedPool(set()), dict(history.retries))
    assert not any(one.error for one in results.values())
    assert {one.attempts for one in read_history(tmp_path).ended.values()} == {1}


def test_attempts_add_up_while_somebody_fails(tmp_path: Path) -> None:
    prints = {"a": "same"}
    for attempts in (1, 2, 3):
        progress = Progress(tmp_path / "part-0.jsonl", read_history(tmp_path), prints)
        progress.again(["a"], TOGETHER)
        progress.end(Result("a", "broken", "read"))
        progress.close()
        found = read_history(tmp_path).ended["a"]
        assert (found.attempts, found.failed, found.result().error) == (attempts, True, "broken")


def test_files_of_an_earlier_outcome_are_known_to_be_superseded(tmp_path: Path) -> None:
    for files in (("a.nii.gz", "a.json"), ("a.nii.gz",)):
        progress = Progress(tmp_path / "part-0.jsonl", read_history(tmp_path), {"a": files[-1]})
        progress.end(Result("a", files=files))
        progress.close()
    history = read_history(tmp_path)
    assert history.superseded == {"a.nii.gz", "a.json"}
    assert history.ended["a"].files == ("a.nii.gz",)
    assert history.current("a", "a.nii.gz") is not None
    assert history.current("a", "a.json") is None
