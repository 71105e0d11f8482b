"""Spread of people by covariates: log scale is a sum of effects and levels of batches, fitted together.

    log s_v(c) = G(c) gamma_v,    G = [1, effects, levels],    levels ~ N(m, tau^2) over columns

The posterior mode is found by Fisher scoring (`scoring.py`) of the normal likelihood of residuals, with their squares over 1 -
leverage. Its information 2 G'G does not depend on what is estimated, so complete columns share one factorisation. Where residuals
have heavy tails their squares say less than normal ones would: the likelihood is tempered by 2 / (kurtosis - 1), the median over
columns. m and tau^2 are told from some columns, and the same for all; m varies about 0 as far as it does by more than chance.
Effects and levels are fitted together: a scale that grows with age is not to be taken for that of a site of old people.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from medrep.models.chart.scoring import State, searched
from medrep.models.linear.design import Design

Residuals = Float[np.ndarray, "people columns"]
Rows = Float[np.ndarray, "people rows"]
Square = Float[np.ndarray, "rows rows"]

_SEARCHES, _STEP = 48, 1.0  # of log scale
_ROUNDS, _EACH = 8, 2  # of telling the prior, and searches in each
_SPREADS = 30
_NEAR = 0.001
_EFFECT = 0.3  # precision of effects: a weak prior
_FIRST, LEAST = 0.05, 1e-3  # variance of levels
_KURTOSIS = (1.8, 21.0)
MANY = 5  # columns from which on the mean of a level over columns is told
LEVERAGE = 0.95


@dataclass(frozen=True, eq=False)
class ScaleRows:
    """People as log scales are fitted to them.

    Attributes:
        rows: Intercept, effects and levels of each.
        levels: How many of the rows are levels; they come last.
        leverage: Share of each person's residual that the location took.
        weights: What each counts; visits of one person count one together.
    """

    rows: Rows
    levels: int
    leverage: Float[np.ndarray, " people"]
    weights: Float[np.ndarray, " people"]

    def own(self, residuals: Residuals) -> Residuals:
        """Return residuals as they would be of people whom the location has not seen."""
        return np.asarray(residuals / np.sqrt(1 - np.minimum(self.leverage, LEVERAGE))[:, None])

    @property
    def effects(self) -> int:
        """Number of rows that are no levels."""
        return self.rows.shape[1] - self.levels


@dataclass(frozen=True)
class ScalePrior:
    """Prior of log scales, told from some columns.

    Attributes:
        mean: Of each level.
        variance: Of all levels.
        tempering: How much of the normal information residuals have.
    """

    mean: Float[np.ndarray, " scale_levels"]
    variance: float
    tempering: float

    @classmethod
    def first(cls, levels: int) -> "ScalePrior":
        """Return what nobody has told yet."""
        return cls(np.zeros(levels), _FIRST, 1.0)

    def precision(self, rows: int) -> Float[np.ndarray, " rows"]:
        """Return that of each coefficient."""
        effects = np.full(rows - len(self.mean), _EFFECT)
        effects[:1] = 0
        return np.concatenate([effects, np.full(len(self.mean), 1 / self.variance)])

    def centre(self, rows: int) -> Float[np.ndarray, " rows"]:
        """Return the mean of each coefficient."""
        return np.concatenate([np.zeros(rows - len(self.mean)), self.mean])

    def covariance(self, people: ScaleRows) -> Square:
        """Return the posterior covariance of a column in which everybody has a value."""
        return np.asarray(np.linalg.inv(self.information(people.rows.T @ (people.weights[:, None] * people.rows))))

    def products(self, covariance: Square) -> Square:
        """Return the products of people's rows that a posterior covariance tells."""
        found = np.linalg.inv(covariance)
        found[np.diag_indices_from(found)] -= self.precision(len(found)) + 1e-9
        return np.asarray(found / (2 * self.tempering))

    def information(self, products: Float[np.ndarray, "*_ rows rows"]) -> Float[np.ndarray, "*_ rows rows"]:
        """Return the posterior precision, of products of people's rows."""
        found = 2 * self.tempering * products
        count = found.shape[-1]
        found[..., range(count), range(count)] += self.precision(count) + 1e-9
        return found


@dataclass(frozen=True)
class Scales:
    """Log scales of columns by covariates, and how well they are known.

    Attributes:
        design: Effects on log scale, and levels of batches.
        coefficients: Intercept, effects and levels.
        covariance: Of these, the same in all columns.
        prior: Of levels.
    """

    design: Design
    coefficients: Float[np.ndarray, "scale_rows columns"]
    covariance: Float[np.ndarray, "scale_rows scale_rows"]
    prior: ScalePrior

    def logs(self, rows: Rows, part: slice = slice(None)) -> Residuals:
        """Return the log scale of each of some people in a block of columns."""
        return np.asarray(rows @ self.coefficients[:, part])

    def freedom(self, rows: Rows) -> Float[np.ndarray, "people _"]:
        """Return the degrees of freedom that scale is known with; its logarithm has the variance 1 / (2 nu)."""
        variance = np.einsum("nr,rs,ns->n", rows, self.covariance, rows, optimize=True)
        return np.asarray(0.5 / np.maximum(variance, 1e-9))[:, None]


def told_prior(people: ScaleRows, residuals: Residuals) -> ScalePrior:
    """Return the prior of log scales, from columns in which people vary; NaN is left out."""
    problem = _Problem.of(people, residuals, ScalePrior.first(people.levels))
    found = np.zeros((people.rows.shape[1], residuals.shape[1]))
    for _ in range(_ROUNDS if residuals.shape[1] else 0):
        found = searched(problem, found, _EACH, _NEAR)
        problem = replace(problem, prior=problem.told(found))
    return problem.prior


def log_scales(people: ScaleRows, residuals: Residuals, prior: ScalePrior) -> Float[np.ndarray, "rows columns"]:
    """Return the coefficients of log scale.

    Args:
        people: Of training.
        residuals: Data less their location, in any unit; NaN is left out.
        prior: Of levels.
    """
    problem = _Problem.of(people, residuals, prior)
    found = searched(problem, np.zeros((people.rows.shape[1], residuals.shape[1])), _SEARCHES, _NEAR)
    found[0] += 0.5 * np.log(problem.usual)
    return found


@dataclass(frozen=True, eq=False)
class _Problem:
    """Squares of residuals, in units of their mean in each column, 0 where nothing is seen; and sums over who is seen.

    Attributes:
        people: Of training.
        weighed: Their rows, times what each counts.
        squares: People x columns.
        totals: Sums of weighed rows in each column.
        products: Of rows and weighed rows: one for all columns where everybody is seen in each, else one for each.
        usual: Mean square of each column.
        prior: Of the coefficients.
    """

    people: ScaleRows
    weighed: Rows
    squares: Residuals
    totals: Float[np.ndarray, "rows columns"]
    products: Float[np.ndarray, "_ rows rows"]
    usual: Float[np.ndarray, " columns"]
    prior: ScalePrior

    @classmethod
    def of(cls, people: ScaleRows, residuals: Residuals, prior: ScalePrior) -> "_Problem":
        weighed, columns = people.rows * people.weights[:, None], residuals.shape[1]
        squares = people.own(residuals)
        squares *= squares
        shared, sums = people.rows.T @ weighed, weighed.sum(axis=0)[:, None]
        products, totals = shared[None], np.repeat(sums, columns, axis=1)
        unseen = np.isnan(squares)
        holes = np.flatnonzero(unseen.any(axis=0))
        if len(holes):
            squares[unseen] = 0
            seen = 1.0 - unseen[:, holes]
            totals[:, holes] = weighed.T @ seen
            products = np.repeat(products, columns, axis=0)
            products[holes] = np.einsum("nr,nv,ns->vrs", people.rows, seen, weighed, optimize=True)
        usual = people.weights @ squares / np.maximum(totals[0], 1e-12)
        usual = np.where(usual > 0, usual, 1)
        squares /= usual
        return cls(people, weighed, squares, totals, products, usual, prior)

    def look(self, at: np.ndarray) -> tuple[Float[np.ndarray, " columns"], State]:
        """Return less the log posterior density, and shares."""
        shares, off = self.shares(at), at - self.prior.centre(len(at))[:, None]
        own = (self.totals * at).sum(axis=0) + 0.5 * (self.people.weights @ shares)
        return self.prior.tempering * own + 0.5 * self.prior.precision(len(at)) @ off**2, (shares,)

    def step(self, at: np.ndarray, state: State) -> Float[np.ndarray, "rows columns"]:
        """Return a step, as a whole no longer than _STEP."""
        off = at - self.prior.centre(len(at))[:, None]
        gradient = self.prior.tempering * self.gradient(*state) - self.prior.precision(len(at))[:, None] * off
        step = _solved(self.prior.information(self.products), gradient)
        # Its mean square over people; a part of it alone might not lead down.
        squares = np.einsum("rv,vrs,sv->v", step, self.products, step, optimize=True)
        length = np.sqrt(squares / np.maximum(self.totals[0], 1e-12))
        return np.asarray(step * (_STEP / np.maximum(length, _STEP)))

    def some(self, columns: np.ndarray) -> "_Problem":
        """Return the problem of some columns."""
        products = self.products if len(self.products) == 1 else self.products[columns]
        squares, totals, usual = self.squares[:, columns], self.totals[:, columns], self.usual[columns]
        return replace(self, squares=squares, totals=totals, products=products, usual=usual)

    def shares(self, found: np.ndarray) -> Residuals:
        """Return squares in units of what is expected of each."""
        shares = self.people.rows @ found
        shares *= -2
        np.exp(shares, out=shares)
        shares *= self.squares
        return np.asarray(shares)

    def gradient(self, shares: Residuals) -> Float[np.ndarray, "rows columns"]:
        """Return that of the log likelihood."""
        return np.asarray(self.weighed.T @ shares - self.totals)

    def told(self, found: np.ndarray) -> ScalePrior:
        """Return the prior that coefficients tell."""
        shares, weights, prior = self.shares(found), self.people.weights, self.prior
        mean, second = (weights @ power / np.maximum(self.totals[0], 1e-12) for power in (shares, shares**2))
        kurtosis = float(np.median(np.clip(second / np.maximum(mean, 1e-12) ** 2, *_KURTOSIS)))
        levels, tempering = found[self.people.effects :], 2 / (kurtosis - 1)
        if not len(levels):
            return replace(prior, tempering=tempering)
        centre = self._means(found, shares) if levels.shape[1] >= MANY else prior.mean
        unknown = np.linalg.inv(prior.information(self.products)).diagonal(axis1=1, axis2=2)[:, self.people.effects :]
        variance = float(((levels - centre[:, None]) ** 2).mean() + unknown.mean())
        return ScalePrior(centre, max(variance, LEAST), tempering)

    def _means(self, found: np.ndarray, shares: Residuals) -> Float[np.ndarray, " scale_levels"]:
        """Return the means of levels over columns, as far as they differ by more than chance.

        They are told with the means of effects: what all columns do with age is not to be taken for what sites do in all.
        """
        columns, effects, prior = found.shape[1], self.people.effects, self.prior
        mean = found.mean(axis=1)
        gradient = prior.tempering * self.gradient(shares).mean(axis=1)
        information = 2 * prior.tempering * columns * self.products.mean(axis=0)
        spread, precision = _FIRST, prior.precision(len(mean))
        for _ in range(_SPREADS):
            precision[effects:] = 1 / (spread + prior.variance / columns)
            covariance = np.linalg.inv(information + np.diag(precision + 1e-9))
            own = (mean + covariance @ (columns * gradient - precision * mean))[effects:]
            kept = spread * precision[effects:]
            left = spread * (1 - kept) + kept**2 * covariance.diagonal()[effects:]
            spread = max(float(((kept * own) ** 2 + left).mean()), LEAST / columns)
        return np.asarray(kept * own)


def _solved(information: Float[np.ndarray, "_ rows rows"], gradient: np.ndarray) -> Float[np.ndarray, "rows columns"]:
    if len(information) == 1:
        return np.asarray(np.linalg.solve(information[0], gradient))
    return np.asarray(np.linalg.solve(information, gradient.T[..., None])[..., 0].T)
