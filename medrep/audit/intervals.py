"""Intervals by resampling participants, and intervals that hold for small groups."""

import math
from collections.abc import Callable, Iterator
from itertools import groupby

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats
from scipy.optimize import brentq

LEVEL = 0.95
Z = float(stats.norm.ppf((1 + LEVEL) / 2))


def student(freedom: int | float) -> float:
    """Return what an error is multiplied with for half an interval by Student's t."""
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


def participant_codes(participants: Shaped[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Return the number of each row's participant, from 0 on in the order of their names."""
    return np.unique(np.asarray(participants).astype(str), return_inverse=True)[1]


def resampled_rows(
    people: int, draws: int, rng: np.random.Generator, groups: Shaped[np.ndarray, " people"] | None = None
) -> list[Int[np.ndarray, " rows"]]:
    """Return rows of bootstrap samples.

    Args:
        people: Number of rows.
        draws: Number of samples.
        rng: Of the draw.
        groups: Rows of one group (sessions of a participant) are drawn together; each row for itself by default.
    """
    if groups is None:
        return list(rng.integers(people, size=(draws, people)))
    _, codes = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(codes == code) for code in range(int(codes.max()) + 1)]
    drawn = rng.integers(len(members), size=(draws, len(members)))
    return [np.concatenate([members[code] for code in own]) for own in drawn]


def bootstrap(
    statistic: Callable[[Int[np.ndarray, " rows"]], float],
    people: int,
    draws: int,
    rng: np.random.Generator,
    groups: Shaped[np.ndarray, " people"] | None = None,
) -> Float[np.ndarray, " draws"]:
    """Return a statistic on resampled people; samples on which it is not defined (NaN) are left out."""
    values = np.array([statistic(rows) for rows in resampled_rows(people, draws, rng, groups)], dtype=float)
    return values[np.isfinite(values)]


def percentile_interval(values: Float[np.ndarray, " draws"], level: float = LEVEL) -> tuple[float, float]:
    """Return the interval that holds ``level`` of the draws; NaN where there are no draws."""
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def permutation_p(observed: float, null: Float[np.ndarray, " draws"]) -> float:
    """Return the share of a null at or above the observed value, the observed one counted in (never 0)."""
    return float((1 + np.count_nonzero(null >= observed - 1e-12)) / (1 + len(null)))


def random_halves(
    people: Shaped[np.ndarray, " people"], count: int, rng: np.random.Generator
) -> list[Int[np.ndarray, " rows"]]:
    """Return rows of random halves of participants, in order.

    The spread of a figure over them is its standard error on everybody (delete-half jackknife; Shao and Wu 1989), also where it
    is not smooth, or would take a person drawn twice for two.

    Args:
        people: Participant of each row.
        count: How many halves.
        rng: Of the draw.
    """
    _, codes = np.unique(people, return_inverse=True)
    size = int(codes.max(initial=-1)) + 1
    return [np.flatnonzero(rng.permutation(size)[codes] % 2 == 0) for _ in range(count)]


def jackknife_error(figures: Float[np.ndarray, " groups"]) -> float:
    """Return the standard error of a figure by the delete-group jackknife; 0 where there is no second group.

    Args:
        figures: What it is without each of some groups of people of one size.
    """
    return float(np.sqrt((len(figures) - 1) * np.var(figures))) if len(figures) > 1 else 0.0


_CELLS = 1_000_000  # of a draws x rows matrix, at a time


def sample_weights(
    participants: Int[np.ndarray, " rows"], draws: int, rng: np.random.Generator
) -> Iterator[Float[np.ndarray, "some rows"]]:
    """Yield how often each row is in samples of participants with replacement, some draws at a time."""
    owners, codes = np.unique(participants, return_inverse=True)
    people = len(owners)
    for size in _portions(draws, len(participants)):
        drawn = rng.integers(people, size=(size, people)) + people * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * people).reshape(size, people)[:, codes].astype(float)


def permuted(
    participants: Int[np.ndarray, " rows"],
    labels: Shaped[np.ndarray, " rows"],
    strata: Int[np.ndarray, " rows"],
    count: int,
    rng: np.random.Generator,
) -> Iterator[Int[np.ndarray, "some rows"]]:
    """Yield for each row the row whose label it gets when labels are exchanged between participants, some draws at a time.

    Where all rows of a participant have one label, labels go from any participant to any other of the same strata. Otherwise
    (age over sessions) participants exchange their whole series of labels with others of as many rows and the same strata.

    Args:
        participants: A code of the participant of each row.
        labels: What is exchanged; only whether it varies within a participant is looked at.
        strata: Participants exchange only with others whose rows lie in the same strata.
        count: Number of draws.
        rng: Of the draws.
    """
    order = np.argsort(participants, kind="stable")
    series = [np.array(list(rows)) for _, rows in groupby(order, key=lambda row: participants[row])]
    fixed = all((labels[rows] == labels[rows[0]]).all() for rows in series if len(rows) > 1)
    alike: dict[tuple[int, ...], list[np.ndarray]] = {}
    for rows in series:
        own = strata[rows].tolist()
        alike.setdefault(tuple(sorted(set(own))) if fixed else tuple(own), []).append(rows)
    for size in _portions(count, len(participants)):
        source = np.tile(np.arange(len(participants)), (size, 1))
        for members in alike.values():
            places = rng.permuted(np.tile(np.arange(len(members)), (size, 1)), axis=1)
            if fixed:
                first = np.array([rows[0] for rows in members])
                lengths = [len(rows) for rows in members]
                source[:, np.concatenate(members)] = np.repeat(first[places], lengths, axis=1)
            else:
                block = np.stack(members)
                source[:, block.ravel()] = block[places].reshape(size, -1)
        yield source


def _portions(count: int, rows: int) -> list[int]:
    most = max(1, _CELLS // max(1, rows))
    return [min(most, count - start) for start in range(0, count, most)]


_SOUND = 0.99  # of samples have a spread
_FEWEST = 20


def expansion(people: int | float) -> float:
    """Return by how much a bootstrap of n people is too narrow: t(n - 1) / z * sqrt(n / (n - 1)) (Hesterberg 2015)."""
    return student(people - 1) / Z * math.sqrt(people / (people - 1))


def _expanded_level(people: int | float) -> float:
    """Return the level at which a normal interval is wider by `expansion`."""
    return float(1 - 2 * stats.norm.cdf(-Z * expansion(people)))


def expanded_interval(values: Float[np.ndarray, " draws"], people: int | float) -> tuple[float, float]:
    """Return the percentile interval of bootstrap draws at the level that expands it to n people (`expansion`)."""
    return percentile_interval(values, _expanded_level(people))


def studentised_interval(
    estimate: float,
    error: float,
    values: Float[np.ndarray, " draws"],
    errors: Float[np.ndarray, " draws"],
    people: int | float,
    *,
    widened: bool = True,
) -> tuple[float, float]:
    """Return the bootstrap-t interval: estimate - q * error, q the quantiles of (value - estimate) / error over draws.

    Second-order accurate, so that the skewness of errors and deviations costs little coverage (Efron and Tibshirani 1993,
    ch. 12). What it still costs where few people hide the long tail (of lognormal errors 91% are held at n = 20, 93% at 50) is
    made up for by the `_expanded_level` of half as many; that of 20 serves fewer, too, where a further quantile would be one
    of samples without a spread.

    Args:
        estimate: On the people themselves.
        error: Its standard error; 0 where there is nothing to studentise by.
        values: On bootstrap samples.
        errors: Their standard errors. Where more than 1% of them are 0 (nearly all values are tied), the interval is the
            expanded one of percentiles.
        people: Participants, or as many as the figure stands on.
        widened: As said; otherwise the plain bootstrap-t.
    """
    sound = errors > 0
    if not error > 0 or sound.mean() < _SOUND:
        return expanded_interval(values, people)
    own = _expanded_level(max(people / 2, _FEWEST)) if widened else LEVEL
    low, high = percentile_interval((values[sound] - estimate) / errors[sound], own)
    return estimate - high * error, estimate - low * error


def share_interval(share: float, error: float, people: int | float, rows: int) -> tuple[float, float]:
    """Return the interval of a proportion that has a width at 0 and at 1 too (Korn and Graubard 1998).

    Clopper and Pearson's at the effective number of rows, share (1 - share) / error^2; at a share of 0 or 1 the number of
    participants, as if a participant's rows all said the same.

    Args:
        share: The proportion.
        error: Its standard error, a participant's rows held together.
        people: Participants, or as many as the share stands on.
        rows: Rows, at least as many.
    """
    effective = min(float(rows), share * (1 - share) / error**2) if 0 < share < 1 and error > 0 else float(people)
    hits, tail = share * effective, (1 - LEVEL) / 2
    low = float(stats.beta.ppf(tail, hits, effective - hits + 1)) if share > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, effective - hits)) if share < 1 else 1.0
    return low, high


def change_interval(change: float, square: float, people: int) -> tuple[float, float]:
    """Return the interval of a paired difference of proportions, with a width where nothing changed (Agresti and Min 2005).

    Wald's, with half a pair more of those that were right before and after, only before, only after, and never.

    Args:
        change: Mean over participants of what each changed, in [-1, 1].
        square: Mean of the squares.
        people: Participants.
    """
    more = people + 2
    centre = change * people / more
    half = student(people - 1) * math.sqrt(((square * people + 1) / more - centre**2) / more)
    return max(-1.0, centre - half), min(1.0, centre + half)


def joined_interval(
    one: tuple[float, float, float], other: tuple[float, float, float], correlation: float = 0.0
) -> tuple[float, float]:
    """Return the interval of the difference of two figures from the ends of theirs (Zou 2007, Zou and Donner 2008).

    Where a figure has a width at the end of its range, so has the difference.

    Args:
        one: Lower end, estimate and upper end.
        other: The same of what is taken off.
        correlation: Of the two estimates.
    """
    (a, x, b), (c, y, d) = one, other
    below, above = (x - a, d - y), (b - x, y - c)
    lengths = [math.sqrt(max(p**2 + q**2 - 2 * correlation * p * q, 0.0)) for p, q in (below, above)]
    return x - y - lengths[0], x - y + lengths[1]


def area_interval(area: float, cases: int, others: int) -> tuple[float, float]:
    """Return the interval of an AUROC that has a width at 0 and at 1 too (Newcombe 2006, method 5).

    Solves |area - a| = z sqrt(a (1 - a) (1 + m (1 - a) / (2 - a) + m a / (1 + a)) / (cases * others)) for a, with
    m = (cases + others) / 2 - 1.

    Args:
        area: The AUROC.
        cases: Participants of class 1.
        others: Participants of class 0.
    """
    m = (cases + others) / 2 - 1

    def excess(a: float) -> float:
        variance = a * (1 - a) * (1 + m * (1 - a) / (2 - a) + m * a / (1 + a)) / (cases * others)
        return (area - a) ** 2 - Z**2 * variance

    tiny = 1e-9
    low = brentq(excess, tiny, area - tiny) if area > tiny and excess(area - tiny) < 0 else 0.0
    high = brentq(excess, area + tiny, 1 - tiny) if area < 1 - tiny and excess(area + tiny) < 0 else 1.0
    return float(low), float(high)
