"""Interactions: the conditional VAE against the linear model for subsets of removed covariates, and the size of the test.

Age does something else to men than to women and to each diagnosis (age x sex, age x diagnosis declared); the body is the closed
form. For removed covariates: AUC of a linear probe on unseen people (R2 for age), and the error to the planted truth where site
stays. `suggested_clean` is how often a cohort without interactions is said to have one, `suggested_planted` with one.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.before_after import figures, mean, summary
from benchmarks.report import Line, Options, Report
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import (
    ConditionalVae,
    LinearModel,
    LinearSettings,
    Model,
    VaeSettings,
)

NAME = "interactions"
SEEDS = range(50, 62)
COLUMNS, PEOPLE = 30, 500
DECLARED = (
    Covariate("age", "continuous", unit="year"),
    Covariate("sex", "categorical"),
    Covariate("diagnosis", "categorical"),
    Covariate("site", "categorical", "batch"),
)
LINEAR = LinearSettings(interactions=(("age", "sex"), ("age", "diagnosis")))
SUBSETS = (("sex",), ("age",), ("diagnosis",), ("age", "sex"), ("age", "sex", "diagnosis"), ("sex", "site"))
ERROR_OF = [subset for subset in SUBSETS if "site" not in subset]


class World:
    """Effects of age, sex, diagnosis and site, with age differing by sex and diagnosis."""

    def __init__(self, seed: int, interaction: float = 0.8) -> None:
        self._rng = np.random.default_rng(seed)
        self._age, self._sex = self._rng.normal(0, 0.4, (2, COLUMNS))
        self._both = interaction * self._rng.normal(size=COLUMNS)
        self._ill = self._rng.normal(0, 0.5, (3, COLUMNS))
        self._worse = 0.6 * interaction * self._rng.normal(size=(3, COLUMNS))
        self._loadings = self._rng.normal(0, 0.6, (5, COLUMNS))
        self._site, self._scale = self._rng.normal(0, 1, (3, COLUMNS)), np.exp(self._rng.normal(0, 0.3, (3, COLUMNS)))

    def effect(self, frame: pd.DataFrame) -> np.ndarray:
        """Return what age, sex and diagnosis do."""
        age = (frame["age"].to_numpy(float)[:, None] - 50) / 17
        male = (frame["sex"] == "M").to_numpy()[:, None]
        ill = [int(level[1:]) for level in frame["diagnosis"]]
        return age * (self._age + male * self._both + self._worse[ill]) + male * self._sex + self._ill[ill]

    def draw(self, people: int) -> tuple[pd.DataFrame, np.ndarray]:
        """Draw people: their covariates, and their data without what `effect` adds."""
        rng = self._rng
        site = rng.integers(0, 3, people)
        frame = pd.DataFrame(
            {
                "age": rng.uniform(20, 80, people),
                "sex": rng.choice(["F", "M"], people).tolist(),
                "diagnosis": [f"D{k}" for k in rng.integers(0, 3, people)],
                "site": [f"S{k}" for k in site],
            },
            index=[f"sub-{k:04d}" for k in range(people)],
        )
        own = rng.normal(size=(people, 5)) @ self._loadings + rng.normal(size=(people, COLUMNS))
        return frame, self._site[site] + self._scale[site] * own


def measure(seed: int) -> dict[str, float]:
    """Measure both models on a cohort of one seed."""
    world = World(seed)
    (frame, rest), (new, unseen) = world.draw(PEOPLE), world.draw(PEOPLE)
    data, others = rest + world.effect(frame), unseen + world.effect(new)
    schema = CovariateSchema.fit(frame, DECLARED)
    columns = Columns(tuple(f"x{k}" for k in range(COLUMNS)), COLUMNS, None)
    known, new = schema.transfer(frame), schema.transfer(new)
    models: dict[str, Model] = {
        "linear": LinearModel.fit(Dataset(data, known, schema, columns), LINEAR)[0],
        "vae": ConditionalVae.fit(Dataset(data, known, schema, columns), VaeSettings(body="linear", linear=LINEAR))[0],
    }
    found: dict[str, float] = {}
    for removed in SUBSETS:
        target = schema.references(removed)
        truth = unseen + world.effect(schema.transformed(new, target))
        for name, model in models.items():
            transformed = model.remove(model.dataset(others, new), target)
            label = f"{name} -{','.join(removed)}"
            for covariate in removed:
                found[f"{label}: {covariate}"] = _read(transformed, new[covariate], seed)
            if removed in ERROR_OF:
                found[f"{label}: error"] = float(np.sqrt(((transformed - truth) ** 2).mean()))
    man = {"sex": "M"}
    truth = unseen + world.effect(schema.transformed(new, man))
    for name, model in models.items():
        found[f"{name} sex=M: error"] = float(
            np.sqrt(((model.remove(model.dataset(others, new), man) - truth) ** 2).mean())
        )
    found["nothing sex=M: error"] = float(np.sqrt(((others - truth) ** 2).mean()))
    return found


def _read(data: np.ndarray, values: pd.Series, seed: int) -> float:
    if values.name == "age":
        ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 12)))
        age = values.to_numpy(float)
        return float(r2_score(age, cross_val_predict(ridge, data, age, cv=KFold(5, shuffle=True, random_state=seed))))
    levels, codes = np.unique(values.to_numpy(str), return_inverse=True)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    told = cross_val_predict(probe, data, codes, cv=folds, method="predict_proba")
    return float(np.mean([roc_auc_score(codes == k, told[:, k]) for k in range(len(levels))]))


def suggested(seed: int, interaction: float) -> bool:
    """Return whether a cohort of 200 people is said to have an interaction."""
    from medrep.audit.confounding import probe_interactions  # the earlier checkout has none

    world = World(seed, interaction)
    frame, rest = world.draw(200)
    schema = CovariateSchema.fit(frame, DECLARED)
    found = probe_interactions(rest + world.effect(frame), schema.transfer(frame), schema, degrees=4, seed=seed)
    return any(result.found for result in found)


def run(options: Options) -> Report:
    """Measure all seeds, before and after, and judge the VAE by the linear model."""
    found = figures("benchmarks.interactions", options.seeds(len(SEEDS)) if options.quick else SEEDS)
    lines = []
    for removed in SUBSETS:
        label = ",".join(removed)
        for covariate in removed:
            gap = mean(found, f"vae -{label}: {covariate}") - mean(found, f"linear -{label}: {covariate}")
            lines.append(
                Line(
                    NAME,
                    f"{covariate} after removing {label}: VAE at most .02 above linear",
                    f"{gap:+.3f}",
                    gap <= 0.02,
                )
            )
        if removed in ERROR_OF:
            ratio = mean(found, f"vae -{label}: error") / mean(found, f"linear -{label}: error")
            lines.append(
                Line(NAME, f"error of removing {label}: VAE at most 1.1 x linear", f"{ratio:.3f}", ratio <= 1.1)
            )
    cohorts = range(10 if options.quick else 400)
    clean, planted = (float(np.mean([suggested(1000 + k, size) for k in cohorts])) for size in (0.0, 0.4))
    lines.append(
        Line(
            NAME,
            f"clean cohorts with a suggestion (of {len(cohorts)}): .03 to .07",
            f"{clean:.3f}",
            0.03 <= clean <= 0.07,
        )
    )
    lines.append(
        Line(NAME, "cohorts with an interaction half as strong that are told", f"{planted:.3f}", planted >= 0.8)
    )
    return Report({NAME: summary(found, "Interactions, on unseen people")}, tuple(lines))
