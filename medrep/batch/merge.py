"""Merging the parts of a job into the tables of the whole cohort, and what is kept afterwards."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
from filelock import FileLock, Timeout

from medrep._files import MARK, mark_output
from medrep.batch.journal import Chunk, Folded, JournalReader, TableRows, fold, open_here, read_chunk, read_folded
from medrep.batch.progress import Ended, History, read_history
from medrep.batch.store import COMPLETE, Job
from medrep.cohort.participants import KEY_COLUMNS
from medrep.derivatives.bids import OUTSIDE, Failure, write_description, write_failures, write_tsv
from medrep.derivatives.scores import write_scores
from medrep.derivatives.tasks import Result
from medrep.derivatives.transform import write_latent_tables, write_transformed
from medrep.errors import CohortError, MedrepError, listed


def prune(job: Job) -> int:
    """Remove journals, copy of the model and lists of people of a job that is whole; return how many bytes that freed.

    What it wrote for others stays. The same command does not go on any more: it would begin anew, with ``--overwrite``.

    Raises:
        MedrepError: Not whole, or a process works on it.
    """
    if not (job.out / COMPLETE).is_file():
        raise MedrepError(f"{job.out}: is not whole; medrep merge {job.out} says who is not done")
    with ExitStack() as locks:
        for path in [job.folder / "job.lock", *sorted(job.folder.glob("part-*.lock"))]:
            try:
                locks.enter_context(FileLock(path, timeout=0))
            except Timeout:
                raise MedrepError(
                    f"{job.out}: another process works on {path.stem}; wait for it, or end it, and call again"
                ) from None
        mark_output(job.out)
        (job.folder / "job.json").unlink()  # first: without it nobody goes on with what is left
        freed = 0
        for path in sorted(job.folder.iterdir()):
            if path.name.endswith(".lock") or path.name == MARK:
                continue
            inside = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
            freed += sum(one.stat().st_size for one in inside)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in job.folder.glob("*.lock"):
        path.unlink(missing_ok=True)
    return freed


@dataclass(frozen=True, slots=True)
class Run:
    """Outcomes of people who follow each other in the cohort and in one event of a journal.

    Attributes:
        first: The first of them.
        count: How many; one, where the event is of one person alone.
    """

    first: Ended
    count: int

    @property
    def place(self) -> tuple[str, int, int, int]:
        """Journal, place of the event, first position in it, and number of people, as `Folded` has them."""
        return self.first.journal.name, self.first.start, self.first.position, self.count


@dataclass(frozen=True)
class Results:
    """Outcomes of people, read from the journals one by one, as often as they are gone through.

    Attributes:
        runs: Where they stand, in the cohort's order.
        folder: The job's own folder.
        tables: Which rows stood in OUT's tables when the journals were read; one table is read while others are written anew.
    """

    runs: tuple[Run, ...]
    folder: Path
    tables: Folded | None = None

    def __iter__(self) -> Iterator[Result]:
        """Yield outcomes; rows of a table without their lines."""
        with ExitStack() as stack:
            journals = _Journals(stack)
            for run in self.runs:
                event, start = journals.event(run.first), run.first.position
                if start < 0:
                    yield Result.from_json(event["outcome"])
                else:
                    own = slice(start, start + run.count)
                    yield from map(Result.of_row, event["keys"][own], event["figures"][own])

    @property
    def good(self) -> tuple[Run, ...]:
        """Those without an error."""
        return tuple(run for run in self.runs if not run.first.failed)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of lines that people have; of people who could be delivered."""
        with ExitStack() as stack:
            first = self.good[0].first
            event = _Journals(stack).event(first)
            return tuple(event["chunks"] if first.position >= 0 else Result.from_json(event["outcome"]).lines)

    def lines(self, name: str) -> Iterator[str]:
        """Yield the lines of one name, of everybody who could be delivered."""
        with ExitStack() as stack:
            journals, rows = _Journals(stack), _Rows(stack, self.folder, name, self.tables)
            for run in self.good:
                event = journals.event(run.first)
                if run.first.position < 0:
                    yield Result.from_json(event["outcome"]).lines[name]
                else:
                    yield from rows.lines(run, event)

    def fold(self, state: str) -> "Results":
        """Note that OUT's tables hold the rows, where people are rows of a table, and of what state of the job they are.

        Returns:
            The same outcomes, read from there.
        """
        good = self.good
        if good and all(run.first.position >= 0 for run in good):
            fold(self.folder, self.folder.parent, self.names, [run.place for run in good], state)
            return replace(self, tables=read_folded(self.folder, self.folder.parent))
        return self

    def folded(self, state: str) -> bool:
        """Say whether OUT's tables hold the rows of exactly these people, in their order, and are of that state."""
        found = self.tables
        if found is None or found.state != state or not found.whole:
            return False
        return tuple(run.place for run in self.good) == found.runs


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
        self._last: tuple[tuple[str, int], list[str]] | None = None

    def lines(self, run: Run, event: Mapping[str, Any]) -> list[str]:
        journal, start, first, count = run.place
        if self._last is None or self._last[0] != (journal, start):
            file = self._file(event["file"])
            if file is None:
                numbers = [self._line(journal, start, position) for position in range(first, first + count)]
                return [self._table.line(number) for number in numbers]
            found = read_chunk(file, Chunk(*event["chunks"][self._name]))
            if found is None:
                raise OSError(f"{self._folder / event['file']}: changed while it was read")
            self._last = (journal, start), found
        return self._last[1][first : first + count]

    def _line(self, journal: str, start: int, position: int) -> int:
        number = None if self._tables is None else self._tables.line(journal, start, position)
        if number is None:
            raise OSError(f"{self._folder}: changed while it was read; call again")
        return number

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
    """A whole job, its tables in OUT.

    Attributes:
        table: The cohort's table, index: key.
        failures: Those who could not be delivered.
        lines: Yields the lines of one name, of everybody who could be delivered.
        unchanged: Whether OUT's tables were of exactly this already, so that nothing was written.
    """

    table: pd.DataFrame
    failures: tuple[Failure, ...]
    lines: Callable[[str], Iterator[str]]
    unchanged: bool = False

    @property
    def delivered(self) -> pd.DataFrame:
        """The table of those who could be delivered."""
        return (
            self.table[~self.table.index.isin([one.participant for one in self.failures])]
            if self.failures
            else self.table
        )


def finished(job: Job, table: pd.DataFrame) -> Merged | None:
    """Return a job as it stands in OUT, where all its people do; None where some may not, or failed, or OUT was changed.

    No journal is read for it.

    Args:
        job: The job; `Job.write_people` was called for the cohort as it is now.
        table: The cohort's table, index: key.
    """
    folded = read_folded(job.folder, job.out) if (job.out / COMPLETE).exists() else None
    if folded is None or folded.state != job.state() or not folded.whole or len(table) != folded.count:
        return None

    def lines(name: str) -> Iterator[str]:
        rows = TableRows(job.out / f"{name}.tsv")
        try:
            yield from (rows.line(number) for number in range(len(table)))
        finally:
            rows.close()

    return Merged(table, (), lines, unchanged=True)


@dataclass(frozen=True)
class JoinedParts:
    """All parts of a job, as its journals have them.

    Attributes:
        table: The cohort's table, index: key.
        results: Everybody's, in that order.
        failures: Those who could not be delivered.
        left: Files of outcomes that are nobody's any more, relative to OUT.
    """

    table: pd.DataFrame
    results: Results
    failures: tuple[Failure, ...]
    left: frozenset[str]


def join_parts(job: Job, history: History | None = None) -> JoinedParts:
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
    runs: list[Run] = []
    absent, failures, named = [], [], set[str]()
    for key, fingerprint, file in zip(*(known[name].tolist() for name in ("key", "fingerprint", "file")), strict=True):
        one = history.current(key, fingerprint)
        if one is None:
            absent.append(key)
            continue
        last = runs[-1] if runs else None
        if last is not None and one.position > 0 and last.first.follows(one, last.count):
            runs[-1] = Run(last.first, last.count + 1)
        else:
            runs.append(Run(one, 1))
        named.update(one.files)
        if one.failed:
            result = one.result()
            failures.append(Failure(key, file, result.stage, result.error, one.attempts))
    if absent:
        raise MedrepError(
            listed(f"{job.out}: people who are not done", absent, "call the command again for each part, then merge")
        )
    if len(failures) == len(table):
        cure = "mend the files and call again; --retry-failed tries the same files once more"
        raise CohortError(listed("nobody could be delivered", [f"{f.participant}: {f.error}" for f in failures], cure))
    results = Results(tuple(runs), job.folder, read_folded(job.folder, job.out))
    return JoinedParts(table, results, tuple(failures), (history.ended.files | history.superseded) - named)


def sweep(job: Job, left: Iterable[str]) -> None:
    """Remove what replaced outcomes, people who have left the cohort, and killed processes left in OUT."""
    home = job.out.resolve()
    for file in sorted(left):
        if (job.out / file).parent.resolve().is_relative_to(home):  # a journal can name anything
            (job.out / file).unlink(missing_ok=True)
    for half_written in job.out.rglob(".partial-*"):
        half_written.unlink(missing_ok=True)


SCORE = "score"
TRAIN = "train"


def finish(job: Job, history: History | None = None) -> Merged:
    """Write the tables of a job whose people are all done; dataset_description.json comes last.

    Args:
        job: The job.
        history: What its journals say, where they were read already.

    Raises:
        MedrepError: People who are not done, or nobody who could be delivered.
    """
    whole, content, state = join_parts(job, history), job.content, job.state()
    del history
    if (job.out / COMPLETE).exists() and whole.results.folded(state):  # some failed, else `finished` had known
        return Merged(whole.table, whole.failures, whole.results.lines, unchanged=True)
    (job.out / COMPLETE).unlink(missing_ok=True)
    sweep(job, whole.left)
    ids = whole.table[[column for column in KEY_COLUMNS if column in whole.table]]
    outside = job.read_outside()
    lines = {name: partial(whole.results.lines, name) for name in whole.results.names}
    if job.identity["command"] == SCORE:
        distances = {key: max(one["DistanceSd"] for one in found.values()) for key, found in outside.items()}
        write_scores(job.out, whole.results, lines, ids, content, distances)
        table = whole.table
    else:
        failed = [one.participant for one in whole.failures]
        delivered = whole.table[~whole.table.index.isin(failed)] if failed else whole.table
        there = {key: found for key, found in outside.items() if key in delivered.index}
        sidecar = content["sidecar"] | ({OUTSIDE: there} if there else {})
        written = job.read_written()
        write_transformed(
            job.out,
            lines,
            ids.loc[delivered.index],
            tuple(content["names"]),
            sidecar,
            None if written is None else written.loc[delivered.index],
            () if written is None else tuple(content.get("header", ())),
        )
        write_latent_tables(job.out, lines, ids.loc[delivered.index], content.get("latent_roles", ()))
        table = delivered
    write_tsv(job.out / "participants.tsv", table)
    if content["adapted"]:
        write_tsv(job.out / "adapted.tsv", pd.DataFrame(content["adapted"]))
    write_failures(job.out / "failures.tsv", whole.failures)
    write_description(job.out, content["title"], [content["source"]], content["about"])
    return Merged(whole.table, whole.failures, whole.results.fold(state).lines)
