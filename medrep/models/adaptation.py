"""Sums over the people of an unseen batch level, collected a person at a time, from which it is estimated."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float


@dataclass
class LevelSums:
    """What is known of one unseen level.

    Attributes:
        width: Number of columns.
        people: How many people it has.
        effects: Sum of their rows of the design matrix.
        rows: Their covariates, a frame of one row each.
        known: In how many of them each column has a value.
        residual: Sum of standardised residuals.
        squares: Sum of their squares.
    """

    width: int
    people: int = 0
    effects: Float[np.ndarray, " effects"] | float = 0.0
    rows: list[pd.DataFrame] = field(default_factory=list)
    known: Float[np.ndarray, " columns"] = field(init=False)
    residual: Float[np.ndarray, " columns"] = field(init=False)
    squares: Float[np.ndarray, " columns"] = field(init=False)

    def __post_init__(self) -> None:
        self.known, self.residual, self.squares = np.zeros((3, self.width))

    def add(
        self,
        data: Float[np.ndarray, " columns"],
        residual: Float[np.ndarray, " columns"],
        effects: Float[np.ndarray, " effects"],
        frame: pd.DataFrame,
    ) -> None:
        """Add one person: data (NaN where missing), standardised residual (0 there), row of the design matrix, covariates."""
        self.people += 1
        self.rows.append(frame)
        self.effects = self.effects + effects
        self.known += np.isfinite(data)
        self.residual += residual
        self.squares += residual**2

    def mean(self) -> Float[np.ndarray, " columns"]:
        """Return the mean residual of each column; 0 where nobody has a value."""
        mean: np.ndarray = self.residual / np.maximum(self.known, 1)
        return mean

    def variance(self) -> Float[np.ndarray, " columns"]:
        """Return the variance of each column, divisor n - 1; 1 where it cannot be told."""
        spread = np.maximum(self.squares - self.known * self.mean() ** 2, 0) / np.maximum(self.known - 1, 1)
        return np.where(self.known > 1, spread, 1.0)

    def frame(self) -> pd.DataFrame:
        """Return the people's covariates."""
        return pd.concat(self.rows)

    def mean_effects(self) -> Float[np.ndarray, " effects"]:
        """Return the mean row of the design matrix."""
        return np.asarray(self.effects) / max(self.people, 1)
