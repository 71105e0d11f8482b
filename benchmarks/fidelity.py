"""How true a decoder is to people it never saw: reconstruction, people drawn at random, and their covariates' effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

FOLDS = 5


def reconstruction_r2(X: np.ndarray, decoded: np.ndarray, train: np.ndarray) -> tuple[float, float]:
    """R2 = 1 - SSE / SST about the training mean, over the columns that vary in both halves.

    Args:
        X: People x columns, never seen.
        decoded: What the decoder expects of them.
        train: The people it was fitted on.

    Returns:
        The mean of the columns' R2, and that of all columns pooled in units of their training SD.
    """
    sd = train.std(axis=0)
    varies = (sd > 0) & (X.std(axis=0) > 0)
    error = (((X - decoded)[:, varies] / sd[varies]) ** 2).sum(axis=0)
    total = (((X - train.mean(axis=0))[:, varies] / sd[varies]) ** 2).sum(axis=0)
    return float((1 - error / total).mean()), float(1 - error.sum() / total.sum())


def told_apart(real: np.ndarray, other: np.ndarray, seed: int) -> float:
    """AUC, out of fold, of a boosting classifier that tells real people from others; 0.5 is best.

    Args:
        real: People x columns.
        other: The same columns.
        seed: Of folds and classifier.
    """
    X = np.concatenate([real, other])
    y = np.repeat([0, 1], [len(real), len(other)])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    trees = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
    return float(roc_auc_score(y, cross_val_predict(trees, X, y, cv=folds, method="predict_proba")[:, 1]))


def covariate_effects(X: np.ndarray, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Regress every column on age, sex and site together, by least squares.

    Args:
        X: People x columns.
        table: Their age in years, sex (F or M) and site.

    Returns:
        age: Per year, one a column.
        sex: M minus F, one a column.
        site: Sites x columns, each site's distance from the mean of the people; sites in alphabetical order.
    """
    site = pd.get_dummies(table["site"]).sort_index(axis=1).to_numpy(dtype=float)
    design = np.column_stack([table["age"], table["sex"] == "M", site]).astype(float)
    coefficients = np.linalg.lstsq(design, X, rcond=None)[0]
    levels = coefficients[2:]
    return {"age": coefficients[0], "sex": coefficients[1], "site": levels - site.mean(axis=0) @ levels}


def effects_agree(X: np.ndarray, table: pd.DataFrame, other: np.ndarray, other_table: pd.DataFrame) -> dict[str, float]:
    """Correlation over columns of each covariate's effects among some people and among others.

    Both are in units of the SD of ``X``; columns that are constant there are left out. Sites are pooled.

    Args:
        X: People x columns.
        table: Their covariates.
        other: Other people, the same columns.
        other_table: Their covariates, with the same sites.
    """
    varies = X.std(axis=0) > 0
    scale = X[:, varies].std(axis=0)
    ours = covariate_effects(X[:, varies] / scale, table)
    theirs = covariate_effects(other[:, varies] / scale, other_table)
    return {name: float(np.corrcoef(ours[name].ravel(), theirs[name].ravel())[0, 1]) for name in ours}
