"""Point masses: values that many people share exactly because they stand for nothing.

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
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from medrep._persisted import Read, persisted_as

FEWEST = 5
STANDS_OUT = 4
MOST = 4
_LEFT = 10
_SHARE_IN_LEVEL = 0.2
_BACKGROUND = 0.01
_BACKGROUND_STANDS_OUT = 10
_LOOKED_AT = 16
_VOXELS = 100_000
_SCREENED_CELLS = 4_000_000
_SCREENED = 101
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
        return cls(columns, ranks, masses.values[ranks, columns], masses.shares[ranks, columns])

    def masses(self, read: Read) -> "PointMasses":
        """Put them into their columns, of which the model has as many as its data."""
        count, ranks = read["columns"].count, int(self.ranks.max(initial=-1)) + 1
        places = self.columns
        if len(places) and not (0 <= places.min() <= places.max() < count and self.ranks.min() >= 0):
            raise ValueError(f"point masses beyond {count} columns")
        values, shares = np.full((ranks, count), np.nan), np.zeros((ranks, count))
        values[self.ranks, self.columns], shares[self.ranks, self.columns] = self.values, self.shares
        return PointMasses(values, shares)


@persisted_as(_Listed, _Listed.masses)
@dataclass(frozen=True)
class PointMasses:
    """The point masses of every column.

    Attributes:
        values: One row a rank, in data units; NaN where a column has none of that rank.
        shares: Which share of the training people who have a value have this one; 0 where there is none.
    """

    values: Float[np.ndarray, "ranks columns"]
    shares: Float[np.ndarray, "ranks columns"]

    @classmethod
    def none(cls, columns: int) -> "PointMasses":
        """Return no point masses at all."""
        return cls(np.zeros((0, columns)), np.zeros((0, columns)))

    def within(
        self, block: Float[np.ndarray, "people block"], part: slice
    ) -> "Bool[np.ndarray, 'people block'] | None":
        """Return which cells of a block of columns hold one; None where none does."""
        found: np.ndarray | None = None
        for row in self.values[:, part]:
            if np.isnan(row).all():
                continue
            near = _SAME * np.abs(row)
            own = np.abs(block - row) <= near if np.nanmax(near) > 0 else block == row
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


def spread(positions: Int[np.ndarray, " people"], most: int) -> Int[np.ndarray, " some"]:
    """Choose at most some positions, evenly."""
    picks = np.unique(np.linspace(0, len(positions) - 1, min(most, len(positions))).round().astype(int))
    return positions[picks]


def thinned(voxels: Float[np.ndarray, "..."]) -> Float[np.ndarray, " some"]:
    """Return evenly spread voxels of an image, enough to tell its background."""
    return np.asarray(voxels).ravel()[:: max(1, np.asarray(voxels).size // _VOXELS)]


def background(data: Float[np.ndarray, "people voxels"], keys: pd.Index) -> float | None:
    """Return the value that stands for nothing in images, if there is one."""
    found: list[float] = []
    rows = spread(np.argsort(keys.to_numpy(str)), _LOOKED_AT)
    for row in rows:
        voxels = thinned(data[row])
        ordered = np.sort(voxels[np.isfinite(voxels)])[:, None]
        counts = _run_lengths(ordered)[:, 0]
        if not counts.any():
            continue
        first = int(counts.argmax())
        count = int(counts[first])
        counts[first] = 0
        if count >= _BACKGROUND * len(ordered) and count >= _BACKGROUND_STANDS_OUT * int(counts.max()):
            found.append(float(ordered[first, 0]))
    values, times = np.unique(found, return_counts=True)
    likely = values[2 * times > len(rows)]
    return float(likely[0]) if len(likely) else None


def find(
    block: Float[np.ndarray, "people block"],
    ordered: Float[np.ndarray, "some block"],
    levels: Float[np.ndarray, "people levels"],
) -> Float[np.ndarray, "ranks block"]:
    """Return the point masses of a block of columns by the module's rule, NaN for none.

    Args:
        block: The columns.
        ordered: The same columns of the sampled people, sorted.
        levels: Batch memberships.
    """
    values = np.full((MOST, block.shape[1]), np.nan)
    whole = len(ordered) == len(block)
    likely = np.flatnonzero((ordered[1:] == ordered[:-1]).sum(axis=0) >= (FEWEST - 1 if whole else 2))
    if not len(likely):
        return values
    ordered = ordered[:, likely] if whole else np.sort(block[:, likely], axis=0)
    lengths = _run_lengths(ordered)
    values[:, likely] = _standing_out(ordered, lengths, _LEFT)
    varied = np.isnan(values[0, likely]) & (2 * (lengths > 0).sum(axis=0) >= np.isfinite(ordered).sum(axis=0))
    for column in likely[varied]:
        values[:, column] = _within_levels(block[:, column], levels)
    return values


def _within_levels(column: Float[np.ndarray, " people"], levels: np.ndarray) -> Float[np.ndarray, " ranks"]:
    found: list[float] = []
    for level in levels.T:
        own = column[(level > 0) & np.isfinite(column)]
        ordered = np.sort(own)[:, None]
        value = _standing_out(ordered, _run_lengths(ordered), 0)[0, 0] if len(own) >= FEWEST else np.nan
        if (own == value).sum() >= _SHARE_IN_LEVEL * len(own) and (own == value).any():
            found.append(value)
    distinct = np.unique(found)[:MOST]
    return np.concatenate([distinct, np.full(MOST - len(distinct), np.nan)])


def _run_lengths(ordered: Float[np.ndarray, "some block"]) -> Int[np.ndarray, "some block"]:
    """Return how often each value occurs, at its last place in a sorted column, and 0 elsewhere; NaN counts as no value."""
    place = np.arange(len(ordered), dtype=np.int32)[:, None]
    ends = np.ones(ordered.shape, dtype=bool)
    ends[:-1] = ordered[1:] != ordered[:-1]
    starts = np.zeros(ordered.shape, dtype=np.int32)
    starts[1:] = np.maximum.accumulate(np.where(ends[:-1], place[1:], 0), axis=0)
    return np.where(ends & ~np.isnan(ordered), place - starts + 1, 0)


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
