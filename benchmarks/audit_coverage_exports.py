"""Draws of exports for `audit_coverage`: what is read from them, what is left in them, latents, and counterfactuals.

What a reader finds depends on how many people taught it, so that its truth is what is found on average of so many people.
Latents have a formula; intervals of counts are of whole numbers, which hold more. Counterfactuals are read by a reader of other
people and measured in deviations of those audited, both drawn anew with every seed. Injection and its gain are of n people in
the half that judges, and of the linear and the RBF probe (boosting and the network take a hundred times as long).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pandas as pd

from benchmarks.planted_errors import ERRORS, Draw, Errors, Held, held
from medrep.audit.counterfactuals import Predictor, audit_counterfactuals, counterfactual_fairness
from medrep.audit.data import Question
from medrep.audit.disentanglement import audit_disentanglement, audit_latents
from medrep.audit.holdout_split import Probing
from medrep.audit.identity import reidentification
from medrep.audit.label_injection import audit_label_injection
from medrep.audit.leakage import audit_leakage
from medrep.audit.means import Sampling
from medrep.audit.retention import variance_kept
from medrep.audit.utility import audit_utility
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import LinearModel

_DRAWS = 300
_COLUMNS = 10
_LEAST = 10  # people, so that 20 are never too few


def _left(rng: np.random.Generator, n: int, errors: Errors, seed: int) -> list[tuple[str, Held]]:
    raw = errors(rng, (n, 15))
    exported = 0.8 * raw + 0.6 * errors(rng, (n, 15))
    row = variance_kept(raw, exported, np.ones((n, 1)), np.arange(n), None, Sampling(seed, _LEAST, _DRAWS))
    return [("variance_kept", held(row))]


def _known_again(rng: np.random.Generator, n: int, errors: Errors, seed: int) -> list[tuple[str, Held]]:
    raw = np.repeat(errors(rng, (n, _COLUMNS)), 2, axis=0) + 0.7 * errors(rng, (2 * n, _COLUMNS))
    tables = {"raw": raw, "exported": raw + 0.7 * errors(rng, raw.shape)}
    found = reidentification(tables, np.repeat(np.arange(n), 2), seed, min_n=_LEAST, draws=_DRAWS)
    rows = {(row.metric, row.group): row for row in found}
    names = (("reidentification", "raw"), ("reidentification_change", "exported"))
    return [(name[0], held(rows[name])) for name in names]


def _leakage(rng: np.random.Generator, n: int, errors: Errors, seed: int) -> list[tuple[str, Held]]:
    site = rng.permutation(n) % 2
    own = errors(rng, (n, _COLUMNS))
    age = errors(rng, n)
    cases = {
        "clean": (own, np.zeros((n, 0)), site, False),
        "shifted, age kept": (own + 0.5 * site[:, None], (age + 0.8 * site)[:, None], site, False),
        "number": (own + 0.4 * age[:, None], np.zeros((n, 0)), age, True),
    }
    intervals = []
    for case, (data, kept, label, continuous) in cases.items():
        values = pd.Series(label if continuous else np.where(label == 1, "B", "A"))
        found = audit_leakage(
            {"exported": data},
            Question("label", values, continuous, np.arange(n), kept),
            seed,
            trained={"exported": {"": 60.0} if continuous else {"A": 30.0, "B": 30.0}},
            permutations=99,
            min_n=_LEAST,
        )
        rows = {row.metric: row for row in found if row.status == "ok"}
        if "leakage" not in rows:  # kept covariates of few people tell every site
            continue
        metrics = ("leakage", "leakage_excess", "leakage_beyond_training")
        intervals += [(f"{metric}, {case}", held(rows[metric])) for metric in metrics]
        bound = rows["leakage_equivalence"]
        excess = rows["leakage_excess"].estimate
        intervals.append((f"leakage_equivalence, {case}", Held(-math.inf, bound.ci_high, math.nan, excess)))
        if kept.shape[1]:
            intervals.append(("leakage_kept", held(rows["leakage_kept"])))
    return intervals


def _injection(rng: np.random.Generator, n: int, errors: Errors, seed: int) -> list[tuple[str, Held]]:
    people = 2 * n
    frame = pd.DataFrame({"age": rng.uniform(20, 80, people), "sex": np.where(rng.permutation(people) % 2, "F", "M")})
    schema = CovariateSchema.fit(frame, (Covariate("age", "continuous"), Covariate("sex", "categorical")))
    frame = schema.transfer(frame)
    own = errors(rng, (people, _COLUMNS))

    def with_labels(given: pd.DataFrame, size: float) -> np.ndarray:
        decades = (given["age"].to_numpy(float) - 50) / 17
        female = (given["sex"] == "F").to_numpy(float)
        return size * (decades[:, None] * (np.arange(_COLUMNS) < 3) + female[:, None] * (np.arange(_COLUMNS) > 6))

    raw = own + with_labels(frame, 0.5)
    found = audit_label_injection(
        lambda given: raw + with_labels(given, 0.3),
        Dataset(raw, frame, schema, _columns(raw), [str(k) for k in range(people)]),
        ["age", "sex"],
        seed,
        probing=Probing(_LEAST, 19, _DRAWS, ("linear", "rbf")),
    )
    return [(f"{row.metric}, {row.group.partition('/')[2]}", held(row)) for row in found]


def _columns(data: np.ndarray) -> Columns:
    return Columns((), data.shape[1], None)


def _utility(rng: np.random.Generator, n: int, errors: Errors, seed: int) -> list[tuple[str, Held]]:
    frame = pd.DataFrame({"sex": np.where(np.arange(n) % 4 < 2, "F", "M")})
    schema = CovariateSchema.fit(frame, (Covariate("sex", "categorical"),))
    frame = schema.transfer(frame)
    ill = np.arange(n) % 2
    number = errors(rng, n)
    own, lost = errors(rng, (n, _COLUMNS)), 0.7 * errors(rng, (n, _COLUMNS))
    intervals = []
    for name, effect, outcome in (
        ("class", 0.5 * ill, pd.Series(np.where(ill, "P", "C"), name="ill")),
        ("number", 0.5 * number, pd.Series(number, name="number")),
    ):
        raw = own + effect[:, None]
        found = audit_utility(
            {"raw": raw, "exported": raw + lost},
            outcome,
            Dataset(raw, frame, schema, _columns(raw), [str(k) for k in range(n)]),
            seed,
            continuous=name == "number",
            min_n=_LEAST,
            draws=_DRAWS,
        )
        rows = {(row.metric, row.group.partition("/")[0]): row for row in found}
        intervals.append((f"utility, {name}", held(rows["utility", "raw"])))
        intervals.append((f"utility_change, {name}", held(rows["utility_change", "exported"])))
    return intervals


_SPREADS = ((0.02, 0.2), (0.085, 0.3), (0.115, 0.3), (0.5, 0.2), (0.87, 0.15), (0.93, 0.15), (1.0, 0.15), (1.0, 0.37))
"""Mean of each latent's posterior variance, and its deviation over people as a share of it."""


def _latents(rng: np.random.Generator, n: int, errors: Errors, seed: int) -> list[tuple[str, Held]]:
    mean, share = np.array(_SPREADS).T
    variance = np.maximum(mean * (1 + share * errors(rng, (n, len(mean)))), 1e-6)
    steady = (mean * share) ** 2 < 0.1
    active, passive = steady & (mean <= 0.1), steady & (np.abs(mean - 1) <= 0.1)
    truth = {"active": active.sum(), "passive": passive.sum(), "mixed": (~active & ~passive).sum()}
    found = audit_latents(
        rng.normal(size=variance.shape), np.sqrt(variance), np.arange(n), seed, min_n=_LEAST, draws=_DRAWS
    )
    return [(f"count of {row.metric}", held(row, float(truth[row.metric.partition("_")[2]]))) for row in found]


def _informed(rng: np.random.Generator, n: int, errors: Errors, seed: int) -> list[tuple[str, Held]]:
    if n < 50:  # nothing is said of fewer
        return []
    age, sex = errors(rng, n), rng.permutation(n) % 2
    latents = 0.7 * errors(rng, (n, 4)) + np.column_stack([age, age / 2 + sex / 2, sex, np.zeros(n)])
    frame = pd.DataFrame({"age": age, "sex": np.where(sex, "F", "M")})
    found = audit_disentanglement(latents, frame, ["age"], np.arange(n), seed, permutations=9)
    return [(row.metric, held(row)) for row in found]


class _Blurring(LinearModel):
    """The linear model, but what it moves loses a tenth of its profile: nothing moved is moved, and back is not home."""

    def transform(self, dataset: Dataset, to: pd.DataFrame, out: np.ndarray | None = None) -> np.ndarray:
        transformed = super().transform(dataset, to, out)
        return 0.9 * transformed + 0.1 * transformed.mean(axis=1, keepdims=True)


def _people(rng: np.random.Generator, count: int, own: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    frame = pd.DataFrame({"age": rng.uniform(20, 80, count), "sex": np.where(rng.permutation(count) % 2, "F", "M")})
    frame.index = [f"p{k:03d}" for k in range(count)]
    effects = np.linspace(-1, 1, _COLUMNS)
    decades = (frame["age"].to_numpy() - 50) / 17
    return frame, own + np.outer(decades, effects) + np.outer(frame["sex"] == "F", np.roll(effects, 4))


@cache
def _model() -> _Blurring:
    rng = np.random.default_rng(1)
    frame, data = _people(rng, 300, rng.normal(size=(300, _COLUMNS)))
    schema = CovariateSchema.fit(frame, (Covariate("age", "continuous"), Covariate("sex", "categorical")))
    names = tuple(f"c{k}" for k in range(_COLUMNS))
    fitted, _ = LinearModel.fit(Dataset(data, schema.transfer(frame), schema, Columns(names, _COLUMNS, None)))
    return _Blurring(**{name: getattr(fitted, name) for name in LinearModel.__dataclass_fields__})


def _counterfactuals(rng: np.random.Generator, n: int, errors: Errors, seed: int) -> list[tuple[str, Held]]:
    model = _model()
    frame, data = _people(rng, 2 * n, errors(rng, (2 * n, _COLUMNS)))
    people = model.dataset(data, model.schema.transfer(frame))
    targets: dict[str, tuple[str | float, ...]] = {"age": (65.0,), "sex": ("F",)}
    found = audit_counterfactuals(model, people, seed, targets=targets, min_n=_LEAST, draws=_DRAWS)
    found += counterfactual_fairness(
        Predictor(lambda rows: rows[:, 0] + np.abs(rows[:, 1]) + rows[:, 2] ** 2),
        model,
        people.take(slice(0, n)),
        seed,
        targets=targets,
        min_n=_LEAST,
        draws=_DRAWS,
    )
    return [(f"{row.metric}, {row.group}", held(row)) for row in found if row.status == "ok"]


_ENDS = ("normal", "lognormal")
DRAWS: tuple[tuple[Draw, int, tuple[str, ...]], ...] = (
    (_left, 400, tuple(ERRORS)),
    (_known_again, 200, tuple(ERRORS)),
    (_latents, 200, tuple(ERRORS)),
    (_injection, 150, _ENDS),
    (_leakage, 100, _ENDS),
    (_utility, 60, _ENDS),
    (_informed, 100, _ENDS),
    (_counterfactuals, 100, _ENDS),
)
"""Draws, how many seeds of each, and which errors: those that cost much have the shortest tails and the longest alone."""
