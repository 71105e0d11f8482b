"""Repeated scans of one person are not people: readouts without signal, and the certificate against what a linear probe reads.

`readout_r2`: 100 people x 3 sessions whose features hold no age; what `Prediction` says of people left out of the fit (0 or below
is right). `forecast` and `read`: a conditional VAE of 60 people x 4 scans at two sites, two fifths of the variance between scans
of a person; the AUC of site that the certificate forecasts, and what a linear probe reads from latents of as many unseen
people, in folds that keep people together. `..._single`: the same with 60 and 240 people of one scan each.
"""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.before_after import figures, mean, summary
from benchmarks.report import Line, Options, Report
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import ConditionalVae, VaeSettings
from medrep.models.prediction import Prediction

SEEDS = range(20, 40)
DECLARED = (
    Covariate("age", "continuous", unit="year"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", "batch"),
)
FEATURES, FACTORS = 40, 12
BETWEEN = 0.6
"""Share of the variance that lies between people."""
NAME = "repeated_scans"


def measure(seed: int) -> dict[str, float]:
    """Measure everything on cohorts of one seed."""
    found = {"readout_r2": _readout(100, 3, seed), "readout_r2_single": _readout(100, 1, seed)}
    for label, people, scans in (("60x4", 60, 4), ("60x1", 60, 1), ("240x1", 240, 1)):
        forecast, read = _certified(people, scans, seed)
        found |= {f"forecast_{label}": forecast, f"read_{label}": read}
    return found


def _readout(people: int, scans: int, seed: int) -> float:
    rng = np.random.default_rng([seed, 1])
    own = rng.normal(size=(people, FEATURES))
    who = np.repeat(np.arange(people), scans)
    data = own[who] + 0.3 * rng.normal(size=(people * scans, FEATURES))
    age = rng.uniform(20, 80, people)[who]
    return Prediction.fit("age", data, age, seed=seed, **_whose(Prediction.fit, who)).r2


def _whose(function: object, who: np.ndarray) -> dict[str, list[str]]:
    """Return the keyword that says whose each row is, where the function has it."""
    known = "participants" in inspect.signature(function).parameters  # type: ignore[arg-type]
    return {"participants": [f"sub-{k:03d}" for k in who]} if known else {}


def _cohort(
    people: int, scans: int, seed: int, world: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    effects, site, loadings = (world.normal(0, s, (r, FEATURES)) for s, r in ((0.4, 2), (0.8, 2), (0.6, FACTORS)))
    rng = np.random.default_rng([seed, 2])
    who = np.repeat(np.arange(people), scans)
    age, sex, where = rng.uniform(20, 80, people)[who], rng.integers(0, 2, people)[who], (np.arange(people) % 2)[who]

    def noise(width: int) -> np.ndarray:
        own, scan = rng.normal(size=(people, width))[who], rng.normal(size=(len(who), width))
        return BETWEEN**0.5 * own + (1 - BETWEEN) ** 0.5 * scan

    data = noise(FACTORS) @ loadings + 0.5 * noise(FEATURES) + site[where]
    data += ((age - 50) / 17)[:, None] * effects[0] + sex[:, None] * effects[1]
    index = pd.Index([f"sub-{a:03d}_ses-{b}" for a, b in zip(who, np.tile(np.arange(scans), people), strict=True)])
    table = {"age": age, "sex": np.where(sex == 1, "M", "F").tolist(), "site": [f"S{k}" for k in where]}
    return pd.DataFrame(table, index=index), data, who


def _certified(people: int, scans: int, seed: int) -> tuple[float, float]:
    def draw(number: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        return _cohort(people, scans, 10 * seed + number, np.random.default_rng([seed, 3]))

    frame, data, who = draw(0)
    schema = CovariateSchema.fit(frame, DECLARED)
    columns = Columns(tuple(f"x{k}" for k in range(FEATURES)), FEATURES, None)
    settings = VaeSettings(body="linear", directions=FACTORS)
    whose = [f"sub-{k:03d}" for k in who]
    model, _ = ConditionalVae.fit(Dataset(data, schema.transfer(frame), schema, columns, whose), settings, seed=seed)
    (forecast,) = [one.predicted_auc for one in model.certificates(schema.names, ()) if one.covariate == "site"]
    reads = []
    for number in (1, 2, 3):
        new, unseen, theirs = draw(number)
        latents = model.encode(model.dataset(unseen, schema.transfer(new)))
        reads.append(_read(latents, (new["site"] == "S1").to_numpy(), theirs, seed))
    return float(forecast or 0.5), float(np.mean(reads))


def _read(latents: np.ndarray, labels: np.ndarray, who: np.ndarray, seed: int) -> float:
    scores = np.zeros(len(labels))
    for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(latents, labels, who):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        scores[test] = probe.fit(latents[train], labels[train]).decision_function(latents[test])
        scores[test] -= scores[test].mean()
    return float(roc_auc_score(labels, scores))


def run(options: Options) -> Report:
    """Measure all seeds, before and after."""
    found = figures("benchmarks.repeated_scans", options.seeds(len(SEEDS)) if options.quick else SEEDS)
    r2 = mean(found, "readout_r2")
    lines = [Line(NAME, "out-of-fold R2 without signal <= 0.05, 100 people x 3", f"{r2:+.3f}", r2 <= 0.05)]
    for label in ("60x4", "60x1", "240x1"):
        gap = mean(found, f"forecast_{label}") - mean(found, f"read_{label}")
        lines.append(Line(NAME, f"certificate within 0.03 of a linear probe, {label}", f"{gap:+.3f}", abs(gap) <= 0.03))
    return Report({NAME: summary(found, "Repeated scans")}, tuple(lines))
