"""All parts of a job -> one cohort: everybody's outcome in the cohort's order, and who is not done yet."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from medrep.batch.job import COMPLETE, Job
from medrep.batch.journal import JournalReader, open_here
from medrep.batch.ledger import Ended, History, read_history
from medrep.batch.rows import Chunk, Folded, TableRows, fold, read_chunk, read_folded
from medrep.errors import CohortError, MedrepError, listed
from medrep.export.derivative import Failure
from medrep.export.outcomes import Outcome


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of people, read from the journals one at a time, as often as they are gone through.

    Attributes:
        ended: Where they stand, in the cohort's order.
        folder: The job's own folder.
        tables: Which rows stood in OUT's tables when the journals were read; one table is read while others are written anew.
    """

    ended: tuple[Ended, ...]
    folder: Path
    tables: Folded | None = None

    def __iter__(self) -> Iterator[Outcome]:
        """Yield outcomes; rows of a table without their lines."""
        with ExitStack() as stack:
            journals = _Journals(stack)
            for one in self.ended:
                event = journals.event(one)
                if one.position < 0:
                    yield Outcome.from_json(event["outcome"])
                else:
                    yield Outcome.of_row(event["keys"][one.position], event["figures"][one.position])

    def __len__(self) -> int:
        return len(self.ended)

    @property
    def good(self) -> "Outcomes":
        """Those without an error."""
        return Outcomes(tuple(one for one in self.ended if not one.failed), self.folder, self.tables)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of lines that people have; of people who could be delivered."""
        with ExitStack() as stack:
            first = next(one for one in self.ended if not one.failed)
            event = _Journals(stack).event(first)
            return tuple(event["chunks"] if first.position >= 0 else Outcome.from_json(event["outcome"]).lines)

    def lines(self, name: str) -> Iterator[str]:
        """Yield the lines of one name, of everybody who could be delivered."""
        with ExitStack() as stack:
            journals, rows = _Journals(stack), _Rows(stack, self.folder, name, self.tables)
            for one in self.ended:
                if not one.failed:
                    event = journals.event(one)
                    yield (
                        rows.line(one, event) if one.position >= 0 else Outcome.from_json(event["outcome"]).lines[name]
                    )

    def fold(self, state: str) -> "Outcomes":
        """Note that OUT's tables hold the rows, where people are rows of a table, and of what state of the job they are.

        Returns:
            The same outcomes, read from there.
        """
        good = [one for one in self.ended if not one.failed]
        if good and all(one.position >= 0 for one in good):
            rows = [(one.journal.name, one.start, one.position) for one in good]
            fold(self.folder, self.folder.parent, self.names, rows, state)
            return replace(self, tables=read_folded(self.folder, self.folder.parent))
        return self

    def folded(self, state: str) -> bool:
        """Say whether OUT's tables hold the rows of exactly these people, in their order, and are of that state."""
        found = self.tables
        if found is None or found.state != state or not found.whole:
            return False
        lines = [found.line(one.journal.name, one.start, one.position) for one in self.ended if not one.failed]
        return lines == list(range(found.count))


class _Journals:
    """Journals that are read in several places, open until the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._open: dict[Path, JournalReader] = {}

    def event(self, one: Ended) -> dict[str, Any]:
        if one.journal not in self._open:
            self._open[one.journal] = JournalReader(one.journal)
            self._stack.callback(self._open[one.journal].close)
        return self._open[one.journal].read(one.start)


class _Rows:
    """Lines of one name, beside the journals or in a table of OUT."""

    def __init__(self, stack: ExitStack, folder: Path, name: str, tables: Folded | None) -> None:
        self._stack, self._folder, self._name, self._tables = stack, folder, name, tables
        self._files: dict[str, BinaryIO | None] = {}
        self._last: tuple[tuple[Path, int], list[str]] | None = None

    def line(self, one: Ended, event: Mapping[str, Any]) -> str:
        place = one.journal, one.start
        if self._last is not None and self._last[0] == place:
            return self._last[1][one.position]
        file = self._file(event["file"])
        if file is None:
            number = None if self._tables is None else self._tables.line(one.journal.name, one.start, one.position)
            if number is None:
                raise OSError(f"{self._folder}: changed while it was read; call again")
            return self._table.line(number)
        lines = read_chunk(file, Chunk(*event["chunks"][self._name]))
        if lines is None:
            raise OSError(f"{self._folder / event['file']}: changed while it was read")
        self._last = place, lines
        return lines[one.position]

    def _file(self, name: str) -> BinaryIO | None:
        if name not in self._files:
            path = self._folder / Path(name).name
            self._files[name] = self._stack.enter_context(open_here(path)) if path.is_file() else None
        return self._files[name]

    @cached_property
    def _table(self) -> TableRows:
        table = TableRows(self._folder.parent / f"{self._name}.tsv")
        self._stack.callback(table.close)
        return table


@dataclass(frozen=True)
class Merged:
    """A whole job.

    Attributes:
        table: The cohort's table, index: key.
        outcomes: Everybody's, in that order.
        failures: Those who could not be delivered.
        left: Files of outcomes that are nobody's any more, relative to OUT.
        unchanged: Whether OUT's tables were of exactly this already, so that nothing was written.
    """

    table: pd.DataFrame
    outcomes: Outcomes
    failures: tuple[Failure, ...]
    left: frozenset[str] = frozenset()
    unchanged: bool = False

    @property
    def delivered(self) -> pd.DataFrame:
        """The table of those who could be delivered."""
        return self.table[~self.table.index.isin([failure.participant for failure in self.failures])]

    def lines(self, name: str) -> Iterator[str]:
        """Yield the lines of one name, of everybody who could be delivered."""
        return self.outcomes.lines(name)


@dataclass(frozen=True)
class Finished:
    """A whole job of a table whose rows all stand in OUT's tables, as `Merged`: no journal is read for it.

    Attributes:
        out: OUT.
        table: The cohort's table, index: key.
    """

    out: Path
    table: pd.DataFrame
    failures: tuple[Failure, ...] = ()
    unchanged: bool = True

    @property
    def delivered(self) -> pd.DataFrame:
        """The table of those who could be delivered: everybody."""
        return self.table

    def lines(self, name: str) -> Iterator[str]:
        """Yield the lines of one name."""
        rows = TableRows(self.out / f"{name}.tsv")
        try:
            yield from (rows.line(number) for number in range(len(self.table)))
        finally:
            rows.close()


def finished(job: Job, table: pd.DataFrame) -> Finished | None:
    """Return a job as it stands in OUT, where all its people do; None where some may not, or failed, or OUT was changed.

    Args:
        job: The job; `Job.write_people` was called for the cohort as it is now.
        table: The cohort's table, index: key.
    """
    folded = read_folded(job.folder, job.out) if (job.out / COMPLETE).exists() else None
    if folded is None or folded.state != job.state() or not folded.whole:
        return None
    return Finished(job.out, table) if len(table) == folded.count else None


def merged(job: Job, history: History | None = None) -> Merged:
    """Read all parts of a job.

    Args:
        job: The job.
        history: What its journals say, where they were read already.

    Raises:
        MedrepError: People who are not done.
        CohortError: Nobody could be delivered.
    """
    table, known = job.read_people()
    history = history or read_history(job.folder)
    ended, absent = [], []
    keys = known["key"].tolist()
    for key, fingerprint in zip(keys, known["fingerprint"].tolist(), strict=True):
        found = history.current(key, fingerprint)
        if found is None:
            absent.append(key)
        else:
            ended.append(found)
    if absent:
        raise MedrepError(
            listed(f"{job.out}: people who are not done", absent, "call the command again for each part, then merge")
        )
    files = dict(zip(keys, known["file"].tolist(), strict=True))
    failures = []
    for key, one in zip(keys, ended, strict=True):
        if one.failed:
            outcome = one.outcome()
            failures.append(Failure(key, files[key], outcome.stage, outcome.error, one.attempts))
    if len(failures) == len(ended):
        cure = "mend the files and call again; --retry-failed tries the same files once more"
        raise CohortError(listed("nobody could be delivered", [f"{f.participant}: {f.error}" for f in failures], cure))
    left = {file for one in history.ended.values() for file in one.files} | history.superseded
    named = {file for one in ended for file in one.files}
    return Merged(
        table,
        Outcomes(tuple(ended), job.folder, read_folded(job.folder, job.out)),
        tuple(failures),
        frozenset(left - named),
    )


def sweep(job: Job, whole: Merged) -> None:
    """Remove what replaced outcomes, people who have left the cohort, and killed processes left in OUT."""
    home = job.out.resolve()
    for file in sorted(whole.left):
        if (job.out / file).parent.resolve().is_relative_to(home):  # a journal can name anything
            (job.out / file).unlink(missing_ok=True)
    for partial in job.out.rglob(".partial-*"):
        partial.unlink(missing_ok=True)
