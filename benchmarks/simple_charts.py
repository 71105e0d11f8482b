"""Simple charts to compare with: one normal scale, ComBat with a normal residual, and quantile regression.

Each has the methods of `benchmarks.chart_methods.Chart`. Age is a natural cubic spline, sex a column, and each site a column.
"""

from __future__ import annotations

import warnings
from copy import copy
from typing import Self

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy.stats import norm

from medrep.models.linear.design import natural_spline, spline_knots

DEGREES = 5
FEW_FEATURES = 3  # with fewer, there is nothing to shrink sites towards
ROUNDS = 100


class HomoscedasticGaussian:
    """Least squares on age, sex and site with one normal residual; its z count how well the coefficients are known."""

    def fit(self, train: np.ndarray, table: pd.DataFrame) -> None:
        """Fit on people x features."""
        self._covariates = _Covariates(table)
        self._sites = sorted(table["site"].unique())
        self._centre, self._unit = train.mean(axis=0), train.std(axis=0)
        self._sums = _Sums.of(self._design(table), self._scaled(train))
        self._solve()

    def adapt(self, people: np.ndarray, table: pd.DataFrame) -> Self:
        """Return the chart that people of a new site are fitted on, too: the sums of training are kept, not its rows."""
        adapted = copy(self)
        adapted._sites = self._sites + sorted(set(table["site"]) - set(self._sites))
        more = len(adapted._sites) - len(self._sites)
        adapted._sums = self._sums.widened(more).plus(adapted._design(table), self._scaled(people))
        adapted._solve()
        return adapted

    def z(self, test: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return z of people x features."""
        mean, sd = self._predicted(table)
        return (test - mean) / sd

    def log_density(self, test: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return the log density of what was observed."""
        mean, sd = self._predicted(table)
        return norm.logpdf(test, mean, sd)

    def quantiles(self, table: pd.DataFrame, levels: np.ndarray) -> np.ndarray:
        """Return quantiles, levels x people x features."""
        mean, sd = self._predicted(table)
        return mean + norm.ppf(levels)[:, None, None] * sd

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        return (features - self._centre) / self._unit

    def _design(self, table: pd.DataFrame) -> np.ndarray:
        return np.column_stack([self._covariates(table), _members(table, self._sites)])

    def _solve(self) -> None:
        sums = self._sums
        self._inverse = np.linalg.pinv(sums.xx, hermitian=True)
        self._coefficients = self._inverse @ sums.xy
        left = sums.yy - np.einsum("pf,pf->f", self._coefficients, sums.xy)
        self._sd = np.sqrt(left / (sums.people - len(sums.xx)))

    def _predicted(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        X = self._design(table)
        leverage = np.einsum("np,pq,nq->n", X, self._inverse, X)
        mean = self._centre + self._unit * (X @ self._coefficients)
        return mean, self._unit * self._sd * np.sqrt(1 + leverage)[:, None]


class CombatGaussian:
    """ComBat (Johnson 2007, parametric), then least squares on age and sex with one normal residual."""

    def fit(self, train: np.ndarray, table: pd.DataFrame) -> None:
        """Fit on people x features."""
        self._covariates = _Covariates(table)
        sites = sorted(table["site"].unique())
        kept, member = self._covariates(table), _members(table, sites)
        coefficients = np.linalg.lstsq(np.column_stack([kept, member]), train, rcond=None)[0]
        own, levels = coefficients[: kept.shape[1]], coefficients[kept.shape[1] :]
        self._kept, self._level = own, member.mean(axis=0) @ levels
        self._sd = (train - kept @ own - member @ levels).std(axis=0)
        self._shifts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for site in sites:
            rows = (table["site"] == site).to_numpy()
            self._shifts[site] = self._shrunken(train[rows], table[rows])
        design = np.column_stack([np.ones(len(table)), kept])
        harmonised = self._harmonised(train, table)
        self._after = np.linalg.lstsq(design, harmonised, rcond=None)[0]
        left = harmonised - design @ self._after
        self._left = np.sqrt((left**2).sum(axis=0) / (len(train) - design.shape[1]))

    def adapt(self, people: np.ndarray, table: pd.DataFrame) -> Self:
        """Return the chart with a new site's location and scale; all else stays as it is."""
        adapted = copy(self)
        adapted._shifts = self._shifts | {str(table["site"].iloc[0]): self._shrunken(people, table)}
        return adapted

    def z(self, test: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return z of people x features."""
        return (self._harmonised(test, table) - self._expected(table)) / self._left

    def log_density(self, test: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return the log density of what was observed."""
        return norm.logpdf(self.z(test, table)) - np.log(self._left * self._shift(table)[1])

    def quantiles(self, table: pd.DataFrame, levels: np.ndarray) -> np.ndarray:
        """Return quantiles, levels x people x features."""
        harmonised = self._expected(table) + norm.ppf(levels)[:, None, None] * self._left
        location, scale = self._shift(table)
        fixed = self._level + self._covariates(table) @ self._kept
        return (harmonised - fixed) * scale + fixed + location * self._sd

    def _shift(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        shifts = [self._shifts[site] for site in table["site"]]
        return np.stack([each[0] for each in shifts]), np.stack([each[1] for each in shifts])

    def _standardised(self, features: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        return (features - self._level - self._covariates(table) @ self._kept) / self._sd

    def _harmonised(self, features: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        location, scale = self._shift(table)
        own = (self._standardised(features, table) - location) / scale
        return own * self._sd + self._level + self._covariates(table) @ self._kept

    def _expected(self, table: pd.DataFrame) -> np.ndarray:
        return np.column_stack([np.ones(len(table)), self._covariates(table)]) @ self._after

    def _shrunken(self, people: np.ndarray, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        own = self._standardised(people, table)
        n, raw = len(own), own.mean(axis=0)
        variance = own.var(axis=0, ddof=1) if n > 1 else np.ones(own.shape[1])
        if own.shape[1] < FEW_FEATURES or n == 1:
            return raw, np.sqrt(variance)
        prior, prior_variance = raw.mean(), raw.var(ddof=1)
        m, s2 = variance.mean(), variance.var(ddof=1)
        a, b = 2 + m**2 / s2, m + m**3 / s2
        location, scale = raw, variance
        for _ in range(ROUNDS):
            location = (n * prior_variance * raw + scale * prior) / (n * prior_variance + scale)
            scale = (b + 0.5 * ((own - location) ** 2).sum(axis=0)) / (n / 2 + a - 1)
        return location, np.sqrt(scale)


class QuantileRegression:
    """Linear quantile regressions on age, sex and site at KNOTS, put in order; normal between and beyond them.

    Between two levels, what was observed is a straight line of the normal deviate, and so beyond the outermost: the log
    density is that line's.
    """

    KNOTS = np.array([0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98])
    NARROWEST = 0.05  # deviations of the feature for one of the normal deviate: lines that cross have no density

    def fit(self, train: np.ndarray, table: pd.DataFrame) -> None:
        """Fit on people x features."""
        self._covariates = _Covariates(table)
        self._sites = sorted(table["site"].unique())
        X = self._design(table)
        self._centre, self._unit = train.mean(axis=0), train.std(axis=0)
        self._coefficients = np.empty((len(self.KNOTS), X.shape[1], train.shape[1]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that iterations were reached
            for k, column in enumerate(((train - self._centre) / self._unit).T):
                model = sm.QuantReg(column, X)
                for row, level in enumerate(self.KNOTS):
                    self._coefficients[row, :, k] = model.fit(q=level, max_iter=500).params

    def adapt(self, people: np.ndarray, table: pd.DataFrame) -> Self:
        """Say that there is no such thing."""
        raise NotImplementedError("quantile regression does not adapt to a new site")

    def z(self, test: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return z of people x features."""
        return self._line(test, table)[0]

    def log_density(self, test: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return the log density of what was observed."""
        z, slope = self._line(test, table)
        return norm.logpdf(z) - np.log(slope * self._unit)

    def quantiles(self, table: pd.DataFrame, levels: np.ndarray) -> np.ndarray:
        """Return quantiles, levels x people x features."""
        at, deviates = self._ordered(table), norm.ppf(self.KNOTS)
        wanted = norm.ppf(levels)
        segment = np.clip(np.searchsorted(deviates, wanted) - 1, 0, len(deviates) - 2)
        slope = (at[segment + 1] - at[segment]) / np.diff(deviates)[segment][:, None, None]
        return self._centre + self._unit * (at[segment] + slope * (wanted - deviates[segment])[:, None, None])

    def _design(self, table: pd.DataFrame) -> np.ndarray:
        return np.column_stack([self._covariates(table), _members(table, self._sites)])

    def _ordered(self, table: pd.DataFrame) -> np.ndarray:
        at = np.sort(np.einsum("np,lpf->lnf", self._design(table), self._coefficients), axis=0)
        least = self.NARROWEST * np.diff(norm.ppf(self.KNOTS))[:, None, None]
        gaps = np.maximum(np.diff(at, axis=0), least)
        middle = len(at) // 2
        above = np.cumsum(gaps[middle:], axis=0)
        below = np.cumsum(gaps[:middle][::-1], axis=0)[::-1]
        return np.concatenate([at[middle] - below, at[middle][None], at[middle] + above])

    def _line(self, test: np.ndarray, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        at, deviates = self._ordered(table), norm.ppf(self.KNOTS)
        observed = (test - self._centre) / self._unit
        segment = np.clip((at <= observed).sum(axis=0) - 1, 0, len(deviates) - 2)
        low = np.take_along_axis(at, segment[None], axis=0)[0]
        high = np.take_along_axis(at, segment[None] + 1, axis=0)[0]
        slope = (high - low) / np.diff(deviates)[segment]
        return deviates[segment] + (observed - low) / slope, slope


class _Covariates:
    """Age by a natural spline whose knots are those of some people, and sex."""

    def __init__(self, table: pd.DataFrame) -> None:
        self._knots = spline_knots(table["age"].to_numpy(dtype=float), DEGREES)

    def __call__(self, table: pd.DataFrame) -> np.ndarray:
        curve = natural_spline(table["age"].to_numpy(dtype=float), self._knots)
        return np.column_stack([curve, (table["sex"] == "M").to_numpy(dtype=float)])


class _Sums:
    """Sums of squares and products that a least-squares fit needs of its people."""

    def __init__(self, xx: np.ndarray, xy: np.ndarray, yy: np.ndarray, people: int) -> None:
        self.xx, self.xy, self.yy, self.people = xx, xy, yy, people

    @classmethod
    def of(cls, X: np.ndarray, Y: np.ndarray) -> _Sums:
        return cls(X.T @ X, X.T @ Y, (Y**2).sum(axis=0), len(X))

    def widened(self, more: int) -> _Sums:
        """Return the sums with columns that were 0 for everybody so far."""
        return _Sums(np.pad(self.xx, (0, more)), np.pad(self.xy, ((0, more), (0, 0))), self.yy, self.people)

    def plus(self, X: np.ndarray, Y: np.ndarray) -> _Sums:
        own = _Sums.of(X, Y)
        return _Sums(self.xx + own.xx, self.xy + own.xy, self.yy + own.yy, self.people + own.people)


def _members(table: pd.DataFrame, sites: list[str]) -> np.ndarray:
    unknown = sorted(set(table["site"]) - set(sites))
    if unknown:
        raise ValueError(f"site {', '.join(unknown)} was not in training")
    return (table["site"].to_numpy()[:, None] == np.asarray(sites, dtype=object)).astype(float)
