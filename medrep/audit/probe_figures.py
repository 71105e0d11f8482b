"""Figures of probes: how well predictions tell labels, in parts of participants that are alike.

AUC and signed r2 need no calibration of the predictions, so that labels may be exchanged: R2 of fixed predictions falls far
below zero under exchanged labels and says more of their spread than of their order. The sign is that of the correlation: a
probe that predicts the wrong way round tells nothing. Chance is 0.5 and 0.

AUC of site and of sex and R2 of age come from predictions out of fold (5 folds, stratified), pooled over the folds; what is tuned
is tuned by 3 folds inside, and so is standardised. Give probes people the remover never saw: on its own fitting people a probe
passes vacuously. The strongest of three probes is picked on the figure it reports.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
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


def stratified_group_split(
    participants: Shaped[np.ndarray, " rows"],
    labels: Shaped[np.ndarray, " rows"],
    parts: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, " rows"]:
    """Return the part of each row, 0 to ``parts`` - 1.

    Participants are ordered by the label of their first row, at random where it is the same, and dealt out in turn: every
    level, and every stretch of a number, comes in equal shares. Who gets into a part depends on how often each label occurs
    and on nothing else of the labels, so that it takes nothing from a permutation test within a part.

    Args:
        participants: Whose each row is.
        labels: A number or a level a row.
        parts: How many parts.
        rng: Of the order.
    """
    _, first, codes = np.unique(participants, return_index=True, return_inverse=True)
    order = rng.permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]
    part = np.empty(len(order), dtype=int)
    part[order] = (np.arange(len(order)) + rng.integers(parts)) % parts
    return part[codes]


AUC, NUMBER = "AUC", "signed r2"
CHANCE = {AUC: 0.5, NUMBER: 0.0}


def weighted_figures(
    scores: Float[np.ndarray, "probes people outputs"],
    labels: Shaped[np.ndarray, " people"],
    weights: Float[np.ndarray, "draws people"],
    measure: str,
) -> Float[np.ndarray, "draws probes"]:
    """Return each probe's figure on samples of people.

    Args:
        scores: A probe's prediction of a number (one output), or its score of each level.
        labels: The number, or the level's place among the outputs.
        weights: How often a person is in a sample.
        measure: `AUC` or `NUMBER`; a level that a sample does not have, or that everybody has, does not count for AUC.
    """
    if measure == NUMBER:
        return np.stack([_signed_square(weights, own[:, 0], labels.astype(float)) for own in scores], axis=1)
    present = [level for level in range(scores.shape[2]) if (labels == level).any()]
    areas = [[weighted_area(own[:, level], labels == level, weights) for level in present] for own in scores]
    return _mean_over_levels(np.array(areas).reshape(len(scores), len(present), len(weights)))


def permuted_figures(
    scores: Float[np.ndarray, "probes people outputs"],
    labels: Shaped[np.ndarray, " people"],
    sources: Int[np.ndarray, "draws people"],
    measure: str,
) -> Float[np.ndarray, "draws probes"]:
    """Return each probe's figure under exchanged labels.

    Args:
        scores: As for `weighted_figures`.
        labels: The same.
        sources: For each row the row whose label it gets.
        measure: `AUC` or `NUMBER`.
    """
    given = labels[sources]
    if measure == NUMBER:
        y = given - given.mean(axis=1, keepdims=True)
        x = scores[:, :, 0] - scores[:, :, 0].mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(y, axis=1)[:, None] * np.linalg.norm(x, axis=1)
        r = _ratio(y @ x.T, lengths, 0.0)
        return r * np.abs(r)
    areas = []
    for level in range(scores.shape[2]):
        ranks = rankdata(scores[:, :, level], axis=1)
        member = (given == level).astype(float)
        ones = member.sum(axis=1, keepdims=True)
        areas.append(
            _ratio(member @ ranks.T - ones * (ones + 1) / 2, ones * (member.shape[1] - ones), np.nan)
        )  # Mann and Whitney's U over the number of pairs
    return _mean_over_levels(np.stack(areas).transpose(2, 0, 1))


def weighted_area(
    scores: Float[np.ndarray, " people"],
    member: Bool[np.ndarray, " people"],
    weights: Float[np.ndarray, "draws people"],
) -> Float[np.ndarray, " draws"]:
    """Return the AUC of weighted people, ties counted half; NaN where a sample lacks members or others."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)
    ones = np.add.reduceat(weights[:, order] * member[order], starts, axis=1)
    others = np.add.reduceat(weights[:, order] * ~member[order], starts, axis=1)
    below = np.cumsum(others, axis=1) - others / 2
    return _ratio((ones * below).sum(axis=1), ones.sum(axis=1) * others.sum(axis=1), np.nan)


def recentred(draws: Float[np.ndarray, " draws"], estimate: float) -> Float[np.ndarray, " defined"]:
    """Return bootstrap draws moved so that their mean is the estimate; those that are not defined are left out.

    The largest of several figures is larger in a resample than on the people themselves, as it is larger on these than among all
    people: the bootstrap's own bias estimate is taken off (Efron and Tibshirani 1993, ch. 10). It is zero where one probe is
    far ahead.
    """
    draws = draws[np.isfinite(draws)]
    return draws - draws.mean() + estimate if len(draws) else draws


def _signed_square(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    share = weights / weights.sum(axis=1, keepdims=True)
    x, y = x - x.mean(), y - y.mean()
    mean_x, mean_y = share @ x, share @ y
    r = _ratio(
        share @ (x * y) - mean_x * mean_y,
        np.sqrt(np.maximum(share @ x**2 - mean_x**2, 0.0) * np.maximum(share @ y**2 - mean_y**2, 0.0)),
        0.0,
    )
    r = np.clip(r, -1.0, 1.0)
    return r * np.abs(r)


def _ratio(above: np.ndarray, below: np.ndarray, otherwise: float) -> np.ndarray:
    below, above = np.broadcast_to(below, above.shape), np.asarray(above, float)
    return np.divide(above, below, out=np.full(above.shape, otherwise), where=below > 1e-12)


def _mean_over_levels(areas: Float[np.ndarray, "probes levels draws"]) -> Float[np.ndarray, "draws probes"]:
    known = np.isfinite(areas)
    return _ratio(np.where(known, areas, 0.0).sum(axis=1), known.sum(axis=1).astype(float), np.nan).T


FOLDS = 5
INNER_FOLDS = 3
WIDTHS = (0.1, 0.5, 2.5)  # of the RBF kernel, times 1 / number of columns that vary
_CONSTANT = 1e-9  # relative; less is rounding


@dataclass(frozen=True)
class Probed:
    """Figures of the probes of one covariate.

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
