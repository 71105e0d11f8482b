"""Scanners told from people who travel and who change them: how far restored images are from what the anchor would have made.

`medrep simulate --kind volume --visits 2 --travellers 8` plants four scanners into 32 people. `people`: the scanner layer knows
whose visits are whose; `visits`: it takes each for a person. Errors are root mean squares over voxels of the visits on the other
scanners, against the same images without a scanner, which were written beside; of all visits, and of three quarters of them.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import commands
from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.cohort import read_cohort
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.kinds import SILENT
from medrep.cohort.nifti import read_image
from medrep.config import read_config
from medrep.models.linear.design import Design
from medrep.models.scanner import ScannerHarmonizer

NAME = "travellers"
SEEDS, FIRST = 3, 11
PEOPLE, TRAVELLERS, SITES, SHARE = 32, 8, 4, 0.75
ANCHOR = "S0"
DECLARED = (Covariate("age", "continuous"), Covariate("sex", "categorical"), Covariate("site", "categorical", "batch"))


def planted(folder: Path, seed: int) -> tuple[Dataset, np.ndarray]:
    """Generate a cohort; return its visits, and what each would be without a scanner."""
    commands.medrep(
        *("simulate", folder, "--kind", "volume", "--visits", "2", "--seed", str(seed), "--n", str(PEOPLE)),
        *("--travellers", str(TRAVELLERS), "--sites", str(SITES)),
    )
    wanted = read_config("linear.yaml", ["input.kind=volume", "input.intensity=raw"]).input
    cohort = read_cohort(folder, wanted)
    values, columns = wanted.matrix(cohort.source, lambda rows, width: np.empty((rows, width), np.float32), SILENT)
    truth = folder / "derivatives" / "truth"
    clean = np.stack([read_image(truth / file.relative_to(folder)).data.ravel() for file in cohort.source.files])
    frame = cohort.table[["age", "sex", "site"]].assign(age=cohort.table["age"].astype(float))
    schema = CovariateSchema.fit(frame, DECLARED)
    whose = tuple(cohort.table["participant_id"].astype(str))
    return Dataset(values, schema.transfer(frame), schema, columns, whose), clean


def error(fitted: Dataset, visits: Dataset, clean: np.ndarray) -> float:
    """Fit scanners to some visits; return the error of all that are not the anchor's, once restored."""
    design = Design.fit(fitted.schema, fitted.covariates, 4, ())
    effects = design.effects(fitted.covariates)[:, 1:]
    found = ScannerHarmonizer.fit(fitted, effects, covariate="site", reference=ANCHOR)
    site = visits.covariates["site"].astype(str).to_numpy()
    away = np.flatnonzero(site != ANCHOR)
    restored = found.restore_to_reference(visits.values[away], site[away].tolist())
    return float(np.sqrt(((restored - clean[away]) ** 2).mean()))


def measure(seed: int) -> list[dict[str, float | str]]:
    """Return errors with one seed."""
    with tempfile.TemporaryDirectory(prefix="bench-travellers-") as folder:
        visits, clean = planted(Path(folder) / "cohort", seed)
    order = np.random.default_rng(seed).permutation(len(visits))
    some = visits.take(np.sort(order[: int(SHARE * len(visits))]))
    found: list[dict[str, float | str]] = []
    for name, fitted in (("all", visits), ("three quarters", some)):
        alone = replace(fitted, participants=None)
        errors = {"people": error(fitted, visits, clean), "visits": error(alone, visits, clean)}
        found.append({"seed": float(seed), "of": name, **errors})
    return found


def run(options: Options) -> Report:
    """Measure over seeds."""
    rows = []
    for seed in options.seeds(SEEDS):
        rows += measure(FIRST + seed)
        say(f"{NAME}: seed {seed} done")
    table = pd.DataFrame(rows)
    mean = table.groupby("of", sort=False)[["people", "visits"]].mean()
    lines = [
        Line(
            NAME,
            f"error of restored images lower where people are known, {name} visits",
            f"{own['people']:.2f}, {own['visits']:.2f}",
            bool(own["people"] < own["visits"]),
        )
        for name, own in mean.iterrows()
    ]
    return Report({NAME: Table(table, tuple(table), "Scanners told from people and from visits")}, tuple(lines))
