"""Steps that are quick, and that fail, hang or die as the people's keys say."""

import errno
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medrep.cohort.kinds.base import Visit
from medrep.derivatives.tasks import Opener, Outcome, Step
from medrep.errors import CohortError, ModelError


def people(*keys: str) -> list[Visit]:
    return [Visit(key, place, None, {"age": float(place)}) for place, key in enumerate(keys)]


@dataclass(frozen=True)
class OpenDeadly(Opener):
    """Opens `Deadly`.

    Attributes:
        fail: Whether opening fails, and how: "", "model", "die".
    """

    fail: str = ""

    def open(self) -> Step:
        if self.fail == "model":
            raise ModelError("no such model")
        if self.fail == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return Deadly()


class Deadly(Step):
    """``kill``, ``hang``, ``bad``, ``bug``, ``full`` in a key do what they say; everybody else is delivered."""

    def __init__(self) -> None:
        self.together = 4

    def work(self, people: Sequence[Visit]) -> list[Outcome]:
        return [self._one(one) for one in people]

    def _one(self, one: Visit) -> Outcome:
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
            return Outcome(one.key, str(CohortError(f"{one.key} cannot be read")), "read")
        return Outcome(one.key, figures={"place": float(one.place)}, arrays={"latents": np.arange(3.0)})
