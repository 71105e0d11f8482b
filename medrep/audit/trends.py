"""A metric along a number: a natural cubic spline beside the bins, so that no edge decides what is seen.

- ``m_trend``, group ``age``: the largest minus the smallest value of the smooth over the middle 90% of people, in the metric's
  unit. Biased upwards like every range; the note gives its mean under exchanged ages. p: of the robust Wald statistic of the
  whole smooth, ages exchanged between participants (DiCiccio and Romano 2017): valid too where the spread changes with age.
  Interval: of the population's range, made as that of a gap (`subgroups`) from pairs of points of the smooth.
- ``m_smooth``, group ``age=30``: the smooth at a few points; bootstrap-t interval over participants at each point.
"""

import math

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from medrep.audit.findings import Finding
from medrep.audit.groups import Grouping
from medrep.audit.measured_groups import noted
from medrep.audit.person_metrics import PersonMean
from medrep.audit.resampling.intervals import LEVEL, permutation_p
from medrep.audit.resampling.relabelling import relabellings, sample_weights
from medrep.audit.resampling.small_samples import expansion, studentised_interval
from medrep.models.splines import natural_spline, spline_knots

DEGREES = 3
_PEOPLE_A_DEGREE = 10
_GRID = 31
_POINTS = 6


def audit_trend(
    metric: str,
    grouping: Grouping,
    statistic: PersonMean,
    min_n: int,
    draws: int,
    permutations: int,
    rng: np.random.Generator,
) -> list[Finding]:
    """Fit the smooth of a value a row along a column of numbers.

    Args:
        metric: Its name in the table; rows are ``{metric}_trend`` and ``{metric}_smooth``.
        grouping: Of the column, with its numbers; NaN where missing.
        statistic: The values.
        min_n: Participants needed, and at least ten for each degree of freedom.
        draws: Bootstrap samples of participants.
        permutations: Exchanges of numbers between participants.
        rng: Of both.
    """
    name, along = grouping.name, grouping.numbers
    if along is None:
        return []
    rows = np.flatnonzero(statistic.present() & np.isfinite(along))
    participants, numbers, values = statistic.participants[rows], along[rows], statistic.values[rows]
    people, distinct = len(np.unique(participants)), len(np.unique(numbers))
    needed = max(min_n, _PEOPLE_A_DEGREE * (DEGREES + 1))
    if people < needed or distinct <= DEGREES:
        short = (
            f"{people} of the {needed} participants needed; {distinct} different values, more than {DEGREES} are needed"
        )
        return [Finding(f"{metric}_trend", name, people, status="insufficient", note=short)]
    low, high = (float(end) for end in np.quantile(numbers, [0.05, 0.95]))
    points = _round_points(low, high)
    places = np.unique(np.r_[np.linspace(low, high, _GRID), points])
    knots = spline_knots(numbers, DEGREES)
    basis, seen = _with_constant(numbers, knots), _with_constant(places, knots)
    fitted, wald = _fit(basis[None], values, participants)
    smooth = seen @ fitted[0]
    anybody = np.zeros(len(rows), dtype=np.int64)
    null = [
        _fit(basis[source], values, participants)
        for source in relabellings(participants, numbers, anybody, permutations, rng)
    ]
    ranges = np.concatenate([np.ptp(coefficients @ seen.T, axis=1) for coefficients, _ in null])
    told = np.searchsorted(places, points)
    one = np.ones((1, len(rows)))
    inverse = _least_squares(basis[None], values, one)[1]
    error = _errors(basis, seen[told], values, participants, one, fitted, inverse)[0]
    # As many as a mean with this leverage would be of: few at the ends.
    stands_on = np.clip(1 / np.einsum("pc,ce,pe->p", seen[told], inverse[0], seen[told]), 2, people)
    fits, spreads = [], []
    for w in sample_weights(participants, draws, rng):
        coefficients, inverses = _least_squares(basis[None], values, w)
        fits.append(coefficients @ seen.T)
        spreads.append(_errors(basis, seen[told], values, participants, w, coefficients, inverses))
    drawn, errors = np.concatenate(fits), np.concatenate(spreads)
    top, bottom = places[int(np.argmax(smooth))], places[int(np.argmin(smooth))]
    trend = Finding(
        f"{metric}_trend",
        name,
        people,
        float(np.ptp(smooth)),
        *_range_interval(smooth, drawn, expansion(people)),
        p=permutation_p(float(wald[0]), np.concatenate([own for _, own in null])),
        note=f"largest at {top:.4g}, smallest at {bottom:.4g}; over {low:.4g} to {high:.4g}; mean by chance {ranges.mean():.4g}",
    )
    absent = len(statistic.values) - len(rows)
    findings = [noted(trend, f"{absent} rows without a value or a number" if absent else "")]
    for k, (point, at) in enumerate(zip(points, told, strict=True)):
        ends = studentised_interval(float(smooth[at]), float(error[k]), drawn[:, at], errors[:, k], float(stands_on[k]))
        findings.append(
            Finding(
                f"{metric}_smooth",
                f"{name}={point:.10g}",
                people,
                float(smooth[at]),
                *ends,
                note=statistic.unit,
            )
        )
    return findings


def _fit(
    basis: Float[np.ndarray, "draws rows columns"],
    values: Float[np.ndarray, " rows"],
    participants: Int[np.ndarray, " rows"],
) -> tuple[Float[np.ndarray, "draws columns"], Float[np.ndarray, " draws"]]:
    """Fit by least squares; return coefficients, and the Wald statistic of all but the constant, participants held together."""
    coefficients, inverse = _least_squares(basis, values, np.ones((1, len(values))))
    residuals = values - np.einsum("drc,dc->dr", basis, coefficients)
    scores = basis * residuals[:, :, None]
    order = np.argsort(participants, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(participants[order]) > 0])
    if len(starts) < len(values):
        scores = np.add.reduceat(scores[:, order], starts, axis=1)
    meat = scores.transpose(0, 2, 1) @ scores
    covariance = (inverse @ meat @ inverse)[:, 1:, 1:]
    slopes = coefficients[:, 1:]
    return coefficients, np.einsum("dc,dce,de->d", slopes, np.linalg.pinv(covariance, hermitian=True), slopes)


def _errors(
    basis: Float[np.ndarray, "rows columns"],
    seen: Float[np.ndarray, "points columns"],
    values: Float[np.ndarray, " rows"],
    participants: Int[np.ndarray, " rows"],
    weights: Float[np.ndarray, "draws rows"],
    coefficients: Float[np.ndarray, "draws columns"],
    inverse: Float[np.ndarray, "draws columns columns"],
) -> Float[np.ndarray, "draws points"]:
    """Return the sandwich errors of the smooth at some points, participants held together; one drawn twice is two."""
    residuals = values - coefficients @ basis.T
    order = np.argsort(participants, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(participants[order]) > 0])
    counts, columns = weights[:, order][:, starts], []
    for point in seen:
        parts = (inverse @ point) @ basis.T * residuals
        own = np.add.reduceat(parts[:, order], starts, axis=1)
        columns.append((counts * own**2).sum(axis=1))
    squares = np.stack(columns, axis=1)
    return np.sqrt(np.where(squares > 1e-24 * float(values @ values), squares, 0.0))


def _least_squares(
    basis: Float[np.ndarray, "#draws rows columns"],
    values: Float[np.ndarray, " rows"],
    weights: Float[np.ndarray, "#draws rows"],
) -> tuple[Float[np.ndarray, "draws columns"], Float[np.ndarray, "draws columns columns"]]:
    """Return weighted least-squares coefficients and the inverse of the normal matrix (of minimum norm where singular)."""
    weighted = (basis * weights[:, :, None]).transpose(0, 2, 1)
    inverse = np.linalg.pinv(weighted @ basis, hermitian=True)
    return np.einsum("dce,de->dc", inverse, weighted @ values), inverse


def _with_constant(numbers: Float[np.ndarray, " rows"], knots: tuple[float, ...]) -> Float[np.ndarray, "rows columns"]:
    return np.column_stack([np.ones(len(numbers)), natural_spline(numbers, knots)])


def _range_interval(
    smooth: Float[np.ndarray, " places"], drawn: Float[np.ndarray, "draws places"], widened: float
) -> tuple[float, float]:
    """Return the interval of the population's range over pairs of places."""
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    deviations = (drawn - smooth) * widened
    covariance = np.atleast_2d(np.cov(deviations, rowvar=False))
    variance = np.diag(covariance)
    error = np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 0))
    difference = smooth[:, None] - smooth[None, :]
    largest = np.zeros(len(drawn))
    for first in range(len(smooth) - 1):
        apart, own = np.abs(deviations[:, [first]] - deviations[:, first + 1 :]), error[first, first + 1 :]
        largest = np.maximum(largest, np.where(own > 0, apart / np.where(own > 0, own, 1), 0).max(axis=1))
    wanted = max(float(np.quantile(largest, (1 + LEVEL) / 2)), z)
    return max(0.0, float((difference - wanted * error).max())), float((difference + z * error).max())


def _round_points(low: float, high: float) -> list[float]:
    """Return at most eight round numbers between two ends, at even steps of 1, 2 or 5 times a power of ten."""
    power = math.floor(math.log10((high - low) / _POINTS))
    for step in (1, 2, 5, 10):
        wide = step * 10.0**power
        first, last = math.ceil(low / wide - 1e-9), math.floor(high / wide + 1e-9)
        if last - first < _POINTS + 2:
            return [round(place * wide, max(0, -power)) for place in range(first, last + 1)]
    return [low, high]
