"""Growth charts merged from those of institutes that share no rows, beside the chart of all rows and each institute's own.

fcon1000: sites are dealt to INSTITUTES institutes, charts are fitted on half of each site, and the people nobody has seen are
scored by the chart of all rows (``pooled``), the merged one, and the chart of the person's own institute. Generated people
(`chart_truth.py`): institutes have sites, and with them ages, of their own; scores are beside the truth's. ``apart`` is the mean
distance of z from that of the pooled chart. Log score and CRPS are in units of each feature's deviation in training.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from benchmarks.chart_methods import DECLARED
from benchmarks.chart_real import MAX_SHARE, MIN_SITE
from benchmarks.chart_scores import LEVELS, pit_errors, scored
from benchmarks.chart_truth import ChartTruth
from benchmarks.data import fcon1000, split_half_by_site
from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.dataset import Dataset
from medrep.cohort.support import Support
from medrep.models import ChartSettings, GrowthChart
from medrep.models.chart.merging import merged
from medrep.models.chart.parts import Part

NAME = "chart_merging"
SEEDS, INSTITUTES = 2, 3
PEOPLE, FRESH = 900, 2000
REGAINED = 0.5  # of what institutes' own charts lose to the chart of all rows
WORSE = 0.002  # of the PIT error
SHOWN = (
    "cohort",
    "seed",
    "chart",
    "n",
    "log_score",
    "crps",
    "beyond",
    "pit",
    "pit_site",
    "pit_age",
    "apart",
    "seconds",
)


def fitted(values: np.ndarray, table: pd.DataFrame) -> Part:
    """Return the chart of some people, ready to be merged."""
    features = pd.DataFrame(values, columns=[f"x{k}" for k in range(values.shape[1])], index=table.index)
    dataset = Dataset.from_frames(features, table, DECLARED)
    chart, _ = GrowthChart.fit(dataset, ChartSettings(components=0))
    return Part("part", chart, Support.fit(dataset.schema, dataset.covariates))


def answers(chart: GrowthChart, values: np.ndarray, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return z, log densities and quantiles of people."""
    frame = chart.schema.transfer(table)
    people = chart.dataset(values, frame)
    z = chart.deviations(people).compute(slice(0, values.shape[1]))
    return z, chart.log_density(people), chart.centiles(frame, LEVELS)


def dealt(sites: pd.Series, seed: int) -> dict[str, int]:
    """Deal sites to institutes: large ones one after another, so that no institute has most people."""
    counts = sites.value_counts()
    order = np.random.default_rng([seed, 11]).permutation(INSTITUTES)
    return {str(site): int(order[k % INSTITUTES]) for k, site in enumerate(counts.index)}


def compared(
    name: str,
    seed: int,
    train: tuple[np.ndarray, pd.DataFrame],
    test: tuple[np.ndarray, pd.DataFrame],
    home: dict[str, int],
) -> list[dict[str, object]]:
    """Score people by the pooled, the merged and their own institutes' charts.

    Args:
        name: Of the cohort.
        seed: Of it.
        train: People of training and their covariates.
        test: Others.
        home: Site -> institute.
    """
    (X, table), (unseen, people) = train, test
    at, there = table["site"].map(home).to_numpy(), people["site"].map(home).to_numpy()
    parts = [fitted(X[at == k], table[at == k]) for k in range(INSTITUTES)]
    start = time.perf_counter()
    chart, _ = merged(parts)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    pooled = fitted(X, table).chart
    found = {"pooled": answers(pooled, unseen, people), "merged": answers(chart, unseen, people)}
    costs = {"pooled": time.perf_counter() - start, "merged": seconds}
    own = [np.full_like(one, np.nan) for one in found["pooled"]]
    for k, part in enumerate(parts):
        for whole, some in zip(own, answers(part.chart, unseen[there == k], people[there == k]), strict=True):
            whole[..., there == k, :] = some
    found["own institute"] = (own[0], own[1], own[2])
    unit = X.std(axis=0)
    rows: list[dict[str, object]] = []
    for which, (z, density, quantiles) in found.items():
        row = {"cohort": name, "seed": seed, "chart": which, "n": len(people), "seconds": costs.get(which, np.nan)}
        row |= scored(z, density, quantiles, unseen, unit) | pit_errors(z, people)
        rows.append(row | {"apart": float(np.abs(z - found["pooled"][0]).mean())})
    return rows


def measure_real(seed: int) -> list[dict[str, object]]:
    """Compare charts of fcon1000."""
    say(f"{NAME}: fcon1000, seed {seed}")
    features, table = fcon1000(min_site=MIN_SITE)
    train, test = split_half_by_site(table, seed)
    share = features[train].apply(lambda column: column.value_counts(normalize=True).iloc[0])
    X = features[features.columns[share <= MAX_SHARE]].to_numpy(dtype=np.float64)
    home = dealt(table["site"], seed)
    return compared("fcon1000", seed, (X[train], table[train]), (X[test], table[test]), home)


def measure_generated(seed: int) -> list[dict[str, object]]:
    """Compare charts of institutes of the young, the middle-aged and the old."""
    say(f"{NAME}: generated, seed {seed}")
    truth, rng = ChartTruth(seed), np.random.default_rng([seed, 29])
    table, people = (truth.people(n, rng) for n in (PEOPLE, FRESH))
    home = {site: k * INSTITUTES // len(truth.sites) for k, site in enumerate(truth.sites)}
    train, test = ((truth.values(one, rng), one) for one in (table, people))
    return compared("generated", seed, train, test, home)


def run(options: Options) -> Report:
    """Compare both kinds of cohorts."""
    rows = [row for seed in options.seeds(SEEDS) for row in measure_real(seed) + measure_generated(seed)]
    frame = pd.DataFrame(rows)
    means = frame.groupby(["cohort", "chart"], sort=False).mean(numeric_only=True).reset_index()
    at = means.set_index(["cohort", "chart"])
    lines = []
    for cohort in ("fcon1000", "generated"):
        ours, pooled, own = (at.loc[(cohort, name)] for name in ("merged", "pooled", "own institute"))
        for figure, text in (("apart", "distance of z"), ("log_score", "log score"), ("crps", "CRPS")):
            lost = float((ours[figure] - pooled[figure]) / (own[figure] - pooled[figure]))
            asked = f"{cohort}: {text}: of what institutes' own charts lose to the pooled one at least {REGAINED:g} is regained"
            told = f"{1 - lost:.2f} ({ours[figure]:.4f}, pooled {pooled[figure]:.4f}, own {own[figure]:.4f})"
            lines.append(Line(NAME, asked, told, lost <= 1 - REGAINED))
        asked = f"{cohort}: PIT error within {WORSE:g} of the pooled chart's"
        told = f"{ours['pit']:.4f}, pooled {pooled['pit']:.4f}, own {own['pit']:.4f}"
        lines.append(Line(NAME, asked, told, bool(ours["pit"] <= pooled["pit"] + WORSE)))
    title = "Charts merged from institutes that share no rows"
    tables = {NAME: Table(frame, SHOWN, title), f"{NAME}_mean": Table(means, SHOWN, f"{title}; mean over seeds")}
    return Report(tables, tuple(lines))
