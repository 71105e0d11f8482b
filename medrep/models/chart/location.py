"""Location of a growth chart: a linear model's mean, and how well it is known.

In units of a column's deviation: with X the rows of training people, [1, effects, levels], and levels ~ N(m, tau^2), the
posterior covariance of all coefficients is C = (X'WX + D)^-1, D = 1 / tau^2 for levels and 0 for others, W what each person
counts. The mean at covariates with the row x is known with the variance x'Cx.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from medrep.cohort.dataset import Dataset
from medrep.models.base import FitContext
from medrep.models.chart.settings import ChartSettings
from medrep.models.chunks import ChunkSource, read_chunk, read_columns
from medrep.models.linear.model import LinearModel

Block = Float[np.ndarray, "people block"]

_LEAST, _ROUNDS, _RIDGE = 1e-4, 40, 1e-9


@dataclass(frozen=True)
class Location:
    """Means of columns by covariates.

    Attributes:
        line: The linear model.
        covariance: Of intercept, effects and levels, in units of ``line.sd`` squared.
        level_variance: Prior variance of levels, in the same unit.
    """

    line: LinearModel
    covariance: Float[np.ndarray, "rows rows"]
    level_variance: float

    @classmethod
    def fit(
        cls, dataset: Dataset, settings: ChartSettings, seed: int, work: FitContext
    ) -> tuple["Location", pd.DataFrame]:
        """Fit on training people."""
        line, history = LinearModel.fit(dataset, settings.location, seed=seed, work=work)
        full, levels = line.design.full(dataset.covariates), line.batches.location
        whose = pd.Series(dataset.whose)
        products = full.T @ (full / whose.map(whose.value_counts()).to_numpy(float)[:, None])
        varies = line.sd > 0
        square = float(np.mean((levels[:, varies] / line.sd[varies]) ** 2)) if len(levels) and varies.any() else 0.0
        first = len(full[0]) - len(levels)
        return cls(line, *told_levels(products, first, square, lambda _: square)), history

    @property
    def products(self) -> Float[np.ndarray, "rows rows"]:
        """X'WX of the people of training, which the covariance tells."""
        found = np.linalg.inv(self.covariance)
        found[np.diag_indices_from(found)] -= _RIDGE * np.trace(found) / len(found)
        levels = np.arange(len(found) - self.levels, len(found))
        found[levels, levels] -= 1 / self.level_variance
        return np.asarray(found)

    @property
    def levels(self) -> int:
        """Number of batch levels."""
        return len(self.line.batches.location)

    def variance(self, frame: pd.DataFrame) -> Float[np.ndarray, " people"]:
        """Return the variance that the mean at some covariates is known with, in units of ``line.sd`` squared."""
        rows = self.line.design.full(frame)
        return np.asarray(np.einsum("nr,rs,ns->n", rows, self.covariance, rows, optimize=True))

    def means(self, frame: pd.DataFrame) -> Callable[[slice], Block]:
        """Return what gives the means of a block of columns."""
        effects, levels = self.line.design.effects(frame), self.line.design.batches(frame)
        return lambda part: self.line.mean(effects, levels, np.ones((1, 1)), part)

    def residuals(self, dataset: Dataset) -> ChunkSource:
        """Return data less their means; NaN where a cell says nothing of a person, and in columns that are left as they are."""
        less = self._less_means(dataset.covariates)

        def chunk(part: slice) -> np.ndarray:
            return less(read_chunk(dataset.values, part), part)

        return ChunkSource((len(dataset), len(self.line.sd)), chunk)

    def residuals_of(self, dataset: Dataset, columns: Int[np.ndarray, " some"]) -> Float[np.ndarray, "people some"]:
        """Return the residuals of some columns, which may lie far apart."""
        less, found = self._less_means(dataset.covariates), read_columns(dataset.values, columns)
        for own, column in zip(found.T, columns.tolist(), strict=True):
            own[:] = less(own[:, None], slice(column, column + 1))[:, 0]
        return found

    def _less_means(self, frame: pd.DataFrame) -> Callable[[Block, slice], Block]:
        means, members, varies = self.means(frame), self.line.support.of(frame), self.line.sd > 0

        def less(own: np.ndarray, part: slice) -> np.ndarray:
            exempt = self.line.exempt(own, members, part)
            own -= means(part)
            if exempt is not None:
                own[exempt] = np.nan
            own[~np.isfinite(own)] = np.nan
            own[:, ~varies[part]] = np.nan
            return own

        return less


def told_levels(
    products: Float[np.ndarray, "rows rows"], first: int, start: float, square: Callable[[float], float]
) -> tuple[Float[np.ndarray, "rows rows"], float]:
    """Return the posterior covariance of coefficients, and the variance of levels.

    Args:
        products: X'WX.
        first: Where the levels' rows begin.
        start: A first guess of the variance.
        square: Returns the mean square of levels that are shrunk with a variance.
    """
    variance = max(start, _LEAST)
    covariance = posterior(products, first, variance)
    for _ in range(_ROUNDS if first < len(products) else 0):
        variance = max(square(variance) + float(covariance.diagonal()[first:].mean()), _LEAST)
        covariance = posterior(products, first, variance)
    return covariance, variance


def posterior(products: np.ndarray, first: int, variance: float) -> Float[np.ndarray, "rows rows"]:
    """Return the covariance of coefficients, of X'WX and the variance of levels, whose rows begin at ``first``."""
    precision = np.array(products)
    levels = np.arange(first, len(precision))
    precision[levels, levels] += 1 / variance
    precision[np.diag_indices_from(precision)] += _RIDGE * np.trace(precision) / len(precision)
    return np.asarray(np.linalg.inv(precision))
