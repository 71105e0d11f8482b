"""Undoing regression to the mean in predictions, from pairs of truth and prediction of people who were left out of the fit.

A prediction with error lies nearer to the mean than the truth: old people look younger, young ones older. Two ways to undo it:

- ``linear``: regress the prediction on the truth, yhat = a + b y, and return (yhat - a) / b.
- ``tweedie``: yhat - s^2 d/dyhat log p(yhat), with p the density of predictions and s the standard deviation of their errors; the
  empirical-Bayes formula of Tweedie (Efron 2011) turned round, which needs no straight line.

For normal y and yhat both are the same. Either costs variance: errors grow by about 1 / b.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from medrep.errors import EvidenceError

How = Literal["none", "linear", "tweedie"]

FEW = 100
"""With fewer people than this a correction is little better known than what it corrects."""

_FEWEST = 10
_FLATTEST = 0.05  # below this slope a prediction says nothing that could be stretched
_GRID = 256
_FLAT = 1e-9  # relative; less is rounding


@dataclass(frozen=True)
class Unshrinking:
    """What undoes the shrinkage of one predictor; no person's own figures.

    Attributes:
        people: How many pairs it was fitted on.
        intercept: a of yhat = a + b y.
        slope: b.
        error: Standard deviation of prediction - truth.
        low: Lowest prediction that was seen.
        high: Highest.
        pull: d/dyhat log p on a grid from ``low`` to ``high``; its ends go on beyond.
    """

    people: int
    intercept: float
    slope: float
    error: float
    low: float
    high: float
    pull: tuple[float, ...]

    @classmethod
    def fit(
        cls, truth: Float[np.ndarray, " people"], predicted: Float[np.ndarray, " people"], *, people: int | None = None
    ) -> "Unshrinking":
        """Fit on people whom the predictor did not see.

        Args:
            truth: Of each row.
            predicted: Of each row.
            people: How many people the rows are of; by default each is one.

        Raises:
            EvidenceError: Fewer than ten people, or values that are all the same.
        """
        people = len(truth) if people is None else people
        if people < _FEWEST or _same(truth) or _same(predicted):
            raise EvidenceError(f"{people} people with one value cannot tell how far predictions are shrunk")
        slope, intercept = np.polyfit(truth, predicted, 1)
        # The width that is best for the slope of a normal density, which is more than for the density itself (Silverman 1986).
        from scipy.stats import gaussian_kde  # half a second, which only this needs

        density = gaussian_kde(predicted, bw_method=(4 / (5 * people)) ** (1 / 7))
        step = 1e-4 * np.ptp(predicted)
        grid = np.linspace(predicted.min(), predicted.max(), _GRID)
        pull = (density.logpdf(grid + step) - density.logpdf(grid - step)) / (2 * step)
        # The kernel widens the density by its own variance, which would make every pull too weak.
        widened = 1 + density.factor**2
        error = float(np.std(predicted - truth, ddof=1))
        ends = (float(predicted.min()), float(predicted.max()))
        return cls(people, float(intercept), float(slope), error, *ends, tuple((widened * pull).tolist()))

    def undo(self, predicted: Float[np.ndarray, " people"], how: How) -> Float[np.ndarray, " people"]:
        """Return predictions without shrinkage.

        Raises:
            EvidenceError: ``linear``, and predictions that hardly follow the truth: there is nothing to stretch.
        """
        if how == "none":
            return predicted
        if how == "tweedie":
            grid = np.linspace(self.low, self.high, len(self.pull))
            return predicted - self.error**2 * np.interp(predicted, grid, self.pull)
        if self.slope < _FLATTEST:
            raise EvidenceError(
                f"predictions rise by {self.slope:.3f} a unit of the truth: too little to be stretched; use --unshrink none"
            )
        return (predicted - self.intercept) / self.slope


def _same(values: Float[np.ndarray, " people"]) -> bool:
    return bool(np.ptp(values) <= _FLAT * np.abs(values).max())
