"""Fitting all scanners of a batch covariate together, the reference among them.

Blur and noise cannot be taken back, only added. Each level's mean power S, in units of its power at slow frequencies (so that
gain does not count), is held against its noise N, the mean power at the fastest 5 % of frequencies:

    score = mean over frequencies of log(1 + (S - N) / max(N, median of N over the levels))

A blurred scanner loses S at fast frequencies, a noisy one has a large N; quieter than the median earns nothing, so that a
blurred scanner cannot win by its quiet.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Float16, Float32

from medrep._persisted import Read, persisted, persisted_as, stored
from medrep.cohort.covariates import POOLED
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Grid
from medrep.errors import CovariateError, ModelError, listed
from medrep.models.scanner.estimation import (
    LEAST_PEOPLE,
    SLOWEST,
    STEPS,
    Comparison,
    Evidence,
    Group,
    common_window,
    feature_levels,
    frequencies,
    group_power,
    people_within,
)
from medrep.models.scanner.forward import (
    DEGREES,
    TAPS,
    Frame,
    Image,
    Rendering,
    Scanner,
    filled,
    find_images,
    most_people,
)
from medrep.models.scanner.restoration import (
    BUCKETS,
    FEATURES,
    Restoration,
    fit_inverse,
    invert_and_restore,
    pooled_scanner,
)

LEAST_REFERENCE_PEOPLE = 10
"""Of a level that may be chosen as the anchor."""
KEPT = 8
"""People of the anchor whose volumes go into the state, so that unseen levels can be estimated in full."""
_SLOW = 1.0  # radians a voxel


def choose_reference(
    powers: Mapping[str, Float[np.ndarray, "x y z"]], people: Mapping[str, int], window: tuple[int, int, int]
) -> str:
    """Return the level with the highest score among those with `LEAST_REFERENCE_PEOPLE`, else the level with the most people.

    `powers` are those of `mean_power`.
    """
    able = sorted(level for level, count in people.items() if count >= LEAST_REFERENCE_PEOPLE and level in powers)
    if not able:
        return max(sorted(people), key=lambda level: people[level])
    distance = np.sqrt(sum(w**2 for w in np.ix_(*frequencies(window))))
    fast = distance > SLOWEST
    slow = fast & (distance < _SLOW)
    fastest = distance >= np.quantile(distance, 0.95)
    scaled = {level: _relative(powers[level], fast, slow) for level in able}
    floors = {level: max(float(power[fastest].mean()), 1e-12) for level, power in scaled.items()}
    usual = float(np.median(list(floors.values())))

    def score(level: str) -> float:
        signal = scaled[level] - floors[level]
        return float(np.log1p(signal / max(floors[level], usual))[fast | fastest].mean())

    return max(able, key=score)


def _relative(power: np.ndarray, fast: np.ndarray, slow: np.ndarray) -> Float[np.ndarray, "x y z"]:
    base = power[slow] if slow.any() else power[fast] if fast.any() else power
    return power / max(float(base.mean()), 1e-300)


_Undo = Callable[[Image], np.ndarray]


def _brings_nearer(
    frame: Frame, scanner: Scanner, inverse: Restoration, own: Sequence[Image], reference: Sequence[Image]
) -> bool:
    """Tell whether undoing a scanner brings the mean image of its people nearer to that of the anchor's people.

    With few people, or a scanner that is none of the family's, the estimate can be far off; the mean image shows it.
    """
    if not own or not reference:
        return True
    rendering = Rendering(frame, scanner)
    wanted = _mean(reference, lambda image: image.values())
    as_it_is = _mean(own, lambda image: image.values())
    undone = _mean(own, lambda image: invert_and_restore(image.values(), image.box, rendering, inverse))
    seen = np.isfinite(wanted) & np.isfinite(as_it_is)
    before, after = (float(((mean - wanted)[seen] ** 2).sum()) for mean in (as_it_is, undone))
    return after <= before


def _mean(images: Sequence[Image], undo: _Undo) -> Float[np.ndarray, "x y z"]:
    """Return the mean content at each voxel of the common grid, NaN where nobody has any."""
    total, people = np.zeros(images[0].shape), np.zeros(images[0].shape)
    for image in images:
        total[image.box] += undo(image)
        people[image.box] += 1
    return np.divide(total, people, out=np.full(total.shape, np.nan), where=people > 0)


_T = TypeVar("_T")


@dataclass(frozen=True)
class _Scanners:
    """The parameters of scanners, a row a level."""

    shading: Float[np.ndarray, "levels fields"]
    curve: Float[np.ndarray, "levels curves"]
    taps: Float[np.ndarray, "levels 3 taps"]
    noise: Float[np.ndarray, " levels"]


@dataclass(frozen=True)
class _WaysBack:
    """Those of the ways back from them."""

    edges: Float[np.ndarray, "levels edges"]
    weights: Float[np.ndarray, "levels buckets features"]
    residual: Float[np.ndarray, " levels"]


@persisted(
    keys=("frame", "levels", "counts", "window", "anchor_people", "effects"),
    sizes={
        "levels": lambda read: len(read["levels"]),
        "curves": lambda read: read["frame"].curves,
        "voxels": lambda read: int(np.prod(read["frame"].shape)),
        "features": lambda read: len(feature_levels(int(read["frame"].chunks().max()) + 1)),
        "effects": lambda read: read["effects"],
        "x": lambda read: read["window"][0] // 2 + 1,
        "y": lambda read: read["window"][1] // 2 + 1,
        "z": lambda read: read["window"][2] // 2 + 1,
    },
)
@dataclass(frozen=True)
class _Stacked:
    """`ScannerState` as they are written: the parameters of all levels in one array each."""

    frame: Frame
    levels: tuple[str, ...]
    counts: dict[str, int]
    window: tuple[int, int, int]
    effects: int
    evidence: Evidence = field(
        metadata=stored("", arrays="evidence", sizes={axis: axis for axis in ("features", "effects", *"xyz")})
    )
    scanner: _Scanners = field(
        metadata=stored(sizes={"levels": "levels", "fields": len(DEGREES), "curves": "curves", "taps": TAPS})
    )
    inverse: _WaysBack = field(
        metadata=stored(
            "way_back",
            sizes={"levels": "levels", "edges": len(BUCKETS), "buckets": len(BUCKETS) + 1, "features": FEATURES},
        )
    )
    kept: Float16[np.ndarray, "kept voxels"]

    @classmethod
    def of(cls, known: "ScannerState") -> "_Stacked":
        held, ways = list(known.scanners.values()), [known.ways_back[level] for level in known.scanners]
        scanners, ways_back = _Scanners(**_rows(held)), _WaysBack(**_rows(ways))
        effects = len(known.evidence.effects)
        levels = tuple(known.scanners)
        return cls(
            known.frame, levels, known.counts, known.window, effects, known.evidence, scanners, ways_back, known.kept
        )

    def known(self, _read: Read) -> "ScannerState":
        unknown = sorted(set(self.counts) ^ (set(self.levels) - {POOLED}))
        if unknown or POOLED not in self.levels or any(count < 0 for count in self.counts.values()):
            raise ModelError(f"levels and counts do not agree ({', '.join(unknown)}); train again or fetch it again")
        scanners, ways_back = _apart(Scanner, self.scanner), _apart(Restoration, self.inverse)
        return ScannerState(
            self.frame,
            dict(zip(self.levels, scanners, strict=True)),
            dict(zip(self.levels, ways_back, strict=True)),
            self.counts,
            self.evidence,
            self.window,
            self.kept,
        )


def _rows(held: Iterable[Scanner | Restoration]) -> dict[str, np.ndarray]:
    """Return the parameters of some scanners side by side, a row each."""
    some = list(held)
    return {one.name: np.array([getattr(own, one.name) for own in some]) for one in fields(some[0])}


def _apart(kind: Callable[..., _T], stacked: Any) -> list[_T]:
    """Return what `_rows` put side by side."""
    columns = [getattr(stacked, one.name) for one in fields(stacked)]
    return [kind(*(float(value) if value.ndim == 0 else value for value in row)) for row in zip(*columns, strict=True)]


@persisted_as(_Stacked, _Stacked.known)
@dataclass(frozen=True)
class ScannerState:
    """Fitted scanners: of each level, and of the pooled reference.

    Attributes:
        frame: Their axes.
        scanners: Level -> its parameters.
        ways_back: Level -> the way back.
        counts: Level -> its training people; 0 for levels adapted to later.
        evidence: What training told about the anchor and about people within scanners.
        window: Voxels whose power is compared.
        kept: Volumes of a few of the anchor's people, in units of its median.
    """

    frame: Frame
    scanners: dict[str, Scanner]
    ways_back: dict[str, Restoration]
    counts: dict[str, int]
    evidence: Evidence
    window: tuple[int, int, int]
    kept: Float16[np.ndarray, "kept voxels"]

    @property
    def grid(self) -> Grid:
        """The common grid."""
        return Grid(self.frame.shape, self.frame.spacing)

    def kept_volumes(self) -> Float32[np.ndarray, "kept voxels"]:
        """Return the kept volumes in data units."""
        return self.kept.astype(np.float32) * np.float32(self.frame.median)


def fit_levels(
    dataset: Dataset,
    covariate: str,
    effects: Float[np.ndarray, "people effects"],
    *,
    reference: str | None,
    seed: int,
) -> tuple[str, ScannerState, tuple[str, ...]]:
    """Fit the scanner of every level; return the anchor, the scanners, and notes.

    See `ScannerHarmonizer.fit` for the arguments and errors.
    """
    data, own, levels = dataset.values, dataset.covariates[covariate], dataset.schema.levels(covariate)
    if dataset.columns.grid is None:
        raise ModelError("scanners are fitted to images on a grid")
    grid = dataset.columns.grid
    unknown = [f"{key}: {level!r}" for key, level in own.items() if level not in levels]
    if unknown:
        raise CovariateError(listed(f"people of levels other than {', '.join(levels)}", unknown, "leave them out"))
    counts = {level: int((own == level).sum()) for level in levels}
    groups, notes = _find_groups(data, own, levels, grid, effects, seed)
    everybody = [image for images in groups.values() for image in images]
    window = common_window([image.size for image in everybody] or [(1, 1, 1)])
    if reference is None:
        powers = {level: group_power(images, window) for level, images in groups.items() if images}
        reference = choose_reference(powers, {level: len(images) for level, images in groups.items()}, window)
    elif not groups.get(reference):
        usable = ", ".join(level for level, images in groups.items() if images)
        raise CovariateError(
            f"anchor {reference!r} has no people with a usable image; choose one of {usable or 'none'}"
        )
    axes = (grid.shape, grid.spacing)
    frame = Frame.fit(groups[reference], everybody, *axes) if groups[reference] else Frame.plain(*axes)
    comparison = Comparison(frame, window, groups[reference], np.random.default_rng(seed))
    scanners, evidence = _fit_scanners(comparison, groups, reference, effects.shape[1])
    comparison = Comparison(frame, window, groups[reference], np.random.default_rng([seed, 1]))
    ways_back = {}
    for level in levels:
        ways_back[level] = fit_inverse(comparison, scanners[level], groups[level])
        believed = scanners[level].does_nothing or _brings_nearer(
            frame, scanners[level], ways_back[level], groups[level], groups[reference]
        )
        if not believed:
            scanners[level], ways_back[level] = Scanner.identity(frame), Restoration.idle()
            notes.append(f"{level}: what was estimated takes its mean image away from the anchor's; left as it is")
    scanners[POOLED] = pooled_scanner(frame, [scanners[level] for level in levels], list(counts.values()))
    ways_back[POOLED] = fit_inverse(comparison, scanners[POOLED], [])
    residual = sum(count * ways_back[level].residual for level, count in counts.items()) / max(len(own), 1)
    ways_back[POOLED] = Restoration(ways_back[POOLED].edges, ways_back[POOLED].weights, residual)
    volumes = _kept_volumes(groups[reference], frame)
    return reference, ScannerState(frame, scanners, ways_back, counts, evidence, window, volumes), tuple(notes)


def _find_groups(
    data: np.ndarray, own: pd.Series, levels: Sequence[str], grid: Grid, effects: np.ndarray, seed: int
) -> tuple[dict[str, list[Image]], list[str]]:
    """Return the people of each level who are looked at, in an order that is their keys' and not the table's."""
    order = sorted(range(len(own)), key=lambda row: str(own.index[row]))
    most, level_of = most_people(grid), own.tolist()
    groups: dict[str, list[Image]] = {}
    notes = []
    for level in levels:
        rows = [row for row in order if level_of[row] == level]
        if len(rows) > most:
            chosen = np.random.default_rng([seed, 2]).permutation(len(rows))[:most]
            rows = [rows[k] for k in np.sort(chosen)]
        groups[level] = find_images(data, rows, grid, effects[rows])
        if flat := len(rows) - len(groups[level]):
            notes.append(f"{level}: images of one value, left out and left as they are: {flat}")
        if note := level_note(len(groups[level])):
            notes.append(f"{level}: {note}")
    return groups, notes


def level_note(people: int) -> str:
    """Return what is to be said of a level with so many usable people, or nothing."""
    if people == 0:
        return "nobody with a usable image; its images stay as they are"
    if people < LEAST_PEOPLE:
        return f"gain and shading alone are estimated, shrunk: fewer than {LEAST_PEOPLE} usable images ({people})"
    return ""


def _fit_scanners(
    comparison: Comparison,
    groups: Mapping[str, Sequence[Image]],
    reference: str,
    effects: int,
) -> tuple[dict[str, Scanner], Evidence]:
    scanners = {level: Scanner.identity(comparison.frame) for level in groups}
    evidence = comparison.evidence(effects)
    others = [level for level, images in groups.items() if images and level != reference]
    for step in range(STEPS):
        own = {level: Group(groups[level], comparison.inverted(scanners[level], groups[level])) for level in others}
        if others:
            evidence = people_within(evidence, [Group(groups[reference], comparison.untouched), *own.values()])
        for level in others:
            pointwise = len(groups[level]) < LEAST_PEOPLE
            estimate = comparison.step(scanners[level], own[level], evidence, first=step == 0, pointwise=pointwise)
            scanners[level] = estimate.scanner
    return scanners, evidence


def _kept_volumes(images: Sequence[Image], frame: Frame) -> Float16[np.ndarray, "kept voxels"]:
    """Return whole volumes of some people, evenly spread over their keys, in units of the median."""
    count = min(KEPT, len(images))
    rows = np.zeros((count, int(np.prod(frame.shape))), np.float16)
    limit = np.float32(np.finfo(np.float16).max)
    for row, k in zip(rows, np.linspace(0, len(images) - 1, count).astype(int) if count else [], strict=True):
        volume = filled(images[k].data[images[k].row].reshape(frame.shape)) / np.float32(frame.median)
        row[:] = np.clip(volume, -limit, limit).ravel()
    return rows
