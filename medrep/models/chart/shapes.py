"""Shape of what is left at given covariates: how residuals in units of their scale become z, and back.

Sinh-arcsinh (Jones and Pewsey 2009): z = sinh(d asinh((e - c) / w) - s), with centre c, width w, skewness s and tail weight d;
normal for s = 0, d = 1. Fitted by Fisher scoring (`scoring.py`) with the outer product of scores, on means of BINS parts of the
sorted residuals, which are smaller towards both ends, since there a person tells more; s and log d have a weak normal prior, so
that few people have nearly normal charts.

What is not known of scale makes a normal distribution Student's, of nu degrees of freedom. z of Student's t is taken in Wallace's
form (1959), z = (8 nu + 1) / (8 nu + 3) sqrt(nu log(1 + t^2 / nu)), which has an inverse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from medrep.models.chart.scoring import State, searched

Block = Float[np.ndarray, "people columns"]
Freedom = Float[np.ndarray, "people _"]

BINS = 32
_FEWEST = 12  # values of a column whose shape is told
_SEARCHES, _NEAR = 48, 0.001
_PRIOR = 2.0  # precision of skewness and log tail weight
_WEAK = np.array([1e-6, 1e-6, _PRIOR, _PRIOR])  # precision of all four
_MOST = 30.0  # of |d asinh - s|: z of that size is beyond all meaning
_STEP = 0.5
_MIDDLES = 128  # quantiles over which information is averaged
_EDGES = (1 - np.cos(np.linspace(0, np.pi, BINS + 1))) / 2
_SIZES = np.diff(_EDGES)
Parameters = Float[np.ndarray, "four columns"]


@dataclass(frozen=True)
class Shapes:
    """Sinh-arcsinh shapes of columns.

    Attributes:
        parameters: Centre, log width, skewness, and log tail weight of each column; zeros are normal.
    """

    parameters: Parameters

    @classmethod
    def normal(cls, columns: int) -> "Shapes":
        """Return normal shapes."""
        return cls(np.zeros((4, columns)))

    @classmethod
    def fit(cls, residuals: Block) -> "Shapes":
        """Fit shapes to residuals in units of their scale; NaN is left out. Columns of few values stay normal."""
        bins, counts = _binned(residuals)
        found = np.zeros((4, residuals.shape[1]))
        enough = counts >= _FEWEST
        if enough.any():
            bins, counts = bins[:, enough], counts[enough]
            start = np.zeros((4, len(counts)))
            start[0] = _SIZES @ bins
            start[1] = 0.5 * np.log(np.maximum(_SIZES @ (bins - start[0]) ** 2, 1e-18))
            found[:, enough] = searched(_Problem(bins, counts), start, _SEARCHES, _NEAR)
        return cls(found)

    def z(self, residuals: Block, part: slice = slice(None)) -> Block:
        """Return z of residuals."""
        return _terms(self.parameters[:, part], residuals)[2]

    def residuals(self, z: Float[np.ndarray, "people _"], part: slice = slice(None)) -> Block:
        """Return the residuals whose z these are."""
        centre, log_width, skew, log_tail = self.parameters[:, part]
        return np.asarray(centre + np.exp(log_width) * np.sinh((np.arcsinh(z) + skew) / np.exp(log_tail)))

    def skewness(self) -> Float[np.ndarray, " columns"]:
        """Return the skewness of residuals of each column."""
        own = self._quantiles()
        own = own - own.mean(axis=0)
        return np.asarray((own**3).mean(axis=0) / (own**2).mean(axis=0) ** 1.5)

    def unknown(self, z: Block, people: float) -> Block:
        """Return the variance of residuals whose z these are, all four parameters being told by so many people."""
        information = self.information(people)
        log_width, skew, log_tail = self.parameters[1:]
        width, tail = np.exp(log_width), np.exp(log_tail)
        turned = (np.arcsinh(z) + skew) / tail
        along = width * np.cosh(turned)
        slopes = np.stack([np.ones_like(z), width * np.sinh(turned), along / tail, -along * turned])
        return np.asarray(np.einsum("anv,vab,bnv->nv", slopes, np.linalg.inv(information), slopes, optimize=True))

    def information(self, people: float) -> Float[np.ndarray, "columns four four"]:
        """Return the posterior precision of parameters that so many people tell."""
        scores = _scores(self.parameters, _terms(self.parameters, self._quantiles()))
        found = people / _MIDDLES * np.einsum("anv,bnv->vab", scores, scores, optimize=True)
        found[:, range(4), range(4)] += _WEAK
        return np.asarray(found)

    @classmethod
    def pooled(cls, parts: "Sequence[Shapes]", people: Sequence[Float[np.ndarray, " columns"]]) -> "Shapes":
        """Return the shapes that several fits tell together, each weighed by its information, their prior counted once.

        Args:
            parts: Fits to different people.
            people: How many people each column was fitted to.
        """
        own = [part.information(1.0) - np.diag(_WEAK) for part in parts]
        told = [count[:, None, None] * one for count, one in zip(people, own, strict=True)]
        prior = np.diag(_WEAK)
        seen = [(count > 0)[:, None, None] for count in people]
        sums = sum(
            np.where(some, one + prior, 0) @ part.parameters.T[..., None]
            for one, part, some in zip(told, parts, seen, strict=True)
        )
        return cls(np.linalg.solve(sum(told) + prior, sums)[..., 0].T)

    def _quantiles(self) -> Float[np.ndarray, "middles columns"]:
        """Return residuals of which each stands for as many."""
        z = ndtri((np.arange(_MIDDLES) + 0.5) / _MIDDLES)[:, None]
        return self.residuals(np.repeat(z, self.parameters.shape[1], axis=1))

    def log_slopes(self, residuals: Block, part: slice = slice(None)) -> Block:
        """Return the logarithm of z's derivative."""
        _, log_width, _, log_tail = self.parameters[:, part]
        y, turned, _ = _terms(self.parameters[:, part], residuals)
        return np.asarray(_log_cosh(turned) + log_tail - log_width - 0.5 * np.log1p(y**2))


def normal_score(t: Block, freedom: Freedom) -> Block:
    """Return z of Student's t."""
    found = np.asarray(t * t / freedom)
    np.log1p(found, out=found)
    found *= freedom * ((8 * freedom + 1) / (8 * freedom + 3)) ** 2
    np.sqrt(found, out=found)
    return np.copysign(found, t, out=found)


def student(z: Block, freedom: Freedom) -> Block:
    """Return t of which these are z."""
    size = np.abs(z) * (8 * freedom + 3) / (8 * freedom + 1)
    return np.asarray(np.sign(z) * np.sqrt(freedom * np.expm1(size**2 / freedom)))


def log_density(t: Block, freedom: Freedom) -> Block:
    """Return the log density of t whose z are normal."""
    z, share = normal_score(t, freedom), np.maximum(t**2 / freedom, 1e-12)
    slope = np.sqrt(share / np.log1p(share)) / (1 + share) * (8 * freedom + 1) / (8 * freedom + 3)
    return np.asarray(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) + np.log(slope))


def _binned(residuals: Block) -> tuple[Float[np.ndarray, "bins columns"], Float[np.ndarray, " columns"]]:
    """Return the means of parts of each column's sorted values, and how many values there are."""
    ordered = np.sort(residuals, axis=0)  # NaN last
    counts = len(ordered) - np.isnan(ordered[::-1]).argmin(axis=0)
    counts[np.isnan(ordered[:1]).any(axis=0)] = 0
    found = np.zeros((BINS, ordered.shape[1]))
    for count in np.unique(counts[counts > 0]):
        some = counts == count
        edges, at = count * _EDGES[:, None], np.arange(count)
        # Values at the ends of parts belong to both.
        shares = (np.clip(edges[1:] - at, 0, 1) - np.clip(edges[:-1] - at, 0, 1)) / np.diff(edges, axis=0)
        found[:, some] = shares @ (ordered[:count] if some.all() else ordered[:count, some])
    return found, counts.astype(np.float64)


@dataclass(frozen=True, eq=False)
class _Problem:
    """Means of parts of each column's residuals, and how many residuals there are; see `scoring.Problem`."""

    values: Float[np.ndarray, "bins columns"]
    counts: Float[np.ndarray, " columns"]

    def look(self, at: Parameters) -> tuple[Float[np.ndarray, " columns"], State]:
        """Return less the log posterior density, and y, what is turned, and z."""
        _, log_width, skew, log_tail = at
        y, turned, z = _terms(at, self.values)
        own = 0.5 * z**2 - _log_cosh(turned) + 0.5 * np.log1p(y**2)
        total = self.counts * (_SIZES @ own - log_tail + log_width)
        return total + 0.5 * _PRIOR * (skew**2 + log_tail**2), (y, turned, z)

    def step(self, at: Parameters, state: State) -> Parameters:
        """Return a step, as a whole no longer than _STEP in any parameter."""
        scores = _scores(at, state)
        weighed = scores * _SIZES[:, None]
        gradient = self.counts * weighed.sum(axis=1)
        gradient[2:] -= _PRIOR * at[2:]
        information = np.matmul(weighed.transpose(2, 0, 1), scores.transpose(2, 1, 0)) * self.counts[:, None, None]
        information[:, range(4), range(4)] += _WEAK + 1e-9 * self.counts[:, None]
        step = np.linalg.solve(information, gradient.T[..., None])[..., 0].T
        return np.asarray(step * (_STEP / np.maximum(np.abs(step).max(axis=0), _STEP)))

    def some(self, columns: np.ndarray) -> "_Problem":
        """Return the problem of some columns."""
        return _Problem(self.values[:, columns], self.counts[columns])


def _scores(parameters: Parameters, terms: State) -> Float[np.ndarray, "four bins columns"]:
    """Return derivatives of the log density by each parameter."""
    width, tail = np.exp(parameters[1]), np.exp(parameters[3])
    y, turned, z = terms
    square = 1 + y**2
    cosh = np.sqrt(1 + z**2)
    along = z / cosh - z * cosh
    inside = along * tail
    pull = y / square - inside / np.sqrt(square)
    # tail * asinh(y) is what is turned, and skewness.
    return np.stack([pull / width, y * pull - 1, -along, along * (turned + parameters[2]) + 1])


def _terms(parameters: Parameters, values: np.ndarray) -> State:
    centre, log_width, skew, log_tail = parameters
    y = values - centre
    y *= np.exp(-log_width)
    turned = np.arcsinh(y)
    turned *= np.exp(log_tail)
    turned -= skew
    np.clip(turned, -_MOST, _MOST, out=turned)
    return y, turned, np.sinh(turned)


def _log_cosh(x: np.ndarray) -> np.ndarray:
    size = np.abs(x)
    return np.asarray(size + np.log1p(np.exp(-2 * size)) - np.log(2))
