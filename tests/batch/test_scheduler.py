"""Who is tried how often, with workers that die as a script says; real workers are in test_local_pool.py."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.batch.pool import QUARANTINE, Died, Finished, Pool, Scheduler
from medrep.batch.progress import (
    ALONE,
    DEATHS,
    SINGLE,
    TOGETHER,
    Ledger,
    Trial,
    read_history,
)
from medrep.cohort.kinds.base import Visit
from medrep.derivatives.tasks import Outcome
from tests.batch.steps import people


class ScriptedPool(Pool):
    """Dies whenever one of the killers is in a group, and keeps who was worked on at the same time."""

    def __init__(self, killers: set[str], workers: int = 2) -> None:
        self.workers, self.killers = workers, killers
        self.busy: list[tuple[Visit, ...]] = []
        self.seen: list[tuple[str, ...]] = []
        self.beside: dict[str, int] = {}

    def submit(self, people: tuple[Visit, ...]) -> None:
        assert len(self.busy) < self.workers
        self.busy.append(people)
        self.seen.append(tuple(one.key for one in people))
        for one in people:
            self.beside[one.key] = sum(map(len, self.busy)) - 1

    def wait(self) -> list[Finished | Died]:
        people = self.busy.pop(0)
        if self.killers & {one.key for one in people}:
            return [Died(people, "was killed")]
        return [Finished(people, tuple(Outcome(one.key, figures={"x": 1.0}) for one in people))]

    def close(self) -> None:
        self.busy.clear()


def worked_off(
    folder: Path, everybody: list[Visit], pool: Pool, trials: dict[str, Trial] | None = None
) -> dict[str, Outcome]:
    prints = {one.key: "same" for one in everybody}
    ledger = Ledger(folder / "part-0.jsonl", read_history(folder), prints)
    found = Scheduler(pool, ledger, 4, lambda line: None).run(everybody, trials or {})
    outcomes = list(found)
    ledger.close()
    assert len(outcomes) == len({one.key for one in outcomes})
    return {one.key: one for one in outcomes}


@settings(deadline=None)
@given(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=6), st.integers(1, 5))
def test_everybody_has_one_outcome_and_only_killers_are_quarantined(
    tmp_path_factory: pytest.TempPathFactory, count: int, killers: set[int], workers: int
) -> None:
    everybody = people(*(f"sub-{k}" for k in range(count)))
    pool = ScriptedPool({f"sub-{k}" for k in killers}, workers)
    folder = tmp_path_factory.mktemp("job")
    outcomes = worked_off(folder, everybody, pool)
    assert set(outcomes) == {one.key for one in everybody}
    bad = {key for key, outcome in outcomes.items() if outcome.error}
    assert bad == pool.killers & set(outcomes)
    assert all(outcomes[key].stage == QUARANTINE for key in bad)
    history = read_history(folder)
    assert not history.trials
    assert {key: one.attempts for key, one in history.ended.items()} == {
        key: DEATHS if key in bad else 1 for key in outcomes
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
    outcomes = worked_off(tmp_path, [Visit("sub-1", 0, None, {}, "no sub-*_T1w.nii[.gz] under sub-1/")], pool)
    assert (outcomes["sub-1"].stage, pool.seen) == ("find", [])


def test_who_was_begun_when_the_whole_job_died_is_tried_more_carefully(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "part-0.jsonl", read_history(tmp_path), {})
    ledger.begin(["a", "b"], TOGETHER)
    ledger.close()
    assert read_history(tmp_path).trials == {"a": Trial(SINGLE, 0), "b": Trial(SINGLE, 0)}
    for stage, deaths in ((SINGLE, 0), (ALONE, 1), (ALONE, 2)):
        ledger = Ledger(tmp_path / "part-0.jsonl", read_history(tmp_path), {})
        ledger.begin(["a"], stage)
        ledger.close()
        assert read_history(tmp_path).trials == {"a": Trial(ALONE, deaths), "b": Trial(SINGLE, 0)}
    pool = ScriptedPool(set())
    outcomes = worked_off(tmp_path, people("a", "b"), pool, dict(read_history(tmp_path).trials))
    assert outcomes["a"].stage == QUARANTINE
    assert not outcomes["b"].error
    assert pool.seen == [("b",)]


def test_a_job_that_is_killed_at_random_moments_quarantines_nobody_who_is_innocent(tmp_path: Path) -> None:
    everybody = people(*(f"sub-{k}" for k in range(30)))
    prints = {one.key: "same" for one in everybody}
    for stop in (1, 2, 5, 3, 1, 1, 7, 2, 1, 4):
        history = read_history(tmp_path)
        left = [one for one in everybody if history.current(one.key, "same") is None]
        ledger = Ledger(tmp_path / "part-0.jsonl", history, prints)
        found = Scheduler(ScriptedPool(set()), ledger, 4, lambda line: None).run(left, history.trials)
        for _ in zip(range(stop), found, strict=False):
            pass
        found.close()
        ledger.close()
    history = read_history(tmp_path)
    left = [one for one in everybody if history.current(one.key, "same") is None]
    assert 0 < len(left) < 30
    outcomes = worked_off(tmp_path, left, ScriptedPool(set()), dict(history.trials))
    assert not any(one.error for one in outcomes.values())
    assert {one.attempts for one in read_history(tmp_path).ended.values()} == {1}


def test_attempts_add_up_while_somebody_fails(tmp_path: Path) -> None:
    prints = {"a": "same"}
    for attempts in (1, 2, 3):
        ledger = Ledger(tmp_path / "part-0.jsonl", read_history(tmp_path), prints)
        ledger.again(["a"], TOGETHER)
        ledger.end(Outcome("a", "broken", "read"))
        ledger.close()
        found = read_history(tmp_path).ended["a"]
        assert (found.attempts, found.failed, found.outcome().error) == (attempts, True, "broken")


def test_files_of_an_earlier_outcome_are_known_to_be_superseded(tmp_path: Path) -> None:
    for files in (("a.nii.gz", "a.json"), ("a.nii.gz",)):
        ledger = Ledger(tmp_path / "part-0.jsonl", read_history(tmp_path), {"a": files[-1]})
        ledger.end(Outcome("a", files=files))
        ledger.close()
    history = read_history(tmp_path)
    assert history.superseded == {"a.nii.gz", "a.json"}
    assert history.ended["a"].files == ("a.nii.gz",)
    assert history.current("a", "a.nii.gz") is not None
    assert history.current("a", "a.json") is None
