"""Regions: the one that a label was planted in is ranked first, intervals hold, and chance is found as often as asked.

200 people, half of whom teach a reader. Tables: 10 regions of 6 features; 4 factors of all, one of each region, noise of each
feature. `loud`: the 4 factors are 2.5 times as large, as head size is. Volumes: 12 x 14 x 10 voxels, 11 parcels in an ellipsoid
and the background around it; smooth noise, head size (a smooth map), white noise. The label, a diagnosis or a number, moves the
features of one region, or a smooth spot of one parcel or of the background. Boxes (of the mean, in place of the expectation)
stand beside, with the same readers on the same people.

Size: no region carries anything; and, of all other regions, where these do not go together and one carries much. Where they go
together others may tell something: what they share with the planted region, they take from it.

Intervals: of one kind of people, 200 cohorts; the truth is what readers taught by 100 of them find on average in 4000 new people.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.holdout_split import HoldoutSplit, Probing
from medrep.audit.probe_figures import weighted_figures
from medrep.audit.regions import RegionFigures, RegionScores, region_figures, region_scores
from medrep.cohort.regions import ELSEWHERE, Regions

PEOPLE, NEW, EACH, COUNT = 200, 4000, 6, 10
SHAPE, PARCELS = (12, 14, 10), 11
_OFF = 370_000
_PROBING = Probing(permutations=299, draws=500)


@dataclass(frozen=True)
class Kind:
    """A kind of people.

    Attributes:
        volume: Whether they are volumes.
        continuous: Whether the label is a number.
        shift: What the label does to the region, in deviations of noise.
        shared: Size of what regions have in common.
    """

    volume: bool
    continuous: bool
    shift: float
    shared: float = 0.6


_RANKED = {
    "table, diagnosis": Kind(False, False, 0.8),
    "table, diagnosis, loud": Kind(False, False, 0.8, 1.5),
    "table, number": Kind(False, True, 0.5),
    "volume, diagnosis": Kind(True, False, 2.5),
    "volume, number": Kind(True, True, 1.2),
    "volume, diagnosis, faint": Kind(True, False, 1.2),
    "volume, number, faint": Kind(True, True, 0.6),
}
"""Faint ones, of which readers tell little, are shown and not asked."""
_SIZE = {
    "table, diagnosis": Kind(False, False, 0.0),
    "table, number": Kind(False, True, 0.0),
    "volume, diagnosis": Kind(True, False, 0.0),
}
_OTHERS = {
    "others, diagnosis": Kind(False, False, 0.8, 0.0),
    "others, number": Kind(False, True, 0.4, 0.0),
}
_HELD = {"table, diagnosis": Kind(False, False, 0.8), "table, number": Kind(False, True, 0.4)}


def regions_of(kind: Kind) -> Regions:
    """Return the regions of a kind."""
    if not kind.volume:
        return Regions(tuple(f"region {k}" for k in range(COUNT)), np.repeat(np.arange(COUNT), EACH))
    rng = np.random.default_rng(1)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, length) for length in SHAPE), indexing="ij"), axis=-1)
    inside = (places**2).sum(axis=-1) <= 1
    middles = rng.permutation(places[inside])[:PARCELS]
    nearest = ((places[..., None, :] - middles) ** 2).sum(axis=-1).argmin(axis=-1)
    labels = np.where(inside, nearest + 1, 0).ravel()
    return Regions((ELSEWHERE, *(f"parcel {k}" for k in range(1, PARCELS + 1))), labels)


def population(
    kind: Kind, regions: Regions, planted: int, seed: int, people: int, structure: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return data and labels of people; `structure` seeds what they have in common."""
    fixed, rng = np.random.default_rng([structure, 1]), np.random.default_rng([seed, 2])
    label = rng.normal(size=people) if kind.continuous else rng.permutation(np.arange(people) % 2).astype(float)
    inside = regions.codes == planted
    if kind.volume:
        maps = gaussian_filter(fixed.normal(size=SHAPE), 4).ravel()
        noise = gaussian_filter(rng.normal(size=(people, *SHAPE)), (0, 1.5, 1.5, 1.5)).reshape(people, -1)
        data = noise / noise.std() + 0.5 * rng.normal(size=noise.shape)
        data += kind.shared * np.outer(rng.normal(size=people), maps / maps.std())
        own = gaussian_filter(inside.reshape(SHAPE).astype(float), 0.7).ravel() * inside
        data += 0.5 * kind.shift * np.outer(label - label.mean(), own)
        return data, label
    loadings = kind.shared * fixed.normal(size=(4, COUNT * EACH))
    within, move = fixed.uniform(0.4, 0.9, COUNT * EACH), np.abs(fixed.normal(size=EACH))
    data = rng.normal(size=(people, 4)) @ loadings + rng.normal(size=(people, COUNT))[:, regions.codes] * within
    data += 0.7 * rng.normal(size=data.shape)
    data[:, inside] += kind.shift * np.outer(label - label.mean(), move)
    return data, label


def halves(kind: Kind, label: np.ndarray, seed: int) -> HoldoutSplit:
    """Return the half that teaches and the one that is read."""
    values = pd.Series(label if kind.continuous else np.take(["well", "ill"], label.astype(int)))
    who = np.arange(len(label)).astype(str)
    return HoldoutSplit.of(values, who, seed, continuous=kind.continuous, probing=_PROBING)


def _read(kind: Kind, regions: Regions, planted: int, seed: int) -> tuple[RegionScores, RegionFigures, HoldoutSplit]:
    data, label = population(kind, regions, planted, seed, PEOPLE, seed)
    split = halves(kind, label, seed)
    scores = region_scores(data, split, regions)
    return scores, region_figures(scores, split), split


def differences(full: np.ndarray, others: np.ndarray, labels: np.ndarray, measure: str) -> np.ndarray:
    """Return the figure of all columns less that of each version."""
    versions = np.concatenate([full[None, :, 0], others[:, :, 0]])
    figures: np.ndarray = weighted_figures(versions, labels, np.ones((1, len(labels))), measure)[0]
    return figures[0] - figures[1:]


def _ranking(seeds: int) -> tuple[pd.DataFrame, list[Line]]:
    rows = []
    for case, kind in _RANKED.items():
        say(f"regions: ranking, {case}")
        regions = regions_of(kind)
        first, boxed, p, full, own, others, box_others = [], [], [], [], [], [], []
        for seed in range(5 * _OFF, 5 * _OFF + seeds):
            planted = seed % len(regions.names)
            scores, figures, split = _read(kind, regions, planted, seed)
            reliance = np.array([one[0] for one in figures.reliance])
            box = differences(scores.full, scores.box, split.labels[split.test], split.measure)
            first.append(reliance.argmax() == planted)
            boxed.append(box.argmax() == planted)
            p.append(figures.reliance[planted][3])
            full.append(figures.full[0])
            own.append(reliance[planted])
            others.append(np.delete(reliance, planted).max())
            box_others.append(np.delete(box, planted).max())
        rows.append(
            {
                "case": case,
                "cohorts": seeds,
                "read of all": np.mean(full),
                "planted first": np.mean(first),
                "first by boxes": np.mean(boxed),
                "p <= .05": np.mean(np.array(p) <= 0.05),
                "reliance": np.mean(own),
                "largest other": np.mean(others),
                "largest other, boxes": np.mean(box_others),
            }
        )
    table = pd.DataFrame(rows)
    lines = [
        Line(
            "regions",
            f"planted region ranked first, {row['case']}: >= .95",
            f"{row['planted first']:.3f} (boxes {row['first by boxes']:.3f})",
            bool(row["planted first"] >= 0.95),
        )
        for _, row in table.iterrows()
        if "faint" not in row["case"]
    ]
    return table, lines


def _sizes(seeds: int) -> tuple[pd.DataFrame, list[Line]]:
    rows = []
    for case, kind in {**_SIZE, **_OTHERS}.items():
        say(f"regions: size, {case}")
        regions = regions_of(kind)
        reliance, only = [], []
        for seed in range(2 * _OFF, 2 * _OFF + seeds):
            planted = seed % len(regions.names)
            _, figures, _ = _read(kind, regions, planted, seed)
            kept = [k for k in range(len(regions.names)) if case in _SIZE or k != planted]
            reliance += [figures.reliance[k][3] for k in kept]
            only += [figures.only[k][3] for k in kept]
        shares = {"reliance": np.mean(np.array(reliance) <= 0.05), "only": np.mean(np.array(only) <= 0.05)}
        rows.append({"case": case, "cohorts": seeds, **shares})
    table = pd.DataFrame(rows)
    lines = [
        Line(
            "regions",
            f"size of the test of {test}, {row['case']}: .05 +- .015",
            f"{row[test]:.3f}",
            bool(abs(row[test] - 0.05) <= 0.015),
        )
        for _, row in table.iterrows()
        for test in ("reliance", "only")
    ]
    return table, lines


def _coverage(seeds: int) -> tuple[pd.DataFrame, list[Line]]:
    rows = []
    for case, kind in _HELD.items():
        say(f"regions: intervals, {case}")
        regions, found, ends, reader = regions_of(kind), [], [], []
        for seed in range(3 * _OFF, 3 * _OFF + seeds):
            data, label = population(kind, regions, 0, seed, PEOPLE, 5)
            split = halves(kind, label, seed)
            figures = region_figures(region_scores(data, split, regions), split)
            ends.append([one[1:3] for one in figures.reliance])
            more, labels = population(kind, regions, 0, seed + 10**6, NEW, 5)
            levels = labels if kind.continuous else 1 - labels  # levels are in the order of their names: ill, well
            new = replace(split, test=np.arange(PEOPLE, PEOPLE + NEW))
            scores = region_scores(np.concatenate([data, more]), new, regions)
            reader.append(differences(scores.full, scores.without, levels, split.measure))
            found.append([one[0] for one in figures.reliance])
        low, high = np.array(ends).transpose(2, 0, 1)
        own = np.array(reader)
        truth = own.mean(axis=0)
        for name, inside in (("planted", slice(0, 1)), ("others", slice(1, None))):
            rows.append(
                {
                    "case": f"{case}, {name}",
                    "cohorts": seeds,
                    "truth": truth[inside].mean(),
                    "mean estimate": np.array(found)[:, inside].mean(),
                    "holds truth": ((low <= truth) & (truth <= high))[:, inside].mean(),
                    "holds its reader's": ((low <= own) & (own <= high))[:, inside].mean(),
                }
            )
    table = pd.DataFrame(rows)
    lines = [
        Line(
            "regions",
            f"95 % intervals of reliance hold it, {row['case']}: >= .93",
            f"{row['holds truth']:.3f}",
            bool(row["holds truth"] >= 0.93),
        )
        for _, row in table.iterrows()
    ]
    return table, lines


def run(options: Options) -> Report:
    """Rank planted regions beside boxes, and measure sizes and intervals (``--quick``: 20 cohorts each)."""
    began = time.process_time()
    parts: dict[str, tuple[Callable[[int], tuple[pd.DataFrame, list[Line]]], int, str]] = {
        "regions_ranking": (_ranking, 120, "Regions: how often the planted one is first, beside boxes of the mean"),
        "regions_size": (_sizes, 200, "Regions: share of p <= .05 where a region tells nothing"),
        "regions_intervals": (_coverage, 200, "Regions: how often intervals hold what readers find on average"),
    }
    tables, lines = {}, []
    for name, (measure, cohorts, title) in parts.items():
        table, more = measure(20 if options.quick else cohorts)
        tables[name] = Table(table, tuple(table.columns), title)
        lines += more
    say(f"regions: {time.process_time() - began:.0f} s of processor time")
    return Report(tables, tuple(lines))
