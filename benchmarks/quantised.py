"""Quantised latents beside gaussian ones: which factors that are known do they tell, apart from each other?

Four independent factors of people make 48 columns, in a straight or a bent way (a random hidden layer); they have 3 to 6
levels, or are uniform, or normal. Age, sex and site act on top. Models are fitted to half of the people, and the other
half's latents are judged by InfoM, InfoC and InfoE above their floors (`medrep.audit.disentanglement`). ``gaussian`` and
``quantised`` have room for twice as many latents as factors; ``told the number`` is the gaussian with as many latents as
factors, which nobody knows of real people, and ``turned`` these latents as FastICA turns them, which says how much of a gain
is the rotation of the start.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.decomposition import FastICA

from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.disentanglement import info_scores, make_sources, unpruned
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import ConditionalVae, VaeSettings
from medrep.models.vae.roles import Roles
from medrep.training.schedule import Schedule

SEEDS, PERMUTATIONS = 5, 9
NAMES = ("InfoM", "InfoC", "InfoE")
PEOPLE, COLUMNS, SITES = 1200, 48, 4
LEVELS = (3, 4, 5, 6)
DESIGNS = ("levels", "levels, bent", "uniform", "uniform, bent", "normal")
GAUSSIAN, TOLD, TURNED = "gaussian", "gaussian, told the number", "gaussian, told the number, turned"
QUANTISED = "quantised"
_PLAIN = VaeSettings(latents=2 * len(LEVELS), hidden=(64,), strength=0.0, training=Schedule(threads=1))
METHODS = {
    GAUSSIAN: _PLAIN,
    TOLD: replace(_PLAIN, latents=len(LEVELS)),
    QUANTISED: replace(_PLAIN, roles=Roles(values=10)),
    "quantised, 6 values": replace(_PLAIN, roles=Roles(values=6)),
}
_DECLARED = (
    Covariate("age", "continuous", unit="year"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", "batch"),
)
_BATCH_SD, _NOISE = 0.15, 0.5


def drawn(design: str, seed: int) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame]:
    """Return covariates, columns, and the factors, of which levels are text."""
    rng = np.random.default_rng([seed, 83])
    site = rng.permutation(np.arange(PEOPLE) % SITES)
    frame = pd.DataFrame(
        {
            "age": rng.uniform(20, 80, PEOPLE),
            "sex": rng.choice(["F", "M"], PEOPLE),
            "site": [f"S{k}" for k in site],
        },
        index=pd.Index([f"sub-{k:04d}" for k in range(PEOPLE)], name="key"),
    )
    kind, count = design.partition(",")[0], len(LEVELS)
    if kind == "levels":
        codes = np.stack([rng.integers(0, levels, PEOPLE) for levels in LEVELS], axis=1)
        factors = (codes - codes.mean(axis=0)) / codes.std(axis=0)
        truth = pd.DataFrame({f"factor_{k}": codes[:, k].astype(str) for k in range(count)})
    else:
        shape = (PEOPLE, count)
        factors = rng.uniform(-(3**0.5), 3**0.5, shape) if kind == "uniform" else rng.standard_normal(shape)
        truth = pd.DataFrame({f"factor_{k}": factors[:, k] for k in range(count)})
    clean = factors @ rng.standard_normal((count, COLUMNS))
    if "bent" in design:
        hidden = np.tanh(0.5 * (factors @ rng.standard_normal((count, 32)) + rng.standard_normal(32)))
        clean = hidden @ rng.standard_normal((32, COLUMNS))
    own = clean / clean.std(axis=0) + _NOISE * rng.standard_normal(clean.shape)
    own = own * np.exp(_BATCH_SD * rng.standard_normal((SITES, COLUMNS)))[site]
    own = own + rng.standard_normal((SITES, COLUMNS))[site]
    own = own + np.outer((frame["age"] - 50) / 30, 0.5 * rng.standard_normal(COLUMNS))
    return frame, own + np.outer(frame["sex"] == "M", 0.4 * rng.standard_normal(COLUMNS)), truth


def latents_of(
    frame: pd.DataFrame, data: np.ndarray, train: np.ndarray, settings: VaeSettings, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return latents of people of training, and of the others."""
    schema = CovariateSchema.fit(frame[train], _DECLARED)
    known, columns = schema.transfer(frame), Columns(tuple(f"c{k}" for k in range(COLUMNS)), COLUMNS, None)
    model, _ = ConditionalVae.fit(Dataset(data[train], known[train], schema, columns), settings, seed=seed)
    parts = (model.posterior(model.dataset(data[rows], known[rows]))[0] for rows in (train, ~train))
    return next(parts), next(parts)


def scores_of(z: np.ndarray, factors: pd.DataFrame, seed: int) -> dict[str, float]:
    """Return the number of latents that vary, and their scores above the mean of factors exchanged between people."""
    numbers, rng = [name for name in factors if factors[name].dtype.kind == "f"], np.random.default_rng([seed, 85])
    sources, _ = make_sources(factors, numbers)
    z = z[:, unpruned(z)] / z[:, unpruned(z)].std(axis=0)
    z = z + 1e-9 * rng.standard_normal(z.shape)  # neighbours need latents without ties
    who = np.arange(len(z)).astype(str)
    orders = [rng.permutation(len(z)) for _ in range(PERMUTATIONS)]
    floor = np.mean([info_scores(z, [one.of(order) for one in sources], who, seed) for order in orders], axis=0)
    found = (info_scores(z, sources, who, seed) - floor) / (1 - floor)
    return {"latents": float(z.shape[1]), **dict(zip(NAMES, found.tolist(), strict=True))}


def run(options: Options) -> Report:
    """Score every method on every design and seed."""
    rows: list[dict[str, object]] = []
    for design in DESIGNS:
        for seed in options.seeds(SEEDS):
            frame, data, truth = drawn(design, seed)
            train = np.random.default_rng([seed, 84]).permutation(PEOPLE) < PEOPLE // 2
            factors = truth[~train].reset_index(drop=True)

            for method, settings in METHODS.items():
                before, z = latents_of(frame, data, train, settings, seed)
                rows.append({"design": design, "seed": seed, "method": method, **scores_of(z, factors, seed)})
                if method == TOLD:
                    turn = FastICA(whiten="unit-variance", random_state=seed, max_iter=2000, tol=1e-3).fit(before)
                    told = scores_of(turn.transform(z), factors, seed)
                    rows.append({"design": design, "seed": seed, "method": TURNED, **told})
            say(f"quantised: {design}, seed {seed}")
    table = pd.DataFrame(rows)
    means = table.groupby(["design", "method"], sort=False)[["latents", *NAMES]].mean().reset_index()
    tables = {
        "quantised": Table(table, tuple(table), "Four factors in latents of unseen people, above the floors"),
        "quantised_mean": Table(means, tuple(means), "Means over seeds"),
    }
    return Report(tables, tuple(_lines(table)))


def _lines(table: pd.DataFrame) -> list[Line]:
    lines = []
    for design in DESIGNS:
        by_seed = table[table["design"] == design].set_index(["seed", "method"])
        for name in NAMES:
            figures = by_seed[name].unstack()
            gain, of_known = figures[QUANTISED] - figures[GAUSSIAN], figures[QUANTISED] - figures[TURNED]
            asked = f"{design}: {name} above the gaussian's, or the finding that it is not"
            above = f"{int((gain > 0).sum())} of {len(gain)} seeds"
            finding = "above" if gain.mean() > 0 else "NOT above"
            text = f"{finding}: {figures[QUANTISED].mean():.3f} against {figures[GAUSSIAN].mean():.3f} ({above})"
            lines.append(Line("quantised", asked, f"{text}; {of_known.mean():+.3f} to told and turned", True))
    return lines
