"""Tasks of a batch and their results, and the removal that is asked of a model.

Matrix products of one row and of sixteen round differently. Work that is split, interrupted and repeated must not show in its
results: so each row stands at its person's own place in the block, and whoever is absent is stood in for by somebody present.
"""

from abc import ABC, abstractmethod
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.kinds import InputKind, imported
from medrep.cohort.kinds.base import Sample, Samples
from medrep.cohort.support import outside_json, outside_training
from medrep.derivatives.bids import OUTSIDE, Destination, Removal, line
from medrep.erasure import Certificate
from medrep.errors import CovariateError
from medrep.models import Adaptation, Model
from medrep.models.base import Posterior
from medrep.models.left_alone import left_alone
from medrep.models.saved import SavedModel

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
    "medrep.batch.factories",
    "medrep.batch.pool",
    "medrep.cohort.loaders",
    "medrep.derivatives.volumes",
    "medrep.cohort.shapes",  # an extra: passed over where it is not installed
    "medrep.derivatives.shapes",
)
"""Modules that take seconds to import, and that workers on images need."""

TABLES = PRELOADED[:2]
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


def _unpacked(packed: Sequence[str]) -> Float[np.ndarray, " columns"]:
    """Return a row of a journal of medrep 0.1."""
    kind, text = packed
    return np.frombuffer(b64decode(text), dtype=np.dtype(kind))


_ROUNDING = 1e-9
_MANY_COLUMNS = 20
"""From here on columns together tell what each of them alone does not."""

Purpose = Literal["removal", "counterfactual"]


def parted_names(schema: CovariateSchema, names: Sequence[str]) -> tuple[str, ...]:
    """Return names apart that were separated by blanks, unless a covariate has blanks in its name."""
    return tuple(part for name in names for part in ([name] if name in schema.names else name.split() or [name]))


def checked_target(
    schema: CovariateSchema,
    remove: Sequence[str],
    keep: Sequence[str] = (),
    references: Mapping[str, str] | None = None,
    *,
    switch: str = "--",
) -> dict[str, str | float]:
    """Return removed covariate -> reference.

    Args:
        schema: Of the model.
        remove: Covariates to remove.
        keep: Covariates named as kept.
        references: Removed covariate -> value to move to, where it is not the model's default.
        switch: What stands before the names of options in messages; nothing where they are parameters of a request.

    Raises:
        CovariateError: Names that the model does not know, both removed and kept, or nothing to remove.
    """
    unknown = [name for name in (*remove, *keep) if name not in schema.names]
    if unknown:
        raise CovariateError(
            f"the model does not know {', '.join(unknown)}; it was trained with {', '.join(schema.names)}"
        )
    both = sorted(set(remove) & set(keep))
    if both:
        raise CovariateError(f"{', '.join(both)}: both in {switch}remove and in {switch}keep; name each once")
    if not remove:
        raise CovariateError(f"nothing to remove; name one or more of {', '.join(schema.names)}")
    return schema.references(remove, references)


def described_removal(
    name: str,
    saved: SavedModel,
    target: dict[str, str | float],
    *,
    people: int,
    purpose: Purpose = "removal",
    adapted: tuple[Adaptation, ...] = (),
    label_free: bool = False,
) -> Removal:
    """Return what sidecars say of a removal or a counterfactual.

    Args:
        name: Of the model, as the user gave it.
        saved: The model, and where its training people lie.
        target: Removed covariate -> reference.
        people: How many are moved.
        purpose: ``removal``, or a ``counterfactual``.
        adapted: Batch levels that training did not have and how they were estimated.
        label_free: Whether nobody's covariates were looked at.
    """
    removed, model, support = tuple(target), saved.model, saved.support
    kept = tuple(covariate for covariate in model.schema.names if covariate not in removed)
    near = None
    if purpose == "counterfactual" and support is not None:
        near = support.near(model.schema, target)
    certificates: tuple[Certificate, ...] = ()
    if purpose == "removal":
        learners = people * 4 // 5  # in the five folds of `--probe`
        certificates = model.certificates(removed, kept, learners=learners, label_free=label_free)
    return Removal(
        name,
        model.kind,
        removed,
        kept,
        target,
        adapted,
        purpose,
        near,
        label_free,
        certificates,
        left_alone(model),
        not_removed(model, removed) if purpose == "removal" else "",
    )


def not_removed(model: Model, removed: Sequence[str]) -> str:
    """Return what a model column by column leaves: combinations of many columns (benchmarks/linear_left.py); empty for others."""
    if "joint" in model.capabilities or model.columns.count < _MANY_COLUMNS:
        return ""
    names = ", ".join(removed)
    return f"Combinations of columns: each column alone tells nothing of {names} any more, all together may."


@dataclass(frozen=True)
class Transform:
    """A model and what to do with it.

    Attributes:
        model: The fitted model.
        target: Removed covariate -> reference.
        label_free: Whether nobody's covariates are looked at; needs a model that is ``unlabelled``.
        unit: What moves the logarithms of each image's own units; None where these stay.
        visits: How many one person has at most.
        years: How far each visit is moved along its person's own trajectory, in place of values that everybody gets; ``target``
            names the covariate.
    """

    model: Model
    target: Mapping[str, str | float]
    label_free: bool = False
    unit: Model | None = None
    visits: int = 1
    years: float | None = None

    @property
    def by_person(self) -> bool:
        """True if visits of a person are moved together."""
        own = self.model.by_person or self.years is not None
        return self.visits > 1 and own and not self.label_free

    def units(self, own: Float[np.ndarray, " units"], frame: pd.DataFrame) -> Float[np.ndarray, " units"] | None:
        """Return the logarithms of the units that a person gets; None where they stay.

        Args:
            own: Those that the person has.
            frame: The person's covariates, one row.
        """
        if self.unit is None or self.label_free:
            return None
        found = self.unit.remove(self.unit.dataset(own[None], frame), self.target)[0]
        return found if np.abs(found - own).max() > _ROUNDING else None

    def transform(self, dataset: Dataset) -> Float[np.ndarray, "people columns"]:
        """Return the rows without the removed effects."""
        if self.label_free:
            return self.model.remove_unlabelled(dataset, list(self.target))
        if self.years is not None:
            return self.model.follow(dataset, self.years)
        return self.model.remove(dataset, self.target)

    def outside(self, frame: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
        """Return what a sidecar says of one person who lies outside the range of training; nothing of others."""
        found = outside_json(outside_training(self.model.schema, frame))
        return {OUTSIDE: next(iter(found.values()))} if found else {}

    def encode(self, dataset: Dataset) -> Float[np.ndarray, "people latents"]:
        """Return the latents."""
        if self.label_free:
            return self.model.encode_unlabelled(dataset)
        return self.model.encode(dataset)

    def move_and_encode(self, dataset: Dataset) -> tuple[Float[np.ndarray, "people columns"], Posterior]:
        """Return both, with the deviations of latents where the model hands them out."""
        if self.label_free or self.years is not None:
            return self.transform(dataset), (self.encode(dataset), None)
        return self.model.remove_and_encode(dataset, self.target)


def transform_task(transform: Transform, kind: InputKind[Any], to: Destination) -> Task:
    """Return the step that writes people of a kind of input without the removed effects."""
    step: Task = imported(kind.transform)(transform, kind, to)
    return step
