"""Bottlenecks beside each other: what latents tell of covariates, what they keep of people, and how much that varies over seeds.

The same people, the same split, ten latents each: principal components of the data, those of medrep's linear model, its
conditional VAE, and adversarial conditional autoencoders (`peers/with_adversary.py`) of three published kinds and several
weights. Everything is read from latents of people whom no method saw, by the strongest of three probes (linear, RBF, boosting),
taught and judged on folds of these.

- ``generated``: 400 people of 4 sites; 40 columns of 4 known factors (the person), a bent age effect, sex, a location and a scale
  of each site in each column; a diagnosis that one factor tells.
- ``fcon1000``: 20 sites of 16 people and more, with a planted diagnosis that no method is told.

The seed is that of training, on one split: whatever a figure varies by is the training. medrep's latents take the covariates of
those who are encoded, the adversaries' take the data alone, as published; a decoder is told them in both.

InfoM, InfoC and InfoE (`medrep.audit.disentanglement`), of the first seed, are above their permutation floors, of the covariates
together with what is known of the person. A further contender is one line in `CONTENDERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict

from benchmarks.data import fcon1000, split_half_by_site
from benchmarks.identity import plant_diagnosis
from benchmarks.peers.with_adversary import AdversarySettings, Peer
from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.disentanglement import audit_disentanglement
from medrep.audit.probe_figures import age_r2, sex_auc, site_auc
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import ConditionalVae, LinearModel, LinearSettings, VaeSettings

SEEDS, SPLIT = 3, 7
LATENTS, MIN_SITE, MIN_PEOPLE = 10, 16, 5
PEOPLE, SITES, COLUMNS, FACTORS = 400, 4, 40, 4
WEIGHTS = (1.0, 10.0)
KEPT = 0.05
"""AUC of the diagnosis, or R2 of the factors, that a method may lose and still count as one that keeps people."""
_PERMUTATIONS = 19
_DECLARED = (
    Covariate("age", "continuous", unit="year"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", "batch"),
)
_MEASURED = ("site_auc", "sex_auc", "age_r2", "diagnosis_auc", "factors_r2", "info_m", "info_c", "info_e", "latents")


@dataclass(frozen=True, eq=False)
class Halves:
    """One cohort: who is trained on, who is judged, and what is known of these beside covariates.

    Attributes:
        train: Features of training.
        train_table: Their age, sex and site.
        test: Features of people whom no method sees.
        test_table: Their covariates.
        diagnosis: Of the latter.
        factors: What is theirs by truth; without columns where it is not known.
    """

    train: np.ndarray
    train_table: pd.DataFrame
    test: np.ndarray
    test_table: pd.DataFrame
    diagnosis: np.ndarray
    factors: np.ndarray


def generated(seed: int) -> Halves:
    """Draw people with known factors."""
    rng = np.random.default_rng([seed, 83])
    site = np.arange(PEOPLE) % SITES
    age, male = rng.uniform(20, 80, PEOPLE) + 3 * site, rng.integers(2, size=PEOPLE)
    factors = rng.normal(size=(PEOPLE, FACTORS))
    years = (age - 50) / 20
    data = factors @ rng.normal(size=(FACTORS, COLUMNS))
    data += np.outer(years, rng.normal(size=COLUMNS)) + np.outer(years**2, rng.normal(0, 0.4, COLUMNS))
    data += np.outer(male, rng.normal(size=COLUMNS)) + rng.normal(size=(PEOPLE, COLUMNS))
    data = data * np.exp(rng.normal(0, 0.25, (SITES, COLUMNS)))[site] + rng.normal(0, 1.5, (SITES, COLUMNS))[site]
    ill = factors[:, 0] + 0.5 * rng.normal(size=PEOPLE) > 0
    table = pd.DataFrame(
        {"age": age, "sex": np.take(["F", "M"], male), "site": [f"S{k}" for k in site]},
        index=pd.Index([f"sub-{k:04d}" for k in range(PEOPLE)], name="participant_id"),
    )
    train, test = split_half_by_site(table, seed)
    diagnosis = np.where(ill, "AD", "HC")
    return Halves(data[train], table[train], data[test], table[test], diagnosis[test], factors[test])


def real(seed: int) -> Halves:
    """Read fcon1000, halve every site, and plant a diagnosis."""
    features, table = fcon1000(min_site=MIN_SITE)
    train, test = split_half_by_site(table, seed)
    features, diagnosis = plant_diagnosis(features, table["site"], features[train].to_numpy().std(axis=0), seed)
    data = features.to_numpy(float)
    unknown = np.zeros((int(test.sum()), 0))
    return Halves(data[train], table[train], data[test], table[test], diagnosis[test].to_numpy(), unknown)


COHORTS: dict[str, Callable[[int], Halves]] = {"generated": generated, "fcon1000": real}
Contender = Callable[[Halves, int], np.ndarray]


def components(halves: Halves, seed: int) -> np.ndarray:  # noqa: ARG001 - nothing is drawn
    """Return scores on the leading components of the standardised training data."""
    mean, sd = halves.train.mean(axis=0), halves.train.std(axis=0)
    used = sd > 1e-9 * np.abs(halves.train).max(axis=0, initial=1.0)
    train, test = ((part[:, used] - mean[used]) / sd[used] for part in (halves.train, halves.test))
    return test @ np.linalg.svd(train, full_matrices=False)[2][:LATENTS].T


def medrep(kind: type[LinearModel] | type[ConditionalVae], settings: object, halves: Halves, seed: int) -> np.ndarray:
    """Return latents of a model of medrep, all covariates removed."""
    schema = CovariateSchema.fit(halves.train_table, _DECLARED)
    columns = Columns(tuple(f"c{k}" for k in range(halves.train.shape[1])), halves.train.shape[1], None)
    people = Dataset(halves.train, schema.transfer(halves.train_table), schema, columns)
    model, _ = kind.fit(people, settings, seed=seed)  # type: ignore[arg-type]
    return model.encode(model.dataset(halves.test, schema.transfer(halves.test_table)))


def adversary(method: str, weight: float, halves: Halves, seed: int) -> np.ndarray:
    """Return latents of an adversarial autoencoder."""
    peer = Peer(AdversarySettings(method, weight, LATENTS), seed)
    return peer.fit(halves.train, halves.train_table).encode(halves.test)


RAW, LINEAR, VAE, PLAIN = "raw components", "medrep linear", "medrep VAE, gaussian", "no adversary"
CONTENDERS: dict[str, Contender] = {
    RAW: components,
    LINEAR: partial(medrep, LinearModel, LinearSettings(components=LATENTS)),
    VAE: partial(medrep, ConditionalVae, VaeSettings(latents=LATENTS)),
    PLAIN: partial(adversary, "reversal", 0.0),
    **{
        f"{method}, weight {weight:g}": partial(adversary, method, weight)
        for method in ("reversal", "alternating", "unlearning")
        for weight in WEIGHTS
    },
}
ONCE = (RAW, LINEAR, PLAIN)
"""Contenders of one seed: in the first two nothing is drawn."""
_OWN = (RAW, LINEAR, VAE)


def measure(halves: Halves, z: np.ndarray, seed: int) -> dict[str, float]:
    """Return what latents of people whom no method saw tell."""
    table, own = halves.test_table, np.asarray(z, float)
    row = {
        "latents": float(own.shape[1]),
        "site_auc": site_auc(own, table["site"].to_numpy(), SPLIT, min_people=MIN_PEOPLE, jobs=1).strongest,
        "sex_auc": sex_auc(own, table["sex"].to_numpy(), SPLIT, jobs=1).strongest,
        "age_r2": age_r2(own, table["age"].to_numpy(float), SPLIT, jobs=1).strongest,
        "diagnosis_auc": sex_auc(own, halves.diagnosis, SPLIT, jobs=1).strongest,
    }
    known = pd.DataFrame(halves.factors, columns=[f"factor {k}" for k in range(halves.factors.shape[1])])
    if len(known.columns):
        told = cross_val_predict(RidgeCV(np.logspace(-3, 4, 15)), own / own.std(), halves.factors, cv=5)
        left = ((told - halves.factors) ** 2).sum(axis=0) / ((halves.factors - halves.factors.mean(axis=0)) ** 2).sum(
            axis=0
        )
        row["factors_r2"] = float(np.mean(1 - left))
    if seed:
        return row
    sources = pd.concat([table.reset_index(drop=True), known, pd.Series(halves.diagnosis, name="diagnosis")], axis=1)
    found = audit_disentanglement(
        own, sources, ["age", *known.columns], np.arange(len(own)), seed, permutations=_PERMUTATIONS
    )
    return row | {name: one.estimate for name, one in zip(("info_m", "info_c", "info_e"), found, strict=True)}


def _row(cohort: str, name: str, seed: int) -> dict[str, object]:
    halves = COHORTS[cohort](SPLIT)
    row = measure(halves, CONTENDERS[name](halves, seed), seed)
    say(f"adversary: {cohort}, {name}, seed {seed}: {', '.join(f'{key} {value:.3f}' for key, value in row.items())}")
    return {"cohort": cohort, "method": name, "seed": seed, **row}


def run(options: Options) -> Report:
    """Measure every contender on both cohorts, and judge what adversaries leave, keep and vary by."""
    asked = [
        (cohort, name, seed)
        for cohort in COHORTS
        for name in CONTENDERS
        for seed in ((0,) if name in ONCE else options.seeds(SEEDS))
    ]
    rows = Parallel(n_jobs=2)(delayed(_row)(*one) for one in asked)
    frame = pd.DataFrame(rows)
    means = frame.groupby(["cohort", "method"], sort=False)[list(_MEASURED)].mean()
    spread = frame.groupby(["cohort", "method"], sort=False)[list(_MEASURED[:5])].agg(lambda own: own.max() - own.min())
    shown = means.join(spread.add_suffix("_range")).reset_index()
    lines = [line for cohort in COHORTS for line in judge(cohort, means.loc[cohort], spread.loc[cohort])]
    title = "latents of unseen people: means over seeds of training, on one split"
    return Report(
        {
            "adversary": Table(frame, ("cohort", "method", "seed", *_MEASURED), "every run"),
            "adversary_means": Table(
                shown, ("cohort", "method", *_MEASURED, "site_auc_range", "diagnosis_auc_range"), title
            ),
        },
        tuple(lines),
    )


def judge(cohort: str, means: pd.DataFrame, spread: pd.DataFrame) -> list[Line]:
    """Return what is claimed against adversaries, and whether it holds here.

    The adversary is the one that leaves least of the site among those that keep the diagnosis within `KEPT` of the autoencoder
    without one: chosen on the figures that are reported, in its favour.
    """
    others = [name for name in means.index if name not in (*_OWN, PLAIN)]
    keeps = [name for name in others if means.loc[name, "diagnosis_auc"] >= means.loc[PLAIN, "diagnosis_auc"] - KEPT]
    best = means.loc[keeps or others, "site_auc"].idxmin()
    theirs, name, lines = means.loc[best], "adversary", []
    for model in (LINEAR, VAE):
        ours = means.loc[model]
        lines += [
            Line(
                name,
                f"{cohort}, {model}: latents tell less of the site than the best adversary's ({best})",
                f"AUC {ours['site_auc']:.3f} against {theirs['site_auc']:.3f} (none {means.loc[PLAIN, 'site_auc']:.3f})",
                bool(ours["site_auc"] < theirs["site_auc"]),
            ),
            Line(
                name,
                f"{cohort}, {model}: and keep as much of the diagnosis (AUC, to .02)",
                f"{ours['diagnosis_auc']:.3f} against {theirs['diagnosis_auc']:.3f}",
                bool(ours["diagnosis_auc"] >= theirs["diagnosis_auc"] - 0.02),
            ),
        ]
    others_range, own_range = spread.loc[others, "site_auc"].mean(), spread.loc[VAE, "site_auc"]
    told = f"{others_range:.3f}, mean over {len(others)}, against {own_range:.3f}"
    asked = f"{cohort}: AUC of the site varies more over seeds of training with adversaries than with the VAE (range)"
    return [*lines, Line(name, asked, told, bool(others_range > own_range))]
