"""A metric of people by group: who is served worse, by how much, and whether chance alone would show as much.

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

from collections.abc import Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
from scipy import stats

from medrep.audit.findings import Finding
from medrep.audit.groups import Grouping
from medrep.audit.measured_groups import Least, MeasuredGroup, measure_group, noted, with_absent
from medrep.audit.person_metrics import PersonMean, PersonMetric
from medrep.audit.resampling.intervals import LEVEL
from medrep.audit.resampling.label_exchange import Exchange, exchange_labels
from medrep.audit.resampling.small_samples import expansion
from medrep.audit.trends import audit_trend

_A_TEST = 40  # permutations a test at least: so many let the strongest group pass a correction at 5%
_MOST_PERMUTATIONS = 9999


def audit_subgroups(
    metric: str,
    statistic: PersonMetric,
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
        groupings: Everybody's groups (`group_people`).
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
        if grouping.numbers is not None and isinstance(statistic, PersonMean):
            findings += audit_trend(metric, grouping, statistic, least.people, draws, count, rng)
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
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    error = (high - low) / (2 * z)
    deviations = np.stack([group.deviations * expansion(group.found.n) for group in groups])
    largest = np.zeros(deviations.shape[1])
    for first in range(len(groups) - 1):
        apart = np.abs(deviations[first] - deviations[first + 1 :])
        largest = np.maximum(largest, (apart / np.hypot(error[first], error[first + 1 :])[:, None]).max(axis=0))
    wanted = float(np.quantile(largest, (1 + LEVEL) / 2))
    lower = difference - max(wanted, z) * np.hypot(error[:, None], error[None, :])
    return max(0.0, float(lower.max())), float(upper.max())
