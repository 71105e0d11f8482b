"""Intervals that hold for small groups, where a bootstrap of percentiles is too narrow or has no width at all."""

import math

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.optimize import brentq

from medrep.audit.resampling.intervals import LEVEL, percentile_interval

_SOUND = 0.99  # of samples have a spread
_FEWEST = 20


def expansion(people: int | float, level: float = LEVEL) -> float:
    """Return by how much a bootstrap of n people is too narrow: t(n - 1) / z * sqrt(n / (n - 1)) (Hesterberg 2015)."""
    tail = (1 + level) / 2
    return float(stats.t.ppf(tail, people - 1) / stats.norm.ppf(tail) * math.sqrt(people / (people - 1)))


def expanded_level(people: int | float, level: float = LEVEL) -> float:
    """Return the level at which a normal interval is wider by `expansion`."""
    return float(1 - 2 * stats.norm.cdf(-stats.norm.ppf((1 + level) / 2) * expansion(people, level)))


def expanded_interval(
    values: Float[np.ndarray, " draws"], people: int | float, level: float = LEVEL
) -> tuple[float, float]:
    """Return the percentile interval of bootstrap draws at the level that expands it to n people (`expansion`)."""
    return percentile_interval(values, expanded_level(people, level))


def studentised_interval(
    estimate: float,
    error: float,
    values: Float[np.ndarray, " draws"],
    errors: Float[np.ndarray, " draws"],
    people: int | float,
    level: float = LEVEL,
    *,
    widened: bool = True,
) -> tuple[float, float]:
    """Return the bootstrap-t interval: estimate - q * error, q the quantiles of (value - estimate) / error over draws.

    Second-order accurate, so that the skewness of errors and deviations costs little coverage (Efron and Tibshirani 1993,
    ch. 12). What it still costs where few people hide the long tail (of lognormal errors 91% are held at n = 20, 93% at 50) is
    made up for by the `expanded_level` of half as many; that of 20 serves fewer, too, where a further quantile would be one
    of samples without a spread.

    Args:
        estimate: On the people themselves.
        error: Its standard error; 0 where there is nothing to studentise by.
        values: On bootstrap samples.
        errors: Their standard errors. Where more than 1% of them are 0 (nearly all values are tied), the interval is the
            expanded one of percentiles.
        people: Participants, or as many as the figure stands on.
        level: Of the interval.
        widened: As said; otherwise the plain bootstrap-t.
    """
    sound = errors > 0
    if not error > 0 or sound.mean() < _SOUND:
        return expanded_interval(values, people, level)
    own = expanded_level(max(people / 2, _FEWEST), level) if widened else level
    low, high = percentile_interval((values[sound] - estimate) / errors[sound], own)
    return estimate - high * error, estimate - low * error


def share_interval(share: float, error: float, people: int, rows: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of a proportion that has a width at 0 and at 1 too (Korn and Graubard 1998).

    Clopper and Pearson's at the effective number of rows, share (1 - share) / error^2; at a share of 0 or 1 the number of
    participants, as if a participant's rows all said the same.

    Args:
        share: The proportion.
        error: Its standard error, a participant's rows held together.
        people: Participants.
        rows: Rows, at least as many.
        level: Of the interval.
    """
    effective = min(float(rows), share * (1 - share) / error**2) if 0 < share < 1 and error > 0 else float(people)
    hits, tail = share * effective, (1 - level) / 2
    low = float(stats.beta.ppf(tail, hits, effective - hits + 1)) if share > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, effective - hits)) if share < 1 else 1.0
    return low, high


def change_interval(change: float, square: float, people: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of a paired difference of proportions, with a width where nothing changed (Agresti and Min 2005).

    Wald's, with half a pair more of those that were right before and after, only before, only after, and never.

    Args:
        change: Mean over participants of what each changed, in [-1, 1].
        square: Mean of the squares.
        people: Participants.
        level: Of the interval.
    """
    more = people + 2
    centre = change * people / more
    half = float(stats.t.ppf((1 + level) / 2, people - 1)) * math.sqrt(
        ((square * people + 1) / more - centre**2) / more
    )
    return max(-1.0, centre - half), min(1.0, centre + half)


def area_interval(area: float, cases: int, others: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of an AUROC that has a width at 0 and at 1 too (Newcombe 2006, method 5).

    Solves |area - a| = z sqrt(a (1 - a) (1 + m (1 - a) / (2 - a) + m a / (1 + a)) / (cases * others)) for a, with
    m = (cases + others) / 2 - 1.

    Args:
        area: The AUROC.
        cases: Participants of class 1.
        others: Participants of class 0.
        level: Of the interval.
    """
    z, m = float(stats.norm.ppf((1 + level) / 2)), (cases + others) / 2 - 1

    def excess(a: float) -> float:
        variance = a * (1 - a) * (1 + m * (1 - a) / (2 - a) + m * a / (1 + a)) / (cases * others)
        return (area - a) ** 2 - z**2 * variance

    tiny = 1e-9
    low = brentq(excess, tiny, area - tiny) if area > tiny and excess(area - tiny) < 0 else 0.0
    high = brentq(excess, area + tiny, 1 - tiny) if area < 1 - tiny and excess(area + tiny) < 0 else 1.0
    return float(low), float(high)
