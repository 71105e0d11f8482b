"""Audit of growth charts: how often its tests find a group off where the chart is right, and how often intervals hold the truth.

Sites of 25, 60 and 150 people of training, 12 columns that go together, normal about a curve of age and a step of sex; as many
people are audited, or three times as many, or a cohort that has its sites the other way round. Charts are fitted, so that what
few people of training leave is in z. The truth of a fitted chart is what 4500 further people show of it. A chart
is off where a site's audited people lie .8 sd higher.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.calibration import METRICS, audit_calibration
from medrep.audit.data import AuditData
from medrep.audit.finding import findings_table
from medrep.audit.groups import parse_by
from medrep.cohort.dataset import Dataset
from medrep.models import ChartSettings, GrowthChart

_COLUMNS, TRAINED, _MANY = 12, (25, 60, 150), 1500
_CASES = {"as many": (25, 60, 150), "three times as many": (75, 180, 450), "the other way round": (150, 60, 25)}
BY = "sex,age:40/60,site"
_KINDS = {"age": "continuous", "sex": "categorical", "site": "batch"}
_SEEDS, _OFF, _SHIFT = 80, 50_000, 0.8


def populated(
    sizes: tuple[int, ...], seed: int, draw: int, *, spread: float = 1.0, skewed: bool = False
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return covariates and columns of people of a population that the seed draws.

    Args:
        sizes: People a site.
        seed: Of the population.
        draw: Of its people.
        spread: How many times as widely they spread.
        skewed: Whether columns are lognormal (sigma .5) where they are normal.
    """
    truth, rng = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2, draw])
    site = np.repeat(np.arange(len(sizes)), sizes)
    age = rng.uniform(20, 80, len(site))
    sex = rng.choice(["F", "M"], len(site))
    slope, step, place = (truth.normal(0, size, _COLUMNS) for size in (0.4, 0.3, 1.0))
    z = (rng.normal(size=(len(site), 1)) + rng.normal(size=(len(site), _COLUMNS))) / math.sqrt(2)
    if skewed:
        z = (np.exp(0.5 * z) - math.exp(0.125)) / math.sqrt(math.expm1(0.25) * math.exp(0.25))
    mean = 10 + np.outer((age - 50) / 15, slope) + np.outer(sex == "M", step) + np.outer(site - 1, place)
    keys = [f"p{draw}-{k}" for k in range(len(site))]
    table = pd.DataFrame({"age": age, "sex": sex, "site": [f"S{k}" for k in site]}, index=keys)
    return table, mean + np.exp(0.2 * (age[:, None] - 50) / 30 + 0.2 * (site[:, None] - 1)) * z * spread


def material(
    chart: GrowthChart,
    sizes: tuple[int, ...],
    seed: int,
    draw: int,
    *,
    shift: float = 0.0,
    spread: float = 1.0,
    skewed: bool = False,
) -> AuditData:
    """Return further people of a population for an audit of a chart; those of the second site lie ``shift`` sd higher.

    See `populated` for the others.
    """
    table, data = populated(sizes, seed, draw, spread=spread, skewed=skewed)
    data = data + shift * np.outer(table["site"] == "S1", chart.location.line.sd)
    frame = chart.schema.transfer(table)
    return AuditData(chart, Dataset(data, frame, chart.schema, chart.columns), table, {"site": "S0"}, sum(TRAINED))


def _case(sizes: tuple[int, ...], seed: int) -> list[dict[str, object]]:
    table, data = populated(TRAINED, seed, 0)
    features = pd.DataFrame(data, columns=[f"f{k}" for k in range(_COLUMNS)], index=table.index)
    chart = GrowthChart.fit(Dataset.from_frames(features, table, _KINDS), ChartSettings(power="none"))[0]
    keys = ["metric", "group"]
    found = findings_table(audit_calibration(material(chart, sizes, seed, 1), parse_by(BY), seed=seed)).set_index(keys)
    share = tuple(round(_MANY * len(sizes) * size / sum(sizes)) for size in sizes)
    truth = findings_table(audit_calibration(material(chart, share, seed, 2), parse_by(BY), seed=seed)).set_index(keys)
    off = findings_table(
        audit_calibration(material(chart, sizes, seed, 3, shift=_SHIFT), parse_by(BY), seed=seed)
    ).set_index(keys)
    rows: list[dict[str, object]] = []
    for (metric, group), row in found[found["status"] == "ok"].iterrows():
        held = row["ci_low"] <= truth.loc[(metric, group), "estimate"] <= row["ci_high"]
        one = {"metric": metric, "group": group, "level": row["p"] <= 0.05, "found after correction": row["q"] <= 0.05}
        rows.append(one | {"held": held, "found .8 sd off": off.loc[(metric, group), "q"] <= 0.05, "seed": seed})
    return rows


def run(options: Options) -> Report:
    """Measure level, power and coverage (``--quick``: 5 seeds)."""
    seeds, tables = 5 if options.quick else _SEEDS, []
    for case, sizes in _CASES.items():
        say(f"chart_calibration: {case}")
        rows = [row for seed in range(seeds) for row in _case(sizes, _OFF + seed)]
        tables.append(pd.DataFrame(rows).assign(case=case))
    every = pd.concat(tables)
    figures = ["level", "found after correction", "held", "found .8 sd off"]
    table = every.groupby(["case", "metric", "group"], sort=False)[figures].mean().reset_index()
    audits = (
        every.groupby(["case", "metric", "seed"])["found after correction"].max().groupby(["case", "metric"]).mean()
    )
    slack = 2 * math.sqrt(0.05 * 0.95 / seeds)
    lines = []
    for metric in METRICS:
        own = table[table["metric"] == metric]
        asked = {
            "p <= .05 in at most 5% of charts that are right, in every group, within two standard errors": (
                own["level"].max(),
                own["level"].max() <= 0.05 + slack,
            ),
            "some group found off after correction in at most 5% of audits, within two standard errors": (
                audits.xs(metric, level="metric").max(),
                audits.xs(metric, level="metric").max() <= 0.05 + slack,
            ),
            "intervals hold the chart's truth in at least 93%, within two standard errors": (
                own["held"].min(),
                own["held"].min() >= 0.93 - slack,
            ),
        }
        if metric in ("z_mean", "pit_distance"):
            power = own.loc[own["group"] == "site=S1", "found .8 sd off"].min()
            asked["a site .8 sd off is found in at least 95%"] = (power, power >= 0.95)
        lines += [
            Line("chart_calibration", f"{metric}: {what}", f"{figure:.3f}", bool(passed))
            for what, (figure, passed) in asked.items()
        ]
    title = "Audit of growth charts: level of tests, coverage of 95% intervals, and how often a site .8 sd off is found"
    return Report({"chart_calibration": Table(table, tuple(table.columns), title)}, tuple(lines))
