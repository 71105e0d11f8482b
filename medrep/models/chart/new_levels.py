"""Levels of batches that training did not have, told from their own people: location, scale, and how well both are known.

With r a person's data less the mean without the level and tau the scale without it, both in units of a column's deviation: the
level's location g has the prior N(0, t), its log scale l that of the chart's levels (`spread.py`). Given l, g has the precision
S0 / e^2l + 1 / t with S0 the sum of 1 / tau^2; given g, l is found by Newton's steps, and g is one parameter less as far as
people told it. Both alternate.

What people of the level show is g and the error of covariates' effects at them, x0'b with the variance x0'C x0: so g is shrunk
as one that varies with t + x0'C x0, and goes against that error where people like them are looked at. With k the share that
people told and v what their noise leaves, g varies with the others by -k C x0, and by itself by (1 - k)^2 t + k^2 (v + x0'C
x0). The same holds for l.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.models.chart.spread import MANY

Columns = Float[np.ndarray, " columns"]
Square = Float[np.ndarray, "rows rows"]

_ROUNDS, _STEP = 12, 0.7


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
class Entry:
    """A coefficient as the people of its level tell it.

    Attributes:
        values: Of each column.
        prior: Its variance among levels.
        effects: Variance of covariates' effects at its people.
        kept: Share that people told.
    """

    values: Columns
    prior: float
    effects: float
    kept: float

    @property
    def variance(self) -> float:
        """Its own variance, beside the effects'."""
        noise = (self.prior + self.effects) * (1 / max(self.kept, 1e-9) - 1)
        return float((1 - self.kept) ** 2 * self.prior + self.kept**2 * noise)

    def extended(self, covariance: Square, at: int, row: Float[np.ndarray, " rows"]) -> Float[np.ndarray, "more more"]:
        """Return the covariance of coefficients with this one.

        Args:
            covariance: Of the others.
            at: Where it comes.
            row: Mean row of its people, the others' columns.
        """
        across = -self.kept * covariance @ row
        found = np.insert(np.insert(covariance, at, across, axis=0), at, np.insert(across, at, 0.0), axis=1)
        found[at, at] = self.variance + self.kept**2 * self.effects
        return np.asarray(found)


@dataclass(frozen=True)
class Priors:
    """Priors of a level.

    Attributes:
        location: t.
        location_effects: x0'C x0 of the location.
        mean: Prior mean of log scale of each level of training.
        scale: Variance of log scales around them.
        scale_effects: x0'C x0 of the scale.
        tempering: As of the chart's scales.
    """

    location: float
    location_effects: float
    mean: Float[np.ndarray, " levels"]
    scale: float
    scale_effects: float
    tempering: float


def told(level: LevelPeople, priors: Priors) -> tuple[Entry, Entry, float]:
    """Return location, in units of deviations, and log scale of a level, and the prior mean of the latter."""
    mean = priors.mean
    centre, wide = (float(mean.mean()), float(mean.var())) if len(mean) else (0.0, 0.0)
    found = _posterior(level, priors, centre, priors.scale + wide)
    seen = level.known > 0
    if seen.sum() >= MANY and level.people > 1:
        centre = float(found[1].values[seen].mean())
        found = _posterior(level, priors, centre, priors.scale)
    return *found, centre


def _posterior(level: LevelPeople, priors: Priors, centre: float, variance: float) -> tuple[Entry, Entry]:
    none, one, two = level.sums
    t, wide = priors.location + priors.location_effects, variance + priors.scale_effects
    location, log_scale = np.zeros(level.width), np.full(level.width, centre)
    for _ in range(_ROUNDS):
        precision = none * np.exp(-2 * log_scale)
        location = one * np.exp(-2 * log_scale) / (precision + 1 / t)
        freedom = np.maximum(level.known - precision / (precision + 1 / t), 0)
        square = np.maximum(two - 2 * location * one + location**2 * none, 0) * np.exp(-2 * log_scale)
        slope = priors.tempering * (freedom - square) + (log_scale - centre) / wide
        curve = 2 * priors.tempering * np.maximum(square, freedom / 2) + 1 / wide
        log_scale = log_scale - np.clip(slope / curve, -_STEP, _STEP)
    precision = none * np.exp(-2 * log_scale)
    seen = level.known > 0
    freedom = np.maximum(level.known - precision / (precision + 1 / t), 0)
    kept = precision / (precision + 1 / t), 1 - 1 / (1 + wide * 2 * priors.tempering * freedom)
    shares = [float(own[seen].mean()) if seen.any() else 0.0 for own in kept]
    return (
        Entry(location, priors.location, priors.location_effects, shares[0]),
        Entry(log_scale, variance, priors.scale_effects, shares[1]),
    )
