"""Exceptions of single columns: point masses, levels that nobody was measured at, effects never estimated.

No lesion, below detection, outside the mask, at the floor or the ceiling of a scale: location and scale would turn that one value
into another for every batch, age and sex, which writes labels into the data. So it stays what it is, and only what the others
have is fitted and moved. **The rule**, for one column, on exact ties:

- at least 5 people share the value, and
- it is at least 4 times as frequent as the most frequent value that is no point mass (at most 4 values a column can be), so that
  counts, scores and rounded values, whose neighbours are about as frequent, have none, and
- at least 10 different values remain.

Where most values of a column differ, the same holds within one batch level, if a fifth of its people share the value. In images
the value that most sampled people share in at least 1 % of their voxels, ten times as often as any other value, is background:
it is a point mass in every voxel, even where a single person has it. More columns than a pass can sort for everybody are screened
in some people, spread evenly over their sorted keys, so that neither the order of rows nor rounding matters.

A column that a whole site lacks says nothing of that site, so neither does the model: a person of that site who has it cannot be
moved, and what neighbouring columns say is not put there. The same holds for levels of effect covariates and for combinations of
levels that interact.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from medrep._files import release_pages
from medrep._persisted import Read, persisted_as, stored
from medrep.cohort.covariates import Categorical, CovariateSchema
from medrep.cohort.image_quality import run_lengths, spread

Block = Float[np.ndarray, "people block"]

FEWEST = 5
STANDS_OUT = 4
MOST = 4
_LEFT = 10
_SHARE_IN_LEVEL = 0.2
_SCREENED_CELLS = 4_000_000
_SCREENED = 101
_AT_ONCE = 2**18  # point masses that are put into their columns
_SAME = 1e-7  # float32 and float64 of one number; 0 is only 0


@dataclass(frozen=True)
class _Listed:
    """`PointMasses` as they are written: one number each for every point mass there is."""

    columns: Int[np.ndarray, " masses"]
    ranks: Int[np.ndarray, " masses"]
    values: Float[np.ndarray, " masses"]
    shares: Float[np.ndarray, " masses"]

    @classmethod
    def of(cls, masses: "PointMasses") -> "_Listed":
        ranks, columns = np.nonzero(~np.isnan(masses.values))
        values, shares = masses.values[ranks, columns], masses.shares[ranks, columns]
        if values.dtype == np.float32:
            return cls(columns.astype(np.int32), ranks.astype(np.int8), values, shares)
        return cls(columns, ranks, values, shares)

    def masses(self, read: Read) -> "PointMasses":
        """Put them into their columns, of which the model has as many as its data."""
        count, ranks = read["columns"].count, int(self.ranks.max(initial=-1)) + 1
        places = self.columns
        if len(places) and not (0 <= places.min() <= places.max() < count and self.ranks.min() >= 0):
            raise ValueError(f"point masses beyond {count} columns")
        kept = self.values.dtype
        values, shares = np.full((ranks, count), np.nan, kept), np.zeros((ranks, count), kept)
        for start in range(0, len(places), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            there = (self.ranks[part], places[part])
            values[there], shares[there] = self.values[part], self.shares[part]
        release_pages(places)
        return PointMasses(values, shares)


@persisted_as(_Listed, _Listed.masses)
@dataclass(frozen=True)
class PointMasses:
    """The point masses of every column, one row a rank, in data units; NaN where a column has none of that rank.

    `shares` says which share of the training people who have a value have this one; 0 where there is none.
    """

    values: Float[np.ndarray, "ranks columns"]
    shares: Float[np.ndarray, "ranks columns"]

    @classmethod
    def none(cls, columns: int) -> "PointMasses":
        """Return no point masses at all."""
        return cls(np.zeros((0, columns)), np.zeros((0, columns)))

    def within(self, chunk: Block, part: slice) -> "Bool[np.ndarray, 'people block'] | None":
        """Return which cells of a block of columns hold one; None where none does."""
        found: np.ndarray | None = None
        for row in self.values[:, part]:
            if np.isnan(row).all():
                continue
            near = _SAME * np.abs(row)
            own = np.abs(chunk - row) <= near if np.nanmax(near) > 0 else chunk == row
            found = own if found is None else found | own
        return found if found is not None and found.any() else None

    def drawn(
        self, data: Float[np.ndarray, "people columns"], rng: np.random.Generator
    ) -> Float[np.ndarray, "people columns"]:
        """Put point masses into drawn images, as often as training had them; one draw a person, so that masks have one edge."""
        if not len(self.values):
            return data
        level = rng.uniform(size=len(data))
        for person, own in enumerate(level):
            low = np.zeros(data.shape[1])
            for value, share in zip(self.values, self.shares, strict=True):
                here = ~np.isnan(value) & (low <= own) & (own < low + share)
                data[person, here] = value[here]
                low += share
        return data

    def columns(self) -> Int[np.ndarray, " some"]:
        """Return the columns that have any."""
        return np.flatnonzero(~np.isnan(self.values).all(axis=0)) if len(self.values) else np.zeros(0, dtype=np.int64)


NO_MASSES = PointMasses.none(0)


def sample_of(keys: pd.Index, columns: int) -> Int[np.ndarray, " some"]:
    """Return the rows that are sorted in every column: everybody, or in wide data some, spread evenly over the sorted keys."""
    most = max(_SCREENED, _SCREENED_CELLS // max(columns, 1))
    return spread(np.argsort(keys.to_numpy(str)), most)


def find(
    chunk: Block, ordered: Float[np.ndarray, "some block"], levels: Float[np.ndarray, "people levels"]
) -> Float[np.ndarray, "ranks block"]:
    """Return the point masses of a block of columns by the module's rule, NaN for none.

    `ordered` are the same columns of the sampled people, sorted; `levels` are batch memberships.
    """
    values = np.full((MOST, chunk.shape[1]), np.nan)
    whole = len(ordered) == len(chunk)
    likely = np.flatnonzero((ordered[1:] == ordered[:-1]).sum(axis=0) >= (FEWEST - 1 if whole else 2))
    if not len(likely):
        return values
    ordered = ordered[:, likely] if whole else np.sort(chunk[:, likely], axis=0)
    lengths = run_lengths(ordered)
    values[:, likely] = _standing_out(ordered, lengths, _LEFT)
    varied = np.isnan(values[0, likely]) & (2 * (lengths > 0).sum(axis=0) >= np.isfinite(ordered).sum(axis=0))
    for column in likely[varied]:
        values[:, column] = _within_levels(chunk[:, column], levels)
    return values


def _within_levels(column: Float[np.ndarray, " people"], levels: np.ndarray) -> Float[np.ndarray, " ranks"]:
    found: list[float] = []
    for level in levels.T:
        own = column[(level > 0) & np.isfinite(column)]
        ordered = np.sort(own)[:, None]
        value = _standing_out(ordered, run_lengths(ordered), 0)[0, 0] if len(own) >= FEWEST else np.nan
        if (own == value).sum() >= _SHARE_IN_LEVEL * len(own) and (own == value).any():
            found.append(value)
    distinct = np.unique(found)[:MOST]
    return np.concatenate([distinct, np.full(MOST - len(distinct), np.nan)])


def _standing_out(ordered: np.ndarray, lengths: np.ndarray, left: int) -> Float[np.ndarray, "ranks block"]:
    """Return the most frequent values, as many as stand out together from the next."""
    order = np.argsort(-lengths, axis=0, kind="stable")[: MOST + 1]
    counts = np.take_along_axis(lengths, order, axis=0)
    counts = np.concatenate([counts, np.zeros((MOST + 1 - len(counts), counts.shape[1]), counts.dtype)])
    values = np.full((MOST, ordered.shape[1]), np.nan)
    tops = np.take_along_axis(ordered, order, axis=0)[:MOST]
    distinct = (lengths > 0).sum(axis=0)
    ranks = np.arange(MOST)[:, None]
    stands = (counts[:-1] >= FEWEST) & (counts[:-1] >= STANDS_OUT * counts[1:]) & (distinct - ranks - 1 >= left)
    many = np.where(stands.any(axis=0), MOST - stands[::-1].argmax(axis=0), 0)
    values[: len(tops)] = np.where(ranks[: len(tops)] < many, tops, np.nan)
    return values


def told(masses: PointMasses, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return column, value and share of every point mass of named columns, as JSON content."""
    return [
        {"column": names[column], "value": float(value), "share": round(float(share), 4)}
        for column in masses.columns()
        for value, share in zip(masses.values[:, column], masses.shares[:, column], strict=True)
        if np.isfinite(value)
    ]


Cell: TypeAlias = tuple[tuple[str, str], ...]
"""A level, or levels that interact: (covariate, level) each."""

NEVER, FEW = 1, 2


@dataclass(frozen=True)
class ColumnSupport:
    """Which levels have no effect of their own in which columns.

    Attributes:
        cells: Levels, and combinations of levels that interact.
        columns: Columns in which some cell has none, in order.
        codes: A row a cell, a column each: 0 estimated; 1 nobody had a value; 2 all but one or two had a point mass.
    """

    cells: tuple[Cell, ...] = field(metadata=stored(""))
    columns: Int[np.ndarray, " some"]
    codes: Int[np.ndarray, "cells some"]

    @classmethod
    def full(cls) -> "ColumnSupport":
        """Return the support of data in which everything was measured."""
        return cls((), np.zeros(0, dtype=np.int64), np.zeros((0, 0), dtype=np.int8))

    def of(self, frame: pd.DataFrame, known: "Collection[str] | None" = None) -> Bool[np.ndarray, "people cells"]:
        """Return who is in which cell; cells of covariates that are not known count as nobody's."""
        member = np.zeros((len(frame), len(self.cells)), dtype=bool)
        for k, cell in enumerate(self.cells):
            if known is None or {name for name, _ in cell} <= set(known):
                member[:, k] = in_cell(frame, cell)
        return member

    def marked(
        self, member: Bool[np.ndarray, "people cells"], part: slice, code: int
    ) -> "Bool[np.ndarray, 'people block'] | None":
        """Return the cells of a block of columns that have a code; None where none has."""
        low, high = np.searchsorted(self.columns, [part.start, part.stop])
        if low == high:
            return None
        found = member.astype(np.float32) @ (self.codes[:, low:high] == code).astype(np.float32) > 0
        if not found.any():
            return None
        marked = np.zeros((len(member), part.stop - part.start), dtype=bool)
        marked[:, self.columns[low:high] - part.start] = found
        return marked

    def with_cell(self, cell: Cell, columns: Int[np.ndarray, " without"], code: int) -> "ColumnSupport":
        """Return the support with a further cell that lacks some columns."""
        if not len(columns):
            return self
        union = np.union1d(self.columns, columns)
        codes = np.zeros((len(self.cells) + 1, len(union)), dtype=np.int8)
        codes[:-1, np.searchsorted(union, self.columns)] = self.codes
        codes[-1, np.searchsorted(union, columns)] = code
        return replace(self, cells=(*self.cells, cell), columns=union, codes=codes)


FULL = ColumnSupport.full()
"""Everything was measured in everybody."""


def shown_cell(cell: Cell) -> str:
    """Return a cell as a person writes it: ``site=S3``, ``sex=M x diagnosis=AD``."""
    return " x ".join(f"{name}={level}" for name, level in cell)


def in_cell(frame: pd.DataFrame, cell: Cell) -> Bool[np.ndarray, " people"]:
    """Return who has all levels of a cell; nobody where the frame lacks a covariate."""
    if any(name not in frame for name, _ in cell):
        return np.zeros(len(frame), dtype=bool)
    member = np.ones(len(frame), dtype=bool)
    for name, level in cell:
        member &= (frame[name] == level).to_numpy(dtype=bool)
    return member


def effect_cells(schema: CovariateSchema, groups: Collection[tuple[str, ...]], frame: pd.DataFrame) -> tuple[Cell, ...]:
    """Return the levels of effect covariates, and the combinations of interacting levels, that somebody has."""
    names = [n for n in schema.names if n not in schema.batches and isinstance(schema[n], Categorical)]
    cells: list[Cell] = [((name, str(level)),) for name in names for level in schema.levels(name)]
    for group in groups:
        factors = [name for name in group if name in names]
        if len(factors) > 1:
            cells += [
                tuple(zip(factors, own, strict=True)) for own in product(*(map(str, schema.levels(n)) for n in factors))
            ]
    return tuple(cell for cell in cells if in_cell(frame, cell).any())


@dataclass(frozen=True, eq=False)
class Exceptions:
    """Exceptions of single columns: values that stay, levels without an effect in some columns, and columns without a fit."""

    masses: PointMasses
    support: ColumnSupport
    unfitted: Int[np.ndarray, " unfitted"]


NO_EXCEPTIONS = Exceptions(NO_MASSES, FULL, np.zeros(0, int))


@dataclass(frozen=True)
class Settling:
    """Which cells of moved data are not the model's to say.

    `members` says who is moved from or to which cell of the support. In images, cells that nobody had stay as they are;
    otherwise they are NaN.
    """

    masses: PointMasses
    support: ColumnSupport
    members: Bool[np.ndarray, "people cells"]
    images: bool

    def stays(self, chunk: Block, part: slice) -> "Bool[np.ndarray, 'people block'] | None":
        """Return the cells that stay as they are; None where none does."""
        codes = (NEVER, FEW) if self.images else (FEW,)
        marks = (self.masses.within(chunk, part), *(self.support.marked(self.members, part, code) for code in codes))
        return either(marks)

    def without_unknown(self, chunk: Block, part: slice) -> Block:
        """Put NaN where an effect was never estimated; a point mass stays."""
        unknown = None if self.images else self.support.marked(self.members, part, NEVER)
        if unknown is not None:
            mass = self.masses.within(chunk, part)
            chunk[unknown if mass is None else unknown & ~mass] = np.nan
        return chunk


def either(marks: "Iterable[np.ndarray | None]") -> "np.ndarray | None":
    """Return what any of several masks marks; None where none does."""
    found: np.ndarray | None = None
    for mark in marks:
        if mark is not None:
            found = mark if found is None else found | mark
    return found
