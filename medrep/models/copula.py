"""Marginal distributions of the data, column by column: what the model's draws are bent to."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

KNOTS = 129
FEWEST_KNOTS = 3
_STEPS = (1.0, 0.5, 0.1, 0.01, 0.001)


@dataclass(frozen=True)
class Marginals:
    """Quantiles of training people and of the model's draws for the same covariates; no person's own row.

    Attributes:
        drawn: Quantiles of the draws, at the midpoints of equal steps of probability and the two ends; no row where draws
            are left as they are.
        real: The same quantiles of the data.
        step: The largest of 1, 0.5, 0.1, 0.01, 0.001 of which all values of a column are multiples; 0 for none.
    """

    drawn: Float[np.ndarray, "drawn columns"]
    real: Float[np.ndarray, "knots columns"]
    step: Float[np.ndarray, " columns"]

    @classmethod
    def fit(
        cls, data: Float[np.ndarray, "people columns"], draws: "Float[np.ndarray, 'draws columns'] | None"
    ) -> "Marginals":
        """Learn the marginals.

        Args:
            data: Training people, in their own units; NaN is left out.
            draws: What the model draws for them; None leaves draws as they are, and keeps only ends and median of the data.
        """
        knots = FEWEST_KNOTS if draws is None else KNOTS
        probabilities = np.concatenate([[0.0], (np.arange(knots - 2) + 0.5) / (knots - 2), [1.0]])
        empty = ~np.isfinite(data).any(axis=0)
        real = np.zeros((knots, data.shape[1]))
        real[:, ~empty] = np.nanquantile(data[:, ~empty] if empty.any() else data, probabilities, axis=0)
        if draws is None:
            return cls(np.zeros((0, data.shape[1])), real, np.zeros(data.shape[1]))
        return cls(np.quantile(draws, probabilities, axis=0), real, np.array([_step(column) for column in data.T]))

    def bend(self, draws: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people columns"]:
        """Give draws the marginals of training, keeping ranks; where none were learnt they stay as they are."""
        if not len(self.drawn):
            return draws
        columns = zip(draws.T, self.drawn.T, self.real.T, strict=True)
        return self._stepped(np.stack([np.interp(own, drawn, real) for own, drawn, real in columns], axis=1))

    def draw(
        self, rng: np.random.Generator, people: int, columns: Bool[np.ndarray, " columns"]
    ) -> Float[np.ndarray, "people columns"]:
        """Draw some columns, each on its own, from training's quantiles; 0 in the others."""
        drawn = np.zeros((people, len(columns)))
        uniform = rng.uniform(size=(people, int(columns.sum())))
        place = np.clip(uniform * (len(self.real) - 2) + 0.5, 0, len(self.real) - 1)
        for own, column in enumerate(np.flatnonzero(columns)):
            drawn[:, column] = np.interp(place[:, own], np.arange(len(self.real)), self.real[:, column])
        return self._stepped(drawn)

    def usual(self) -> Float[np.ndarray, " columns"]:
        """Return the median of each column in training."""
        return self.real[len(self.real) // 2]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to save."""
        return dict(vars(self))

    @classmethod
    def load(cls, arrays: Mapping[str, np.ndarray]) -> "Marginals":
        """Rebuild from `arrays`."""
        return cls(arrays["drawn"], arrays["real"], arrays["step"])

    def _stepped(self, values: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people columns"]:
        steps = np.where(self.step > 0, self.step, 1.0)
        return np.where(self.step > 0, np.round(values / steps) * steps, values)


def _step(column: Float[np.ndarray, " people"]) -> float:
    finite = column[np.isfinite(column)]
    for step in _STEPS:
        multiples = finite / step
        if np.allclose(multiples, np.round(multiples), rtol=1e-9, atol=1e-6):
            return step
    return 0.0
