"""Steps that are quick, and that fail, hang or die as the people's keys say."""

import errno
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medrep.cohort.samples import Sample
from medrep.derivatives.tasks import Result, Task, TaskFactory
from medrep.errors import CohortError, ModelError


def people(*keys: str) -> list[Sample]:
    return [Sample(key, place, None, {"age": float(place)}) for place, key in enumerate(keys)]


@dataclass(frozen=True)
class OpenDeadly(TaskFactory):
    """Opens `Deadly`.

    Attributes:
        fail: Whether opening fails, and how: "", "model", "die".
    """

    fail: str = ""

    def open(self) -> Task:
        if self.fail == "model":
            raise ModelError("no such model")
        if self.fail == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return Deadly()


class Deadly(Task):
    """``kill``, ``hang``, ``bad``, ``bug``, ``full`` in a key do what they say; everybody else is delivered."""

    def __init__(self) -> None:
        self.block_size = 4

    def work(self, people: Sequence[Sample]) -> list[Result]:
        return [self._one(one) for one in people]

    def _one(self, one: Sample) -> Result:
        if "kill" in one.key:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in one.key:
            time.sleep(600)
        if "slow" in one.key:
            time.sleep(0.2)
        if "bug" in one.key:
            raise IndexError("list index out of range")
        if "full" in one.key:
            raise OSError(errno.ENOSPC, "No space left on device")
        if "bad" in one.key:
            return Result(one.key, str(CohortError(f"{one.key} cannot be read")), "read")
        return Result(one.key, figures={"place": float(one.place)}, arrays={"latents": np.arange(3.0)})
