"""Levels of batches that training did not have, told from their own people: location, scale, and how well both are known.

With r a person's data less the mean without the level and tau the scale without it, both in units of a column's deviation: the
level's location g has the prior N(0, t), its log scale l that of the chart's levels (`spread.py`). Given l, g has the precision
S0 / e^2l + 1 / t with S0 the sum of 1 / tau^2; given g, l is found by Newton's steps, and g is one parameter less as far as
people told it. Both alternate.

Errors of covariates' effects at the level's people are in g, and go against it where people like them are looked at: with x0
their mean row, C the covariance of the other coefficients and k the share of g that people told, g varies with the others by
-k C x0, and by itself by what is left and k^2 x0'C x0.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float

Columns = Float[np.ndarray, " columns"]
Square = Float[np.ndarray, "rows rows"]

_ROUNDS, _STEP = 12, 0.7
_MANY = 5  # columns from which on the mean of a level's log scale over columns is told


@dataclass
class LevelPeople:
    """Sums over the people of one level.

    Attributes:
        rows: Their covariates, a frame of one row each.
        location: Sum of their rows of the location's design.
        scale: The same of the scale's.
        known: In how many of them each column has a value.
        sums: Of 1, r and r^2, each over tau^2, a row each.
    """

    width: int
    rows: list[pd.DataFrame] = field(default_factory=list)
    location: Float[np.ndarray, " rows"] | float = 0.0
    scale: Float[np.ndarray, " rows"] | float = 0.0
    known: Columns = field(init=False)
    sums: Float[np.ndarray, "three columns"] = field(init=False)

    def __post_init__(self) -> None:
        self.known, self.sums = np.zeros(self.width), np.zeros((3, self.width))

    def add(
        self, residual: Columns, log_scale: Columns, rows: tuple[np.ndarray, np.ndarray], frame: pd.DataFrame
    ) -> None:
        """Add one person: r (NaN: nothing is told), log tau, rows of both designs, and covariates."""
        seen = np.isfinite(residual)
        weight = np.where(seen, np.exp(-2 * log_scale), 0)
        own = np.where(seen, residual, 0)
        self.rows.append(frame)
        self.location, self.scale = self.location + rows[0], self.scale + rows[1]
        self.known += seen
        self.sums += weight * np.stack([np.ones_like(own), own, own**2])

    @property
    def people(self) -> int:
        """How many they are."""
        return len(self.rows)


@dataclass(frozen=True)
class Told:
    """A level as its people tell it.

    Attributes:
        location: g of each column, in units of its deviation.
        log_scale: l of each column.
        location_variance: Of g, a mean over columns.
        scale_variance: Of l, a mean over columns.
        mean: Prior mean of l.
        kept: Shares of g and l that people told.
    """

    location: Columns
    log_scale: Columns
    location_variance: float
    scale_variance: float
    mean: float
    kept: tuple[float, float]


def told(
    level: LevelPeople, level_variance: float, mean: Float[np.ndarray, " levels"], variance: float, tempering: float
) -> Told:
    """Tell a level from its people.

    Args:
        level: They.
        level_variance: t.
        mean: Prior mean of log scale of each level of training.
        variance: Prior variance of log scales around them.
        tempering: As of the chart's scales.
    """
    centre, wide = (float(mean.mean()), float(mean.var())) if len(mean) else (0.0, 0.0)
    found = _posterior(level, level_variance, (centre, variance + wide), tempering)
    seen = level.known > 0
    if seen.sum() >= _MANY and level.people > 1:
        own = float(found.log_scale[seen].mean())
        found = _posterior(level, level_variance, (own, variance), tempering)
    return found


def extended(covariance: Square, at: int, row: Float[np.ndarray, " rows"], kept: float, variance: float) -> Square:
    """Return the covariance of coefficients with one more, a level's.

    Args:
        covariance: Of the others.
        at: Where the level comes.
        row: Mean row of its people, the others' columns.
        kept: Share of the level that its people told.
        variance: What is left of its own variance.
    """
    across = -kept * covariance @ row
    found = np.insert(np.insert(covariance, at, across, axis=0), at, np.insert(across, at, 0.0), axis=1)
    found[at, at] = variance + kept**2 * float(row @ covariance @ row)
    return np.asarray(found)


def _posterior(level: LevelPeople, t: float, prior: tuple[float, float], tempering: float) -> Told:
    none, one, two = level.sums
    centre, variance = prior
    log_scale = np.full(level.width, centre)
    for _ in range(_ROUNDS):
        precision = none * np.exp(-2 * log_scale)
        location = one * np.exp(-2 * log_scale) / (precision + 1 / t)
        freedom = np.maximum(level.known - precision / (precision + 1 / t), 0)
        square = np.maximum(two - 2 * location * one + location**2 * none, 0) * np.exp(-2 * log_scale)
        slope = tempering * (freedom - square) + (log_scale - centre) / variance
        curve = 2 * tempering * np.maximum(square, freedom / 2) + 1 / variance
        log_scale = log_scale - np.clip(slope / curve, -_STEP, _STEP)
    precision = none * np.exp(-2 * log_scale)
    location = one * np.exp(-2 * log_scale) / (precision + 1 / t)
    freedom = np.maximum(level.known - precision / (precision + 1 / t), 0)
    unknown, of_scale = 1 / (precision + 1 / t), 1 / (2 * tempering * freedom + 1 / variance)
    seen = level.known > 0
    if not seen.any():
        return Told(location, log_scale, t, variance, centre, (0.0, 0.0))
    left, scale_left = float(unknown[seen].mean()), float(of_scale[seen].mean())
    return Told(location, log_scale, left, scale_left, centre, (1 - left / t, 1 - scale_left / variance))
