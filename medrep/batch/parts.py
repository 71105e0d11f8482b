"""Which share of a cohort one process works on: the same for the same cohort, wherever and whenever it is asked."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from medrep.errors import ConfigError

_Block = TypeVar("_Block")
_SLURM, _SLURM_FIRST, _SLURM_COUNT = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"
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
        index: ``--part-id``; None takes SLURM_ARRAY_TASK_ID (counted from SLURM_ARRAY_TASK_MIN) or JOB_COMPLETION_INDEX.
        count: ``--num-parts``; None takes SLURM_ARRAY_TASK_COUNT where SLURM assigned the share, and else one part.
        environment: The process's variables.

    Raises:
        ConfigError: A share that does not exist, or a scheduler's share without how many there are.
    """
    where = "--part-id"
    if index is None and count != 1 and _SLURM in environment:
        where = _SLURM
        index = _number(environment, _SLURM) - _number(environment, _SLURM_FIRST)
        count = _number(environment, _SLURM_COUNT) if count is None and _SLURM_COUNT in environment else count
    elif index is None and count != 1 and _KUBERNETES in environment:
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


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name} is {text!r}, no number; give --part-id and --num-parts") from None
