"""Metrics by subgroup and along a number: estimates of groups, and the gap between them.

- ``m_trend``, group ``age``: the largest minus the smallest value of the smooth over the middle 90% of people, in the metric's
  unit. Biased upwards like every range; the note gives its mean under exchanged ages. p: of the robust Wald statistic of the
  whole smooth, ages exchanged between participants (DiCiccio and Romano 2017): valid too where the spread changes with age.
  Interval: of the population's range, made as that of a gap (`subgroups`) from pairs of points of the smooth.
- ``m_smooth``, group ``age=30``: the smooth at a few points; bootstrap-t interval over participants at each point.

Rows of a metric ``m`` and a grouping ``sex`` (or ``sex,site``):

- ``m``, group ``sex=F``: the statistic on the group's people. Interval, over the group's participants: bootstrap-t for a mean,
  Korn and Graubard's for a proportion, for an AUROC the wider of the expanded percentile bootstrap and Newcombe's. p: the
  group against everybody else, labels exchanged between participants; the tests that `findings_table` corrects together.
- ``m_gap``, group ``sex``: the largest minus the smallest of the groups with people enough. The observed gap is biased upwards:
  of equal groups, one comes out on top. Its interval is one of the population's gap D and needs no correction for that. Upper
  end: D is some pair's difference, which exceeds the pair's own upper end (from the two groups' intervals; Zou and Donner
  2008) in 2.5%; so the largest upper end over all pairs holds D without a correction for their number. Lower end: simultaneous
  over all pairs (bootstrap of the largest studentised deviation), above D in 2.5%; 0 where no pair differs. p: how often
  exchanged labels give a pair that differs as much, in standard errors (`label_exchange`).
- ``m_gap_excess``, group ``sex``: the observed gap less what equal groups show by chance, the mean range of the groups' bootstrap
  deviations: each with its own size and spread, where exchanged labels would give all the same spread. Zero in the mean where
  there is no gap; it understates a large one, by that mean at most. Its interval is that of the population's gap (its lower
  end reaches down to the estimate), so that a gate that bounds the upper end bounds the gap itself.

Along a column of numbers come ``m_trend`` and ``m_smooth`` (`trends`).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
from jaxtyping import Float, Int

from medrep.audit.finding import Finding
from medrep.audit.groups import Grouping, Least, MeasuredGroup, measure_group, noted, with_absent
from medrep.audit.intervals import LEVEL, Z, expansion, permutation_p, permuted, sample_weights, studentised_interval
from medrep.audit.metrics import ParticipantMean, ParticipantMetric
from medrep.audit.permutation import Exchange, exchange_labels
from medrep.models.linear.design import natural_spline, spline_knots

DEGREES = 3
_PEOPLE_A_DEGREE = 10
_GRID = 31
_POINTS = 6


def _trend(
    metric: str,
    grouping: Grouping,
    statistic: ParticipantMean,
    min_n: int,
    draws: int,
    permutations: int,
    rng: np.random.Generator,
) -> list[Finding]:
    """Fit the smooth of a value a row along a column of numbers; participants needed are ten for each degree of freedom, too."""
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
        for source in permuted(participants, numbers, anybody, permutations, rng)
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
    deviations = (drawn - smooth) * widened
    covariance = np.atleast_2d(np.cov(deviations, rowvar=False))
    variance = np.diag(covariance)
    error = np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 0))
    difference = smooth[:, None] - smooth[None, :]
    largest = np.zeros(len(drawn))
    for first in range(len(smooth) - 1):
        apart, own = np.abs(deviations[:, [first]] - deviations[:, first + 1 :]), error[first, first + 1 :]
        largest = np.maximum(largest, np.where(own > 0, apart / np.where(own > 0, own, 1), 0).max(axis=1))
    wanted = max(float(np.quantile(largest, (1 + LEVEL) / 2)), Z)
    return max(0.0, float((difference - wanted * error).max())), float((difference + Z * error).max())


def _round_points(low: float, high: float) -> list[float]:
    """Return at most eight round numbers between two ends, at even steps of 1, 2 or 5 times a power of ten."""
    power = math.floor(math.log10((high - low) / _POINTS))
    for step in (1, 2, 5, 10):
        wide = step * 10.0**power
        first, last = math.ceil(low / wide - 1e-9), math.floor(high / wide + 1e-9)
        if last - first < _POINTS + 2:
            return [round(place * wide, max(0, -power)) for place in range(first, last + 1)]
    return [low, high]


_A_TEST = 40  # permutations a test at least: so many let the strongest group pass a correction at 5%
_MOST_PERMUTATIONS = 9999


def audit_subgroups(
    metric: str,
    statistic: ParticipantMetric,
    groupings: Sequence[Grouping],
    *,
    least: Least | None = None,
    seed: int = 0,
    draws: int = 1000,
    permutations: int = 999,
) -> list[Finding]:
    """Measure a metric on everybody, by group, between groups and along numbers.

    Args:
        metric: Its name in the table (``reconstruction_error``, ``auroc``).
        statistic: What it is (`person_mean`, `prediction_metrics`); rows as in the groupings.
        groupings: Everybody's groups (`group_participants`).
        least: Participants that a group needs; below, its row says ``insufficient`` and is no part of a gap.
        seed: Of bootstrap and permutations.
        draws: Bootstrap samples.
        permutations: Exchanges of labels, at least; more where so many groups are tested that fewer could not tell.

    Returns:
        A row for everybody; then for each grouping one for every group, its gap and excess, and what is along its numbers.
    """
    least = least or Least()
    present = np.flatnonzero(statistic.present())
    everybody = measure_group(
        metric, "everybody", statistic, present, least, draws, np.random.default_rng([seed, crc32(metric.encode())])
    )
    findings = [with_absent(everybody.found, statistic, np.arange(len(statistic.participants)))]
    tests = sum(len(grouping.labels) for grouping in groupings)
    count = max(permutations, min(_A_TEST * tests, _MOST_PERMUTATIONS))
    for grouping in groupings:
        rng = np.random.default_rng([seed, crc32(f"{metric} {grouping.name}".encode())])
        members = [present[grouping.codes[present] == place] for place in range(len(grouping.labels))]
        groups = [
            replace(measure_group(metric, label, statistic, rows, least, draws, rng), place=place)
            for place, (label, rows) in enumerate(zip(grouping.labels, members, strict=True))
        ]
        enough = [group.place for group in groups if group.enough]
        tested = exchange_labels(statistic, grouping.codes, present, enough, count, rng)
        p = dict(zip(enough, tested.against_rest, strict=True))
        for group in groups:
            row = replace(group.found, p=p.get(group.place, np.nan))
            row = with_absent(row, statistic, np.flatnonzero(grouping.codes == group.place))
            findings.append(noted(row, grouping.note))
        compared = [group for group in groups if group.enough and group.place not in grouping.missing]
        if grouping.missing:
            known = [group.place for group in compared]
            tested = exchange_labels(
                statistic, grouping.codes, present[np.isin(grouping.codes[present], known)], known, count, rng
            )
        left_out = [group.found for group in groups if not group.enough]
        findings += _gap(f"{metric}_gap", grouping.name, compared, left_out, tested)
        if grouping.numbers is not None and isinstance(statistic, ParticipantMean):
            findings += _trend(metric, grouping, statistic, least.people, draws, count, rng)
    return findings


def _gap(
    metric: str, name: str, groups: Sequence[MeasuredGroup], left_out: Sequence[Finding], tested: Exchange
) -> list[Finding]:
    """Return the gap and its excess over chance."""
    people = sum(group.found.n for group in groups)
    few = f"left out, too few: {', '.join(f'{row.group} ({row.n})' for row in left_out)}" if left_out else ""
    if len(groups) < 2:
        row = Finding(metric, name, people, status="insufficient", note="a gap needs two groups with people enough")
        return [noted(row, few), noted(replace(row, metric=f"{metric}_excess"), few)]
    estimates = np.array([group.found.estimate for group in groups])
    chance = np.stack([group.deviations * np.sqrt(group.found.n / (group.found.n - 1)) for group in groups])
    gap, by_chance = float(np.ptp(estimates)), float(np.ptp(chance, axis=0).mean())
    low, high = _gap_interval(groups)
    highest, lowest = (groups[int(pick(estimates))].found.group for pick in (np.argmax, np.argmin))
    about = f"{highest} less {lowest}; {len(groups)} groups; mean by chance {by_chance:.4g}"
    row = noted(Finding(metric, name, people, gap, low, high, tested.largest, note=about), few)
    excess = gap - by_chance
    excess_row = replace(row, metric=f"{metric}_excess", estimate=excess, ci_low=min(low, excess), p=float("nan"))
    return [row, noted(excess_row, "interval: of the gap")]


def _gap_interval(groups: Sequence[MeasuredGroup]) -> tuple[float, float]:
    """Return the interval of the population's gap (the module says how)."""
    value, low, high = (
        np.array([getattr(group.found, field) for group in groups]) for field in ("estimate", "ci_low", "ci_high")
    )
    if np.isnan(low).any():
        return float("nan"), float("nan")
    difference = value[:, None] - value[None, :]
    upper = difference + np.hypot((high - value)[:, None], (value - low)[None, :])
    np.fill_diagonal(upper, 0.0)
    # Half-widths as standard errors: a group of zeros has an interval, and no error.
    error = (high - low) / (2 * Z)
    deviations = np.stack([group.deviations * expansion(group.found.n) for group in groups])
    largest = np.zeros(deviations.shape[1])
    for first in range(len(groups) - 1):
        apart = np.abs(deviations[first] - deviations[first + 1 :])
        largest = np.maximum(largest, (apart / np.hypot(error[first], error[first + 1 :])[:, None]).max(axis=0))
    wanted = float(np.quantile(largest, (1 + LEVEL) / 2))
    lower = difference - max(wanted, Z) * np.hypot(error[:, None], error[None, :])
    return max(0.0, float(lower.max())), float(upper.max())
