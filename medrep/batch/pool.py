"""Pools of workers: their protocol, the loop of a worker, and the order in which samples go to workers."""

import errno
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from operator import itemgetter
from types import TracebackType

import numpy as np
from threadpoolctl import threadpool_limits

from medrep.batch.progress import ALONE, DEATHS, SINGLE, TOGETHER, Progress, RetryState
from medrep.cohort.samples import Sample, Samples
from medrep.derivatives.tasks import Result, RowResults, Task, TaskFactory
from medrep.errors import MedrepError, mask

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Finished:
    """Everybody of a group has an outcome.

    Attributes:
        people: The group.
        results: In their order.
    """

    people: Sequence[Sample]
    results: Sequence[Result]


@dataclass(frozen=True)
class WorkerCrashed:
    """A worker died with a group in it.

    Attributes:
        people: The group.
        how: One line.
    """

    people: Sequence[Sample]
    how: str


class Pool(ABC):
    """Some workers. Leaving the context ends them.

    Attributes:
        workers: How many groups are worked on at a time.
    """

    workers: int

    @abstractmethod
    def submit(self, people: Sequence[Sample]) -> None:
        """Hand a group to a free worker."""

    @abstractmethod
    def wait(self) -> list[Finished | WorkerCrashed]:
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

    def __init__(self, step: Task) -> None:
        self._step = step
        self._waiting: list[Sequence[Sample]] = []

    def submit(self, people: Sequence[Sample]) -> None:
        """Keep a group for `wait`."""
        self._waiting.append(people)

    def wait(self) -> list[Finished | WorkerCrashed]:
        """Work on the group."""
        people = self._waiting.pop(0)
        return [Finished(people, attempt(self._step, people))]

    def close(self) -> None:
        """Forget what was not worked on."""
        self._waiting.clear()


def attempt(step: Task, people: Sequence[Sample]) -> Sequence[Result]:
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
            return [result for one in people for result in attempt(step, [one])]
        return [Result(people[0].key, _described(error), "work")]


def _described(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "does not fit into memory; resample it, or give a machine with more"
    text = " ".join(mask(str(error)).split())
    return text if isinstance(error, MedrepError) else f"unexpected {type(error).__name__}: {text}"


def work(connection: Connection, factory: TaskFactory) -> None:
    """Work until the pool hangs up or its process is gone.

    Args:
        connection: Groups come in; None once the step is open, and then lists of outcomes, or the error that is nobody's own,
            go out.
        factory: How to come by the step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with threadpool_limits(1):
        reply: Sequence[Result] | OSError | MedrepError
        try:
            step = factory.open()
            _one_thread()
        except (MedrepError, OSError) as error:
            connection.send(error)
            return
        connection.send(None)  # ready
        while True:
            try:
                people: Sequence[Sample] = connection.recv()
            except EOFError:
                return
            try:
                reply = attempt(step, people)
            except OSError as error:
                reply = error
            connection.send(reply)


def _one_thread() -> None:
    """Keep torch, where the step needs it, to one thread: it counts its own, beside those of `threadpool_limits`."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


QUARANTINE = "quarantine"
"""The stage of people who are not tried again."""

_FLUSH_EVERY = 64


class Scheduler:
    """Works on everybody, in up to three passes (`progress`).

    Args:
        pool: The workers.
        progress: Where everything is noted before and after it happens.
        block_size: How many people a worker is handed at first.
        say: Called with a line for the person who waits.
    """

    def __init__(self, pool: Pool, progress: Progress, block_size: int, say: Callable[[str], None]) -> None:
        self._pool, self._ledger, self._together, self._say = pool, progress, block_size, say
        self._people = Samples.of(())
        self._waiting: dict[int, list[int]] = {TOGETHER: [], SINGLE: [], ALONE: []}
        self._deaths: dict[str, int] = {}
        self._unflushed = 0

    def run(self, people: Sequence[Sample], retries: Mapping[str, RetryState]) -> Iterator[Sequence[Result]]:
        """Yield outcomes once the ledger has them.

        Args:
            people: Who is not done, in the cohort's order.
            retries: How to go on with those who were begun before; everybody else starts with others.

        Raises:
            OSError: The disk is full; whatever was noted is kept.
        """
        self._deaths = {key: retry.deaths for key, retry in retries.items()}
        self._people = Samples.of(people)
        fresh = RetryState()
        for position, key in enumerate(self._people.keys):
            if problem := self._people.problems.get(key, ""):
                yield self._ended(Result(key, problem, "find"))
            elif self._deaths.get(key, 0) >= DEATHS:
                yield self._ended(_quarantined(key), DEATHS)
            else:
                self._waiting[retries.get(key, fresh).stage].append(position)
        # Whoever is left over by one pass goes into the next; the last is repeated until nobody is.
        for stage in (TOGETHER, SINGLE):
            yield from self._pass(stage)
        while self._waiting[ALONE]:
            yield from self._pass(ALONE)
        self._ledger.flush()

    def _pass(self, stage: int) -> Iterator[Sequence[Result]]:
        groups = _groups(self._people, self._waiting[stage], self._together if stage == TOGETHER else 1)
        self._waiting[stage] = []
        busy, answers = 0, list[Finished | WorkerCrashed]()
        while True:
            if stage == ALONE:  # what is known of one is noted before the next is begun
                yield from self._handled(answers, stage)
            while busy < (1 if stage == ALONE else self._pool.workers) and (group := next(groups, None)) is not None:
                self._ledger.begin(group.keys, stage)
                self._pool.submit(group)
                busy += 1
            if stage != ALONE:  # noted while the workers have work
                yield from self._handled(answers, stage)
            if not busy:
                return
            answers = self._pool.wait()
            busy -= len(answers)

    def _handled(self, answers: list[Finished | WorkerCrashed], stage: int) -> Iterator[Sequence[Result]]:
        for answer in answers:
            if isinstance(answer, Finished):
                rows = answer.results
                if not isinstance(rows, RowResults):
                    rows = [one for one in answer.results if one.lines and not one.error and not one.files]
                    own = {one.key for one in rows}
                    for result in answer.results:
                        if result.key not in own:
                            yield self._ended(result)
                if rows:
                    self._ledger.end_rows(RowResults.of(rows))
                    self._count()
                    yield rows
                continue
            keys = [one.key for one in answer.people]
            self._say(f"a worker {answer.how} with {', '.join(keys)}")
            self._ledger.death(keys)
            for one in answer.people:
                self._deaths[one.key] = self._deaths.get(one.key, 0) + (stage > TOGETHER)
                if self._deaths[one.key] >= DEATHS:
                    yield self._ended(_quarantined(one.key), DEATHS)
                else:
                    self._waiting[min(stage + 1, ALONE)].append(self._position[one.key])

    def _ended(self, result: Result, attempts: int = 1) -> Sequence[Result]:
        self._ledger.end(result, attempts)
        self._count()
        return [result]

    @cached_property
    def _position(self) -> dict[str, int]:
        return {key: position for position, key in enumerate(self._people.keys)}

    def _count(self) -> None:
        self._unflushed += 1
        if self._unflushed >= _FLUSH_EVERY:
            self._ledger.flush()
            self._unflushed = 0


def _groups(people: Samples, positions: Sequence[int], most: int) -> Iterator[Samples]:
    """Yield people of the same block of the cohort, so that each has a place of their own in it; of one, whole persons."""
    places = people.persons if most == 1 else people.places
    blocks = (places[np.array(positions, int)] // most).tolist()
    for _, block in groupby(zip(blocks, positions, strict=True), key=itemgetter(0)):
        yield people.take([position for _, position in block])


def _quarantined(key: str) -> Result:
    error = f"its worker died {DEATHS} times while alone with it; it is tried again only with --retry-failed"
    return Result(key, error, QUARANTINE)
