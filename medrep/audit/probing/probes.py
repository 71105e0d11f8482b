"""How well site, sex and age can be read from a table: linear, RBF and boosting probes, and the strongest of them.

Each figure comes from predictions out of fold (5 folds, stratified), pooled over the folds; what is tuned is tuned by 3
folds inside. Give probes people the remover never saw: on its own fitting people a probe passes vacuously.
Standardisation and tuning happen inside the folds. The strongest of three probes is picked on the figure it reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

FOLDS = 5
INNER_FOLDS = 3
WIDTHS = (0.1, 0.5, 2.5)  # of the RBF kernel, times 1 / number of columns that vary
_CONSTANT = 1e-9  # relative; less is rounding


@dataclass(frozen=True)
class Probed:
    """What the probes of one covariate found.

    Attributes:
        figures: Probe (linear, rbf, boosting) to AUC or R2.
        strongest: The largest of them.
        n: Number of people probed.
        left_out: Sites with too few people for the probe, as "site (n)".
    """

    figures: dict[str, float]
    strongest: float
    n: int
    left_out: tuple[str, ...] = ()


def site_auc(X: np.ndarray, site: np.ndarray, seed: int, min_people: int = 10, jobs: int = 2) -> Probed:
    """Macro one-vs-rest AUC of site.

    Args:
        X: People x columns, or one value a person.
        site: Site of each person.
        seed: Of the folds and of boosting.
        min_people: Sites with fewer people are left out, and named in the result; at least 5, one a fold.
        jobs: Processes.
    """
    if min_people < FOLDS:
        raise ValueError(f"min_people {min_people} is too few for {FOLDS} folds")
    site = np.asarray(site)
    names, counts = np.unique(site, return_counts=True)
    small = counts < min_people
    keep = ~np.isin(site, names[small])
    left_out = tuple(f"{name} ({count})" for name, count in zip(names[small], counts[small], strict=True))
    return _auc(_columns(X)[keep], site[keep], seed, jobs, left_out)


def sex_auc(X: np.ndarray, sex: np.ndarray, seed: int, jobs: int = 2) -> Probed:
    """AUC of sex, or of any covariate with two values.

    Args:
        X: People x columns, or one value a person.
        sex: Two values.
        seed: Of the folds and of boosting.
        jobs: Processes.
    """
    return _auc(_columns(X), np.asarray(sex), seed, jobs, ())


def age_r2(X: np.ndarray, age: np.ndarray, seed: int, jobs: int = 2) -> Probed:
    """Out-of-fold R2 of age; negative where a probe does worse than the mean.

    Folds are stratified by tenths of age, by wider bands in small samples.

    Args:
        X: People x columns, or one value a person.
        age: Years, or any number.
        seed: Of the folds and of boosting.
        jobs: Processes.
    """
    X, age = _columns(X), np.asarray(age, dtype=float)
    strata = min(10, max(1, len(age) // FOLDS))
    bands = (strata * (rankdata(age, method="ordinal") - 1) / len(age)).astype(int)
    rbf = TransformedTargetRegressor(KernelRidge(kernel="rbf"), transformer=StandardScaler())
    grid = {"regressor__gamma": _widths(X), "regressor__alpha": [0.01, 0.1, 1.0]}
    inner = KFold(INNER_FOLDS, shuffle=True, random_state=seed)
    probes = {
        "linear": (RidgeCV(np.logspace(-1, 5, 13)), "predict"),
        "rbf": (GridSearchCV(rbf, grid, scoring="r2", cv=inner), "predict"),
        "boosting": (HistGradientBoostingRegressor(max_iter=200, **boosting_settings(seed)), "predict"),
    }
    predictions = _out_of_fold(probes, X, age, bands, seed, jobs)
    return _strongest({name: float(r2_score(age, p)) for name, p in predictions.items()}, len(age), ())


def _auc(X: np.ndarray, labels: np.ndarray, seed: int, jobs: int, left_out: tuple[str, ...]) -> Probed:
    names, codes = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"an AUC needs two groups, here there is only: {', '.join(map(str, names))}")
    inner = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=seed)
    logistic = GridSearchCV(
        LogisticRegression(max_iter=2000, tol=1e-3), {"C": [0.001, 0.01, 0.1, 1.0]}, scoring="neg_log_loss", cv=inner
    )
    grid = {"estimator__gamma": _widths(X), "estimator__C": [1.0, 10.0]}
    rbf = GridSearchCV(OneVsRestClassifier(SVC()), grid, scoring=_decision_auc, cv=inner)
    rounds = 200 if len(names) == 2 else 60  # a round is one tree a group
    probes = {
        "linear": (logistic, "predict_proba"),
        "rbf": (rbf, "decision_function"),
        "boosting": (HistGradientBoostingClassifier(max_iter=rounds, **boosting_settings(seed)), "predict_proba"),
    }
    predictions = _out_of_fold(probes, X, codes, codes, seed, jobs)
    return _strongest({name: _macro_auc(codes, p) for name, p in predictions.items()}, len(codes), left_out)


def boosting_settings(seed: int) -> dict[str, float | int | bool]:
    """Return what all boosting probes have in common: small trees and steps, a tenth of the columns a split."""
    return {
        "learning_rate": 0.1,
        "max_leaf_nodes": 4,
        "min_samples_leaf": 5,
        "max_features": 0.1,
        "early_stopping": False,
        "random_state": seed,
    }


def _columns(X: np.ndarray) -> np.ndarray:
    X = np.asarray(X, dtype=float)
    return X.reshape(len(X), -1)


def _widths(X: np.ndarray) -> list[float]:
    varies = X.std(axis=0) > _CONSTANT * np.abs(X).max(axis=0, initial=0.0)
    return [width / max(1, int(varies.sum())) for width in WIDTHS]


def _out_of_fold(
    probes: Mapping[str, tuple[BaseEstimator, str]],
    X: np.ndarray,
    y: np.ndarray,
    strata: np.ndarray,
    seed: int,
    jobs: int,
) -> dict[str, np.ndarray]:
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(X, strata))
    tasks = [(name, train, test) for name in probes for train, test in folds]
    parts = Parallel(n_jobs=jobs)(delayed(_predict)(*probes[name], X, y, train, test) for name, train, test in tasks)
    predictions: dict[str, np.ndarray] = {}
    for (name, _, test), part in zip(tasks, parts, strict=True):
        predictions.setdefault(name, np.empty((len(y), *part.shape[1:])))[test] = part
    return predictions


def _predict(
    probe: BaseEstimator, method: str, X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    fitted = make_pipeline(StandardScaler(), clone(probe)).fit(X[train], y[train])
    return getattr(fitted, method)(X[test])


def _macro_auc(codes: np.ndarray, scores: np.ndarray) -> float:
    if scores.ndim == 1:
        return float(roc_auc_score(codes == 1, scores))
    return float(np.mean([roc_auc_score(codes == code, scores[:, code]) for code in np.unique(codes)]))


def _decision_auc(model: BaseEstimator, X: np.ndarray, codes: np.ndarray) -> float:
    return _macro_auc(codes, model.decision_function(X))


def _strongest(figures: dict[str, float], n: int, left_out: tuple[str, ...]) -> Probed:
    return Probed(figures=figures, strongest=max(figures.values()), n=n, left_out=left_out)
