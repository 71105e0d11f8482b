"""Planted subtypes in people of several sites: are they found in people nobody was fitted on?

Three subtypes (half, a third and a sixth of people, whatever their age, sex and site) differ in 48 columns, beside four
normal factors, noise, effects of age and sex, and location and scale of four sites. ``apart`` is by how many deviations two
subtypes differ in the direction that tells them best; in the bent design a subtype's factors act through a hidden layer,
too. Everybody is told that there are three. Half of the people are fitted, and the adjusted Rand index is that of the other
half with the truth, and with site. Beside the mixture prior, trained and at its start: the plain VAE, and a mixture (one
covariance; one each) or k-means on its latents; k-means on features as they were measured, and on features without age, sex
and site (linear model); and who knows the subtypes (discriminants learned from labels in clean features). The number that
people held out are likeliest under is said for each design, and for people of no subtypes, among 1 to 4.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import ConditionalVae, LinearModel, LinearSettings, VaeSettings
from medrep.models.vae.roles import Roles
from medrep.training.schedule import Schedule

SEEDS, FURTHER = 5, tuple(range(20, 25))
PEOPLE, COLUMNS, SITES = 800, 48, 4
WEIGHTS = (1 / 2, 1 / 3, 1 / 6)
NONE = "none"
DESIGNS = {"6 apart": (6.0, False), "4 apart": (4.0, False), "6 apart, bent": (6.0, True)}
OURS, START = "mixture prior", "mixture prior, not trained"
ON_LATENTS, RAW, CLEANED = "plain VAE, mixture on latents", "k-means on features", "k-means on features without site"
KNOWN = "knows the subtypes"
_PLAIN = VaeSettings(latents=12, hidden=(64,), strength=0.0, training=Schedule(threads=1))
_OURS = replace(_PLAIN, roles=Roles(subtypes=len(WEIGHTS)))
_DECLARED = (
    Covariate("age", "continuous", unit="year"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", "batch"),
)


def drawn(apart: float, bent: bool, seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Return covariates, columns as measured, the same without effects of covariates, and subtypes."""
    rng = np.random.default_rng([seed, 91])
    site = rng.permutation(np.arange(PEOPLE) % SITES)
    frame = pd.DataFrame(
        {
            "age": rng.uniform(20, 80, PEOPLE),
            "sex": rng.choice(["F", "M"], PEOPLE),
            "site": [f"S{k}" for k in site],
        },
        index=pd.Index([f"sub-{k:04d}" for k in range(PEOPLE)], name="key"),
    )
    subtype = rng.choice(len(WEIGHTS), PEOPLE, p=WEIGHTS)
    loadings = rng.standard_normal((4, COLUMNS))
    factors = rng.standard_normal((PEOPLE, 4))
    own = factors @ loadings
    if bent:
        hidden = np.tanh(factors @ rng.standard_normal((4, 16)) + rng.standard_normal(16))
        own = own + hidden @ rng.standard_normal((16, COLUMNS)) * 0.5
    own = own + rng.standard_normal(own.shape)
    # Mahalanobis distances between means, in the covariance of people of one subtype.
    centres = rng.standard_normal((len(WEIGHTS), COLUMNS))
    within = np.cov(own, rowvar=False)
    gaps = centres[[0, 0, 1]] - centres[[1, 2, 2]]
    distance = np.sqrt(np.einsum("kv,kv->k", gaps, np.linalg.solve(within, gaps.T).T)).mean()
    clean = own + apart / distance * centres[subtype]
    seen = (
        clean * np.exp(0.2 * rng.standard_normal((SITES, COLUMNS)))[site]
        + 2 * rng.standard_normal((SITES, COLUMNS))[site]
    )
    seen = seen + np.outer((frame["age"] - 50) / 30, rng.standard_normal(COLUMNS))
    return frame, seen + np.outer(frame["sex"] == "M", rng.standard_normal(COLUMNS)), clean, subtype


def split(frame: pd.DataFrame, data: np.ndarray, train: np.ndarray) -> tuple[Dataset, Dataset]:
    """Return people to fit, and the others."""
    schema = CovariateSchema.fit(frame[train], _DECLARED)
    known, columns = schema.transfer(frame), Columns(tuple(f"c{k}" for k in range(COLUMNS)), COLUMNS, None)
    fitted, others = (Dataset(data[rows], known[rows], schema, columns) for rows in (train, ~train))
    return fitted, others


def likeliest(history: pd.DataFrame) -> int:
    """Return how many subtypes people held out are likeliest under."""
    own = history.query("metric == 'subtypes' and name == 'likeliest'")
    return int(own["value"].iloc[0])


def found(
    ours: Dataset, theirs: Dataset, data: np.ndarray, train: np.ndarray, seed: int
) -> tuple[dict[str, np.ndarray], int]:
    """Return what each method takes people for whom it was not fitted on, and how many subtypes are judged."""
    schema, count, told = ours.schema, len(WEIGHTS), dict[str, np.ndarray]()

    def nearest(fitted: np.ndarray, others: np.ndarray) -> np.ndarray:
        return np.asarray(KMeans(count, n_init=10, random_state=seed).fit(fitted).predict(others))

    for name, settings in ((OURS, _OURS), (START, replace(_OURS, body="linear"))):
        model, history = ConditionalVae.fit(ours, settings, seed=seed)
        shares = model.scores(theirs).subtypes
        told[name] = np.zeros(len(theirs), int) if shares is None else shares.argmax(axis=1)
    plain, _ = ConditionalVae.fit(ours, _PLAIN, seed=seed)
    z = [plain.posterior(own)[0] for own in (ours, theirs)]
    for kind, name, starts in (("tied", ON_LATENTS, 200), ("full", f"{ON_LATENTS}, a covariance each", 40)):
        mixture = GaussianMixture(count, covariance_type=kind, n_init=starts, random_state=seed)
        told[name] = np.asarray(mixture.fit(z[0]).predict(z[1]))
    told["plain VAE, k-means on latents"] = nearest(*z)
    told[RAW] = nearest(data[train], data[~train])
    linear, _ = LinearModel.fit(ours, LinearSettings(components=0))
    told[CLEANED] = nearest(*(linear.remove(own, schema.references(schema.names)) for own in (ours, theirs)))
    return told, likeliest(history)


def run(options: Options) -> Report:
    """Judge every method on every design and seed."""
    rows: list[dict[str, object]] = []
    counts: list[dict[str, object]] = []
    seeds = (*options.seeds(SEEDS), *(() if options.quick else FURTHER))
    for design, (apart, bent) in DESIGNS.items():
        for seed in seeds:
            frame, data, clean, subtype = drawn(apart, bent, seed)
            train = np.random.default_rng([seed, 92]).permutation(PEOPLE) < PEOPLE // 2
            ours, theirs = split(frame, data, train)
            told, count = found(ours, theirs, data, train, seed)
            counts.append({"design": design, "seed": seed, "likeliest": count})
            told[KNOWN] = LinearDiscriminantAnalysis().fit(clean[train], subtype[train]).predict(clean[~train])
            for method, own in told.items():
                truth = adjusted_rand_score(subtype[~train], own)
                of_site = adjusted_rand_score(frame["site"][~train], own)
                rows.append({"design": design, "seed": seed, "method": method, "subtypes": truth, "site": of_site})
            say(f"subtypes: {design}, seed {seed}")
    for seed in seeds:
        frame, data, _, _ = drawn(0.0, False, seed)
        fitted, _ = split(frame, data, np.random.default_rng([seed, 92]).permutation(PEOPLE) < PEOPLE // 2)
        history = ConditionalVae.fit(fitted, replace(_OURS, body="linear"), seed=seed)[1]
        counts.append({"design": NONE, "seed": seed, "likeliest": likeliest(history)})
    table, judged = pd.DataFrame(rows), pd.DataFrame(counts)
    means = table.groupby(["design", "method"], sort=False)[["subtypes", "site"]].mean().reset_index()
    tables = {
        "subtypes": Table(table, tuple(table), "Adjusted Rand index of unseen people with subtypes, and with site"),
        "subtypes_mean": Table(means, tuple(means), "Means over seeds"),
        "subtypes_count": Table(judged, tuple(judged), "Number of subtypes that people held out are likeliest under"),
    }
    lines = []
    for design, own in table.groupby("design", sort=False):
        figures = own.pivot_table(index="seed", columns="method", values="subtypes")
        sites = own.pivot_table(index="seed", columns="method", values="site")
        ours, peer, raw = figures[OURS].mean(), figures[ON_LATENTS].mean(), figures[RAW].mean()
        spread = f"seeds {figures[OURS].min():.3f} to {figures[OURS].max():.3f}"
        text = f"{ours:.3f} ({spread}; knowing them {figures[KNOWN].mean():.3f})"
        asked = f"{design}: no worse than a mixture on a plain VAE's latents by .02"
        lines.append(Line("subtypes", asked, f"{text}; {peer:.3f}", bool(ours >= peer - 0.02)))
        asked = f"{design}: above k-means on features"
        lines.append(
            Line("subtypes", asked, f"{ours:.3f}; {raw:.3f}, with site {sites[RAW].mean():.3f}", bool(ours > raw))
        )
    # Where subtypes are near each other or bent the number that normal ones tell is reported, and not asked for.
    for design, right in ((NONE, 1), ("6 apart", len(WEIGHTS))):
        said = judged.loc[judged["design"] == design, "likeliest"]
        asked = f"{design}: {right} judged from people held out"
        lines.append(Line("subtypes", asked, ", ".join(map(str, said)), bool((said == right).all())))
    return Report(tables, tuple(lines))
