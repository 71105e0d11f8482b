"""A new site adapted to from its own people: the standard error that is stated for its location, and the error.

Planted tables of 20 columns: four sites of 50 people aged 20 to 60, a bent age curve, sex, locations and scales of sites; the new
site's people are of the same ages, or 65 to 80. The error is that of the location against the planted one, in residual deviations
of training; coverage counts columns within 1.96 stated standard errors. The stated one holds for the raw estimate; shrinkage
makes the error smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from benchmarks.before_after import figures, mean, summary
from benchmarks.report import Line, Options, Report
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import LinearModel, LinearSettings

SEEDS = range(200, 220)
COLUMNS, SITES, PEOPLE = 20, 4, 50
CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bent": lambda t: t + 0.3 * t**2,
    "straight": lambda t: t,
    "levelling off": lambda t: 2 * np.tanh(t / 1.5),
    "wave": lambda t: np.sin(1.5 * t),
}
NEW: dict[str, tuple[str, int, tuple[float, float]]] = {
    "5 people inside": ("bent", 5, (20, 60)),
    "10 people inside": ("bent", 10, (20, 60)),
    "30 people inside": ("bent", 30, (20, 60)),
    **{f"30 people outside, {curve}": (curve, 30, (65, 80)) for curve in CURVES},
    "30 people a little outside, bent": ("bent", 30, (55, 68)),
}
DECLARED = (Covariate("age", "continuous"), Covariate("sex", "categorical"), Covariate("site", "categorical", "batch"))


def measure(seed: int) -> dict[str, float]:
    """Return, a case: what was said, what was found, and the share of columns within 1.96 of what was said."""
    found: dict[str, float] = {}
    for name, (curve, people, ages) in NEW.items():
        rng = np.random.default_rng([seed, people])
        site = np.concatenate([np.repeat(np.arange(SITES), PEOPLE), np.full(people, SITES)])
        age = np.where(site < SITES, rng.uniform(20, 60, len(site)), rng.uniform(*ages, len(site)))
        male = rng.integers(0, 2, len(site))
        told = np.outer(CURVES[curve]((age - 40) / 12), rng.normal(0, 0.4, COLUMNS))
        told = told + np.outer(male, rng.normal(0, 0.5, COLUMNS))
        location, scale = (
            rng.normal(0, 0.6, (SITES + 1, COLUMNS)),
            np.exp(rng.uniform(-0.35, 0.35, (SITES + 1, COLUMNS))),
        )
        data = told + location[site] + scale[site] * rng.normal(size=(len(site), COLUMNS))
        frame = pd.DataFrame(
            {"age": age, "sex": np.where(male, "M", "F"), "site": [f"S{k}" for k in site]},
            index=[f"sub-{k:03d}" for k in range(len(site))],
        )
        known = site < SITES
        schema = CovariateSchema.fit(frame[known], DECLARED)
        columns = Columns(tuple(f"x{k}" for k in range(COLUMNS)), COLUMNS, None)
        model, _ = LinearModel.fit(
            Dataset(data[known], schema.transfer(frame[known]), schema, columns), LinearSettings()
        )
        adapted, (note,) = model.adapt([model.dataset(data[~known], schema.transfer(frame[~known], unseen="adapt"))])
        truth = location[SITES] - location[:SITES].mean(axis=0)
        error = (adapted.batches.location[-1] - truth) / model.sd
        found[f"{name}: said"] = note.location_se
        found[f"{name}: found"] = float(np.sqrt((error**2).mean()))
        found[f"{name}: coverage"] = float((np.abs(error) < 1.96 * note.location_se).mean())
    return found


def run(options: Options) -> Report:
    """Measure over seeds, on an earlier checkout too where MEDREP_BEFORE names one."""
    seeds = list(SEEDS)[:2] if options.quick else list(SEEDS)
    found = figures("benchmarks.new_site", seeds)
    lines = [
        Line("new_site", f"{name}: coverage of 95% at least .9", f"{covered:.3f}", covered >= 0.9)
        for name in NEW
        for covered in [mean(found, f"{name}: coverage")]
    ]
    return Report({"new_site": summary(found, f"New sites, seeds {seeds[0]} to {seeds[-1]}")}, tuple(lines))
