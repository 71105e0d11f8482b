import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.batch.store import Part, choose_part
from medrep.errors import ConfigError


def array(tasks: str, task: int) -> dict[str, str]:
    """Return what SLURM sets in a task of ``--array=TASKS``, a list or a range with or without a step."""
    first, _, rest = tasks.partition("-")
    last, _, step = rest.partition(":")
    ids = range(int(first), int(last) + 1, int(step or 1)) if rest else [int(one) for one in tasks.split(",")]
    assert task in ids
    numbers = {"ID": task, "COUNT": len(ids), "MIN": min(ids), "MAX": max(ids), "STEP": int(step or 1)}
    return {f"SLURM_ARRAY_TASK_{name}": str(number) for name, number in numbers.items()}


SLURM = array("0-15", 7)


@given(st.integers(0, 200), st.integers(1, 20))
def test_parts_are_the_whole_and_share_nothing(blocks: int, count: int) -> None:
    shares = [Part(index, count).of(range(blocks)) for index in range(count)]
    assert sorted(block for share in shares for block in share) == list(range(blocks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("index", "count", "environment", "part"),
    [
        (None, None, {}, Part(0, 1)),
        (2, 3, {}, Part(2, 3)),
        (None, None, SLURM, Part(7, 16)),
        (None, None, array("0,1,2", 2), Part(2, 3)),
        (None, None, array("0", 0), Part(0, 1)),
        (None, None, {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}, Part(3, 16)),
        (None, 16, SLURM, Part(7, 16)),
        (None, 16, array("5,7,11", 7), Part(7, 16)),
        (None, 16, array("5,7,11", 5), Part(5, 16)),
        (None, 16, array("0-15:5", 15), Part(15, 16)),
        (None, 16, array("3", 3), Part(3, 16)),
        (None, 20, SLURM, Part(7, 20)),
        (1, 2, SLURM, Part(1, 2)),
        (None, 1, SLURM, Part(0, 1)),  # a task of an array that scores a whole cohort of its own
        (None, 6, {"JOB_COMPLETION_INDEX": "5"}, Part(5, 6)),
        (None, 1, {"JOB_COMPLETION_INDEX": "5"}, Part(0, 1)),
    ],
)
def test_a_part_is_what_was_asked_for_or_what_the_scheduler_assigned(
    index: int | None, count: int | None, environment: dict[str, str], part: Part
) -> None:
    assert choose_part(index, count, environment) == part


@pytest.mark.parametrize(
    ("index", "count", "environment", "message"),
    [
        (3, 3, {}, "part 3 of 3; parts are numbered from 0"),
        (-1, 3, {}, "part -1 of 3"),
        (0, 0, {}, "part 0 of 0"),
        (1, None, {}, "--part-id says part 1, and nothing says of how many"),
        (None, 3, {}, "--num-parts 3 without --part-id; give a number from 0 to 2"),
        (None, None, {"JOB_COMPLETION_INDEX": "5"}, "JOB_COMPLETION_INDEX says part 5, and nothing says of how many"),
        (None, 2, {"SLURM_ARRAY_TASK_ID": "many"}, "SLURM_ARRAY_TASK_ID is 'many', no number"),
        (None, 2, {"SLURM_ARRAY_TASK_ID": "9" * 6000}, "SLURM_ARRAY_TASK_ID is '9{40}', no number"),
        (None, 2, SLURM, "SLURM_ARRAY_TASK_ID: part 7 of 2; task ids are part ids, counted from 0: sbatch --array=0-1"),
        (None, 16, array("1-16", 4), "SLURM_ARRAY_TASK_MAX: part 16 of 16; .* sbatch --array=0-15"),
        (None, 0, SLURM, "SLURM_ARRAY_TASK_ID: part 7 of 0"),
        (None, None, array("3", 3), r"ID is 3 in an array of 1 from 3 to 3, .* --num-parts 1 for the whole cohort"),
        (None, None, array("5,7,11", 7), r"ID is 7 in an array of 3 from 5 to 11, .* sbatch --array=0-2 for all of 3"),
        (None, None, array("1-16", 1), "whose tasks are not 0 to 15"),
        (None, None, array("0-14:2", 4), "whose tasks are not 0 to 7: .* the same --array with --num-parts N"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "3"}, "ID says part 3, and nothing says of how many; give --num-parts"),
    ],
)
def test_a_part_that_cannot_be_is_refused(
    index: int | None, count: int | None, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_part(index, count, environment)
