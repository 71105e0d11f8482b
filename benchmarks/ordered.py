"""Ordered latents: trained without the oldest quarter, how well are the features of the oldest people expected?

Generated: 48 columns follow age along one curve (a line, levelling off, accelerating, flat until late), each as strongly as
it happens to, or each along one of these four; a factor model, sex and four sites act beside. The truth is what is expected
of the oldest at their covariates. Real: volumes of 291 people of IXI (40 to 86 years, 3 sites), and thickness and volumes of
fcon1000, sites of 20 or more, whose oldest quarter is 29 to 85 years old and the others 8 to 28; figures are of what was
measured of the oldest, in deviations of training. Beside ordered latents: the plain VAE (both with what decoders add,
averaged over latents of training people), and linear models with a natural spline or a straight line of age.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from benchmarks.data import data_folder, fcon1000
from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import ConditionalVae, LinearModel, LinearSettings, VaeSettings
from medrep.models.vae.roles import Roles
from medrep.training.schedule import Schedule

SEEDS, DRAWS = 5, 24
PEOPLE, COLUMNS, SITES = 400, 48, 4
CURVES = {
    "line": lambda a: a,
    "levelling off": lambda a: 1 - np.exp(-2 * a),
    "accelerating": lambda a: a**2,
    "flat until late": lambda a: np.maximum(a - 0.4, 0.0),
}
MIXED, IXI, FCON = "a curve each", "IXI", "fcon1000"
REAL = (IXI, FCON)
ORDERED, PLAIN, SPLINE, STRAIGHT = "ordered", "plain VAE", "natural spline", "straight line"
_PLAIN = VaeSettings(latents=12, hidden=(64,), strength=0.0, training=Schedule(epochs=40, threads=1))
_DECLARED = (
    Covariate("age", "continuous", unit="year"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", "batch"),
)


def drawn(curve: str, seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return covariates, columns, and what is expected of people at their covariates."""
    rng = np.random.default_rng([seed, 95])
    site = rng.permutation(np.arange(PEOPLE) % SITES)
    frame = pd.DataFrame(
        {
            "age": rng.uniform(20, 80, PEOPLE),
            "sex": rng.choice(["F", "M"], PEOPLE),
            "site": [f"S{k}" for k in site],
        },
        index=pd.Index([f"sub-{k:04d}" for k in range(PEOPLE)], name="key"),
    )
    share = (frame["age"].to_numpy() - 20) / 60
    curves = list(CURVES.values()) if curve == MIXED else [CURVES[curve]]
    followed = np.stack([curves[v % len(curves)](share) for v in range(COLUMNS)], axis=1)
    expected = (followed - followed.mean(axis=0)) / followed.std(axis=0) * rng.standard_normal(COLUMNS) * 0.7
    expected = expected + np.outer(frame["sex"] == "M", 0.4 * rng.standard_normal(COLUMNS))
    expected = expected + rng.standard_normal((SITES, COLUMNS))[site]
    own = 0.6 * rng.standard_normal((PEOPLE, 3)) @ rng.standard_normal((3, COLUMNS))
    return frame, expected + own + rng.standard_normal(own.shape), expected


def real(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Return covariates and features that vary, of a real cohort."""
    if name == FCON:
        features, table = fcon1000(20)
    else:
        folder = data_folder() / "ixi"
        people = pd.read_csv(folder / "demographics_n291.csv").set_index("ID")
        features = pd.read_csv(folder / "roi_volumes_n291.csv").set_index("ID").loc[people.index]
        table = pd.DataFrame({"age": people["Age"].astype(float), "sex": people["Sex"]}, index=people.index)
        table["site"] = [key.split("-")[1] for key in people.index]
    values = features.to_numpy(float)
    return table, values[:, (values.std(axis=0) > 0) & np.isfinite(values).all(axis=0)]


def expectations(frame: pd.DataFrame, data: np.ndarray, old: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return what each method, fitted to those who are not old, expects of the old at their covariates."""
    width = data.shape[1]
    schema = CovariateSchema.fit(frame[~old], _DECLARED)
    known, columns = schema.transfer(frame), Columns(tuple(f"c{k}" for k in range(width)), width, None)
    young, told = Dataset(data[~old], known[~old], schema, columns), dict[str, np.ndarray]()
    for name, settings in ((ORDERED, replace(_PLAIN, roles=Roles(ordered=("age",)))), (PLAIN, _PLAIN)):
        model, _ = ConditionalVae.fit(young, settings, seed=seed)
        z, _ = model.posterior(young)
        some = z[np.random.default_rng([seed, 96]).permutation(len(z))[:DRAWS]]
        like = np.zeros((int(old.sum()), width))
        each = [model.parts.decoded(schema, np.tile(own, (len(like), 1)), known[old], like) for own in some]
        told[name] = np.mean(each, axis=0)
    for name, degrees in ((SPLINE, 4), (STRAIGHT, 1)):
        linear, _ = LinearModel.fit(young, LinearSettings(components=0, spline_degrees=degrees))
        effects, batches = linear.design.effects(known[old]), linear.design.batches(known[old])
        told[name] = effects @ linear.coefficients + batches @ linear.batches.location
    return told


def run(options: Options) -> Report:
    """Measure every method on every curve and seed, and on the real cohort."""
    rows: list[dict[str, object]] = []
    for curve in (*CURVES, MIXED):
        for seed in options.seeds(SEEDS):
            frame, data, expected = drawn(curve, seed)
            old = frame["age"].to_numpy() >= np.quantile(frame["age"], 0.75)
            for method, own in expectations(frame, data, old, seed).items():
                error = float(np.sqrt(((own - expected[old]) ** 2).mean()))
                rows.append({"curve": curve, "seed": seed, "method": method, "error": error})
            say(f"ordered: {curve}, seed {seed}")
    for name in REAL:
        frame, data = real(name)
        old = frame["age"].to_numpy() >= np.quantile(frame["age"], 0.75)
        kept = frame["site"].isin(set(frame["site"][~old])).to_numpy()
        frame, data, old = frame[kept], data[kept], old[kept]
        sd = data[~old].std(axis=0)
        for seed in options.seeds(3):
            # People of training are drawn anew for each seed, nine tenths of those who are young.
            some = old | (np.random.default_rng([seed, 97]).uniform(size=len(old)) < 0.9)
            for method, own in expectations(frame[some], data[some], old[some], seed).items():
                error = float(np.sqrt((((own - data[old]) / sd) ** 2).mean()))
                rows.append({"curve": name, "seed": seed, "method": method, "error": error})
            say(f"ordered: {name}, seed {seed}")
    table = pd.DataFrame(rows)
    means = table.pivot_table(index="curve", columns="method", values="error", sort=False).reset_index()
    tables = {
        "ordered": Table(table, tuple(table), "Error of what is expected of the oldest quarter, root mean square"),
        "ordered_mean": Table(means, tuple(means), "Means over seeds"),
    }
    return Report(tables, tuple(_lines(table)))


def _lines(table: pd.DataFrame) -> list[Line]:
    lines = []
    for curve, own in table.groupby("curve", sort=False):
        errors = own.pivot_table(index="seed", columns="method", values="error")
        for peer in (PLAIN, SPLINE):
            below = errors[ORDERED] < errors[peer]
            text = f"{errors[ORDERED].mean():.3f} against {errors[peer].mean():.3f}, in {below.sum()} of {len(below)} seeds"
            line = f"; a straight line {errors[STRAIGHT].mean():.3f}"
            passed = bool(errors[ORDERED].mean() < errors[peer].mean())
            lines.append(Line("ordered", f"{curve}: error on the oldest below that of {peer}", text + line, passed))
    return lines
