"""Values that many people share exactly, as a part of a column's distribution.

No lesion, below detection, the ceiling of a scale: some people have one value a_k (a point mass, `medrep/models/exceptions.py`),
a share p_k of them, and the continuous chart G is of the others. The column is their mixture,

    F(x) = sum of p_k over a_k < x  +  (1 - sum of p_k) G(x | c),

and z = Phi^-1(F). At an atom F is taken from the middle of its step, p_k / 2 beyond what lies below. Both tails are counted from
their own end and as logarithms, so that z of 30 is not infinite. Shares are those of training, the same for everybody; an atom
that nobody of training had in a column is none, and nothing is said of it. In columns without atoms nothing changes, to the last
bit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_ndtr, ndtr, ndtri, ndtri_exp

from medrep.models.exceptions import PointMasses

Block = Float[np.ndarray, "people columns"]


@dataclass(frozen=True, eq=False)
class Atoms:
    """Point masses of a block of columns, as a part of their distributions.

    Attributes:
        masses: Of the block; values and shares.
    """

    masses: PointMasses

    @classmethod
    def of(cls, masses: PointMasses, part: slice) -> "Atoms":
        """Return those of a block of columns."""
        return cls(PointMasses(masses.values[:, part], masses.shares[:, part]))

    @property
    def columns(self) -> Int[np.ndarray, " some"]:
        """Columns of the block that have any."""
        return self.masses.columns()

    def z(self, values: Block, z: Block) -> Block:
        """Return z of people: of the mixture where a column has atoms, as they are elsewhere.

        Args:
            values: Data, in the unit of the masses.
            z: Of the continuous chart, at atoms as well; NaN stays NaN.
        """
        own = self.columns
        if not len(own):
            return z
        some, left = values[:, own], np.log(self._left(own))
        low, high = left + log_ndtr(z[:, own]), left + log_ndtr(-z[:, own])
        with np.errstate(divide="ignore", invalid="ignore"):
            for value, share, at in self._each(some, own):
                half = np.log(share / 2)
                whole = np.log(share)
                low = np.logaddexp(low, np.where(at, half, np.where(some > value, whole, -np.inf)))
                high = np.logaddexp(high, np.where(at, half, np.where(some < value, whole, -np.inf)))
        found = z.copy()
        found[:, own] = self._unsaid(some, np.where(low < high, ndtri_exp(low), -ndtri_exp(high)), own)
        return found

    def log_density(self, values: Block, density: Block) -> Block:
        """Return the logarithm of an atom's share at the atom, and of the mixture's density elsewhere.

        Args:
            values: Data, in the unit of the masses.
            density: Logarithm of the continuous chart's; NaN stays NaN.
        """
        own = self.columns
        if not len(own):
            return density
        some, told = values[:, own], density[:, own] + np.log(self._left(own))
        with np.errstate(divide="ignore", invalid="ignore"):
            for _, share, at in self._each(some, own):
                told = np.where(at & np.isfinite(told), np.log(share), told)
        found = density.copy()
        found[:, own] = self._unsaid(some, told, own)
        return found

    def quantile(
        self, probability: float, chart: Callable[[Block], Block], shape: tuple[int, int]
    ) -> tuple[Block, Block]:
        """Return z of the continuous chart at which the mixture reaches a probability, and the atom it falls into, or NaN.

        Args:
            probability: Between 0 and 1.
            chart: Returns z of the continuous chart of values, a row each of the rows.
            shape: Rows and columns.
        """
        z, fallen = np.full(shape, ndtri(probability)), np.full(shape, np.nan)
        own = self.columns
        if not len(own):
            return z, fallen
        left, below = self._left(own), np.zeros((shape[0], len(own)))
        found = np.full(below.shape, np.nan)
        for value, share in self._listed(own):
            lower = left * ndtr(chart(self._spread(value, own, shape))[:, own])
            for other, more in self._listed(own):
                lower = lower + np.where(other < value, more, 0)
            inside = (lower <= probability) & (probability <= lower + share) & (share > 0)
            found = np.where(inside, value, found)
            below += np.where(probability > lower + share, share, 0)
        z[:, own] = ndtri(np.clip((probability - below) / left, 0, 1))
        fallen[:, own] = found
        return z, fallen

    def _left(self, own: Int[np.ndarray, " some"]) -> Float[np.ndarray, " some"]:
        """Return the share of people who have no atom."""
        return np.asarray(np.maximum(1 - self.masses.shares[:, own].sum(axis=0, dtype=np.float64), 1e-12))

    def _listed(self, own: Int[np.ndarray, " some"]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for value, share in zip(self.masses.values[:, own], self.masses.shares[:, own], strict=True):
            yield value.astype(np.float64), share.astype(np.float64)

    def _each(
        self, some: Block, own: Int[np.ndarray, " some"]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "people some"]]]:
        """Yield values of each rank, their shares, and who has them."""
        for rank, (value, share) in enumerate(self._listed(own)):
            at = PointMasses(self.masses.values[rank : rank + 1, own], self.masses.shares[rank : rank + 1, own]).within(
                some, slice(0, len(own))
            )
            yield value, share, np.zeros(some.shape, bool) if at is None else at

    def _unsaid(self, some: Block, found: Block, own: Int[np.ndarray, " some"]) -> Block:
        """Return NaN where somebody has an atom that nobody of training had in the column."""
        for _, share, at in self._each(some, own):
            found = np.where(at & (share == 0), np.nan, found)
        return found

    def _spread(
        self, value: Float[np.ndarray, " some"], own: Int[np.ndarray, " some"], shape: tuple[int, int]
    ) -> Block:
        whole = np.zeros(shape)
        whole[:, own] = np.nan_to_num(value)
        return whole
