"""Tasks of a batch, their results, and how workers come by them.

Matrix products of one row and of sixteen round differently. Work that is split, interrupted and repeated must not show in its
results: so each row stands at its person's own place in the block, and whoever is absent is stood in for by somebody present.
"""

from abc import ABC, abstractmethod
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Float

from medrep.cohort.kinds import InputKind
from medrep.cohort.samples import Sample, Samples, sample_files
from medrep.derivatives.bids import line
from medrep.models.saved import SavedModel, load_input

_CELLS = 2**21


def block_size(columns: int, most: int, least: int = 1) -> int:
    """Return how many people are worked on together: a power of two, fewer where rows are long.

    Args:
        columns: Of the model.
        most: Where rows are short.
        least: How many there have to be.
    """
    size = 1
    while size < least or (size < most and 2 * size * columns <= _CELLS):
        size *= 2
    return size


def in_places(
    rows: Float[np.ndarray, "people columns"], people: Sequence[Sample], size: int
) -> tuple[Float[np.ndarray, "size columns"], Samples, list[int]]:
    """Return a full block, who stands at each place, and the places of the people.

    Args:
        rows: Of the people.
        people: At most one for each place of the block.
        size: Of the block.
    """
    own = Samples.of(people)
    places = own.places % size
    standing = np.zeros(size, dtype=int)
    standing[places] = np.arange(len(own))
    if np.array_equal(standing, np.arange(len(own))):
        return rows, own, places.tolist()
    full = own.take(standing)
    absent = np.setdiff1d(np.arange(size), places)
    persons = full.persons.copy()
    persons[absent] = -1 - absent  # whoever stands in is nobody's further visit
    return rows[standing], replace(full, persons=persons), places.tolist()


def finite_figures(figures: Mapping[str, float | str]) -> dict[str, float | str | None]:
    """Return figures as JSON has them, None for NaN."""
    return {name: None if value != value else value for name, value in figures.items()}


@dataclass(frozen=True, eq=False)
class Result:
    """One person's result.

    Attributes:
        key: The person (and session).
        error: One line, empty if all went well.
        stage: Where it went wrong: ``find``, ``read``, ``score``, ``transform``, ``work`` (what nobody foresaw), ``quarantine``.
        figures: Named numbers and words, for instance reconstruction_error.
        arrays: Named rows, for instance latents, while they are worked with.
        lines: Named rows as they are written (`medrep.derivatives.bids`).
        files: What was written, relative to OUT.
    """

    key: str
    error: str = ""
    stage: str = ""
    figures: Mapping[str, float | str] = field(default_factory=dict)
    arrays: Mapping[str, Float[np.ndarray, " columns"]] = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    def written(self) -> "Result":
        """Return the outcome with its rows as they are written."""
        return replace(self, arrays={}, lines={name: line(row) for name, row in self.arrays.items()} | {**self.lines})

    def to_json(self) -> dict[str, Any]:
        """Return JSON content, rows as they are written; `from_json` is the inverse of what `written` returns."""
        return {
            "key": self.key,
            "error": self.error,
            "stage": self.stage,
            "figures": finite_figures(self.figures),
            "lines": dict(self.written().lines),
            "files": list(self.files),
        }

    @classmethod
    def of_row(cls, key: str, figures: Mapping[str, float | str | None]) -> "Result":
        """Rebuild the figures of a row of a table, whose lines are kept elsewhere."""
        return cls(key, figures={name: float("nan") if value is None else value for name, value in figures.items()})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Result":
        """Rebuild from the content of `to_json`."""
        figures = {name: float("nan") if value is None else value for name, value in content["figures"].items()}
        older = {name: line(_unpacked(packed)) for name, packed in content.get("arrays", {}).items()}
        lines = {**older, **content.get("lines", {})}
        return cls(
            content["key"], content["error"], content["stage"], figures, lines=lines, files=tuple(content["files"])
        )


@dataclass(frozen=True, eq=False)
class RowResults(Sequence[Result]):
    """Results of rows of a table that were worked on together and all went well.

    Attributes:
        keys: Of each.
        figures: Of each; none has any where there are none.
        texts: Name of lines -> the line of each, ended.
    """

    keys: Sequence[str]
    figures: Sequence[Mapping[str, float | str]]
    texts: Mapping[str, bytes]

    @classmethod
    def of(cls, results: Sequence[Result]) -> "RowResults":
        """Return results without errors and files, all with lines of the same names."""
        if isinstance(results, RowResults):
            return results
        names = list(results[0].lines)
        texts = {name: "".join(f"{one.lines[name]}\n" for one in results).encode() for name in names}
        return cls([one.key for one in results], [one.figures for one in results], texts)

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Result]:
        lines = {name: text.decode().split("\n") for name, text in self.texts.items()}
        for k, (key, figures) in enumerate(zip(self.keys, self.figures or [{}] * len(self), strict=True)):
            yield Result(key, figures=figures, lines={name: own[k] for name, own in lines.items()})

    @overload
    def __getitem__(self, chosen: int) -> Result: ...
    @overload
    def __getitem__(self, chosen: slice) -> Sequence[Result]: ...
    def __getitem__(self, chosen: int | slice) -> Result | Sequence[Result]:
        return list(self)[chosen]


class Task(ABC):
    """A task: opened once in a worker, then handed a few samples at a time.

    Attributes:
        block_size: The size of a block of the cohort. Groups never reach over its ends, so that each person has a place of
            their own in a block (`blocks`).
        by_person: Whether what is done to a visit depends on the person's others, so that they are worked on together.
    """

    block_size: int
    by_person: bool = False

    @abstractmethod
    def work(self, people: Sequence[Sample]) -> Sequence[Result]:
        """Return everybody's outcome, in their order.

        What is wrong with a person is that person's outcome, never an exception.
        """


PRELOADED = (
    "medrep.derivatives.transform",
    "medrep.derivatives.scores",
    "medrep.batch.pool",
    "medrep.cohort.loaders",
    "medrep.derivatives.volumes",
    "medrep.cohort.shapes",  # an extra: passed over where it is not installed
    "medrep.derivatives.shapes",
)
"""Modules that take seconds to import, and that workers on images need."""

TABLES = PRELOADED[:3]
"""Those that workers on tables need."""


class TaskFactory(ABC):
    """How a worker comes by its step; travels to workers, and is small."""

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules that the server of workers loads once, so that none has to wait for them."""
        return PRELOADED

    @abstractmethod
    def open(self) -> Task:
        """Load what the step needs."""


def preloaded(names: tuple[str, ...], model: Path) -> tuple[str, ...]:
    """Return modules of tables or of images: tables and surfaces need little, and what images need takes seconds to load."""
    return TABLES if names or not load_input(model).on_grid else PRELOADED


def load_accelerated(folder: Path) -> SavedModel:
    """Return the model of a folder, on the accelerator where there is one."""
    saved = SavedModel.load(folder)
    return replace(saved, model=saved.model.accelerated())


@dataclass(frozen=True)
class PreflightFactory(TaskFactory):
    """Opens the step that reads images and keeps nothing.

    Attributes:
        model: A model folder, for its ``input`` section.
    """

    model: Path

    def open(self) -> Task:
        """See `TaskFactory.open`."""
        return _Read(load_input(self.model))


class _Read(Task):
    def __init__(self, kind: InputKind[Any]) -> None:
        self._kind, self.block_size = kind, 1

    def work(self, people: Sequence[Sample]) -> list[Result]:
        return [Result(key, error, "read") for key, error in self._kind.errors(sample_files(people))]


def _unpacked(packed: Sequence[str]) -> Float[np.ndarray, " columns"]:
    """Return a row of a journal of medrep 0.1."""
    kind, text = packed
    return np.frombuffer(b64decode(text), dtype=np.dtype(kind))
