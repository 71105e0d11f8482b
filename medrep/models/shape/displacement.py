"""Displacement of an organ's surface by a change of covariates: millimetres along its normal, with intervals."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medrep.models.linear.design import Contrast

LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class SurfaceDisplacement:
    """How the surface moves along its outward normal, mm, and the same for effects learned from resampled people."""

    contrast: Contrast
    millimetres: Float[np.ndarray, " points"]
    draws: Float[np.ndarray, "draws points"]

    def interval(self) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Return lower and upper bounds at each point; the estimate itself without draws."""
        return _bounds(self.draws, self.millimetres)

    def mean(self, areas: Float[np.ndarray, " points"]) -> tuple[float, float, float]:
        """Return the mean over the surface and its interval, mm; `areas` say what each point counts."""
        share = areas / areas.sum()
        mean = self.millimetres @ share[:, None]
        low, high = _bounds(self.draws @ share[:, None], mean)
        return float(mean[0]), float(low[0]), float(high[0])


def _bounds(draws: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(draws):
        return estimate, estimate
    # Of the quantiles, those between which one more draw lies with that probability.
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method="weibull")
    return low, high
