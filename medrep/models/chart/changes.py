"""Changes between visits of a person: how unusual each is, given the visit before.

With r the correlation of z of two visits of a person, as far apart as they are, a change has

    z_gain = (z2 - r z1) / sqrt(1 - r^2),

which is N(0, 1) over people who change as those of training did. r is that of people's levels and slopes
(`medrep/models/linear/random_effects.py`) by what both visits vary: what is unknown of the mean is the same error at both, so it
counts for r, too. What people change by themselves beyond what they differ by is taken off before. Values that many share exactly
say nothing of a change.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medrep.models.linear.random_effects import RandomEffects
from medrep.models.linear.trajectories import Pairs

Block = Float[np.ndarray, "visits block"]


@dataclass(frozen=True, eq=False)
class Changes:
    """Pairs of visits, and what is unknown of their means.

    Attributes:
        people: What is known of people with several visits.
        pairs: Visits and the ones before them.
        unknown: Variances of the means of the visits before, of those after, and their covariance, in units of ``sd`` squared.
        sd: Residual deviation of each column.
    """

    people: RandomEffects
    pairs: Pairs
    unknown: Float[np.ndarray, "3 pairs"]
    sd: Float[np.ndarray, " columns"]

    def unusual(self, residual: Block, scale: Block, z: Callable[[Block], Block], part: slice) -> Block:
        """Return z_gain of each visit; NaN at first visits, and where one of the two says nothing.

        Args:
            residual: Data less their means.
            scale: Predictive scale of each.
            z: Returns z of residuals of all visits in units of their scale.
            part: Which columns.
        """
        people, pairs = self.people, self.pairs
        before, after = np.array(residual), np.array(residual)
        for half, per_unit in zip(pairs.half.T, people.change[:, part], strict=True):
            before[pairs.before] += half[:, None] * per_unit
            after[pairs.after] -= half[:, None] * per_unit
        r = self._correlation(scale, part)
        z1, z2 = z(before / scale)[pairs.before], z(after / scale)[pairs.after]
        found = np.full(residual.shape, np.nan)
        found[pairs.after] = (z2 - r * z1) / np.sqrt(1 - r**2)
        return found

    def _correlation(self, scale: Block, part: slice) -> Float[np.ndarray, "pairs block"]:
        level = self.people.level[part]
        apart = self.people.slope[part] * self.pairs.time[:, None] ** 2
        own, (first, second, both) = (level - apart) / (level + apart + 1), self.unknown[:, :, None]
        square = self.sd[part] ** 2
        one, two = scale[self.pairs.before], scale[self.pairs.after]
        known = [np.maximum(s**2 - u * square, 0) for s, u in ((one, first), (two, second))]
        return np.asarray(np.clip((own * np.sqrt(known[0] * known[1]) + both * square) / (one * two), -0.999, 0.999))
