"""Workers that a batch hands people to; what a pool says of them, and the pool that has none."""

import errno
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from medrep.cohort.visits import Visit
from medrep.errors import MedrepError
from medrep.export.outcomes import Outcome, Step
from medrep.masking import mask

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Finished:
    """Everybody of a group has an outcome.

    Attributes:
        people: The group.
        outcomes: In their order.
    """

    people: tuple[Visit, ...]
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Died:
    """A worker died with a group in it.

    Attributes:
        people: The group.
        how: One line.
    """

    people: tuple[Visit, ...]
    how: str


class Pool(ABC):
    """Some workers. Leaving the context ends them.

    Attributes:
        workers: How many groups are worked on at a time.
    """

    workers: int

    @abstractmethod
    def submit(self, people: tuple[Visit, ...]) -> None:
        """Hand a group to a free worker."""

    @abstractmethod
    def wait(self) -> list[Finished | Died]:
        """Return what happened, at least one thing; somebody is being worked on.

        Raises:
            OSError: What is written to is full or cannot be written to: no fault of anybody's file.
        """

    @abstractmethod
    def close(self) -> None:
        """End the workers, whatever they do."""

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class InlinePool(Pool):
    """Does the work in this process, with nothing between it and what could kill it: for tables.

    Args:
        step: What is done.
    """

    workers = 1

    def __init__(self, step: Step) -> None:
        self._step = step
        self._waiting: list[tuple[Visit, ...]] = []

    def submit(self, people: tuple[Visit, ...]) -> None:
        """Keep a group for `wait`."""
        self._waiting.append(people)

    def wait(self) -> list[Finished | Died]:
        """Work on the group."""
        people = self._waiting.pop(0)
        return [Finished(people, tuple(attempt(self._step, people)))]

    def close(self) -> None:
        """Forget what was not worked on."""
        self._waiting.clear()


def attempt(step: Step, people: Sequence[Visit]) -> list[Outcome]:
    """Do a step; an error that nobody foresaw becomes the outcome of the person who causes it.

    Raises:
        OSError: What is written to is full or cannot be written to.
    """
    try:
        return step.work(people)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            raise
        if len(people) > 1:
            return [outcome for one in people for outcome in attempt(step, [one])]
        return [Outcome(people[0].key, _described(error), "work")]


def _described(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "does not fit into memory; resample it, or give a machine with more"
    text = " ".join(mask(str(error)).split())
    return text if isinstance(error, MedrepError) else f"unexpected {type(error).__name__}: {text}"
