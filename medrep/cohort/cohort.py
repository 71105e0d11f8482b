"""Cohort: the participants table joined to its files or features."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from medrep.cohort.bids import outside_problems, raw_dataset, read_datalist
from medrep.cohort.covariates import Covariate
from medrep.cohort.dictionary import certain_pairs
from medrep.cohort.files import CohortFiles, Place, cohort_files
from medrep.cohort.grid import Columns
from medrep.cohort.grouping import independent_units, tied_rows
from medrep.cohort.inputs import ImageInput
from medrep.cohort.kinds import SILENT, Found, InputKind, Listener
from medrep.cohort.participants import Participants, chosen_rows, keys, labels, read_participants
from medrep.cohort.samples import Source
from medrep.cohort.sessions import chosen_visits, with_runs, with_sessions
from medrep.cohort.sidecars import Earlier, earlier_work
from medrep.cohort.table_files import is_table
from medrep.cohort.table_layout import is_subjects_dir, read_people
from medrep.errors import CohortError, few, listed

# +5, -5 mm, -, +/- and +ve are data; =1+1, @SUM(A1) and -1+cmd|' /C calc'!A0 are not. Quotes are no help: programs take them off.
_FORMULA = re.compile(r'[\s"]*(?:[=@]\s*\S|[+\-].*[(!|])')
_STARTS = frozenset('=@+- "')  # looked at first: most cells are numbers


@dataclass(frozen=True)
class Cohort:
    """People, their table, and their data.

    Attributes:
        root: The folder everything lies in.
        table: Text cells, one row a person or session; index: key.
        units: Column -> unit from participants.json.
        source: Their data: rows of a table, or files. Without a usable file are only people of a cohort read with ``tolerant``.
        notes: What was tidied while reading.
        input: What was read, with what reading fills in.
        levels: Column -> level -> what it means, from participants.json.
        earlier: What medrep has done to the data already.
        files: Where they lie, where more than a folder says so.
    """

    root: Path
    table: pd.DataFrame
    units: dict[str, str]
    source: Source
    notes: tuple[str, ...]
    input: InputKind[Any]
    levels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    earlier: tuple[Earlier, ...] = ()
    files: CohortFiles | None = None

    def __len__(self) -> int:
        return len(self.table)

    @property
    def groups(self) -> tuple[str, ...] | None:
        """Group of each row (`tied_rows`), where ``input.group`` names a column; None where people are strangers.

        Raises:
            CohortError: No such column, or people in several groups.
        """
        return tied_rows(self.table, self.input.group) if self.input.group else None

    @property
    def tied(self) -> Sequence[str]:
        """Unit that each row is drawn, split, folded and exchanged with (`independent_units`); raises as `groups` does."""
        return independent_units(self.groups, self.table["participant_id"].astype(str).tolist())

    def select(self, wanted: pd.Index) -> "Cohort":
        """Return the cohort of the wanted keys, in that order."""
        if wanted.equals(self.table.index):
            return self
        return replace(self, table=self.table.loc[wanted], source=self.source.select(wanted))


def read_cohort(
    place: Place,
    wanted: InputKind[Any],
    *,
    declared: Sequence[Covariate] = (),
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    tolerant: bool = False,
) -> Cohort:
    """Read a cohort: a BIDS folder, a folder with features.tsv, a table file, or a MONAI datalist JSON.

    Args:
        place: The folder, or the file; with what is said about it.
        wanted: Which images or table.
        declared: The covariates wanted: columns of these names are no features of a table file.
        only: Participant ids (with or without ``sub-``) to read; all if empty.
        exclude: Participant ids to leave out.
        tolerant: Whether people without exactly one usable file are kept, with their problem, as long as somebody has one.

    Raises:
        CohortError: What is missing or contradictory; everybody it concerns is listed.
    """
    files = cohort_files(place)
    root = files.root
    wanted = with_changes(wanted, files)
    try:
        is_file, is_folder = root.is_file(), root.is_dir()
    except (OSError, ValueError) as error:
        raise CohortError(
            f"{root}: cannot be opened ({error}); COHORT is a folder, a table or a datalist JSON"
        ) from None
    if is_file and root.suffix == ".json":
        return _datalist_cohort(root, wanted, only, exclude, tolerant)
    if (is_file and is_table(root)) or (is_folder and wanted.tabular and not wanted.by_file and is_subjects_dir(root)):
        tables = wanted.tables(files, declared, only=only, exclude=exclude)
        notes = (*tables.notes, *_formulas(tables.table))
        source = Source.of_table(tables.features)
        here = root if is_folder else root.parent
        return _told(Cohort(here, tables.table, {}, source, notes, wanted, files=files), Found(source))
    if not is_folder:
        what = "not a table, nor a datalist JSON" if is_file else "no such folder"
        raise CohortError(f"{root}: {what}; COHORT is a folder with participants.tsv, a table file, or a datalist JSON")
    people = participants_of(files, [path.name for path in root.glob("sub-*")] if wanted.by_file else None)
    table = people.table[chosen_rows(people.table["participant_id"].tolist(), only, exclude)]
    rows, samples = wanted.table(root, [str(who) for who in people.table["participant_id"].tolist()])
    table, session_notes = with_sessions(root, table, samples)
    table = table[chosen_visits(table, files.visits)]
    if isinstance(wanted.section, ImageInput):
        table, run_notes = with_runs(root, table, wanted.section)
        session_notes += run_notes
    notes = (*people.notes, *session_notes, *_formulas(table))
    found = wanted.find(root, table, rows, tolerant=tolerant)
    said = files if files.to_json() else None
    cohort = Cohort(root, table, people.units, found.source, notes, wanted, levels=people.levels, files=said)
    return _told(cohort, found)


def with_changes(wanted: InputKind[Any], files: CohortFiles) -> InputKind[Any]:
    """Return a kind of input with what is said about files.

    Raises:
        CohortError: Keys that this kind does not have.
    """
    known = wanted.section_type.__dataclass_fields__
    strange = [name for name in files.changes if name not in known]
    if strange:
        switches = ", ".join(f"--{'space' if name == 'entities' else name}" for name in strange)
        raise CohortError(f"{switches}: does not go with data of the kind {wanted.kind}")
    entities = {**getattr(wanted.section, "entities", {}), **files.changes.get("entities", {})}
    return wanted.changed(**{**files.changes, **({"entities": entities} if "entities" in files.changes else {})})


def participants_of(files: CohortFiles, folders: Sequence[str] | None) -> Participants:
    """Return the people of a folder: of participants.tsv, or of the table of covariates that was named.

    A derivative without participants.tsv has the people of its raw dataset. Of people who stand in another place than the folder
    itself, those who have a folder in it.

    Args:
        files: Where they lie.
        folders: Names of people's folders; None where there are none.
    """
    own, raw = files.root / "participants.tsv", None
    if files.covariates is not None:
        if files.missing:
            raise CohortError(listed("no such table", files.missing))
        table, told = read_people(files.covariates, files)
        table.index = pd.Index(keys(table), name="key")
        people, source = Participants(table, told, {}), files.covariates.name
    else:
        raw = None if own.is_file() else raw_dataset(files.root)
        if raw is None:
            return read_participants(own)
        people = read_participants(raw / own.name)
        source = str(raw / own.name)
        people = replace(people, notes=(f"people are those of {source}, the raw dataset", *people.notes))
    if folders is None:
        return people
    there = set(labels(folders, "sub"))
    bare = labels(people.table["participant_id"].tolist(), "sub")
    spelled = certain_pairs(bare, sorted(there))
    kept = [who in there or who in spelled for who in bare]
    if not any(kept):
        raise CohortError(f"{files.root}: no folder sub-... of anybody in {source}")
    left = kept.count(False)
    note = (f"{source}: {left} people without a folder here are left out",) if left else ()
    return replace(people, table=people.table[kept], notes=(*people.notes, *note))


def read_matrix(
    cohort: Cohort,
    scratch: IO[bytes],
    listener: Listener = SILENT,
    *,
    workers: int = 0,
    like: Columns | None = None,
    where: str = "beside OUT",
) -> tuple[Shaped[np.ndarray, "people columns"], Columns]:
    """Return the people x columns matrix: a table as it is, what comes from files in a memory-mapped scratch file.

    Args:
        cohort: The people; with what training measured in its ``input``.
        scratch: An open file without a name, for what comes from files.
        listener: Who is told.
        workers: Processes that read files ahead.
        like: Columns of the model that the data are for; None: as they come.
        where: Where the scratch file lies, for messages.

    Raises:
        CohortError: Features that are missing, files that cannot be read, or no room for the scratch file.
    """
    return cohort.input.matrix(cohort.source, scratch_room(scratch, where), listener, like=like, workers=workers)


def scratch_room(scratch: IO[bytes], where: str = "beside OUT") -> Callable[[int, int], np.ndarray]:
    """Return what maps float32 matrices (people, columns) in a file, one after the other.

    Args:
        scratch: An open file.
        where: Where it lies, for messages.
    """
    taken = 0

    def mapped(people: int, columns: int) -> np.ndarray:
        nonlocal taken
        start, size = taken, 4 * people * columns
        taken += size
        _take_room(scratch, start, size, where)
        return np.memmap(scratch, mode="r+", dtype=np.float32, offset=start, shape=(people, columns))

    return mapped


def _take_room(scratch: IO[bytes], start: int, size: int, where: str) -> None:
    """Take disk space before it is mapped: writing to a mapped page on a full disk would kill the process."""
    try:
        if sys.platform == "linux":
            os.posix_fallocate(scratch.fileno(), start, size)
        else:
            scratch.truncate(start + size)
    except OSError as error:
        raise CohortError(f"{size / 1e9:.2g} GB of scratch space are needed {where}: {error.strerror}") from None


def _told(cohort: Cohort, found: Found) -> Cohort:
    """Return the cohort with what its kind of input found out."""
    header = pd.DataFrame(columns=list(found.source.features.header))
    return replace(
        cohort,
        notes=(*cohort.notes, *found.notes, *_formulas(header)),
        input=found.input or cohort.input,
        earlier=earlier_work(cohort.root, found.images),
    )


def _datalist_cohort(
    path: Path, wanted: InputKind[Any], only: Sequence[str], exclude: Sequence[str], tolerant: bool
) -> Cohort:
    if not wanted.by_file:
        raise CohortError(
            f"{path}: a datalist names images; set input.kind to volume or shape, or give a folder with features.tsv"
        )
    tolerant = tolerant and not wanted.tabular  # a table has a row for each
    table, images = read_datalist(path, tolerant=tolerant)
    table.index = pd.Index(keys(table), name="key")
    outside = outside_problems(path.parent, dict(enumerate(images)))
    names = [str(key) for key in table.index]
    files = pd.Series(
        [None if k in outside else image for k, image in enumerate(images)], index=table.index, dtype=object
    )
    chosen = table[chosen_rows(table["participant_id"].tolist(), only, exclude)]
    found = wanted.take(path.parent, files.loc[chosen.index], chosen)
    problems = {names[k]: problem for k, problem in outside.items() if names[k] in chosen.index}
    source = replace(found.source, problems=problems)
    return _told(Cohort(path.parent, chosen, {}, source, tuple(_formulas(chosen)), wanted), found)


def _formulas(table: pd.DataFrame) -> list[str]:
    """Return a note about names and cells that a spreadsheet program would run as formulas; they stay as they are."""
    keys = table.index.tolist()
    found = [f"column {str(name)[:40]!r}" for name in table if str(name)[:1] in _STARTS and _FORMULA.match(str(name))]
    for name in table:
        found += [
            f"{keys[k]} {name} {cell[:40]!r}"
            for k, cell in enumerate(table[name].tolist())
            if cell[:1] in _STARTS and _FORMULA.match(cell)
        ]
    if not found:
        return []
    return [
        f"texts that a spreadsheet program runs as formulas: {few(found, 3)}; they are kept as they are, "
        "also in what is written: import such tables as text"
    ]
