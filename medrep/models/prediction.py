"""Predictions of covariates from data, and the correction of their regression to the mean.

A prediction with error lies nearer to the mean than the truth: old people look younger, young ones older. Two ways to undo it:

- ``linear``: regress the prediction on the truth, yhat = a + b y, and return (yhat - a) / b.
- ``tweedie``: yhat - s^2 d/dyhat log p(yhat), with p the density of predictions and s the standard deviation of their errors; the
  empirical-Bayes formula of Tweedie (Efron 2011) turned round, which needs no straight line.

For normal y and yhat both are the same. Either costs variance: errors grow by about 1 / b.

Ridge regression from standardised columns to the covariate, in its dual form: all that grows with the number of columns is one
pass for the people x people products and one vector of weights. The penalty has the least generalised cross-validation error
(Golub, Heath and Wahba 1979). People of training are predicted by regressions without them, tenfold, penalty and means included;
those pairs calibrate the correction of shrinkage. Data are taken as they are, site and all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from medrep.errors import CovariateError, EvidenceError, ModelError
from medrep.models.chunks import column_chunks, read_chunk

Values = Float[np.ndarray, " people"]
Data = Float[np.ndarray, "people columns"]

How = Literal["none", "linear", "tweedie"]

FEW = 100
"""With fewer people than this a correction is little better known than what it corrects."""

_FEWEST_PAIRS = 10
_FLATTEST = 0.05  # below this slope a prediction says nothing that could be stretched
_GRID = 256
_FLAT = 1e-9  # relative; less is rounding


@dataclass(frozen=True)
class BiasCorrection:
    """Correction of one predictor's shrinkage; holds no participant's own figures.

    Attributes:
        people: How many people it was fitted on.
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
    def fit(cls, truth: Values, predicted: Values, *, people: int | None = None) -> "BiasCorrection":
        """Fit on people whom the predictor did not see, each in one row unless ``people`` says how many they are.

        Raises EvidenceError for fewer than ten people, or values that are all the same.
        """
        people = len(truth) if people is None else people
        if people < _FEWEST_PAIRS or _same(truth) or _same(predicted):
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

    def undo(self, predicted: Values, how: How) -> Values:
        """Return predictions without shrinkage.

        Raises EvidenceError for ``linear``, and predictions that hardly follow the truth: there is nothing to stretch.
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


def _same(values: Values) -> bool:
    return bool(np.ptp(values) <= _FLAT * np.abs(values).max())


_FOLDS = 10
_PENALTIES = np.logspace(-4, 4, 33)
_TINY = 1e-12
_FEWEST = 20


@dataclass(frozen=True, eq=False)
class Prediction:
    """A fitted readout of one covariate.

    Attributes:
        name: The covariate.
        weights: Of columns in their own units.
        centre: Means of the columns, which stand in for missing cells.
        intercept: At the means.
        shrinkage: What undoes it.
        r2: Of predictions without the person.
        mae: Their mean absolute error, in the covariate's unit.
    """

    name: str
    weights: Float[np.ndarray, " columns"]
    centre: Float[np.ndarray, " columns"]
    intercept: float
    shrinkage: BiasCorrection
    r2: float
    mae: float

    @classmethod
    def fit(
        cls, name: str, data: Data, truth: Values, *, seed: int = 0, participants: Sequence[str] | None = None
    ) -> "Prediction":
        """Fit on people of training, a few columns at a time.

        Without `participants` each row is a person; all rows of a person are in one fold, and the penalty is that of people's
        means. Raises CovariateError for fewer than twenty people.
        """
        people, columns = data.shape
        who = np.arange(people) if participants is None else _codes(participants)
        persons = int(who.max(initial=-1)) + 1
        if persons < _FEWEST:
            raise CovariateError(f"predict {name}: {persons} people of training; {_FEWEST} are needed")
        gram, centre, spread = np.zeros((people, people)), np.zeros(columns), np.zeros(columns)
        for part in column_chunks(people, columns):
            chunk, centre[part], spread[part] = _standardised(data, part)
            gram += chunk @ chunk.T
        gram /= columns
        dual = _dual(gram, truth - truth.mean(), who)
        weights = np.zeros(columns)
        for part in column_chunks(people, columns):
            chunk, _, _ = _standardised(data, part)
            weights[part] = dual @ chunk / columns / np.maximum(spread[part], _TINY)
        weights[spread <= _TINY] = 0.0
        predicted = _left_out(gram, truth, (np.random.default_rng(seed).permutation(persons) % _FOLDS)[who], who)
        error = predicted - truth
        r2 = 1 - float((error**2).sum() / ((truth - truth.mean()) ** 2).sum())
        shrinkage = BiasCorrection.fit(truth, predicted, people=persons)
        return cls(name, weights, centre, float(truth.mean()), shrinkage, r2, float(np.abs(error).mean()))

    def predict(self, data: Data, how: How = "none") -> Values:
        """Return what the covariate would be told to be, in its unit; a missing cell counts as its column's mean."""
        own = np.where(np.isfinite(data), data - self.centre, 0.0)
        return self.shrinkage.undo(own @ self.weights + self.intercept, how)


def refuse_other_columns(readout: Prediction, columns: int) -> None:
    """Refuse weights that do not fit the model's columns."""
    shape = readout.weights.shape
    if shape != (columns,):
        raise ModelError(f"readout of {readout.name}: weights of {shape}, the model has {columns} columns")


def _standardised(
    data: Data, part: slice
) -> tuple[Float[np.ndarray, "people block"], Float[np.ndarray, " block"], Float[np.ndarray, " block"]]:
    """Return columns in standard deviations from their mean, 0 where missing or constant; means and deviations."""
    chunk = read_chunk(data, part)
    known = np.isfinite(chunk)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, chunk, 0.0).sum(axis=0) / count
    chunk = np.where(known, chunk - mean, 0.0)
    spread = np.sqrt((chunk**2).sum(axis=0) / count)
    return np.divide(chunk, spread, out=np.zeros_like(chunk), where=spread > _TINY), mean, spread


def _codes(participants: Sequence[str]) -> Int[np.ndarray, " rows"]:
    """Number people in the order in which they come."""
    place = {who: k for k, who in enumerate(dict.fromkeys(participants))}
    return np.array([place[who] for who in participants], dtype=np.int64)


def _dual(gram: Float[np.ndarray, "people people"], truth: Values, who: Int[np.ndarray, " people"]) -> Values:
    """Return the dual weights of centred products and truth, at the penalty of least generalised cross-validation error.

    Where people have several rows the penalty is that of their means: rows of one person would vouch for each other.
    """
    who = np.unique(who, return_inverse=True)[1]
    persons, rows = int(who.max()) + 1, len(who)
    if persons == rows:
        values, vectors, turned, penalties = _spectrum(gram, truth)
        left = _shrunk(values, penalties)
        return vectors @ (left[_least(values, turned, left)] * turned)
    average = np.zeros((persons, rows))
    average[who, np.arange(rows)] = 1 / np.bincount(who)[who]
    values, _, turned, penalties = _spectrum(average @ gram @ average.T, average @ truth)
    penalty = penalties[_least(values, turned, _shrunk(values, penalties))] * rows / persons
    return np.linalg.solve(gram + penalty * np.eye(rows), truth)


def _spectrum(gram: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return eigenvalues, eigenvectors, the truth in these and the penalties that are tried."""
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 0)
    return values, vectors, vectors.T @ truth, _PENALTIES * max(float(values.mean()), _TINY)


def _shrunk(values: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    return 1 / (values[None] + penalties[:, None])


def _least(values: np.ndarray, turned: np.ndarray, left: np.ndarray) -> int:
    """Return the number of the penalty with the least generalised cross-validation error."""
    shrunk = 1 - left * values[None]
    errors = ((shrunk * turned) ** 2).sum(axis=1) / np.maximum(shrunk.sum(axis=1), _TINY) ** 2
    return int(np.argmin(errors))


def _left_out(
    gram: Float[np.ndarray, "people people"], truth: Values, folds: np.ndarray, who: Int[np.ndarray, " people"]
) -> Values:
    """Return predictions of each fold by a regression on the others, whose mean is theirs alone."""
    predicted = np.empty(len(truth))
    for fold in np.unique(folds):
        own, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        among, across = gram[np.ix_(rest, rest)], gram[np.ix_(own, rest)]
        mean = among.mean(axis=0)
        centred = among - mean[None] - mean[:, None] + mean.mean()
        dual = _dual(centred, truth[rest] - truth[rest].mean(), who[rest])
        across = across - across.mean(axis=1, keepdims=True) - mean[None] + mean.mean()
        predicted[own] = truth[rest].mean() + across @ dual
    return predicted
