"""Calibration of a growth chart: is z of people it never saw standard normal, in every group?

Metrics, of everybody, by group (`groups`) and by two kept attributes crossed, in the mean over columns:

- ``z_outside``: share of |z| > 1.96; .05 where the chart is right.
- ``z_mean``: mean of z, with its sign; 0.
- ``z_log_sd``: log standard deviation of z within the group, about each column's own mean, less what few people take off it; 0.
- ``pit_distance``: with PIT = Phi(z), how far the share of people below a centile lies from what the centile says (mean of
  |F(u) - u| over u = .05, .10, ... .95), less what chance makes of it (the mean distance of bootstrap samples from the people
  they are drawn of). It sees what the others do not: columns that are off in opposite directions, and skewness. It understates
  a large distance, by chance's part at most.

Columns of a person go together, so that people (relatives, visits) are what is resampled. Intervals are of the chart as it is:
of a mean of one value a person as in `subgroups`. Those of ``pit_distance`` hold the population's distance, with room: it is no
less than the observed one less the distance of bootstrap samples in 97.5%, since distances add up at most, and no more than the
expected observed one (Jensen), whose upper end is taken.

p asks more than that. A chart that learned a group from m people errs there as the mean of m people does, and enough audited
people find it; that is no fault. The null is that people of training and audited ones are draws of one population: the error
of n audited people is widened by sqrt(1 + n / m). That is right where a group has a place of its own in the chart, and on the
safe side elsewhere. m is as many as the group's share of each level's audited people lets expect, and at most 1 / sum of
w_l^2 / m_l, where a share w_l of the group has a level l that the chart learned from m_l people: a group of one site is known
as its site is.
For means p is Student's, with the larger of the group's own spread between people and everybody's: a few people without
one far out would seem too sure otherwise. For ``pit_distance`` it is how often bootstrap samples lie as far from the people
they are drawn of. q corrects a metric's groups together (`findings_table`).

People of training are no evidence, nor are people who placed a site of their own in the chart: both are left out. Columns
with point masses have no continuous PIT, and are, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import sqrt
from zlib import crc32

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.special import digamma, ndtri
from scipy.stats import t as student_t

from medrep.audit.data import AuditData
from medrep.audit.finding import Finding
from medrep.audit.groups import Grouping, Least, Split, group_participants, measure_group, noted
from medrep.audit.intervals import Z, expansion, participant_codes, permutation_p, sample_weights
from medrep.audit.metrics import ParticipantMean
from medrep.cohort.covariates import Categorical

METRICS = ("z_outside", "z_mean", "z_log_sd", "pit_distance")
_RIGHT = {"z_outside": 0.05, "z_mean": 0.0, "z_log_sd": 0.0}
_COLUMNS = 256  # neighbouring voxels say the same
_LEVELS = np.arange(1, 20) / 20
_DRAWS, _A_TEST, _MOST_DRAWS = 999, 40, 9999
_MOST_CELLS = 100  # of a pair of columns that nobody asked for
_PORTION = 128  # draws at a time
_UNITS = {
    "z_outside": f"share beyond {Z:.2f}; 0.05 is right",
    "z_mean": "mean of z; 0 is right",
    "z_log_sd": "log deviation of z; 0 is right",
    "pit_distance": "of shares below centiles, over chance; interval: of the distance itself",
}


@dataclass(frozen=True, eq=False)
class Calibrated:
    """People's z and how much is known of their groups.

    Attributes:
        z: Of some columns; NaN where nothing is said.
        participants: A code of whom each row is resampled with.
        trained: How many people the chart learned from; 0 where that is not known.
        levels: Of each covariate with levels, from how many people the chart learned each row's level.
        seed: Of every draw.
        note: What a reader has to know of all rows.
    """

    z: Float[np.ndarray, "rows columns"]
    participants: Int[np.ndarray, " rows"]
    trained: int = 0
    levels: tuple[pd.Series, ...] = ()
    seed: int = 0
    note: str = ""

    def trained_in(self, rows: Int[np.ndarray, " group"]) -> float:
        """Return how many people of training tell of a group, 0 where that is not known (the module says how)."""
        if not len(rows) or not self.trained:
            return 0.0
        said = np.isfinite(self.z).any(axis=1)
        expected, most = [], [float(self.trained)]
        for counts in self.levels:
            of_level = counts.index.map(counts.index[said].value_counts()).to_numpy(float)[rows]
            own = counts.iloc[rows]
            learned = np.maximum(own.to_numpy(float), 1e-9)
            expected.append(float((learned / of_level).sum()))
            # Rows of a level: each adds its level's share over its people.
            shares = own.index.map(own.index.value_counts(normalize=True)).to_numpy(float)
            most.append(1 / float((shares / learned).mean()))
        return min(max(expected, default=self.trained * len(rows) / int(said.sum())), *most)


def audit_calibration(
    data: AuditData,
    by: Sequence[Split],
    intersections: Sequence[Sequence[Split]] = (),
    *,
    min_n: int = 20,
    seed: int = 0,
) -> list[Finding]:
    """Measure how far z of people is from standard normal.

    Args:
        data: People whom the chart never saw; its model has the capability ``deviations``.
        by: Columns whose groups are looked at.
        intersections: Columns crossed; pairs of those in ``by`` that the chart keeps are, too.
        min_n: Participants that a group needs.
        seed: Of every draw.
    """
    kept = [split for split in by if split.column not in data.schema.batches]
    asked = {frozenset(split.column for split in splits) for splits in intersections}
    table = data.table.assign(**data.frame)
    sizes = {split.column: len(own.labels) for split, own in zip(kept, group_participants(table, kept), strict=True)}
    pairs = [
        (one, other)
        for one, other in combinations(kept, 2)
        if {one.column, other.column} not in asked and sizes[one.column] * sizes[other.column] <= _MOST_CELLS
    ]
    groupings = group_participants(table, by, [*intersections, *pairs])
    return calibration_findings(_people(data, seed), groupings, min_n=min_n)


def calibration_findings(people: Calibrated, groupings: Sequence[Grouping], *, min_n: int = 20) -> list[Finding]:
    """Return all metrics of everybody and of each group.

    Args:
        people: Whom.
        groupings: Everybody's groups.
        min_n: Participants that a group needs; below, its rows say ``insufficient``.
    """
    groups = [("everybody", np.arange(len(people.z)), "")]
    for grouping in groupings:
        for place, label in enumerate(grouping.labels):
            rows = np.flatnonzero(grouping.codes == place)
            if len(rows) or place not in grouping.missing:
                groups.append((label, rows, grouping.note))
    draws = max(_DRAWS, min(_A_TEST * len(groups), _MOST_DRAWS))
    said = np.isfinite(people.z).any(axis=1)
    whole = _group(people, "everybody", np.flatnonzero(said), None, (min_n, draws))
    found = {"everybody": whole}
    for label, rows, note in groups[1:]:
        own = rows[said[rows]]
        measured = _group(people, label, own, whole, (min_n, draws))
        absent = f"{len(rows) - len(own)} of {len(rows)} rows without z, or of a site that they placed"
        notes = [note, absent if len(own) < len(rows) else ""]
        found[label] = [replace(row, found=noted(row.found, "; ".join(filter(None, notes)))) for row in measured]
    return [row.found for metric in METRICS for rows in found.values() for row in rows if row.found.metric == metric]


@dataclass(frozen=True, eq=False)
class _Measured:
    """A finding, and the standard deviation between people that it stands on; NaN where there is none."""

    found: Finding
    spread: float = float("nan")


def _people(data: AuditData, seed: int) -> Calibrated:
    """Return z of audited people in columns without point masses, at most `_COLUMNS` of them."""
    count = data.model.columns.count
    usable = np.setdiff1d(np.arange(count), data.model.exceptions.masses.columns())
    chosen = usable
    if len(usable) > _COLUMNS:
        chosen = np.sort(np.random.default_rng([seed, 67]).choice(usable, _COLUMNS, replace=False))
    source = data.model.deviations(data.dataset)
    drawn = source.map(lambda part, z: z[:, chosen[(chosen >= part.start) & (chosen < part.stop)] - part.start])
    parts = [z for _, z in drawn]
    z = np.concatenate(parts, axis=1) if parts else np.zeros((len(data.frame), 0))
    levels: list[pd.Series] = []
    for covariate in data.schema.fitted:
        if isinstance(covariate, Categorical):
            name = covariate.declared.name
            own = data.frame[name].astype(str)
            known = {level for level, n in zip(covariate.levels, covariate.counts, strict=True) if n}
            known |= {one.level for one in data.adapted if one.covariate == name}
            z[~own.isin(known).to_numpy()] = np.nan
            counts = data.people_of_training(name)
            levels.append(pd.Series(own.map(counts).fillna(0.0).to_numpy(float), index=own.to_numpy()))
    notes = [f"{len(chosen)} of {len(usable)} columns drawn"] if len(chosen) < len(usable) else []
    notes += [f"{count - len(usable)} columns with shared values left out"] if len(usable) < count else []
    return Calibrated(z, participant_codes(data.participants), data.trained, tuple(levels), seed, "; ".join(notes))


def _group(
    people: Calibrated,
    label: str,
    rows: Int[np.ndarray, " group"],
    whole: "list[_Measured] | None",
    needs: tuple[int, int],
) -> list[_Measured]:
    """Measure a group.

    Args:
        people: Everybody.
        label: The group's.
        rows: Its rows that have z.
        whole: What was found of everybody.
        needs: Participants that are needed, and bootstrap draws.
    """
    least, draws = needs
    z, count = people.z[rows], len(np.unique(people.participants[rows]))
    some = np.isfinite(z).sum(axis=0) >= max(least, 2)
    if count < max(least, 2) or not some.any():
        short = f"{count} of the {least} participants needed" if count < max(least, 2) else "no column of enough people"
        return [_Measured(Finding(metric, label, count, status="insufficient", note=short)) for metric in METRICS]
    kept = np.isfinite(z[:, some]).any(axis=1)
    z, rows = z[:, some][kept], rows[kept]
    known, count = np.isfinite(z), len(np.unique(people.participants[rows]))
    trained = people.trained_in(rows)
    factor = sqrt(1 + count / trained) if trained else 1.0
    about = f"p: over what {trained:.0f} people of training leave" if trained else "people of training are not known"
    values, found = _values(z, known, count), []
    local = Calibrated(z, participant_codes(people.participants[rows]))
    said = "; ".join(filter(None, [about, people.note]))
    for place, metric in enumerate(METRICS[:3]):
        rng = np.random.default_rng([people.seed, crc32(f"{metric} {label}".encode())])
        statistic = ParticipantMean(local.participants, _UNITS[metric], values[metric])
        own = measure_group(metric, label, statistic, np.arange(len(z)), Least(least), draws, rng)
        # Everybody's spread serves a group of few, whose own is told badly.
        spread = own.error * sqrt(count - 1)
        usual = spread if whole is None or np.isnan(whole[place].spread) else max(spread, whole[place].spread)
        error, away = usual / sqrt(count - 1) * factor, abs(own.found.estimate - _RIGHT[metric])
        p = 2 * float(student_t.sf(away / error, count - 1)) if error > 0 else float(away == 0)
        found.append(_Measured(noted(replace(own.found, p=p), said), spread))
    rng = np.random.default_rng([people.seed, crc32(f"pit {label}".encode())])
    return [*found, _Measured(noted(_distance(local, label, draws, factor, rng), said))]


def _values(
    z: Float[np.ndarray, "rows columns"], known: Bool[np.ndarray, "rows columns"], people: int
) -> dict[str, Float[np.ndarray, " rows"]]:
    """Return a value a row of each metric of means; those of the deviation are linearised, so that their mean is the figure."""
    counts = known.sum(axis=1)
    centred = np.where(known, z - np.nanmean(z, axis=0), 0.0)
    # The mean takes as much off as people are few, however many rows they have.
    variance = (centred**2).sum(axis=0) / known.sum(axis=0) * people / (people - 1)
    varies = variance > 0
    # log s of k + 1 normal numbers is off by this in the mean.
    free = people - 1
    off = 0.5 * (digamma(free / 2) - np.log(free / 2))
    log_sd = float((0.5 * np.log(variance[varies])).mean() - off) if varies.any() else float("nan")
    # Columns count alike, whoever lacks them: people who have a column share its weight.
    share = len(z) / (known.sum(axis=0)[varies] * max(int(varies.sum()), 1))
    unit = centred[:, varies] ** 2 / variance[varies]
    influence = np.where(known[:, varies], (unit - unit.sum(axis=0) / known.sum(axis=0)[varies]) * share, 0).sum(axis=1)
    return {
        "z_outside": (np.abs(np.where(known, z, 0)) > Z).sum(axis=1) / counts,
        "z_mean": np.where(known, z, 0).sum(axis=1) / counts,
        "z_log_sd": log_sd + 0.5 * influence,
    }


def _distance(
    people: Calibrated,
    label: str,
    draws: int,
    factor: float,
    rng: np.random.Generator,
) -> Finding:
    """Return how far shares below centiles lie from the centiles, over chance."""
    known = np.isfinite(people.z)
    below = [known & (np.where(known, people.z, np.inf) <= end) for end in ndtri(_LEVELS)]
    inside, has = np.concatenate(below, axis=1).astype(np.float32), known.astype(np.float32)
    levels = np.repeat(_LEVELS, known.shape[1])[None]

    def shares(weights: np.ndarray) -> np.ndarray:
        return np.asarray(weights @ inside / np.tile(np.maximum(weights @ has, 1e-6), len(_LEVELS)))

    seen = shares(np.ones((1, len(known)), dtype=np.float32))
    observed, moved, chance = float(np.abs(seen - levels).mean()), [], []
    for weights in sample_weights(people.participants, draws, rng):
        for start in range(0, len(weights), _PORTION):
            drawn = shares(weights[start : start + _PORTION].astype(np.float32))
            moved.append(np.abs(drawn - levels).mean(axis=1))
            chance.append(np.abs(drawn - seen).mean(axis=1))
    count = int(people.participants.max()) + 1
    by_chance = np.concatenate(chance) * sqrt(count / (count - 1))
    excess = observed - float(by_chance.mean())
    low = max(0.0, observed - float(np.quantile(by_chance, 0.975)))
    high = observed + Z * expansion(count) * float(np.concatenate(moved).std())
    p = permutation_p(observed, by_chance * factor)
    note = f"{_UNITS['pit_distance']}; by chance {by_chance.mean():.4g}"
    return Finding("pit_distance", label, count, excess, min(low, excess), high, p, note=note)
