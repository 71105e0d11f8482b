"""Scales of batch levels: from mean squares to logarithms, what they are weighed by, and the level of the pool.

The pooled deviation of a column is the geometric mean of its levels' deviations, weighed by people, so that the log scales of a
batch covariate average to 0: one noisy site among many does not become everybody's measure, as it would in a root mean square.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import digamma, polygamma

_STEP = np.log(4.0)
_CLEARLY = (np.log(2.5), 2.0)  # beyond this, and beyond so many standard errors of it
_PERHAPS = (np.log(2.0), 1.0)
_MOST_STEPS = 8
_APART = (5.0, 7.0)
_COMMON = 0.75
_WITHIN = 1.1503  # three quarters of a normal distribution lie within so many standard deviations
_WIDEST = 0.5


@dataclass(frozen=True)
class Apart:
    """Scales that no other column of their level shares: too far out to be of the same prior, so they are not shrunk to it.

    Attributes:
        share: How far each is believed as it is: 0 (of the same prior as the others) to 1.
        excess: By how much each is beyond what its level is in the other columns, times that share.
        shift: What the far ones moved their column's pooled deviation by, and so all its levels.
    """

    share: Float[np.ndarray, "levels columns"]
    excess: Float[np.ndarray, "levels columns"]
    shift: Float[np.ndarray, " columns"]

    @property
    def taken(self) -> Float[np.ndarray, "levels columns"]:
        """What is not shrunk."""
        return self.excess + self.shift

    @classmethod
    def none(cls, levels: int, columns: int) -> "Apart":
        """Return that all are of one prior."""
        return cls(np.zeros((levels, columns)), np.zeros((levels, columns)), np.zeros(columns))

    @classmethod
    def of(
        cls,
        raw: Float[np.ndarray, "levels columns"],
        freedom: Float[np.ndarray, " levels"],
        told: Bool[np.ndarray, "levels columns"],
        parts: Sequence[slice],
    ) -> "Apart":
        """Find them: beyond five standard errors and five robust deviations of the level's other columns, wholly from seven on.

        Args:
            raw: Log scales before shrinkage.
            freedom: Residual degrees of freedom of each level.
            told: Which of them could be estimated.
            parts: Which levels belong to which batch covariate; none where the levels are not compared with each other.
        """
        share, excess = np.zeros_like(raw), np.zeros_like(raw)
        usual = _usual(raw, told, parts, _median)
        error = np.sqrt(log_scale_variance(freedom))
        for row, own in enumerate(raw - usual):
            here = told[row]
            if here.sum() < 2:
                continue
            beyond = own - _densest(np.sort(own[here])[:, None])[0]
            spread = min(float(np.quantile(np.abs(beyond[here]), _COMMON)) / _WITHIN, _WIDEST)
            width = max(float(error[row]), spread)
            far = np.abs(beyond) / _width(beyond, width, freedom[row])
            share[row] = np.where(here, np.clip((far - _APART[0]) / (_APART[1] - _APART[0]), 0, 1), 0)
            excess[row] = share[row] * beyond
        shift = np.zeros(raw.shape[1])
        for part in parts:
            shift += (share[part] * usual[part]).sum(axis=0) / np.maximum(share[part].sum(axis=0), 1)
        return cls(share, excess, shift)


def log_scales(
    ratio: Float[np.ndarray, "levels columns"], freedom: Float[np.ndarray, "levels *_"]
) -> Float[np.ndarray, "levels columns"]:
    """Return log(s) without its bias: E log(s^2) = digamma(nu/2) - log(nu/2), the same in all columns, so no average mends it.

    A ratio of exactly 1 stands for one that cannot be told: 0.
    """
    half = np.maximum(_by_column(freedom), 0.5) / 2
    raw = 0.5 * (np.log(ratio) - digamma(half) + np.log(half))
    return np.where(ratio == 1, 0.0, raw)


def log_scale_variance(freedom: Float[np.ndarray, "levels *columns"]) -> Float[np.ndarray, "levels *columns"]:
    """Variance of log(s) with s^2 a mean square on nu degrees of freedom, trigamma(nu/2)/4; infinite where there are none."""
    return np.where(freedom > 0.5, polygamma(1, np.maximum(freedom, 0.5) / 2) / 4, np.inf)


def told_scales(
    ratio: Float[np.ndarray, "levels columns"], freedom: Float[np.ndarray, "levels *_"]
) -> Bool[np.ndarray, "levels columns"]:
    """Tell which scales could be estimated."""
    return (ratio != 1) & (_by_column(freedom) > 0.5)


def pooled_level(
    log_scale: Float[np.ndarray, "levels columns"],
    weights: Float[np.ndarray, "levels columns"],
    parts: Sequence[slice],
) -> Float[np.ndarray, "levels columns"]:
    """Return the weighted mean log scale of each level's batch covariate, in every column."""
    level = np.zeros_like(log_scale)
    for part in parts:
        total = weights[part].sum(axis=0)
        mean = (weights[part] * log_scale[part]).sum(axis=0) / np.where(total > 0, total, 1)
        level[part] = mean
    return level


def weight_steps(
    ratio: Float[np.ndarray, "levels columns"],
    freedom: Float[np.ndarray, "levels *_"],
    parts: Sequence[slice],
    *,
    sure: bool,
) -> Int[np.ndarray, "levels columns"]:
    """Return log scales for weighing people, in whole steps of a factor 4; 0 where a level is not apart from the others.

    Weights need not be exact to be good, and few different ones let columns share a solution.

    Args:
        ratio: Mean squares over the pooled one.
        freedom: Residual degrees of freedom of each level, the same in all columns or a column each.
        parts: Which levels belong to which batch covariate.
        sure: Whether a level has to be clearly apart, or only to look so.
    """
    told = told_scales(ratio, freedom)
    raw = log_scales(ratio, freedom)
    beyond = raw - _usual(raw, told, parts, _densest)
    freedom = _by_column(freedom)
    error = np.sqrt(np.where(freedom > 0.5, log_scale_variance(freedom), 0))
    least, errors = _CLEARLY if sure else _PERHAPS
    clear = told & (np.abs(beyond) > least + errors * _width(beyond, error, freedom))
    steps = np.clip(np.rint(beyond / _STEP), -_MOST_STEPS, _MOST_STEPS)
    return np.where(clear, steps, 0).astype(np.int64)


def step_weights(
    steps: Int[np.ndarray, "levels *columns"], levels: Float[np.ndarray, "people levels"]
) -> Float[np.ndarray, "people *columns"]:
    """Return the weight of each person: 1 / variance, in units of a level whose step is 0."""
    weights: np.ndarray = np.exp(-2 * _STEP * (levels @ steps))
    return weights


def _by_column(freedom: Float[np.ndarray, "levels *_"]) -> Float[np.ndarray, "levels _"]:
    return freedom if freedom.ndim > 1 else freedom[:, None]


def _usual(
    raw: Float[np.ndarray, "levels columns"],
    told: Bool[np.ndarray, "levels columns"],
    parts: Sequence[slice],
    middle: Callable[[Float[np.ndarray, "some columns"]], Float[np.ndarray, " columns"]],
) -> Float[np.ndarray, "levels columns"]:
    """Return where most levels of each level's batch covariate are, in every column."""
    usual = np.zeros_like(raw)
    for part in parts:
        counts = told[part].sum(axis=0)
        for count in np.unique(counts[counts > 0]):
            some = np.flatnonzero(counts == count)
            ordered = np.sort(np.where(told[part], raw[part], np.inf)[:, some], axis=0)[:count]
            usual[part, some] = middle(ordered)
    return usual


def _median(ordered: Float[np.ndarray, "some columns"]) -> Float[np.ndarray, " columns"]:
    middle: np.ndarray = np.median(ordered, axis=0)
    return middle


def _densest(ordered: Float[np.ndarray, "some columns"]) -> Float[np.ndarray, " columns"]:
    """Return the middle of the shortest interval that holds half of the sorted values: of two clusters it is in one."""
    half, columns = (len(ordered) + 1) // 2, np.arange(ordered.shape[1])
    start = np.argmin(ordered[half - 1 :] - ordered[: len(ordered) - half + 1], axis=0)
    middle: np.ndarray = (ordered[start, columns] + ordered[start + half - 1, columns]) / 2
    return middle


def _width(beyond: np.ndarray, width: np.ndarray | float, freedom: np.ndarray | float) -> np.ndarray:
    """Widen what counts as near on the lower side: the logarithm of a mean square on few degrees of freedom has a long tail."""
    return np.where(beyond < 0, width * (1 + 4 / np.maximum(freedom, 0.5)), width)
