"""Marginal distributions of residuals, column by column: what the decoder's normal draws are bent to."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtr

KNOTS = 65
FEWEST_KNOTS = 3


@dataclass(frozen=True)
class Marginals:
    """Quantiles of training people, no person's own row.

    Attributes:
        residual: Quantiles of each column's residual, at the midpoints of equal steps of probability and the two ends.
        centre: Mean of the draws that are bent.
        spread: Their standard deviation; 0 where a column never varies.
        plain: Quantiles of the data of each column that has no residual (constant, mostly one value).
        whole: Columns that hold whole numbers.
    """

    residual: Float[np.ndarray, "knots columns"]
    centre: Float[np.ndarray, " columns"]
    spread: Float[np.ndarray, " columns"]
    plain: Float[np.ndarray, "plain_knots columns"]
    whole: Bool[np.ndarray, " columns"]

    @classmethod
    def fit(
        cls,
        data: Float[np.ndarray, "people columns"],
        h: Float[np.ndarray, "people columns"],
        draws: Float[np.ndarray, "draws columns"],
        *,
        knots: int = KNOTS,
    ) -> "Marginals":
        """Learn the marginals.

        Args:
            data: Training people, in their own units; NaN is left out.
            h: Their residuals.
            draws: Residuals drawn by the model for the same people.
            knots: Quantiles a column; 3 keep only the ends and the median, and draws stay normal.
        """
        probabilities = _probabilities(knots)
        seen = np.isfinite(data).any(axis=0)
        whole = seen & np.array([bool(np.all(own[np.isfinite(own)] % 1 == 0)) for own in data.T])
        plain = np.zeros((knots, data.shape[1]))
        plain[:, seen] = np.nanquantile(data if seen.all() else data[:, seen], probabilities, axis=0)
        return cls(
            np.quantile(h, probabilities if knots > FEWEST_KNOTS else [], axis=0).astype(np.float64),
            draws.mean(axis=0).astype(np.float64),
            draws.std(axis=0).astype(np.float64),
            np.nan_to_num(plain),
            whole,
        )

    def bend(self, draws: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people columns"]:
        """Give normal draws the residuals' marginals, keeping ranks; where none were learnt they stay as they are."""
        if not len(self.residual):
            return draws
        per_spread = np.divide(1, self.spread, out=np.zeros_like(self.spread), where=self.spread > 0)
        return _look_up(self.residual, ndtr((draws - self.centre) * per_spread))

    def draw_plain(
        self, rng: np.random.Generator, people: int, columns: Bool[np.ndarray, " columns"]
    ) -> Float[np.ndarray, "people some"]:
        """Draw values for columns without a residual: training's quantiles, whole where training's are."""
        values = _look_up(self.plain[:, columns], rng.uniform(size=(people, int(columns.sum()))))
        return np.where(self.whole[columns], np.round(values), values)

    def usual(self) -> Float[np.ndarray, " columns"]:
        """Return the median of each column in training."""
        return self.plain[len(self.plain) // 2]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to save."""
        return {**vars(self), "whole": self.whole.astype(np.uint8)}

    @classmethod
    def load(cls, arrays: Mapping[str, np.ndarray]) -> "Marginals":
        """Rebuild from `arrays`."""
        return cls(**{**arrays, "whole": arrays["whole"].astype(bool)})


def _probabilities(knots: int) -> Float[np.ndarray, " knots"]:
    return np.concatenate([[0.0], (np.arange(knots - 2) + 0.5) / max(knots - 2, 1), [1.0]])


def _look_up(
    quantiles: Float[np.ndarray, "knots columns"], uniform: Float[np.ndarray, "people columns"]
) -> Float[np.ndarray, "people columns"]:
    """Return the quantile of each uniform number in its column, linear in between."""
    place = np.interp(uniform, _probabilities(len(quantiles)), np.arange(len(quantiles)))
    low = np.minimum(place.astype(np.int64), len(quantiles) - 2)
    columns = np.arange(quantiles.shape[1])
    below, above = quantiles[low, columns], quantiles[low + 1, columns]
    values: np.ndarray = below + (place - low) * (above - below)
    return values
