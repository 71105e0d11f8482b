"""Sites of very different noise: how alike they come out, and whose measure everybody gets.

Planted tables of 20 columns with age and sex effects and site locations; one site's noise is 4, 30 or 1/30 times the others',
in all columns or in one. Spread is the deviation within a site once site is removed, the planted age and sex effects taken out.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.before_after import figures, mean, summary
from benchmarks.report import Line, Options, Report
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import LinearModel, LinearSettings

SEEDS = range(100, 112)
COLUMNS = 20
ODD = "spread of the odd site over that of the others"
CASES: dict[str, tuple[tuple[float, ...], int, int | None]] = {
    "alike": ((1, 1, 1, 1), 50, None),
    "4x": ((1, 1, 1, 4), 50, None),
    "30x": ((1, 1, 1, 30), 50, None),
    "30x, 10 a site": ((1, 1, 1, 1, 1, 30), 10, None),
    "1/30x": ((1, 1, 1, 1 / 30), 50, None),
    "30x in one column": ((1, 1, 1, 30), 50, 3),
}
DECLARED = (Covariate("age", "continuous"), Covariate("sex", "categorical"), Covariate("site", "categorical", "batch"))


def measure(seed: int) -> dict[str, float]:
    """Return, a case: the odd site's spread over the others', and the others' spread (1 is what they had)."""
    found: dict[str, float] = {}
    for name, (scales, people, only) in CASES.items():
        rng = np.random.default_rng([seed, people, len(scales)])
        site = np.repeat(np.arange(len(scales)), people)
        age, male = rng.uniform(20, 80, len(site)), rng.integers(0, 2, len(site))
        told = np.outer((age - 50) / 17, rng.normal(0, 0.6, COLUMNS)) + np.outer(male, rng.normal(0, 0.5, COLUMNS))
        deviation = np.ones((len(scales), COLUMNS))
        deviation[:, slice(None) if only is None else slice(only, only + 1)] = np.array(scales)[:, None]
        noise = deviation[site] * rng.normal(size=(len(site), COLUMNS))
        data = 5 + told + rng.normal(0, 0.6, (len(scales), COLUMNS))[site] + noise
        frame = pd.DataFrame(
            {"age": age, "sex": np.where(male, "M", "F"), "site": [f"S{k}" for k in site]},
            index=[f"sub-{k:03d}" for k in range(len(site))],
        )
        schema = CovariateSchema.fit(frame, DECLARED)
        frame = schema.transfer(frame)
        columns = Columns(tuple(f"x{k}" for k in range(COLUMNS)), COLUMNS, None)
        model, _ = LinearModel.fit(Dataset(data, frame, schema, columns), LinearSettings())
        transformed = model.remove(model.dataset(data, frame), schema.references(["site"])) - told
        looked = transformed if only is None else transformed[:, only : only + 1]
        spread = np.array([np.log(looked[site == k].std(axis=0, ddof=1)).mean() for k in range(len(scales))])
        found[f"{name}: {ODD}"] = float(np.exp(spread[-1] - spread[:-1].mean()))
        found[f"{name}: the others' spread"] = float(np.exp(spread[:-1].mean()))
    return found


def run(options: Options) -> Report:
    """Measure over seeds, on an earlier checkout too where MEDREP_BEFORE names one."""
    seeds = list(SEEDS)[:2] if options.quick else list(SEEDS)
    found = figures("benchmarks.batch_scale", seeds)
    lines = []
    for name in CASES:
        ratio = mean(found, f"{name}: {ODD}")
        lines.append(Line("batch_scale", f"{name}: {ODD} within 10% of 1", f"{ratio:.3f}", abs(ratio - 1) < 0.1))
    return Report(
        {"batch_scale": summary(found, f"Sites of unlike noise, seeds {seeds[0]} to {seeds[-1]}")}, tuple(lines)
    )
