"""Kinds of input: the interface of each, the data that one found, and samples as work is handed round.

A kind is one class, and one line in ``INPUTS``. Everything else asks the kind: nothing outside this folder knows which there are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar, overload, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from medrep._files import release_pages
from medrep.cohort.bids import (
    IMAGE_ENDINGS,
    find_images,
    outside_problems,
    refuse_outside,
    refuse_problems,
)
from medrep.cohort.covariates import Covariate
from medrep.cohort.features import FeatureTable
from medrep.cohort.files import CohortFiles
from medrep.cohort.grid import Columns
from medrep.cohort.inputs import ImageInput, persisted_section
from medrep.cohort.participants import label, row_blocks
from medrep.cohort.splits import MARK_DIGITS, row_fingerprint
from medrep.cohort.tables import Tables
from medrep.errors import CohortError


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a cohort.

    Attributes:
        key: ``sub-01`` or ``sub-01_ses-2``.
        place: Position in the cohort, from 0.
        path: The image; None for a row of a table, or where there is no usable file.
        covariates: In the form of the model's schema (`CovariateSchema.transfer`); empty where nobody looks at them.
        problem: Why there is no usable file; empty if there is one.
        mark: Fingerprint of the row, where the data are a table.
        row: The row, where the data are a table.
    """

    key: str
    place: int
    path: Path | None
    covariates: Mapping[str, str | float]
    problem: str = ""
    mark: str = ""
    row: Float[np.ndarray, " columns"] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, eq=False)
class Samples(Sequence[Sample]):
    """Rows of a cohort in an order; each is made as it is asked for.

    Attributes:
        keys: Of each.
        places: Of each in the cohort.
        covariates: Index: key.
        files: Of each; None where there is none.
        problems: Why there is no usable file, by key.
        marks: Fingerprint of each row; empty where data are files.
        data: Rows of these samples, among others'; None where data are files.
        at: Where each sample's row stands in ``data``.
        persons: Number of each one's person, where visits of a person are worked on together; else each has its own.
    """

    keys: Sequence[str]
    places: Int[np.ndarray, " samples"]
    covariates: pd.DataFrame
    files: Sequence[Any]
    problems: Mapping[str, str]
    marks: Shaped[np.ndarray, " samples"]
    data: Shaped[np.ndarray, "rows columns"] | None
    at: Int[np.ndarray, " samples"]
    persons: Int[np.ndarray, " samples"]

    @classmethod
    def of(cls, some: Sequence[Sample]) -> "Samples":
        """Return samples that are at hand."""
        if isinstance(some, Samples):
            return some
        keys, rows = [one.key for one in some], [one.row for one in some if one.row is not None]
        return cls(
            keys,
            np.array([one.place for one in some], int),
            pd.DataFrame([dict(one.covariates) for one in some], index=pd.Index(keys, name="key")),
            [one.path for one in some],
            {one.key: one.problem for one in some if one.problem},
            np.array([one.mark.encode() for one in some], f"S{MARK_DIGITS}"),
            np.stack(rows) if rows else None,
            np.arange(len(keys)),
            np.array([one.place for one in some], int),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Sample]:
        records = self.covariates.to_dict("records") or [{}] * len(self)  # a frame without columns has no records
        yield from (self._one(k, record) for k, record in enumerate(records))

    @overload
    def __getitem__(self, chosen: int) -> Sample: ...
    @overload
    def __getitem__(self, chosen: slice) -> "Samples": ...
    def __getitem__(self, chosen: int | slice) -> "Sample | Samples":
        if isinstance(chosen, slice):
            return self.take(range(*chosen.indices(len(self))))
        return self._one(chosen, next(iter(self.covariates.iloc[[chosen]].to_dict("records")), {}))

    def _one(self, k: int, record: Mapping[Any, Any]) -> Sample:
        key, row = self.keys[k], None if self.data is None else self.data[self.at[k]]
        known = {str(name): value for name, value in record.items()}
        problem, mark = self.problems.get(key, ""), self.marks[k].decode()
        return Sample(key, int(self.places[k]), self.files[k], known, problem, mark, row)

    def __reduce__(self) -> tuple[Any, ...]:
        own = {key: problem for key, problem in self.problems.items() if key in set(self.keys)}
        rows, at = None if self.data is None else self.rows, np.arange(len(self))
        return Samples, (self.keys, self.places, self.covariates, self.files, own, self.marks, rows, at, self.persons)

    def take(self, chosen: Sequence[int] | Int[np.ndarray, " some"]) -> "Samples":
        """Return some, by their positions here."""
        positions = np.asarray(chosen, int)
        keys, files = ([some[k] for k in positions.tolist()] for some in (self.keys, self.files))
        own: slice | np.ndarray = positions
        if len(positions) and np.array_equal(positions, np.arange(positions[0], positions[0] + len(positions))):
            own = slice(positions[0], positions[0] + len(positions))  # no copies
        covariates, places, marks, at = self.covariates.iloc[own], self.places[own], self.marks[own], self.at[own]
        return Samples(keys, places, covariates, files, self.problems, marks, self.data, at, self.persons[own])

    def together(self, whose: Sequence[str], size: int) -> "Samples":
        """Return the samples by person, none of whom lies in two blocks.

        Args:
            whose: Person of each.
            size: Of a block; no person has more samples.
        """
        numbers, _ = pd.factorize(np.asarray(whose, object))
        order = np.argsort(numbers, kind="stable")
        counts, places, place = np.bincount(numbers), np.empty(len(order), int), 0
        for first, count in zip(np.cumsum(counts) - counts, counts, strict=True):
            if place % size + count > size:
                place += size - place % size
            places[first : first + count] = np.arange(place, place + count)
            place += int(count)
        return replace(self.take(order), places=places, persons=numbers[order])

    def blocks(self, size: int) -> list[range]:
        """Return the positions of each block of places."""
        starts = np.flatnonzero(np.diff(self.places // size, prepend=-1))
        return [range(a, b) for a, b in zip(starts.tolist(), [*starts[1:].tolist(), len(self)], strict=True)]

    @property
    def rows(self) -> Shaped[np.ndarray, "samples columns"]:
        """Their rows, in memory."""
        if self.data is None:
            raise TypeError("samples with a file each have no rows")
        rows = np.array(self.data[self.at])
        release_pages(self.data)
        return rows


def sample_frame(some: Sequence[Sample]) -> pd.DataFrame:
    """Return the covariates of samples as a frame, index: key."""
    return Samples.of(some).covariates


def sample_rows(some: Sequence[Sample]) -> Float[np.ndarray, "visits columns"]:
    """Return the rows of samples of a table."""
    return Samples.of(some).rows


def sample_files(some: Sequence[Sample]) -> pd.Series:
    """Return the paths of samples, index: key."""
    own = Samples.of(some)
    return pd.Series(own.files, index=own.keys, dtype=object)


SectionT = TypeVar("SectionT")
KindT = TypeVar("KindT", bound="InputKind[Any]")
Room: TypeAlias = Callable[[int, int], np.ndarray]
Matrix: TypeAlias = tuple[Shaped[np.ndarray, "people columns"], Columns]
Blocks: TypeAlias = Iterator[tuple[pd.Index, Shaped[np.ndarray, "people columns"]]]


@runtime_checkable
class Listener(Protocol):
    """Receiver of messages and progress, for instance a console."""

    def say(self, text: str) -> None:
        """Take a line."""

    def warn(self, text: str) -> None:
        """Take a warning."""

    def notes(self, notes: Sequence[str]) -> None:
        """Take what was interpreted."""

    def phase(self, name: str) -> None:
        """Take what is done from now on, where that takes long and says nothing of itself."""

    def track(self, what: str, total: int, unit: str = "people") -> AbstractContextManager[Callable[[int], None]]:
        """Return a context of a function to call with the number of people, or of other units, done."""

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Take a small table of what was found on the way."""


class Silent:
    """A listener who keeps everything to themselves."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""

    def notes(self, notes: Sequence[str]) -> None:
        """Say nothing."""

    def phase(self, name: str) -> None:
        """Say nothing."""

    def track(self, what: str, total: int, unit: str = "people") -> AbstractContextManager[Callable[[int], None]]:
        """Count nothing."""
        del what, total, unit
        return nullcontext(lambda count: None)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show nothing."""


SILENT = Silent()


def no_table(people: pd.Index) -> FeatureTable:
    """Return the table of people whose data are files: a row each, and no columns."""
    return FeatureTable(pd.DataFrame(index=people), np.zeros((len(people), 0)), (), None)


@dataclass(frozen=True)
class Source:
    """The data of some people: a row of a table each, or a file each.

    Attributes:
        features: Their rows, index: key; a table without columns where data are files.
        files: Their files, index: key; None for a row of a table, and for a person in ``problems``.
        problems: Why there is no usable file, by key.
    """

    features: FeatureTable
    files: pd.Series
    problems: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_table(cls, features: FeatureTable) -> "Source":
        """Return the data of people who have a row of a table each."""
        return cls(features, pd.Series([None] * len(features.ids), index=features.ids.index, dtype=object))

    @classmethod
    def of_files(cls, files: pd.Series, problems: Mapping[str, str] | None = None) -> "Source":
        """Return the data of people who have a file each."""
        return cls(no_table(files.index), files, problems or {})

    def select(self, wanted: pd.Index) -> "Source":
        """Return the data of the wanted keys, in that order."""
        problems = {key: problem for key, problem in self.problems.items() if key in wanted}
        return Source(self.features.rows(wanted), self.files.loc[wanted], problems)

    def samples(self, frame: pd.DataFrame) -> Samples:
        """Return people in the order of a frame.

        Args:
            frame: Covariates, index: key.
        """
        keys = [str(key) for key in frame.index.tolist()]
        rows, files = self.features.rows(frame.index).values, self.files.loc[frame.index].tolist()
        problems = {str(key): problem for key, problem in self.problems.items()}
        paths = [
            None if file is None or key in problems else Path(str(file)) for key, file in zip(keys, files, strict=True)
        ]
        marks = np.zeros(len(keys), f"S{MARK_DIGITS}")
        if rows.shape[1]:
            for start, block in row_blocks(rows):
                marks[start : start + len(block)] = [row_fingerprint(row).encode() for row in np.asarray(block)]
        data = rows if rows.shape[1] else None
        everybody = np.arange(len(keys))
        return Samples(keys, everybody, frame, paths, problems, marks, data, everybody, everybody)


@dataclass(frozen=True)
class Found:
    """Data that a kind found of a cohort.

    Attributes:
        source: The data.
        images: Files that medrep may have written sidecars beside.
        notes: What was tidied on the way.
        input: The kind, with what reading fills in; None as it was.
    """

    source: Source
    images: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    input: "InputKind[Any] | None" = None


@dataclass(frozen=True)
class Checked:
    """Result of a check of all participants' data.

    Attributes:
        problems: What would stop a training, a line each.
        said: What the data are, in a line for the end; empty where that was said already.
        voxels: Of the common grid of volumes.
        columns: Of them, about how many would be fitted.
        seconds: Processor time of reading a volume.
    """

    problems: tuple[str, ...]
    said: str = ""
    voxels: int = 0
    columns: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class InputKind(ABC, Generic[SectionT]):
    """A kind of input, with its section of the configuration.

    Attributes:
        section: The section: an instance of ``section_type``.
        unused: Keys of other kinds that a configuration named; they are kept as they were written.
        kind: What ``input.kind`` says.
        section_type: The section's dataclass; each of its fields has a default.
        by_file: Whether each person's data are a file of their own, which a datalist can name.
        tabular: Whether a cohort holds the data as a table; else each person's file is read when it is their turn.
        on_grid: Whether columns are points of a grid in space, which convolutions need.
        in_world: Whether that grid lies somewhere in the world, which is compared.
        has_surface: Whether what is written of a person has a surface.
        transform: What writes people without some effects, as ``module:name``: takes a mover, the kind and a `Destination`; a
        `Task`.
        scorer: What scores people, as ``module:name``: takes a scorer, the kind and the table's columns; a `Task`.
        form: The form in which rows of a table are given and written, where it is not that of a model's columns, as
            ``module:name``: takes the section and names of columns, returns an `EdgeForm` or None.
        units: What returns the logarithms of what each person's values are in units of, as ``module:name``: takes the section
            and files, returns a frame (index: key) or None; empty where there are no units.
        has_matrix: Whether what is written of a person can be a matrix, too.
        written: What the mover writes of each person, in the order of its files.
        statistics: What is measured of each person beside what the model says, for instance `image_statistics`.
        better_configs: Shipped configurations that take out what a linear model leaves, in words.
        packages: Packages that only this kind needs to serve a model.
    """

    section: SectionT
    unused: Mapping[str, Any] = field(default_factory=dict)

    kind: ClassVar[str]
    section_type: ClassVar[type[Any]]
    by_file: ClassVar[bool] = True
    tabular: ClassVar[bool]
    on_grid: ClassVar[bool] = False
    in_world: ClassVar[bool] = False
    has_surface: ClassVar[bool] = False
    transform: ClassVar[str]
    scorer: ClassVar[str]
    form: ClassVar[str] = ""
    units: ClassVar[str] = ""
    has_matrix: ClassVar[bool] = False
    written: ClassVar[tuple[str, ...]] = ()
    statistics: ClassVar[tuple[str, ...]] = ()
    better_configs: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the section as it is kept in config.yaml and model.json; `medrep.cohort.kinds.saved_input` reads it back."""
        return persisted_section(self.kind, {**self.unused, **asdict(self.section)})  # type: ignore[call-overload]

    def changed(self: KindT, **values: Any) -> KindT:
        """Return the kind with other values in its section."""
        return replace(self, section=replace(self.section, **values))

    @property
    def keeps_missing(self) -> bool:
        """True if missing values are left out of a fit and stay missing; else they are refused."""
        return bool(self.to_json()["missing"] == "keep")

    @property
    def suffix(self) -> str:
        """BIDS suffix of a person's image."""
        return str(self.to_json()["suffix"])

    @property
    def centre(self) -> tuple[float, ...]:
        """Middle of the grid of aligned people, mm; empty where people are not aligned."""
        return tuple(self.to_json()["centre"])

    def read_first(self, people: int) -> int:  # noqa: ARG002
        """Return of how many people data are read before it is known which of them are fitted; by default of none."""
        return 0

    def tables(
        self, files: CohortFiles, declared: Sequence[Covariate], *, only: Sequence[str], exclude: Sequence[str]
    ) -> Tables:
        """Read a cohort that is table files.

        Args:
            files: The files.
            declared: The covariates wanted.
            only: Participants to read; all if empty.
            exclude: Participants to leave out.

        Raises:
            CohortError: What is missing or contradictory; and of every kind but features, that a table is none of it.
        """
        del declared, only, exclude
        raise CohortError(
            f"{files.root}: a table holds features, and {self.kind} is asked for; give a folder, or --set input.kind=features"
        )

    @abstractmethod
    def table(self, root: Path, people: Sequence[str]) -> "tuple[FeatureTable, pd.DataFrame | None]":
        """Read what a cohort's folder holds of everybody at once, before it is known which visits there are.

        Args:
            root: The folder.
            people: All ids of participants.tsv.

        Returns:
            The table and its key columns, in the spelling of participants.tsv; `no_table` and None where each person has a file.
        """

    @abstractmethod
    def find(self, root: Path, table: pd.DataFrame, rows: FeatureTable, *, tolerant: bool) -> Found:
        """Find the data of people in a folder.

        Args:
            root: The folder.
            table: The people, index: key.
            rows: From `table`.
            tolerant: Whether people without exactly one usable file are kept, with their problem, as long as somebody has one.

        Raises:
            CohortError: Everybody whose data are absent or cannot be told.
        """

    @abstractmethod
    def take(self, root: Path, files: pd.Series, table: pd.DataFrame) -> Found:
        """Return the data of people whose files are known.

        Args:
            root: The cohort's folder.
            files: Index: key; None for a person without a usable file.
            table: The people, index: key.
        """

    @abstractmethod
    def measured(self, source: Source, listener: Listener) -> "tuple[InputKind[SectionT], tuple[str, ...]]":
        """Return the kind with what training fills in, and what was interpreted on the way.

        Args:
            source: The people of training.
            listener: Who is told.

        Raises:
            CohortError: Everybody whose data cannot be used.
        """

    @abstractmethod
    def common_columns(
        self, source: Source, room: Callable[[int, int], np.ndarray], listener: Listener
    ) -> Columns | None:
        """Return the columns of everybody's matrix, found of as few files as tell them; None of a table, which is read whole.

        Args:
            source: The people.
            room: As of `matrix`.
            listener: Who is told.

        Raises:
            CohortError: Files that tell them and cannot be used.
        """

    @abstractmethod
    def matrix(
        self, source: Source, room: Room, listener: Listener, *, like: Columns | None = None, workers: int = 0
    ) -> Matrix:
        """Read everybody's data into one matrix.

        Args:
            source: The people.
            room: Makes the float32 matrix (people, columns) for data that are not in memory.
            listener: Who is told.
            like: Columns of a model that they are for; None: as they come.
            workers: Processes that read files ahead.

        Returns:
            The matrix, in memory or memory-mapped, and what its columns are.

        Raises:
            CohortError: Everybody whose data cannot be used.
        """

    @abstractmethod
    def adapting(self, source: Source, like: Columns, listener: Listener) -> Blocks:
        """Yield keys and rows of people whose sites a model is adapted to, a few at a time, without those who cannot be read.

        Args:
            source: The people.
            like: Columns of the model.
            listener: Who is told.
        """

    @abstractmethod
    def row(self, source: Source, key: str, like: Columns) -> Shaped[np.ndarray, " columns"]:
        """Return one person's row in the columns of a model.

        Raises:
            CohortError: A file that cannot be read.
        """

    @abstractmethod
    def errors(self, files: pd.Series) -> Iterator[tuple[str, str]]:
        """Read files and keep nothing; yield each key with what is wrong, empty if nothing is."""

    @abstractmethod
    def check(self, source: Source, listener: Listener, look: Callable[[str, np.ndarray], None]) -> Checked:
        """Look through everybody's data.

        Args:
            source: The people.
            listener: Who is told.
            look: Called with the key and the data of those who can be read, where that costs no more than reading.
        """

    @abstractmethod
    def pictures(self, files: Sequence[Path]) -> "tuple[list[Float[np.ndarray, 'x y z']], tuple[float, float] | None]":
        """Return people's files as pictures for a report, and what is black and what is white in them.

        Returns:
            The pictures, and the window; None where voxels are 0 or 1.

        Raises:
            CohortError: A file that cannot be read.
        """


def imported(named: str) -> Any:
    """Return what is named as ``module:name``, imported now: kinds name what lies in layers above, and what takes seconds."""
    module, _, name = named.partition(":")
    return getattr(import_module(module), name)


def find_files(
    root: Path,
    table: pd.DataFrame,
    wanted: ImageInput,
    *,
    tolerant: bool,
    endings: tuple[str, ...] = IMAGE_ENDINGS,
) -> tuple[pd.Series, dict[str, str]]:
    """Find one image a person in a BIDS folder.

    Args:
        root: The folder.
        table: The people, index: key.
        wanted: Suffix, ``desc`` and entities.
        tolerant: Whether people without exactly one usable file are kept, with their problem, as long as somebody has one.
        endings: How names end that are looked at.

    Returns:
        Files, index: key, None for a person without one; and why there is none, by key.

    Raises:
        CohortError: Everybody without exactly one usable file.
    """
    sessions = table.get("session_id", pd.Series("", index=table.index))
    pairs = [
        (str(who), str(sample) if label(str(sample), "ses") else "")
        for who, sample in zip(table["participant_id"], sessions, strict=True)
    ]
    found, problems = find_images(root, pairs, wanted, endings)
    names = [str(key) for key in table.index]
    if not (tolerant and found):
        told = [f"{' '.join(pairs[k]).strip()}: {problem}" for k, problem in problems.items()]
        refuse_problems(root, told, endings)
        refuse_outside(root, [(names[position], path) for position, path in found.items()])
    outside = outside_problems(root, found) if tolerant and found else {}
    files = [None if k in outside else found.get(k) for k in range(len(table))]
    known = {names[k]: problem for k, problem in sorted((problems | outside).items())}
    return pd.Series(files, index=table.index, dtype=object), known
