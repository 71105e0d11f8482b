"""Progress of a job by participant, read from its journals and kept in one of them.

A person goes through up to three passes: with others, in a worker of their own, and alone while nobody else is worked on. A
worker that dies with one person in it is held against that person; so is a whole job that dies while a person is alone.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, BinaryIO

from medrep.batch.journal import (
    ENDING,
    Chunk,
    Folded,
    Journal,
    RowsFile,
    chunk_stands,
    open_here,
    read_event,
    read_events,
    read_folded,
)
from medrep.derivatives.tasks import Result, RowResults, finite_figures

TOGETHER, SINGLE, ALONE = 1, 2, 3
DEATHS = 2
"""So many deaths, and a person is not tried again."""

_PATTERN = "part-*.jsonl"
_MOST_ROWS = 2**32  # of one event


@dataclass(frozen=True, slots=True)
class Ended:
    """Where somebody's outcome stands.

    Attributes:
        journal: The file.
        start: Where its line begins.
        fingerprint: Of what the person was when it was worked on.
        failed: Whether the outcome is an error.
        attempts: How often the person was tried to the end.
        time: When, seconds since 1970, by the clock of the machine that worked.
        files: What was written, relative to OUT.
        count: Outcomes of this person that whoever worked knew of, and this one; 0 in journals of before. No clock is in it.
        position: Among the people of one event; -1 where the event is of this person alone.
    """

    journal: Path
    start: int
    fingerprint: str
    failed: bool
    attempts: int
    time: float
    files: tuple[str, ...]
    count: int = 0
    position: int = -1

    def result(self) -> Result:
        """Read the outcome of somebody whose event is of them alone."""
        return Result.from_json(read_event(self.journal, self.start)["outcome"])

    def follows(self, other: "Ended", count: int) -> bool:
        """Return whether another outcome stands so many people after this one in the same event."""
        beside = other.start == self.start and other.position == self.position + count
        return beside and (other.journal is self.journal or other.journal == self.journal)

    def surely_after(self, other: "Ended") -> bool:
        """Return whether this outcome is the later of two whatever clocks say: by its place in one journal, or by its count."""
        if self.journal == other.journal:
            return self.start > other.start
        return self.count > other.count

    def after(self, other: "Ended") -> bool:
        """Return whether this outcome is the later of two; clocks are asked where nothing else tells."""
        if self.surely_after(other) or other.surely_after(self):
            return self.surely_after(other)
        return self.time >= other.time


@dataclass(frozen=True, slots=True)
class _RowsEvent:
    journal: Path
    start: int
    time: float
    fingerprints: Sequence[str]
    attempts: Sequence[int]
    counts: Sequence[int]

    def ended(self, position: int) -> Ended:
        return Ended(
            self.journal,
            self.start,
            self.fingerprints[position],
            False,
            self.attempts[position],
            self.time,
            (),
            self.counts[position],
            position,
        )


class Outcomes(Mapping[str, Ended]):
    """Key -> the latest outcome. Those of rows of a table, of whom there are many, are made as they are looked at."""

    def __init__(self) -> None:
        self._single: dict[str, Ended] = {}
        self._events: list[_RowsEvent] = []
        self._rows: dict[str, int] = {}

    def __getitem__(self, key: str) -> Ended:
        if (one := self._single.get(key)) is not None:
            return one
        event, position = divmod(self._rows[key], _MOST_ROWS)
        return self._events[event].ended(position)

    def __contains__(self, key: object) -> bool:
        return key in self._single or key in self._rows

    def __iter__(self) -> Iterator[str]:
        yield from self._single
        yield from self._rows

    def __len__(self) -> int:
        return len(self._single) + len(self._rows)

    @property
    def files(self) -> frozenset[str]:
        """All files that were written, relative to OUT."""
        return frozenset(file for one in self._single.values() for file in one.files)

    def put(self, key: str, one: Ended) -> None:
        """Keep an outcome."""
        self._rows.pop(key, None)
        self._single[key] = one

    def begin_rows(self, path: Path, start: int, event: Mapping[str, Any]) -> None:
        """Take an event of rows, of which `put_row` names people."""
        own = (event[name] for name in ("time", "fingerprints", "attempts", "counts"))
        self._events.append(_RowsEvent(path, start, *own))

    def put_row(self, key: str, position: int) -> None:
        """Keep the outcome of somebody without an earlier one: their row of the last event."""
        self._rows[key] = (len(self._events) - 1) * _MOST_ROWS + position


@dataclass(frozen=True)
class RetryState:
    """How somebody who is not done is to be tried.

    Attributes:
        stage: `TOGETHER`, `SINGLE` or `ALONE`.
        deaths: How often a worker died with this person alone in it.
    """

    stage: int = TOGETHER
    deaths: int = 0


@dataclass(frozen=True)
class History:
    """History of a job, as its journals have it.

    Attributes:
        ended: Key -> the latest outcome.
        retries: Key -> how to go on, of people who were begun.
        superseded: Files of outcomes that later ones replaced, relative to OUT; later ones can have written them anew.
        earlier: Key -> the outcomes before the latest one, of people who have several.
    """

    ended: Outcomes
    retries: Mapping[str, RetryState]
    superseded: frozenset[str] = frozenset()
    earlier: Mapping[str, tuple[Ended, ...]] = field(default_factory=dict)

    def every(self, key: str) -> tuple[Ended, ...]:
        """Return all outcomes of somebody; the latest stands last."""
        latest = self.ended.get(key)
        return () if latest is None else (*self.earlier.get(key, ()), latest)

    def current(self, key: str, fingerprint: str) -> Ended | None:
        """Return somebody's outcome of what the person is now, whatever the clocks of the machines that worked said.

        An outcome whose files a surely later one of another fingerprint has written over is none.
        """
        if key not in self.ended:
            return None
        found = self.ended[key]
        if found.fingerprint == fingerprint:
            return found
        every = self.every(key)
        fitting = [one for one in every if one.fingerprint == fingerprint]
        if not fitting:
            return None
        latest = reduce(lambda best, one: one if one.after(best) else best, fitting)
        others = (one for one in every if one.fingerprint != fingerprint)
        return None if latest.files and any(one.surely_after(latest) for one in others) else latest


def read_history(folder: Path, pattern: str = _PATTERN) -> History:
    """Read all journals of a job.

    Args:
        folder: The job's own folder.
        pattern: Of their names.
    """
    ended = Outcomes()
    begun: dict[str, int] = {}
    retries: dict[str, RetryState] = {}
    superseded: set[str] = set()
    earlier: dict[str, tuple[Ended, ...]] = {}
    stored = _Stored(folder)
    for path in sorted(folder.glob(pattern)):
        for start, event in read_events(path):
            what = event["event"]
            there: Collection[int] = range(0)
            if what == "rows":
                there = stored.positions(path, start, event)
                ended.begin_rows(path, start, event)
            for position, key in enumerate(event["keys"]):
                if what == "begin":
                    if key in begun:
                        retries[key] = _after(retries.get(key), begun[key], held=begun[key] == ALONE)
                    begun[key] = event["stage"]
                    continue
                stage = begun.pop(key, TOGETHER)
                if what == "death":
                    retries[key] = _after(retries.get(key), stage, held=stage > TOGETHER)
                elif what == "again":
                    retries[key] = RetryState(event["stage"])
                elif what != "rows" or position in there:
                    retries.pop(key, None)
                    if what == "rows" and key not in ended:
                        ended.put_row(key, position)
                        continue
                    one = _ended(path, start, event, position)
                    if (before := ended.get(key)) is not None:
                        older, one = (before, one) if one.after(before) else (one, before)
                        superseded.update(older.files)
                        earlier[key] = (*earlier.get(key, ()), older)
                    ended.put(key, one)
    stored.close()
    for key, stage in begun.items():  # the whole job died
        retries[key] = _after(retries.get(key), stage, held=stage == ALONE)
    return History(ended, retries, frozenset(superseded), earlier)


def _after(before: RetryState | None, stage: int, *, held: bool) -> RetryState:
    """Return how to go on after a death in a stage, which is held against the person or not."""
    return RetryState(min(stage + 1, ALONE), (0 if before is None else before.deaths) + held)


class _Stored:
    """Check of stored rows against the events that name them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO | None] = {}

    @cached_property
    def _folded(self) -> Folded | None:
        return read_folded(self._folder, self._folder.parent)

    def positions(self, path: Path, start: int, event: Mapping[str, Any]) -> Collection[int]:
        """Return which of an event's people have their rows."""
        everybody = range(len(event["keys"]))
        file = self._file(event["file"])
        if file is not None:
            whole = all(chunk_stands(file, Chunk(*chunk)) for chunk in event["chunks"].values())
            return everybody if whole else ()
        folded = self._folded
        if folded is None:
            return ()
        return {k for k in everybody if folded.line(path.name, start, k) is not None}

    def _file(self, name: str) -> BinaryIO | None:
        if name not in self._files:
            path = self._folder / Path(name).name
            self._files[name] = open_here(path) if path.is_file() else None
        return self._files[name]

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files.values():
            if file is not None:
                file.close()


def _ended(path: Path, start: int, event: Mapping[str, Any], position: int) -> Ended:
    if event["event"] == "rows":
        fingerprint, attempts, count = (event[name][position] for name in ("fingerprints", "attempts", "counts"))
        return Ended(path, start, fingerprint, False, attempts, event["time"], (), count, position)
    fingerprint, failed, attempts = event["fingerprint"], event["failed"], event["attempts"]
    files, count = tuple(event["outcome"]["files"]), event.get("count", 0)
    return Ended(path, start, fingerprint, failed, attempts, event["time"], files, count)


class Progress:
    """Keeps one part's journal.

    Args:
        path: The journal.
        history: What stands in all journals.
        fingerprints: Of the people of this part, as they are now.
    """

    def __init__(self, path: Path, history: History, fingerprints: Mapping[str, str]) -> None:
        self._journal = Journal(path)
        # The journal only grows, so that no earlier file has this name.
        self._rows = RowsFile(path.with_name(f"{path.stem}-{path.stat().st_size}{ENDING}"))
        self._history, self._fingerprints = history, fingerprints

    def begin(self, keys: Iterable[str], stage: int) -> None:
        """Note that people are about to be worked on."""
        self._note("begin", keys, stage=stage)

    def death(self, keys: Iterable[str]) -> None:
        """Note that the worker died of those who were begun last."""
        self._note("death", keys)

    def again(self, keys: Sequence[str], stage: int) -> None:
        """Note that people who failed are to be tried once more."""
        if keys:
            self._note("again", keys, stage=stage)

    def end(self, result: Result, attempts: int = 1) -> None:
        """Keep an outcome.

        Args:
            result: The outcome.
            attempts: How often the person was tried this time.
        """
        self._note(
            "end",
            [result.key],
            fingerprint=self._fingerprints[result.key],
            failed=bool(result.error),
            attempts=attempts + self._failed_before(result.key),
            time=time.time(),
            count=self._count(result.key),
            outcome=result.to_json(),
        )

    def end_rows(self, results: RowResults) -> None:
        """Keep what became of rows of a table: one event, and their lines beside the journal."""
        keys, known = results.keys, len(self._history.ended) > 0
        chunks = {name: self._rows.append(text) for name, text in results.texts.items()}
        self._note(
            "rows",
            keys,
            fingerprints=[self._fingerprints[key] for key in keys],
            attempts=[1 + self._failed_before(key) for key in keys] if known else [1] * len(keys),
            time=time.time(),
            counts=[self._count(key) for key in keys] if known else [1] * len(keys),
            figures=[finite_figures(one) for one in results.figures] or [{}] * len(keys),
            file=self._rows.path.name,
            chunks={name: [chunk.start, chunk.size, chunk.checksum] for name, chunk in chunks.items()},
        )

    def _failed_before(self, key: str) -> int:
        before = self._history.ended.get(key)
        return before.attempts if before is not None and before.failed else 0

    def _count(self, key: str) -> int:
        return 1 + max((one.count for one in self._history.every(key)), default=0)

    def flush(self) -> None:
        """Bring everything to the disk: rows first, since the journal says that they are there."""
        self._rows.flush()
        self._journal.flush()

    def close(self) -> None:
        """Bring everything to the disk and let go of the journal."""
        self._rows.close()
        self._journal.close()

    def _note(self, event: str, keys: Iterable[str], **content: Any) -> None:
        self._journal.append({"event": event, "keys": list(keys), **content})
