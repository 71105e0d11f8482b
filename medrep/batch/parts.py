"""Which share of a cohort one process works on: the same for the same cohort, wherever and whenever it is asked."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from medrep.errors import ConfigError

_Block = TypeVar("_Block")
_SLURM = "SLURM_ARRAY_TASK_ID"
_COUNT, _FIRST, _LAST, _STEP = (f"SLURM_ARRAY_TASK_{name}" for name in ("COUNT", "MIN", "MAX", "STEP"))
_KUBERNETES = "JOB_COMPLETION_INDEX"


@dataclass(frozen=True)
class Part:
    """One of several shares.

    Attributes:
        index: From 0.
        count: Of all shares.
    """

    index: int = 0
    count: int = 1

    def of(self, blocks: Sequence[_Block]) -> Sequence[_Block]:
        """Return this share: every ``count``-th block, so that sites that lie together are spread over the shares."""
        return blocks[self.index :: self.count]

    @property
    def name(self) -> str:
        """How the files of this share are named."""
        return f"part-{self.index:05d}-of-{self.count:05d}"


def choose_part(index: int | None, count: int | None, environment: Mapping[str, str] = os.environ) -> Part:
    """Return the share that was asked for, or that the cluster's scheduler assigned.

    Args:
        index: ``--part-id``; None takes SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX, which are counted from 0.
        count: ``--num-parts``; None takes the size of SLURM's array, if its tasks are 0 to n - 1, and else one part.
        environment: The process's variables.

    Raises:
        ConfigError: A share that does not exist, or a scheduler's share without how many there are.
    """
    where = "--part-id"
    if index is None and count != 1 and _SLURM in environment:
        return _task(count, environment)
    if index is None and count != 1 and _KUBERNETES in environment:
        where = _KUBERNETES
        index = _number(environment, _KUBERNETES)
    if count is None and index is not None:
        raise ConfigError(f"{where} says part {index}, and nothing says of how many; give --num-parts")
    if count is not None and count > 1 and index is None:
        raise ConfigError(f"--num-parts {count} without --part-id; give a number from 0 to {count - 1}")
    part = Part(index or 0, 1 if count is None else count)
    if part.count < 1 or not 0 <= part.index < part.count:
        raise ConfigError(f"{where}: part {part.index} of {part.count}; parts are numbered from 0 to --num-parts - 1")
    return part


def _task(count: int | None, environment: Mapping[str, str]) -> Part:
    """Return the share of a task of a SLURM array; task ids are part ids."""
    index = _number(environment, _SLURM)
    size, first, last, step = (
        _number(environment, name) if name in environment else None for name in (_COUNT, _FIRST, _LAST, _STEP)
    )
    if count is not None:
        for name, task in ((_SLURM, index), (_LAST, last)):
            if count < 1 or (task is not None and not 0 <= task < count):
                array = f"sbatch --array=0-{count - 1}, or some of these" if count > 0 else "give --num-parts"
                raise ConfigError(f"{name}: part {task} of {count}; task ids are part ids, counted from 0: {array}")
        return Part(index, count)
    if size is None:
        raise ConfigError(f"{_SLURM} says part {index}, and nothing says of how many; give --num-parts")
    whole = first in (None, 0) and last in (None, size - 1) and (size == 1 or step in (None, 1))
    if whole and 0 <= index < size:
        return Part(index, size)
    between = "" if first is None or last is None else f" from {first} to {last}"
    raise ConfigError(
        f"{_SLURM} is {index} in an array of {size}{between}, whose tasks are not 0 to {size - 1}: of how many parts is "
        f"not said; sbatch --array=0-{size - 1} for all of {size} parts, the same --array with --num-parts N for some of N "
        "parts, or --num-parts 1 for the whole cohort in this task"
    )


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise ConfigError(f"{name} is {environment[name][:40]!r}, no number; give --part-id and --num-parts") from None
