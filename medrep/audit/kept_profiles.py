"""How alike people's residual profiles are before and after, and what each person adds to the mean of it.

The mean over people is no mean of independent values: everybody is measured in deviations of the raw columns, and residuals are
those of one regression. With long tails, one person moves a column's deviation for all: of 20 people with lognormal columns, the
figures' spread alone makes a standard error of .050 where it is .064 (ours). So the interval is of the influence of each
participant (the infinitesimal jackknife; Efron and Tibshirani 1993, ch. 22): their own figure, and what they do to everybody's by
way of regression and deviations.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from medrep.audit.resampling.means import mean_interval

_AT_ONCE = 2000  # columns
_SHORT = 1e-9


@dataclass(frozen=True, eq=False)
class KeptProfiles:
    """Profiles of each row before and after.

    Attributes:
        before: Of length 1, centred over columns; zeros where a row has no profile.
        after: The same.
        own: Correlation of the two.
        influence: One a participant: what adding them does to the mean of participants' correlations, times participants.
    """

    before: Float[np.ndarray, "people columns"]
    after: Float[np.ndarray, "people columns"]
    own: Float[np.ndarray, " people"]
    influence: Float[np.ndarray, " participants"]

    @classmethod
    def of(
        cls,
        before: Float[np.ndarray, "people columns"],
        after: Float[np.ndarray, "people columns"],
        sd: Float[np.ndarray, " columns"],
        design: Float[np.ndarray, "people width"],
        participants: Shaped[np.ndarray, " people"],
    ) -> "KeptProfiles":
        """Compare residuals.

        Args:
            before: Raw residuals of the regression on ``design``.
            after: Exported ones.
            sd: Deviations of ``before``.
            design: `profiles.covariate_design`.
            participants: Whose each row is.
        """
        (u, u_length), (v, v_length) = (profiles(part / sd) for part in (before, after))
        own = (u * v).sum(axis=1)
        _, who, rows_each = np.unique(np.asarray(participants).astype(str), return_inverse=True, return_counts=True)
        count = len(rows_each)
        means = np.bincount(who, own) / rows_each
        weight = (1 / (count * rows_each[who]))[:, None]
        basis, sizes, _ = np.linalg.svd(design, full_matrices=False)
        basis = basis[:, sizes > 1e-9 * sizes.max(initial=0.0)]
        moved = np.zeros(len(own))
        for first in range(0, len(sd), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            s, x, y = sd[some], before[:, some], after[:, some]
            # What own correlations gain where the columns of a row are moved, each over its deviation.
            by_x = weight * (v[:, some] - own[:, None] * u[:, some]) / u_length / s
            by_y = weight * (u[:, some] - own[:, None] * v[:, some]) / v_length / s
            by_sd = -(by_x * x + by_y * y).sum(axis=0) / s
            moved += ((x**2 - s**2) / (2 * s * len(own))) @ by_sd
            moved -= ((basis @ (basis.T @ by_x)) * x + (basis @ (basis.T @ by_y)) * y).sum(axis=1)
        influence = means - means.mean() + count * np.bincount(who, moved)
        return cls(u, v, own, influence - influence.mean())

    def interval(self, estimate: float, draws: int, rng: np.random.Generator) -> tuple[float, float]:
        """Return the bootstrap-t interval of influences around the mean of participants' correlations, 1 at most.

        Not widened for few people, as that of a mean is: what a row adds through deviations is too long a tail already
        (of 20 people with normal columns the error is .031 for .027).
        """
        low, high = mean_interval(estimate + self.influence, draws, rng, widened=False)
        return low, min(high, 1.0)


def profiles(
    rows: Float[np.ndarray, "people columns"],
) -> tuple[Float[np.ndarray, "people columns"], Float[np.ndarray, "people 1"]]:
    """Return rows centred and brought to length 1, and the lengths; a row without any has zeros, and an infinite length."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    lengths = np.where(lengths > _SHORT, lengths, np.inf)
    return centred / lengths, lengths
