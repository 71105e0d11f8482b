"""fcon1000: what a linear probe still reads once a linear model has removed age, sex and site, by how many columns there are.

Each site is halved; the model is fitted on one half, and the other half is cleaned and probed. Column by column nothing is left;
from some twenty columns on their combinations tell sex and site. The closed-form stack (linear_latents.yaml) takes those too.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import medrep as mr
from benchmarks.data import fcon1000, split_half_by_site
from benchmarks.report import Line, Options, Report, Table, say

SEEDS = 10
COLUMNS = (5, 20, 60, 0)
"""How many columns are drawn; 0 for all that vary."""

MAX_SHARE = 0.9
MANY = 20  # medrep.workflows.transform says so from here on
COVARIATES = {"age": "continuous", "sex": "categorical", "site": "batch"}
METHODS = {"linear": ("linear", None), "stack": ("conditional_vae", {"body": "linear"})}


def auc(X: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over levels of the AUC of a logistic probe, cross-validated over people."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    levels = np.unique(labels)
    told = cross_val_predict(probe, X, labels, cv=5, method="predict_proba")
    return float(np.mean([roc_auc_score(labels == level, told[:, k]) for k, level in enumerate(levels)]))


def measure(seed: int) -> list[dict[str, object]]:
    """Return a row for each number of columns and each method: AUC of sex and of site."""
    features, table = fcon1000(min_site=16)
    train, test = split_half_by_site(table, seed)
    share = features[train].apply(lambda column: column.value_counts(normalize=True).iloc[0])
    varying = features.loc[:, share <= MAX_SHARE].to_numpy(dtype=float)
    order = np.random.default_rng(seed).permutation(varying.shape[1])
    rows: list[dict[str, object]] = []
    for count in COLUMNS:
        X = varying[:, order[: count or None]]
        parts = {"raw": X[test]}
        for name, (model, settings) in METHODS.items():
            if name == "stack" and count:
                continue
            remover = mr.CovariateRemover(list(COVARIATES), covariates=COVARIATES, model=model, settings=settings)
            remover.fit(X[train], covariates=table[train])
            parts[name] = remover.transform(X[test], covariates=table[test])
        for name, cleaned in parts.items():
            own = {
                "sex": auc(cleaned, table["sex"][test].to_numpy()),
                "site": auc(cleaned, table["site"][test].to_numpy()),
            }
            rows.append({"seed": seed, "columns": X.shape[1], "method": name, **own})
    return rows


def run(options: Options) -> Report:
    """Measure every seed, and judge where the warning of `medrep export` is due."""
    rows: list[dict[str, object]] = []
    for seed in options.seeds(SEEDS):
        say(f"linear_left: seed {seed}")
        rows += measure(seed)
    frame = pd.DataFrame(rows)
    means = frame.groupby(["columns", "method"])[["sex", "site"]].mean().reset_index()
    linear = means[means["method"] == "linear"].set_index("columns")
    few, many = linear[linear.index < MANY], linear[linear.index > MANY]
    lines = (
        Line(
            "linear_left", f"sex AUC under {MANY} columns <= 0.55", f"{few['sex'].max():.3f}", few["sex"].max() <= 0.55
        ),
        Line(
            "linear_left", f"sex AUC over {MANY} columns > 0.55", f"{many['sex'].min():.3f}", many["sex"].min() > 0.55
        ),
    )
    title = "fcon1000: AUC of a logistic probe on unseen people, age, sex and site removed; mean over seeds"
    return Report({"linear_left": Table(means, tuple(means), title)}, lines)
