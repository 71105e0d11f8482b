"""Samples, the rows of a cohort as work is handed round, and the source of their data: a row of a table each, or a file each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from medrep._files import release_pages
from medrep.cohort.features import FeatureTable
from medrep.cohort.participants import row_blocks
from medrep.cohort.splits import MARK_DIGITS, row_fingerprint


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
        data: Rows of these samples, among others', those that were given behind them where they have another form
            (`FeatureTable.given`); None where data are files.
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
        features, files = self.features.rows(frame.index), self.files.loc[frame.index].tolist()
        rows = features.values
        problems = {str(key): problem for key, problem in self.problems.items()}
        paths = [
            None if file is None or key in problems else Path(str(file)) for key, file in zip(keys, files, strict=True)
        ]
        marks = np.zeros(len(keys), f"S{MARK_DIGITS}")
        if rows.shape[1]:
            for start, block in row_blocks(rows):
                marks[start : start + len(block)] = [row_fingerprint(row).encode() for row in np.asarray(block)]
        data = rows if rows.shape[1] else None
        data = data if features.given is None else np.concatenate([rows, features.given], axis=1)
        everybody = np.arange(len(keys))
        return Samples(keys, everybody, frame, paths, problems, marks, data, everybody, everybody)
