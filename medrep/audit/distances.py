"""How far people are from each other, or from themselves: mean over columns of absolute differences in deviations.

The deviations are those of the people who are audited, so that whoever is far out in a column makes everybody's distances
shorter: of 20 people with lognormal columns, the mean of distances errs by half as much again as their spread says (ours). So a
mean of distances comes with what each participant does to it by way of deviations (the infinitesimal jackknife).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from medrep.audit.profiles import drawn_columns

_INFLUENCES = 2000  # columns that influences are of, drawn from more
_PAIRINGS = 10


@dataclass(frozen=True, eq=False)
class Apart:
    """How far people are from each other.

    Attributes:
        mean: The mean distance; NaN of one participant.
        own: What each of these adds to it, times how many they are.
        pulls: What each row that the ruler was made of adds to it, times how many they are (`Ruler.pulls`).
    """

    mean: float
    own: Float[np.ndarray, " people"]
    pulls: Float[np.ndarray, " rows"]


@dataclass(frozen=True, eq=False)
class Ruler:
    """What distances are measured with.

    Attributes:
        scale: Standard deviation of each column used; infinity where it does not vary, so that it does not count.
        seed: Of the columns drawn from a wide table.
        beyond: Squared deviations less 1 of the rows it was made of, in some of the columns used (`some`).
        some: Places of these among the columns used.
    """

    scale: Float[np.ndarray, " columns"]
    seed: int
    beyond: Float[np.ndarray, "rows some"]
    some: Int[np.ndarray, " some"]

    @classmethod
    def of(cls, data: Float[np.ndarray, "people columns"], seed: int) -> "Ruler":
        """Measure in the deviations of these people; cells that are not finite are left out."""
        columns = drawn_columns(data, seed)
        known = np.isfinite(columns)
        counts = np.maximum(known.sum(axis=0), 1)
        filled = np.where(known, columns, 0.0)
        sd = np.sqrt(np.where(known, (filled - filled.sum(axis=0) / counts) ** 2, 0.0).sum(axis=0) / counts)
        size = np.maximum(np.abs(filled).max(axis=0, initial=0.0), 1e-300)
        scale = np.where(sd > 1e-9 * size, sd, np.inf)
        used = np.flatnonzero(np.isfinite(scale))
        some = np.arange(len(used))
        if len(some) > _INFLUENCES:
            some = np.sort(np.random.default_rng(seed).choice(len(some), _INFLUENCES, replace=False))
        own = used[some]
        beyond = (filled[:, own] - filled[:, own].sum(axis=0) / counts[own]) / scale[own]
        return cls(scale, seed, np.where(known[:, own], beyond**2 - 1, 0.0), some)

    def between(
        self, first: Float[np.ndarray, "people columns"], second: Float[np.ndarray, "people columns"]
    ) -> Float[np.ndarray, " people"]:
        """Return the distance of each row of the one from the same row of the other, over the columns that both have."""
        used = np.isfinite(self.scale)
        apart = np.abs(drawn_columns(first, self.seed) - drawn_columns(second, self.seed))[:, used] / self.scale[used]
        known = np.isfinite(apart)
        return np.where(known, apart, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)

    def pulls(
        self,
        first: Float[np.ndarray, "people columns"],
        second: Float[np.ndarray, "people columns"],
        judged: Bool[np.ndarray, " people"],
    ) -> Float[np.ndarray, " rows"]:
        """Return what each row the ruler was made of adds to the mean distance of some people, times rows: by deviations.

        With z its deviations and d the mean distances by column, -mean_j (z_j^2 - 1) d_j / 2.
        """
        if not judged.any():
            return np.zeros(len(self.beyond))
        own = np.flatnonzero(np.isfinite(self.scale))[self.some]
        one, other = (drawn_columns(table, self.seed)[:, own][judged] for table in (first, second))
        by_column = np.nan_to_num(np.abs(one - other) / self.scale[own]).mean(axis=0)
        return -(self.beyond @ by_column) / (2 * max(len(by_column), 1))

    def between_people(
        self, data: Float[np.ndarray, "people columns"], participants: Shaped[np.ndarray, " people"]
    ) -> "Apart":
        """Return the mean distance of different participants, over ten random pairings."""
        rng = np.random.default_rng(self.seed)
        sums, counts, pulls = np.zeros(len(data)), np.zeros(len(data)), np.zeros(len(self.beyond))
        for _ in range(_PAIRINGS):
            order = rng.permutation(len(data))
            differ = participants != participants[order]
            apart = np.where(differ, self.between(data, data[order]), 0.0)
            for one in (np.arange(len(data)), order):
                sums[one] += apart
                counts[one] += differ
            if differ.any():
                pulls += self.pulls(data, data[order], differ) / _PAIRINGS
        if not counts.any():
            return Apart(float("nan"), sums, pulls)
        mean = float(sums.sum() / counts.sum())
        return Apart(mean, 2 * (sums - mean * counts) / counts.mean(), pulls)
