"""Kinds of input: the interface of each, the data that one found, and who is told on the way.

A kind is one class, and one line in ``INPUTS``. Everything else asks the kind: nothing outside this folder knows which there are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

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
from medrep.cohort.participants import label
from medrep.cohort.samples import Source
from medrep.cohort.tables import Tables
from medrep.errors import CohortError

SectionT = TypeVar("SectionT")
KindT = TypeVar("KindT", bound="InputKind[Any]")
PersonT = TypeVar("PersonT", bound=Any)
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


@runtime_checkable
class RowForm(Protocol):
    """The form in which rows of a table are given and written, where a model has them in another.

    Attributes:
        needs_given: Whether what a person gets is made of what the person had.
    """

    needs_given: ClassVar[bool]

    def received(
        self, given: Float[np.ndarray, "people columns"], people: Sequence[str]
    ) -> Float[np.ndarray, "people columns"]:
        """Return the columns of a model; people are named for what is said of data that are none."""

    def released(
        self,
        rows: Float[np.ndarray, "people columns"],
        before: Float[np.ndarray, "people columns"] | None = None,
        given: Float[np.ndarray, "people columns"] | None = None,
    ) -> Float[np.ndarray, "people columns"]:
        """Return a model's columns as they are given; ``before`` and ``given`` are what the same people had in both forms."""


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
        forecaster: What writes forecasts of files, as ``module:name``: takes a model, the kind and a `ForecastTo`; an
        `ImageForecaster`. Empty where a table holds the data.
        form: The form in which rows of a table are given and written, where it is not that of a model's columns, as
            ``module:name``: takes the section and names of columns, returns a `RowForm` or None.
        units: What returns the logarithms of what each person's values are in units of, as ``module:name``: takes the section
            and files, returns a frame (index: key) or None; empty where there are no units.
        frames: What returns where each person's data lie in the world, as ``module:name``: takes the section and files, returns
            4 x 4 matrices from the world to the coordinates of the grid; empty where position is not looked at.
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
    forecaster: ClassVar[str] = ""
    form: ClassVar[str] = ""
    units: ClassVar[str] = ""
    frames: ClassVar[str] = ""
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
    def outputs(self) -> tuple[str, ...]:
        """Names of what the mover writes of each person, in the order of its files, as this section has it."""
        return self.written

    @property
    def keeps_missing(self) -> bool:
        """True if missing values are left out of a fit and stay missing; else they are refused."""
        return bool(self.to_json()["missing"] == "keep")

    @property
    def group(self) -> str:
        """Column of the table of participants that names whom each belongs with; empty where people are strangers."""
        return str(self.to_json().get("group", ""))

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

    def as_measured(self, source: Source) -> Source:
        """Return the data of people in the form that `measured` found; by default as they are."""
        return source

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


def load_people(
    files: pd.Series,
    read: Callable[[Path], PersonT],
    names: tuple[str, ...],
    unlike: Callable[[PersonT], str],
) -> Iterator[tuple[str, PersonT | None, str]]:
    """Read people's files one after another.

    Args:
        files: Index: key; values: paths.
        read: Returns what a file holds, with the ``names`` of its columns; raises CohortError with one line.
        names: Columns of a model that they must have; any if empty.
        unlike: Says of people with other columns what is wrong.

    Yields:
        Key, what was read and an empty text; or key, None and one line of what is wrong. Never an exception.
    """
    for key, path in files.items():
        try:
            found = read(Path(str(path)))
        except CohortError as error:
            yield str(key), None, str(error)
            continue
        if names and found.names != names:
            yield str(key), None, f"{path}: {unlike(found)}"
        else:
            yield str(key), found, ""


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
