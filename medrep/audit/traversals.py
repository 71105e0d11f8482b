"""Latents at their extremes: each is moved to a low and a high value in many people, and what became of their data is measured.

With x_i(q) the data of person i whose latent is at its quantile q, all else of theirs as it is, and m a property of data:

    effect = mean_i (m(x_i(.95)) - m(x_i(.05))) / sd_i m(x_i)

a paired difference in deviations of the property between people, which of a latent that a column follows with correlation r, both
normal, is 3.29 r. Properties are the columns of a table; mean intensity and bright volume of images; volume and surface area of
organs; and readings of every covariate and of the outcome, by predictors that half of these people taught, people whom the model
never saw. What the model itself says of a covariate is never asked. The other half is moved.

Intervals are over people (delta method; the deviation is estimated, too) at the extremes as they are, and of readings over those
who taught the predictor as well. A model's effects are hardly ever exactly 0, so that p is of more than `SMALL` (a small effect,
Cohen 1988), two-sided, corrected over all latents and properties of a kind (Benjamini and Hochberg 1995).

A latent may be independent of a covariate, and moving it still change its reading: along the same columns, people differ for
other reasons. What is told is what a reader of the data would take it for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy import stats

from medrep.audit.data import AuditData
from medrep.audit.finding import Finding
from medrep.audit.intervals import LEVEL, participant_codes
from medrep.audit.predictors import Components, LabelPredictor, Reading, fit_reading, fit_readings, split
from medrep.cohort.grid import Columns, Grid
from medrep.models.base import Posterior

LOW, HIGH = 0.05, 0.95
SMALL = 0.2
"""Deviations between people; an effect of less is a small one."""
MOST_LATENTS, MOST_PEOPLE, MOST_SCANS, MOST_ORGANS, SHOWN = 10, 200, 50, 20, 10
_MIDDLE = 0.5  # of the brightest of the mean image

COLUMNS = (
    "latent",
    "low",
    "high",
    "kind",
    "property",
    "n",
    "at_low",
    "at_high",
    "effect",
    "ci_low",
    "ci_high",
    "p",
    "q",
)
_FEATURE, _MEASURE, _READING = "feature", "measure", "reading"


@dataclass(frozen=True, eq=False)
class Shift:
    """Changes of properties between two extremes, standardised.

    Attributes:
        effect: Mean change over the deviation between people; NaN where nobody differs.
        error: Its standard error over people.
        people: How many there were.
    """

    effect: Float[np.ndarray, " properties"]
    error: Float[np.ndarray, " properties"]
    people: int


def standardised_shift(
    own: Float[np.ndarray, "rows properties"],
    change: Float[np.ndarray, "rows properties"],
    participants: Shaped[np.ndarray, " rows"],
) -> Shift:
    """Return mean change over the deviation between people, with its error by the delta method, a person's rows together.

    Args:
        own: Properties of people as they are; NaN is left out.
        change: From the low extreme to the high one.
        participants: Whose each row is.
    """
    known = np.isfinite(own) & np.isfinite(change)
    count = np.maximum(known.sum(axis=0), 1)
    apart, change = (np.where(known, part, 0.0) for part in (own, change))
    apart = np.where(known, apart - apart.sum(axis=0) / count, 0.0)
    mean, sd = change.sum(axis=0) / count, np.sqrt((apart**2).sum(axis=0) / count)
    varies = sd > 1e-9 * np.abs(own).max(axis=0, initial=0.0, where=known)
    unit = np.where(varies, sd, np.nan)
    effect = mean / unit
    pull = np.where(known, (change - mean) / unit - effect / 2 * ((apart / unit) ** 2 - 1), 0.0)
    who = participant_codes(participants)
    people = int(who.max(initial=-1)) + 1
    sums = np.zeros((people, own.shape[1]))
    np.add.at(sums, who, pull)
    error = np.sqrt((sums**2).sum(axis=0) * people / max(people - 1, 1)) / count
    return Shift(effect, error, people)


@dataclass(frozen=True)
class Measures:
    """Properties of images that need nobody to read them.

    Attributes:
        names: Of each, with its unit.
        columns: Columns of the data.
        organs: Whether these are distances to surfaces, mm.
        bright: Of images: the value above which a voxel counts into the volume.
    """

    names: tuple[str, ...]
    columns: Columns
    organs: bool
    bright: float = 0.0

    @classmethod
    def of_columns(cls, columns: Columns, data: Float[np.ndarray, "people columns"], *, organs: bool) -> "Measures":
        """Return what is measured of data of some columns; nothing without a grid."""
        if columns.grid is None:
            return cls((), columns, organs=False)
        if organs:
            structures = [f"{name} " for name in columns.structures] or [""]
            return cls(
                tuple(f"{one}{what}" for one in structures for what in ("volume, mm3", "surface area, mm2")),
                columns,
                organs,
            )
        bright = _MIDDLE * float(np.nanquantile(_means(data), HIGH))
        return cls(("mean intensity", f"volume brighter than {bright:.4g}, mm3"), columns, organs, bright)

    def of(self, data: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people measures"]:
        """Return every measure of everybody."""
        grid = self.columns.grid
        if grid is None:
            return np.zeros((len(data), 0))
        if self.organs:
            return np.stack([organ_measures(np.asarray(row, float), grid) for row in data])
        inside = (data > self.bright).sum(axis=1) * float(np.prod(grid.spacing))
        return np.column_stack([_means(data.T), inside]).astype(float)


def organ_measures(row: Float[np.ndarray, " columns"], grid: Grid) -> Float[np.ndarray, " measures"]:
    """Return volume, mm3, and surface area, mm2, of every structure of a person; of a flat grid area, mm2, times its depth.

    Args:
        row: Signed distances, mm, negative inside; a grid a structure.
        grid: Of each.
    """
    levels, voxel, step = row.reshape(-1, *grid.shape), float(np.prod(grid.spacing)), max(grid.spacing)
    found = []
    for level in levels:
        slopes = [
            np.gradient(level, edge, axis=axis) for axis, edge in enumerate(grid.spacing) if level.shape[axis] > 1
        ]
        steep = np.sqrt(np.sum(np.square(slopes), axis=0))
        # The volume between two levels next to the surface is its area times how far they are apart.
        near = np.clip(1 - np.abs(level) / step, 0, 1) / step
        found += [np.clip(0.5 - level / step, 0, 1).sum() * voxel, (near * steep).sum() * voxel]
    return np.array(found)


@dataclass(frozen=True, eq=False)
class _Reader:
    """Predictor of one covariate or outcome, and how well it reads."""

    name: str
    reading: Reading

    @property
    def predictor(self) -> LabelPredictor:
        assert self.reading.predictor is not None  # noqa: S101 - only asked of readers who are able
        return self.reading.predictor

    @property
    def properties(self) -> list[str]:
        """Names of what is read: the number, or each level; of two levels the second."""
        levels = self.predictor.levels
        return [f"{self.name}={level}" for level in levels[1 if len(levels) == 2 else 0 :]] or [self.name]

    def shift(self, own: np.ndarray, change: Float[np.ndarray, "readers rows properties"], who: np.ndarray) -> Shift:
        """Return changes of the readings; the error counts who taught the predictor, too."""
        each = [standardised_shift(*pair, who) for pair in zip(own, change, strict=True)]
        taught = np.array(
            [self.predictor.teaching_error(figures) for figures in np.array([one.effect for one in each]).T]
        )
        return Shift(each[0].effect, np.hypot(each[0].error, taught), each[0].people)


@dataclass(frozen=True, eq=False)
class Traversals:
    """Result of moving latents to their extremes.

    Attributes:
        table: Of each latent the strongest features, every measure and every reading that is able: `COLUMNS`.
        findings: ``traversal_reading`` of each covariate and of the outcome: the largest effect of any latent on its reading.
    """

    table: pd.DataFrame
    findings: list[Finding]


def audit_traversals(
    data: AuditData,
    latents: Posterior,
    outcome: "tuple[pd.Series, bool] | None" = None,
    *,
    min_n: int = 20,
    seed: int = 0,
) -> Traversals:
    """Move each latent to its extremes in half of the people, and measure what becomes of their data.

    Args:
        data: People whom the model never saw; its model has the capability ``latents``.
        latents: Theirs, as the model's `posterior` has them; of many the widest `MOST_LATENTS` are moved.
        outcome: What the data are for, and whether it is a number; None: none is named.
        min_n: Fewest participants who are moved.
        seed: Of the halves, the predictors and who is moved.
    """
    dataset, (means, _) = data.dataset, latents
    taught, rest = split(dataset, seed)
    organs = "organs" in data.model.capabilities  # each takes a second or so
    most = MOST_ORGANS if organs else MOST_PEOPLE if dataset.columns.grid is None else MOST_SCANS
    moved = np.sort(np.random.default_rng(seed).permutation(rest)[:most])
    people = len(np.unique(dataset.units[moved]))
    names = [*data.schema.names, *([] if outcome is None else [str(outcome[0].name)])]
    if people < max(min_n, 2):
        few = f"{people} people could be moved, {max(min_n, 2)} are needed"
        return Traversals(
            pd.DataFrame(columns=list(COLUMNS)),
            [Finding("traversal_reading", name, people, status="insufficient", note=few) for name in names],
        )
    readings = fit_readings(dataset, taught, rest, seed)
    if outcome is not None:
        readings[str(outcome[0].name)] = _outcome_reading(data, outcome, (taught, rest), seed)
    predictors = [_Reader(name, one) for name, one in readings.items() if one.able and one.predictor is not None]
    spread = means.var(axis=0)
    chosen = np.sort(np.argsort(-spread, kind="stable")[:MOST_LATENTS])
    chosen = chosen[spread[chosen] > 0]
    ends = {int(j): np.quantile(means[:, j], (LOW, HIGH)) for j in chosen}
    walk = _walk(data, moved, means[moved], ends, predictors)
    table = _tested(pd.concat(list(walk), ignore_index=True) if ends else pd.DataFrame(columns=list(COLUMNS)))
    findings = [_finding(name, reading, table, people) for name, reading in readings.items()]
    return Traversals(_strongest(table), findings)


def _outcome_reading(
    data: AuditData,
    outcome: tuple[pd.Series, bool],
    rows: tuple[Int[np.ndarray, " taught"], Int[np.ndarray, " judged"]],
    seed: int,
) -> Reading:
    components = Components.fit(data.data[rows[0]], seed)
    return fit_reading(components, data.dataset, outcome, rows, seed)


def _walk(
    data: AuditData,
    rows: Int[np.ndarray, " moved"],
    own: Float[np.ndarray, "moved latents"],
    ends: Mapping[int, Float[np.ndarray, "2"]],
    predictors: Sequence[_Reader],
) -> Iterator[pd.DataFrame]:
    """Yield a table of every latent that is moved."""
    people, who = data.dataset.take(rows), data.dataset.units[rows]
    values, columns = np.asarray(people.values), people.columns
    measures = Measures.of_columns(columns, values, organs="organs" in data.model.capabilities)
    features = np.arange(columns.count) if columns.grid is None else np.zeros(0, int)
    labels = [columns.names[k] if columns.names else f"column {k}" for k in features]
    before = [reader.predictor.scales(values) for reader in predictors]
    as_they_are = np.concatenate([np.asarray(values[:, features], float), measures.of(values)], axis=1)
    known = [(_FEATURE, label) for label in labels] + [(_MEASURE, name) for name in measures.names]

    def properties(moved: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        own = np.concatenate([np.asarray(moved[:, features], float), measures.of(moved)], axis=1)
        return own, [reader.predictor.scales(moved) for reader in predictors]

    latents = (_with(own, latent, value) for latent, both in ends.items() for value in both)
    each = data.model.with_latents(people, latents)
    for latent, (low, high) in ends.items():
        (at_low, read_low), (at_high, read_high) = properties(next(each)), properties(next(each))
        parts = [(known, standardised_shift(as_they_are, at_high - at_low, who), at_low, at_high)]
        for reader, own_scale, one, other in zip(predictors, before, read_low, read_high, strict=True):
            told = [(_READING, name) for name in reader.properties]
            parts.append((told, reader.shift(own_scale, other - one, who), one[0], other[0]))
        for told, shift, one, other in parts:
            if told:
                yield pd.DataFrame(
                    {
                        "latent": latent,
                        "low": low,
                        "high": high,
                        "kind": [kind for kind, _ in told],
                        "property": [name for _, name in told],
                        "n": shift.people,
                        "at_low": _means(one),
                        "at_high": _means(other),
                        "effect": shift.effect,
                        "error": shift.error,
                    }
                )


def _means(values: Float[np.ndarray, "rows properties"]) -> Float[np.ndarray, " properties"]:
    """Return means over what is there; NaN where nothing is."""
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    sums = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def _with(own: Float[np.ndarray, "people latents"], latent: int, value: float) -> Float[np.ndarray, "people latents"]:
    there = own.copy()
    there[:, latent] = value
    return there


def _tested(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with intervals, p and q; properties in which nobody differs are left out."""
    table = table[table["effect"].notna()] if len(table) else table.assign(error=[])
    if table.empty:
        return table
    freedom = table["n"].to_numpy(float) - 1
    effect, error = table["effect"].to_numpy(float), np.maximum(table["error"].to_numpy(float), 1e-12)
    half = stats.t.ppf((1 + LEVEL) / 2, freedom) * error
    p = stats.t.sf((np.abs(effect) - SMALL) / error, freedom) + stats.t.sf((np.abs(effect) + SMALL) / error, freedom)
    table = table.assign(ci_low=effect - half, ci_high=effect + half, p=np.minimum(p, 1.0))
    table["q"] = table.groupby("kind")["p"].transform(lambda own: stats.false_discovery_control(own, method="bh"))
    return table


def _strongest(table: pd.DataFrame) -> pd.DataFrame:
    """Return of each latent everything but features, and of these the strongest; in the order of latents."""
    rank = table["effect"].abs().groupby([table["latent"], table["kind"]]).rank(ascending=False, method="first")
    kept = table[(table["kind"] != _FEATURE) | (rank <= SHOWN)]
    order = kept.assign(place=-kept["effect"].abs()).sort_values(["latent", "kind", "place"], kind="stable")
    return order[list(COLUMNS)].reset_index(drop=True)


def _finding(name: str, reading: Reading, table: pd.DataFrame, people: int) -> Finding:
    """Return the largest effect on a reading; its interval holds for the largest of all latents and levels (Bonferroni)."""
    own = (
        table[(table["kind"] == _READING) & (table["property"].str.partition("=")[0] == name)] if len(table) else table
    )
    if not reading.able or own.empty:
        return Finding("traversal_reading", name, people, status="insufficient", note=reading.note)
    effect, error = own["effect"].abs().to_numpy(float), own["error"].to_numpy(float)
    half = float(stats.t.ppf(1 - (1 - LEVEL) / 2 / len(own), people - 1)) * error
    first = own.iloc[int(effect.argmax())]
    note = (
        f"largest effect of {own['latent'].nunique()} latents, in deviations of the reading between people: latent"
        f" {first['latent']} from {first['low']:.3g} to {first['high']:.3g} takes the reading of {first['property']} from"
        f" {first['at_low']:.3g} to {first['at_high']:.3g}; p: of more than {SMALL:g}; {reading.note}"
    )
    low, high = max(float((effect - half).max()), 0.0), float((effect + half).max())
    p = min(1.0, float(own["p"].min()) * len(own))
    return Finding("traversal_reading", name, people, float(effect.max()), low, high, p, note=note)
