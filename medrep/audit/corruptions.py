"""Corruptions: what becomes of people's own scans in a model where they are blurred, noisy, bent, coarse or moved.

Half of the people (one scan each) teach a linear reader of each label and calibrate a shift gate, both with clean scans. Scans of
the others, at most 60, are corrupted on the model's grid, at four strengths of each kind, with the same draws at each strength:

- `blur`: Gaussian, its deviation in voxels (MONAI's GaussianSmooth);
- `noise`: Gaussian, its deviation as a share of the 99th percentile of magnitudes (RandGaussianNoise);
- `gamma`: the exponent of intensities between the scan's own ends (AdjustContrast);
- `resolution`: edges of voxels, in edges of the grid's, averaged and brought back linearly (RandSimulateLowResolution);
- `motion`: MONAI has none of a head that moves. Lines of k-space are acquired in eight portions along the second axis, each with
  the head at a place of its own, whose deviation is so many voxels along each axis: a linear phase of these lines (Zaitsev,
  Maclaren and Herbst 2015). In the portion of the lowest frequency it is where it was, so that nothing is moved as a whole.

Every figure is of the same people as they are and corrupted, so that intervals are of paired differences. Corruptions come after
preprocessing, in the model's units: what a scanner does before is registered and brought to scale, too, and less of it is left.

A reconstruction error need not grow: blur takes away noise that no model draws, so that slightly blurred scans fit better than
clean ones. Whoever watches errors alone does not see it, the shift gate does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32
from scipy import fft

from medrep.audit.data import AuditData
from medrep.audit.finding import Finding
from medrep.audit.holdout_split import FEWEST, HoldoutSplit, Probing
from medrep.audit.intervals import Z, sample_weights, share_interval
from medrep.audit.linear_reader import Reading, TaughtColumns, read_others, reader_weights
from medrep.audit.means import mean_interval
from medrep.audit.utility import first_rows
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.cohort.image_quality import STATISTICS, image_statistics
from medrep.models.shift import MIN_N, RATE, ShiftGate, scanner_of

STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "blur": (0.25, 0.5, 1.0, 2.0),
    "noise": (0.01, 0.03, 0.1, 0.2),
    "gamma": (1.05, 1.1, 1.25, 1.5),
    "resolution": (1.1, 1.25, 1.5, 2.0),
    "motion": (0.1, 0.25, 0.5, 1.0),
}
"""Kind -> strengths, the mildest first."""
NOTHING: Mapping[str, float] = {"blur": 0.0, "noise": 0.0, "gamma": 1.0, "resolution": 1.0, "motion": 0.0}
"""Kind -> the strength that leaves scans as they are."""
METRICS = ("corruption_error", "corruption_deviation", "corruption_moved", "corruption_flagged")
READ = ("corruption_read", "corruption_read_change", "corruption_bias")
CLEAN = "clean"
_MOST, _DRAWS, _PORTIONS, _CONSTANT = 60, 1000, 8, 1e-9

Box = Float32[np.ndarray, "x y z"]


def corrupted(volume: Box, kind: str, strength: float, seed: int) -> Box:
    """Corrupt a volume.

    Args:
        volume: On the model's grid.
        kind: Of `STRENGTHS`.
        strength: In the unit of the kind; at that of `NOTHING` the volume is returned as it is.
        seed: Of what is drawn; the same draws serve every strength.
    """
    if strength == NOTHING[kind]:
        return volume
    if kind == "motion":
        return _moved(volume, strength, seed)
    from monai.transforms import AdjustContrast, GaussianSmooth, RandGaussianNoise, RandSimulateLowResolution  # seconds

    ways: dict[str, Callable[[], object]] = {
        "blur": lambda: GaussianSmooth(sigma=strength),
        "noise": lambda: RandGaussianNoise(
            prob=1.0, std=strength * float(np.percentile(np.abs(volume), 99)), sample_std=False
        ).set_random_state(seed=seed),
        "gamma": lambda: AdjustContrast(gamma=strength),
        "resolution": lambda: RandSimulateLowResolution(
            prob=1.0, downsample_mode="area", zoom_range=(1 / strength, 1 / strength)
        ),
    }
    transform: Any = ways[kind]()
    return np.ascontiguousarray(np.asarray(transform(volume[None]))[0], dtype=np.float32)


def _moved(volume: Box, strength: float, seed: int) -> Box:
    places = strength * np.random.default_rng(seed).normal(size=(_PORTIONS, 3))
    lines = fft.fftfreq(volume.shape[1])
    portion = np.minimum(((lines + 0.5) * _PORTIONS).astype(int), _PORTIONS - 1)
    places -= places[portion[0]]
    along = np.meshgrid(*(fft.fftfreq(length) for length in volume.shape), indexing="ij", sparse=True)
    shift = sum(
        wave * places[portion, axis][None, :, None] for axis, wave in enumerate(along)
    )  # cycles, of every wave by where the head is while its line is acquired
    waves = fft.fftn(volume) * np.exp(-2j * np.pi * shift)
    return np.ascontiguousarray(fft.ifftn(waves).real, dtype=np.float32)


def corrupted_rows(
    rows: Float[np.ndarray, "people columns"], columns: Columns, kind: str, strength: float, seed: int
) -> Float[np.ndarray, "people columns"]:
    """Corrupt people's scans, given as rows; cells that are missing stay so.

    Args:
        rows: As the model takes them.
        columns: Voxels of a grid.
        kind: Of `STRENGTHS`.
        strength: In its unit.
        seed: Of what is drawn of each person, by their place.
    """
    found = np.empty_like(rows)
    for place, row in enumerate(rows):
        box = corrupted(_box(row, columns), kind, strength, seed + place)
        found[place] = np.where(np.isfinite(row), columns.inside(box), row)
    return found


def _box(row: np.ndarray, columns: Columns) -> Box:
    outside = 0.0 if columns.mask is None else columns.mask.background or 0.0
    filled = np.nan_to_num(np.asarray(row, np.float32), copy=True, nan=outside)
    return np.ascontiguousarray(columns.box(filled, outside))


@dataclass(frozen=True, eq=False)
class _Seen:
    """Some people's scans as a model sees them.

    Attributes:
        error: Reconstruction error.
        deviation: As scores have it.
        statistics: Of the image, and both of these.
        outside: Share of columns whose z is beyond 1.96; None where the model tells none.
        tables: What labels are read from, by name.
    """

    error: Float[np.ndarray, " people"]
    deviation: Float[np.ndarray, " people"]
    statistics: pd.DataFrame
    outside: "Float[np.ndarray, ' people'] | None"
    tables: dict[str, Float[np.ndarray, "people _"]]

    @classmethod
    def of(cls, data: AuditData, people: Dataset) -> "_Seen":
        scores = data.model.scores(people)
        boxes = [image_statistics(_box(row, data.model.columns)) for row in people.values]
        statistics = pd.DataFrame(boxes, people.covariates.index, list(STATISTICS)).assign(
            reconstruction_error=scores.reconstruction_error, deviation=scores.deviation
        )
        tables = {"exported": data.model.remove(people, data.target)[:, data.whole]}
        if scores.latents.shape[1]:
            tables["latents"] = scores.latents
        outside = _outside(data, people) if "deviations" in data.model.capabilities else None
        return cls(scores.reconstruction_error, scores.deviation, statistics, outside, tables)


def _outside(data: AuditData, people: Dataset) -> Float[np.ndarray, " people"]:
    """Return the share of each person's columns whose z is beyond 1.96, of those that have one."""
    beyond, known = np.zeros(len(people)), np.zeros(len(people))
    for _, (far, finite) in data.model.deviations(people).map(lambda _, z: (np.abs(z) > Z, np.isfinite(z))):
        beyond += far.sum(axis=1)
        known += finite.sum(axis=1)
    return beyond / np.maximum(known, 1)


@dataclass(frozen=True, eq=False)
class _Label:
    """One label: its halves, and of each table what readers say of clean scans, and how other scans are read."""

    split: HoldoutSplit
    columns: dict[str, TaughtColumns]
    weights: dict[str, np.ndarray]
    clean: dict[str, np.ndarray]

    def read(self, table: str, rows: np.ndarray) -> Float[np.ndarray, "test readers outputs"]:
        """Return what readers say of the people who are read."""
        told = read_others(self.columns[table], self.weights[table], rows)
        return told[self.split.test - len(self.columns[table].table)]


def audit_corruptions(
    data: AuditData, outcome: "tuple[pd.Series, bool] | None" = None, *, min_n: int = 20, seed: int = 0
) -> list[Finding]:
    """Corrupt people's own scans and measure what becomes of them.

    Args:
        data: People whom the model never saw, whose columns are voxels.
        outcome: A value a row, missing where it is not known, and whether it is a number; None: none is named.
        min_n: Fewest people who are corrupted.
        seed: Of halves, samples and corruptions.

    Returns:
        Of each kind and strength (``blur/2``) ``corruption_error`` and ``corruption_deviation`` (mean change of scores),
        ``corruption_outside`` (of growth charts, change of the share of z beyond 1.96), ``corruption_moved`` (how far people are
        from where they are clean) and ``corruption_flagged`` (share that a shift gate
        rejects); and of each label in what is handed out, and in the latents (``blur/2 & exported/age``), ``corruption_read``,
        ``corruption_read_change`` and ``corruption_bias``.
    """
    rng = np.random.default_rng(seed)
    first = rng.permutation(first_rows(data.participants))
    half = len(first) // 2
    judged, teach = np.sort(first[:half][:_MOST]), np.sort(first[half:])
    if len(judged) < min_n:
        why = f"{len(judged)} people whose scans are corrupted, {min_n} are needed"
        return [Finding(metric, CLEAN, len(judged), status="insufficient", note=why) for metric in METRICS]
    taught, people = data.dataset.take(teach), data.dataset.take(judged)
    teachers, clean = _Seen.of(data, taught), _Seen.of(data, people)
    gate = _gate(data, teachers, taught)
    labels, found = {}, list[Finding]()
    asked = {name: (data.frame[name], data.continuous(name)) for name in data.schema.names}
    if outcome is not None:
        asked[str(outcome[0].name)] = outcome
    rows = np.concatenate([teach, judged])
    for name, (values, continuous) in asked.items():
        split = _halves(values.iloc[rows], len(teach), continuous, min_n, seed)
        if split.too_few:
            found.append(Finding(READ[0], f"{CLEAN} & {name}", split.people, status="insufficient", note=split.too_few))
        else:
            labels[name] = _taught(split, teachers, clean)
    found += _of_version(CLEAN, clean, clean, labels, gate, data, seed)
    for kind, strengths in STRENGTHS.items():
        for strength in strengths:
            values = corrupted_rows(people.values, data.model.columns, kind, strength, seed)
            own = _Seen.of(data, people.with_values(values))
            found += _of_version(f"{kind}/{strength:g}", own, clean, labels, gate, data, seed)
    return found


def _gate(data: AuditData, teachers: _Seen, people: Dataset) -> ShiftGate | None:
    """Return a shift gate calibrated on the people who teach; None where they are too few."""
    return ShiftGate.fit(teachers.statistics, _scanners(data, people)) if len(people) >= MIN_N else None


def _scanners(data: AuditData, people: Dataset) -> pd.Series:
    name = scanner_of(data.schema)
    return people.covariates[name] if name else pd.Series("anybody", people.covariates.index)


def _halves(values: pd.Series, taught: int, continuous: bool, min_n: int, seed: int) -> HoldoutSplit:
    """Return halves of which the first ``taught`` rows teach and the others are read."""
    who, few = np.arange(len(values)), Probing(min_n=min_n, permutations=1, draws=1)
    split = HoldoutSplit.of(values, who.astype(str), seed, continuous=continuous, probing=few)
    known = np.isfinite(split.labels) if continuous else split.labels >= 0
    train, test = who[known & (who < taught)], who[known & (who >= taught)]
    sides = [split.labels[side] for side in (train, test)]
    rare = not continuous and any(
        np.bincount(side.astype(int), minlength=len(split.levels)).min() < FEWEST for side in sides
    )
    too_few = split.too_few or (f"a level has fewer than {FEWEST} people in a half" if rare else "")
    if len(test) < min_n:
        too_few = f"{len(test)} people whose scans are corrupted, {min_n} are needed"
    weights = np.concatenate(list(sample_weights(test, _DRAWS, np.random.default_rng([seed, 1]))))
    return replace(split, train=train, test=test, people=len(test), too_few=too_few, weights=weights)


def _taught(split: HoldoutSplit, teachers: _Seen, clean: _Seen) -> _Label:
    columns = {name: TaughtColumns(table, split.train) for name, table in teachers.tables.items()}
    weights = {name: reader_weights(own, split) for name, own in columns.items()}
    label = _Label(split, columns, weights, {})
    return replace(label, clean={name: label.read(name, table) for name, table in clean.tables.items()})


def _of_version(
    version: str,
    own: _Seen,
    clean: _Seen,
    labels: Mapping[str, _Label],
    gate: ShiftGate | None,
    data: AuditData,
    seed: int,
) -> list[Finding]:
    """Return findings on one kind and strength."""
    people, found = len(own.error), list[Finding]()
    pairs = {METRICS[0]: (own.error, clean.error), METRICS[1]: (own.deviation, clean.deviation)}
    units = {METRICS[0]: data.model.error_unit, METRICS[1]: "about 1 for a typical person"}
    if own.outside is not None and clean.outside is not None:
        pairs["corruption_outside"] = (own.outside, clean.outside)
        units["corruption_outside"] = "share of absolute z above 1.96"
    for metric, (after, before) in pairs.items():
        low, high = mean_interval(after - before, _DRAWS, np.random.default_rng(seed))
        note = f"mean change, {units[metric]}; {before.mean():.4g} clean, {after.mean():.4g} here"
        found.append(Finding(metric, version, people, float((after - before).mean()), low, high, note=note))
    found += [_moved_from(version, own, clean, seed), _flagged(version, own, gate, data)]
    for name, label in labels.items():
        for table, before in label.clean.items():
            found += _read(f"{version} & {table}/{name}", label, table, own.tables[table], before)
    return found


def _moved_from(version: str, own: _Seen, clean: _Seen, seed: int) -> Finding:
    """Return how far people are from where they are clean, in latents, or in what is handed out where there are none."""
    name = "latents" if "latents" in clean.tables else "exported"
    before, after = (np.asarray(one.tables[name], float) for one in (clean, own))
    sd = before.std(axis=0)
    scale = np.divide(1, sd, out=np.zeros_like(sd), where=sd > _CONSTANT * np.abs(before).max(axis=0, initial=1e-300))
    apart = (2 * float(((before - before.mean(axis=0)) * scale).var(axis=0).sum())) ** 0.5
    moved = np.linalg.norm((after - before) * scale, axis=1) / max(apart, 1e-300)
    low, high = mean_interval(moved, _DRAWS, np.random.default_rng(seed), positive=True)
    note = f"distance from clean, in distances of two people; {name}"
    return Finding(METRICS[2], version, len(moved), float(moved.mean()), low, high, note=note)


def _flagged(version: str, own: _Seen, gate: ShiftGate | None, data: AuditData) -> Finding:
    people = len(own.error)
    if gate is None:
        why = f"a shift gate needs {MIN_N} people to calibrate it"
        return Finding(METRICS[3], version, people, status="insufficient", note=why)
    name = scanner_of(data.schema)
    keys = own.statistics.index
    scanners = data.frame.loc[keys, name] if name else pd.Series("anybody", keys)
    p = gate.p_value(own.statistics, scanners, RATE)
    share = float(np.mean(p <= RATE))
    error = (share * (1 - share) / people) ** 0.5
    low, high = share_interval(share, error, people, people)
    warned = float(np.mean([gate.status(float(one), RATE) == "warn" for one in p]))
    note = f"share that a shift gate of {RATE:g} false alarms rejects; it warns of {warned:.2f}; middle p {np.median(p):.3f}"
    return Finding(METRICS[3], version, people, share, low, high, note=note)


def _read(group: str, label: _Label, table: str, rows: np.ndarray, before: np.ndarray) -> list[Finding]:
    split = label.split
    after = label.read(table, rows)
    one, other = Reading.of(after, split), Reading.of(before, split)
    note = f"{split.measure} of a reader taught by clean scans; {other.figure:.3f} of clean ones"
    low, high = one.minus(other, split)
    found = [
        Finding(READ[0], group, split.people, one.figure, *one.interval(split), note=note),
        Finding(
            READ[1], group, split.people, one.figure - other.figure, low, high, note="that, less that of clean scans"
        ),
    ]
    if len(split.levels) <= 2:
        moved = (after - before)[:, 0, -1]
        ends = mean_interval(moved, _DRAWS, np.random.default_rng(split.seed))
        what = f"share of {split.levels[-1]}" if split.levels else "deviations of the label"
        told = f"mean change of what the reader says, in {what}"
        found.append(Finding(READ[2], group, split.people, float(moved.mean()), *ends, note=told))
    return found
