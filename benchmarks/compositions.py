"""Tissue fractions with planted sites: do they stay fractions once the site is removed, and what do parts say of each other?

Logarithms of parts have a covariance that is known, and effects of age and sex; a site multiplies each part by a number of
its own and spreads people out or draws them together; then parts are closed, to 1. The same people without sites are the truth.
Models are fitted on half of each site's people and judged on the other half. ``columns`` removes the site from each by itself,
``compositions`` from log-ratios (`medrep.cohort.compositions`), ``pivot`` from the isometric log-ratio coordinates of Egozcue et
al. (2003), which shows how much the order of the parts matters there. Where fractions are not positive any more, those of
``columns`` are raised to the smallest true one before logarithms are taken, so that its figures can be computed at all.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.data import split_half_by_site
from benchmarks.report import Line, Options, Report, Table
from medrep.audit.probe_figures import age_r2, site_auc
from medrep.cohort.compositions import CompositionForm, closed, log_ratios, partial_correlations
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.cohort.inputs import FeaturesInput
from medrep.models import LinearModel, LinearSettings

SEEDS = 3
PEOPLE, SITES = 480, 6
PARTS = ("gm", "wm", "csf", "deep", "lesion", "vessel")
LEVELS = np.log([0.4, 0.33, 0.2, 0.05, 0.01, 0.01])
_DECLARED = (
    Covariate("age", "continuous", unit="year"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", "batch"),
)
_SHOWN = (
    "seed",
    "method",
    "sum_error",
    "smallest",
    "site_auc",
    "age_r2",
    "partial_error",
    "correlation_error",
    "order",
)


def drawn(seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return covariates, fractions as they were scanned, and the fractions of the same people without sites."""
    rng = np.random.default_rng([seed, 61])
    frame = pd.DataFrame(
        {
            "age": rng.uniform(20, 80, PEOPLE),
            "sex": rng.choice(["F", "M"], PEOPLE),
            "site": [f"S{k % SITES}" for k in range(PEOPLE)],
        },
        index=pd.Index([f"sub-{k:04d}" for k in range(PEOPLE)], name="key"),
    )
    width = len(PARTS)
    loadings = rng.normal(size=(width, 2)) * 0.12
    own = rng.normal(size=(PEOPLE, 2)) @ loadings.T + rng.normal(size=(PEOPLE, width)) * rng.uniform(0.1, 0.3, width)
    years = (frame["age"].to_numpy() - 50) / 30
    effects = np.outer(years, rng.normal(size=width) * 0.12)
    effects += np.outer(frame["sex"] == "M", rng.normal(size=width) * 0.05)
    place = frame["site"].str[1:].astype(int).to_numpy()
    shifts, spreads = rng.normal(size=(SITES, width)) * 0.3, np.exp(rng.normal(size=(SITES, width)) * 0.25)
    clean = LEVELS + effects + own
    scanned = LEVELS + effects + own * spreads[place] + shifts[place]
    return frame, closed(scanned), closed(clean)


def removed(rows: np.ndarray, frame: pd.DataFrame, train: np.ndarray) -> np.ndarray:
    """Return the columns of the people who were not trained on without the site, by a linear model of the others."""
    schema = CovariateSchema.fit(frame[train], _DECLARED)
    known = schema.transfer(frame)
    columns = Columns(tuple(f"c{k}" for k in range(rows.shape[1])), rows.shape[1], None)
    model, _ = LinearModel.fit(Dataset(rows[train], known[train], schema, columns), LinearSettings(components=0))
    return model.remove(model.dataset(rows[~train], known[~train]), schema.references(["site"]))


def cleaned(method: str, parts: np.ndarray, frame: pd.DataFrame, train: np.ndarray) -> np.ndarray:
    """Return the fractions of the people who were not trained on, by a method of the module's docstring."""
    if method == "raw":
        return parts[~train]
    if method == "columns":
        return removed(parts, frame, train)
    if method == "pivot":
        basis = _pivots(parts.shape[1])
        return closed(removed(log_ratios(parts) @ basis, frame, train) @ basis.T)
    form = CompositionForm(FeaturesInput(compositions={"tissue": PARTS}), PARTS).measured(parts[train])
    rows = form.received(parts, list(frame.index))
    return form.released(removed(rows, frame, train), rows[~train], parts[~train])


def _pivots(width: int) -> np.ndarray:
    """Return orthonormal pivot coordinates of centred log-ratios, parts x coordinates."""
    basis = np.zeros((width, width - 1))
    for k in range(width - 1):
        rest = width - k - 1
        basis[k, k] = np.sqrt(rest / (rest + 1))
        basis[k + 1 :, k] = -1 / np.sqrt(rest * (rest + 1))
    return basis


def measure(seed: int) -> list[dict[str, object]]:
    """Return the figures of each method, on people whom no model saw."""
    frame, parts, clean = drawn(seed)
    train, _ = split_half_by_site(frame, seed)
    truth, test = clean[~train], frame[~train]
    order = np.random.default_rng(seed).permutation(parts.shape[1])
    rows: list[dict[str, object]] = []
    for method in ("raw", "columns", "compositions", "pivot"):
        found = cleaned(method, parts, frame, train)
        other = cleaned(method, parts[:, order], frame, train)
        whole = np.maximum(found, clean.min())
        rows.append(
            {
                "seed": seed,
                "method": method,
                "sum_error": float(np.abs(found.sum(axis=1) - 1).max()),
                "smallest": float(found.min()),
                "partial_error": _distance(partial_correlations(whole), partial_correlations(truth)),
                "correlation_error": _distance(np.corrcoef(found.T), np.corrcoef(truth.T)),
                "order": float(np.abs(found[:, order] - other).max()),
            }
        )
        if method != "pivot":
            auc = site_auc(found, test["site"].to_numpy(), seed, jobs=1).strongest
            r2 = age_r2(found, test["age"].to_numpy(), seed, jobs=1).strongest
            rows[-1] |= {"site_auc": auc, "age_r2": r2}
    return rows


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the root mean square difference of correlations."""
    upper = np.triu_indices(len(one), 1)
    return float(np.sqrt(np.mean((one[upper] - other[upper]) ** 2)))


def run(options: Options) -> Report:
    """Measure three cohorts; judge sums, signs, what probes read of the site, correlations, and the order of parts."""
    frame = pd.DataFrame([row for seed in options.seeds(SEEDS) for row in measure(seed)])
    mean = frame.groupby("method").mean(numeric_only=True)
    ours = frame[frame["method"] == "compositions"]
    sums, least = float(ours["sum_error"].max()), float(ours["smallest"].min())
    negative = float(frame.loc[frame["method"] == "columns", "smallest"].min())
    name = "compositions"
    lines = [
        Line(name, "fractions sum to 1 to 1e-12 after removal", f"{sums:.1e}", sums <= 1e-12),
        Line(name, "all fractions positive", f"{least:.2g} (columns {negative:.2g})", least > 0),
    ]
    auc = mean["site_auc"]
    told = f"{auc['compositions']:.3f} against {auc['columns']:.3f} (raw {auc['raw']:.3f})"
    asked = "AUC of site no worse than column by column"
    lines.append(Line(name, asked, told, bool(auc["compositions"] <= auc["columns"] + 0.01)))
    for figure, what in (("partial_error", "partial correlations"), ("correlation_error", "correlations of fractions")):
        own = mean[figure]
        told = f"{own['compositions']:.3f} against raw {own['raw']:.3f}, columns {own['columns']:.3f}"
        passed = bool(own["compositions"] < min(own["raw"], own["columns"]))
        lines.append(Line(name, f"error of {what} below raw's and column by column's", told, passed))
    order = mean["order"]
    told = f"{order['compositions']:.1e} (pivot coordinates {order['pivot']:.1e})"
    lines.append(
        Line(
            name, "the order of parts does not matter (fractions, to 1e-12)", told, bool(order["compositions"] <= 1e-12)
        )
    )
    title = "fractions of unseen people, site removed: sums, signs, probes, correlations against people without sites"
    return Report({"compositions": Table(frame, _SHOWN, title)}, tuple(lines))
