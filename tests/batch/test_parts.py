import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.batch.parts import Part, choose_part
from medrep.errors import ConfigError

SLURM = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}


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
        (None, None, SLURM, Part(2, 4)),
        (None, 10, SLURM, Part(2, 10)),
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
        (None, 2, SLURM | {"SLURM_ARRAY_TASK_MIN": "0"}, "SLURM_ARRAY_TASK_ID: part 7 of 2"),
    ],
)
def test_a_part_that_cannot_be_is_refused(
    index: int | None, count: int | None, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_part(index, count, environment)
