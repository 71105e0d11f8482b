"""Who is handed to which worker next, so that whoever kills workers is found, and nobody else is lost."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby

from medrep.batch.ledger import ALONE, DEATHS, SINGLE, TOGETHER, Ledger, Trial
from medrep.batch.pools import Died, Finished, Pool
from medrep.cohort.visits import Visit
from medrep.export.outcomes import Outcome

QUARANTINE = "quarantine"
"""The stage of people who are not tried again."""

_FLUSH_EVERY = 64


class Scheduler:
    """Works on everybody, in up to three passes (`ledger`).

    Args:
        pool: The workers.
        ledger: Where everything is noted before and after it happens.
        together: How many people a worker is handed at first.
        say: Called with a line for the person who waits.
    """

    def __init__(self, pool: Pool, ledger: Ledger, together: int, say: Callable[[str], None]) -> None:
        self._pool, self._ledger, self._together, self._say = pool, ledger, together, say
        self._waiting: dict[int, list[Visit]] = {TOGETHER: [], SINGLE: [], ALONE: []}
        self._deaths: dict[str, int] = {}
        self._unflushed = 0

    def run(self, people: Iterable[Visit], trials: Mapping[str, Trial]) -> Iterator[Outcome]:
        """Yield each outcome once the ledger has it.

        Args:
            people: Who is not done, in the cohort's order.
            trials: How to go on with those who were begun before; everybody else starts with others.

        Raises:
            OSError: The disk is full; whatever was noted is kept.
        """
        self._deaths = {key: trial.deaths for key, trial in trials.items()}
        for one in people:
            if one.problem:
                yield self._ended(Outcome(one.key, one.problem, "find"))
            elif self._deaths.get(one.key, 0) >= DEATHS:
                yield self._ended(_quarantined(one), DEATHS)
            else:
                self._waiting[trials.get(one.key, Trial()).stage].append(one)
        # Whoever is left over by one pass goes into the next; the last is repeated until nobody is.
        for stage in (TOGETHER, SINGLE):
            yield from self._pass(stage)
        while self._waiting[ALONE]:
            yield from self._pass(ALONE)
        self._ledger.flush()

    def _pass(self, stage: int) -> Iterator[Outcome]:
        groups = _groups(self._waiting[stage], self._together if stage == TOGETHER else 1)
        self._waiting[stage] = []
        busy, results = 0, list[Finished | Died]()
        while True:
            if stage == ALONE:  # what is known of one is noted before the next is begun
                yield from self._handled(results, stage)
            while busy < (1 if stage == ALONE else self._pool.workers) and (group := next(groups, None)) is not None:
                self._ledger.begin([one.key for one in group], stage)
                self._pool.submit(group)
                busy += 1
            if stage != ALONE:  # noted while the workers have work
                yield from self._handled(results, stage)
            if not busy:
                return
            results = self._pool.wait()
            busy -= len(results)

    def _handled(self, results: list[Finished | Died], stage: int) -> Iterator[Outcome]:
        for result in results:
            if isinstance(result, Finished):
                rows: list[Outcome] = []
                for outcome in result.outcomes:
                    if outcome.lines and not outcome.error and not outcome.files:
                        rows.append(outcome)
                    else:
                        yield self._ended(outcome)
                if rows:
                    self._ledger.end_rows(rows)
                    self._count()
                    yield from rows
                continue
            keys = [one.key for one in result.people]
            self._say(f"a worker {result.how} with {', '.join(keys)}")
            self._ledger.death(keys)
            for one in result.people:
                self._deaths[one.key] = self._deaths.get(one.key, 0) + (stage > TOGETHER)
                if self._deaths[one.key] >= DEATHS:
                    yield self._ended(_quarantined(one), DEATHS)
                else:
                    self._waiting[min(stage + 1, ALONE)].append(one)

    def _ended(self, outcome: Outcome, attempts: int = 1) -> Outcome:
        self._ledger.end(outcome, attempts)
        self._count()
        return outcome

    def _count(self) -> None:
        self._unflushed += 1
        if self._unflushed >= _FLUSH_EVERY:
            self._ledger.flush()
            self._unflushed = 0


def _groups(people: list[Visit], most: int) -> Iterator[tuple[Visit, ...]]:
    """Yield people of the same block of the cohort, so that each has a place of their own in it."""
    for _, block in groupby(people, key=lambda one: one.place // most):
        yield tuple(block)


def _quarantined(one: Visit) -> Outcome:
    error = f"its worker died {DEATHS} times while alone with it; it is tried again only with --retry-failed"
    return Outcome(one.key, error, QUARANTINE)
