"""Real workers that really die."""

from pathlib import Path

import pytest

from medrep.batch.local_pool import LocalPool
from medrep.batch.pool import QUARANTINE, InlinePool, Pool, Scheduler
from medrep.batch.progress import Progress, read_history
from medrep.derivatives.tasks import Result
from medrep.errors import ModelError
from tests.batch.steps import Deadly, OpenDeadly, people


def worked_off(folder: Path, keys: list[str], pool: Pool, lines: list[str] | None = None) -> dict[str, Result]:
    everybody = people(*keys)
    progress = Progress(folder / "part-0.jsonl", read_history(folder), dict.fromkeys(keys, "same"))
    with pool:
        found = list(Scheduler(pool, progress, 4, ([] if lines is None else lines).append).run(everybody, {}))
    progress.close()
    return {one.key: one for some in found for one in some}


def test_a_worker_that_is_killed_takes_only_its_killer_with_it(tmp_path: Path) -> None:
    keys = [f"sub-{k}" for k in range(21)]
    keys[9] = "sub-kill"
    keys[3] = "sub-bad"
    keys[16] = "sub-bug"
    lines: list[str] = []
    results = worked_off(tmp_path, keys, LocalPool(OpenDeadly(), 2, 60.0), lines)
    failed = {key: (one.stage, one.error) for key, one in results.items() if one.error}
    assert failed.pop("sub-kill")[0] == QUARANTINE
    assert failed == {
        "sub-bad": ("read", "sub-bad cannot be read"),
        "sub-bug": ("work", "unexpected IndexError: list index out of range"),
    }
    assert set(results) == set(keys)
    assert results["sub-20"].figures == {"place": 20.0}
    assert sum("was killed by SIGKILL with" in line and "sub-kill" in line for line in lines) == 3


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    results = worked_off(tmp_path, ["sub-1", "sub-hang", "sub-2"], LocalPool(OpenDeadly(), 2, 0.5))
    assert {key for key, one in results.items() if one.error} == {"sub-hang"}


@pytest.mark.parametrize("local", [True, False])
def test_a_full_disk_is_nobodys_fault(tmp_path: Path, local: bool) -> None:
    pool = LocalPool(OpenDeadly(), 1, 60.0) if local else InlinePool(Deadly())
    with pytest.raises(OSError, match="No space left"):
        worked_off(tmp_path, ["sub-1", "sub-2", "sub-full"], pool)
    assert "sub-full" not in read_history(tmp_path).ended


@pytest.mark.parametrize(
    ("how", "message"), [("model", "no such model"), ("die", "was killed by SIGKILL before it had")]
)
def test_workers_that_cannot_start_are_nobodys_fault(tmp_path: Path, how: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        worked_off(tmp_path, ["sub-1", "sub-2"], LocalPool(OpenDeadly(how), 2, 60.0))
    assert not read_history(tmp_path).ended


def test_work_in_this_process_tells_the_same(tmp_path: Path) -> None:
    keys = ["sub-1", "sub-bad", "sub-bug", "sub-2"]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    inline = worked_off(tmp_path / "a", keys, InlinePool(Deadly()))
    local = worked_off(tmp_path / "b", keys, LocalPool(OpenDeadly(), 2, 60.0))
    assert {key: one.to_json() for key, one in inline.items()} == {key: one.to_json() for key, one in local.items()}
