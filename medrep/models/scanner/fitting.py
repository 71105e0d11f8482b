"""Fit all scanners of a batch covariate together."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Float16

from medrep.cohort.covariates import POOLED
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Grid
from medrep.errors import CovariateError, ModelError, listed
from medrep.models.scanner.anchor import choose_anchor
from medrep.models.scanner.content import filled
from medrep.models.scanner.frame import Frame
from medrep.models.scanner.images import Image, find_images, most_people
from medrep.models.scanner.inference import LEAST_PEOPLE, STEPS, Comparison, Evidence, Group, group_power, people_within
from medrep.models.scanner.known import KnownScanners
from medrep.models.scanner.point_spread import common_window
from medrep.models.scanner.restoration import Restoration
from medrep.models.scanner.scanner import Scanner
from medrep.models.scanner.verdict import brings_nearer
from medrep.models.scanner.way_back import fit_way_back, pooled_scanner


def fit_steps(levels: int) -> int:
    """Return how often `fit_levels` reports progress for so many levels."""
    return STEPS + levels + 1


def fit_levels(
    dataset: Dataset,
    covariate: str,
    effects: Float[np.ndarray, "people effects"],
    *,
    anchor: str | None,
    seed: int,
    kept: int,
    advance: Callable[[int], None],
) -> tuple[str, KnownScanners, tuple[str, ...]]:
    """Fit the scanner of every level.

    Args:
        dataset: Volumes on a common grid.
        covariate: The batch covariate whose levels have a scanner each.
        effects: Centred covariate columns.
        anchor: The level the others are compared with; None chooses one.
        seed: Seed of the choice of people and of noise.
        kept: How many of the anchor's volumes to keep.
        advance: Called with 1 after each of `fit_steps`.

    Returns:
        The anchor, the scanners, and notes.

    Raises:
        CovariateError: People of other levels, or an anchor without anybody who has an image that varies.
    """
    data, own, levels = dataset.values, dataset.covariates[covariate], dataset.schema.levels(covariate)
    if dataset.columns.grid is None:
        raise ModelError("scanners are fitted to images on a grid")
    grid = dataset.columns.grid
    strangers = [f"{key}: {level!r}" for key, level in own.items() if level not in levels]
    if strangers:
        raise CovariateError(listed(f"people of levels other than {', '.join(levels)}", strangers, "leave them out"))
    counts = {level: int((own == level).sum()) for level in levels}
    groups, notes = _find_groups(data, own, levels, grid, effects, seed)
    everybody = [image for images in groups.values() for image in images]
    window = common_window([image.size for image in everybody] or [(1, 1, 1)])
    if anchor is None:
        powers = {level: group_power(images, window) for level, images in groups.items() if images}
        anchor = choose_anchor(powers, {level: len(images) for level, images in groups.items()}, window)
    elif not groups.get(anchor):
        usable = ", ".join(level for level, images in groups.items() if images)
        raise CovariateError(f"anchor {anchor!r} has no people with a usable image; choose one of {usable or 'none'}")
    axes = (grid.shape, grid.spacing)
    frame = Frame.fit(groups[anchor], everybody, *axes) if groups[anchor] else Frame.plain(*axes)
    comparison = Comparison(frame, window, groups[anchor], np.random.default_rng(seed))
    scanners, evidence = _fit_scanners(comparison, groups, anchor, effects.shape[1], advance)
    comparison = Comparison(frame, window, groups[anchor], np.random.default_rng([seed, 1]))
    ways_back = {}
    for level in levels:
        ways_back[level] = fit_way_back(comparison, scanners[level], groups[level])
        believed = scanners[level].does_nothing or brings_nearer(
            frame, scanners[level], ways_back[level], groups[level], groups[anchor]
        )
        if not believed:
            scanners[level], ways_back[level] = Scanner.identity(frame), Restoration.idle()
            notes.append(f"{level}: what was estimated takes its mean image away from the anchor's; left as it is")
        advance(1)
    scanners[POOLED] = pooled_scanner(frame, [scanners[level] for level in levels], list(counts.values()))
    ways_back[POOLED] = fit_way_back(comparison, scanners[POOLED], [])
    advance(1)
    residual = sum(count * ways_back[level].residual for level, count in counts.items()) / max(len(own), 1)
    ways_back[POOLED] = Restoration(ways_back[POOLED].edges, ways_back[POOLED].weights, residual)
    volumes = _kept_volumes(groups[anchor], kept, frame)
    return anchor, KnownScanners(frame, scanners, ways_back, counts, evidence, window, volumes), tuple(notes)


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
    anchor: str,
    effects: int,
    advance: Callable[[int], None],
) -> tuple[dict[str, Scanner], Evidence]:
    scanners = {level: Scanner.identity(comparison.frame) for level in groups}
    evidence = comparison.evidence(effects)
    others = [level for level, images in groups.items() if images and level != anchor]
    for step in range(STEPS):
        own = {level: Group(groups[level], comparison.straightened(scanners[level], groups[level])) for level in others}
        if others:
            evidence = people_within(evidence, [Group(groups[anchor], comparison.untouched), *own.values()])
        for level in others:
            pointwise = len(groups[level]) < LEAST_PEOPLE
            estimate = comparison.step(scanners[level], own[level], evidence, first=step == 0, pointwise=pointwise)
            scanners[level] = estimate.scanner
        advance(1)
    return scanners, evidence


def _kept_volumes(images: Sequence[Image], kept: int, frame: Frame) -> Float16[np.ndarray, "kept voxels"]:
    """Return whole volumes of some people, evenly spread over their keys, in units of the median."""
    count = min(max(kept, 0), len(images))
    rows = np.zeros((count, int(np.prod(frame.shape))), np.float16)
    limit = np.float32(np.finfo(np.float16).max)
    for row, k in zip(rows, np.linspace(0, len(images) - 1, count).astype(int) if count else [], strict=True):
        volume = filled(images[k].data[images[k].row].reshape(frame.shape)) / np.float32(frame.median)
        row[:] = np.clip(volume, -limit, limit).ravel()
    return rows
