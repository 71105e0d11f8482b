"""Marginal distributions of the data, column by column: what the model's draws are bent to."""

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
        step: The largest of 1, 0.5, 0.1, 0.01, 0.001 of which all values of a column are multiples; 0 for none, and
            for a column of one value.
    """

    drawn: Float[np.ndarray, "drawn columns"]
    real: Float[np.ndarray, "knots columns"]
    step: Float[np.ndarray, " columns"]

    @classmethod
    def fit(
        cls,
        data: Float[np.ndarray, "people columns"],
        draws: "Float[np.ndarray, 'draws columns'] | None",
        plain: "Bool[np.ndarray, ' columns'] | None" = None,
    ) -> "Marginals":
        """Learn the marginals.

        Args:
            data: Training people, in their own units; NaN is left out.
            draws: What the model draws for them; None leaves draws as they are, and keeps only ends and median of the data.
            plain: Columns that `draw` draws: they have training's marginals already, and stay as they are; none by default.
        """
        knots = FEWEST_KNOTS if draws is None else KNOTS
        probabilities = _probabilities(knots)
        empty = ~np.isfinite(data).any(axis=0)
        real = np.zeros((knots, data.shape[1]))
        # nanquantile goes column by column, a hundred times as slow.
        quantile = np.quantile if np.isfinite(data).all() else np.nanquantile
        real[:, ~empty] = quantile(data[:, ~empty] if empty.any() else data, probabilities, axis=0)
        if draws is None:
            return cls(np.zeros((0, data.shape[1])), real, np.zeros(data.shape[1]))
        drawn = np.quantile(draws, probabilities, axis=0)
        if plain is not None:
            drawn[:, plain] = real[:, plain]
        return cls(drawn, real, np.array([_step(column) for column in data.T]))

    def bend(self, draws: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people columns"]:
        """Give draws the marginals of training, keeping ranks; where none were learnt they stay as they are."""
        if not len(self.drawn):
            return draws
        knots, bent = np.arange(len(self.real), dtype=np.float64), np.empty(draws.shape)
        for column, (own, drawn, real) in enumerate(zip(draws.T, self.drawn.T, self.real.T, strict=True)):
            # A value that many draws share has many quantiles: the middle one, since either end may lie beyond training's.
            last, first = np.interp(own, drawn, knots), knots[-1] - np.interp(-own, -drawn[::-1], knots)
            bent[:, column] = np.interp((first + last) / 2, knots, real)
        return self._stepped(bent)

    def draw(
        self, rng: np.random.Generator, people: int, columns: Bool[np.ndarray, " columns"]
    ) -> Float[np.ndarray, "people columns"]:
        """Draw some columns, each on its own, from training's quantiles; 0 in the others."""
        drawn = np.zeros((people, len(columns)))
        uniform = rng.uniform(size=(people, int(columns.sum())))
        for own, column in enumerate(np.flatnonzero(columns)):
            drawn[:, column] = np.interp(uniform[:, own], _probabilities(len(self.real)), self.real[:, column])
        return self._stepped(drawn)

    def usual(self) -> Float[np.ndarray, " columns"]:
        """Return the median of each column in training."""
        return self.real[len(self.real) // 2]

    def _stepped(self, values: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people columns"]:
        per_unit = np.round(
            1 / np.where(self.step > 0, self.step, 1.0)
        )  # dividing by 10 gives 0.7, multiplying by 0.1 does not
        return np.where(self.step > 0, np.round(values * per_unit) / per_unit, values)


def _probabilities(knots: int) -> Float[np.ndarray, " knots"]:
    return np.concatenate([[0.0], (np.arange(knots - 2) + 0.5) / (knots - 2), [1.0]])


def _step(column: Float[np.ndarray, " people"]) -> float:
    finite = column[np.isfinite(column)]
    for step in _STEPS:
        multiples = finite / step
        # What differs by less than a step is in a smaller unit, not whole.
        varies = np.ptp(multiples) >= 0.5 if len(multiples) else False
        if varies and np.allclose(multiples, np.round(multiples), rtol=1e-9, atol=1e-6):
            return step
    return 0.0
