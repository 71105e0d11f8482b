"""Probes: predictors trained on some participants that read covariates of others.

Each figure comes from predictions out of fold (5 folds, stratified), pooled over the folds; what is tuned is tuned by 3
folds inside. Give probes people the remover never saw: on its own fitting people a probe passes vacuously.
Standardisation and tuning happen inside the folds. The strongest of three probes is picked on the figure it reports.

Each is tuned by folds of participants within the training half, on the figure that is reported
(`medrep.audit.probe_figures`); the other
half's labels are never seen. Linear and RBF look at exact coordinates (`Coordinates`), so that many columns cost little.
Boosting and the network look at the leading `COMPONENTS` of them, and boosting also at each person's overall spread and at the
columns that go along most with the label on the people it is fitted on (`associated_columns`), in place or in spread.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from joblib import Parallel, delayed
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from medrep.audit.probe_figures import AUC, NUMBER, stratified_group_split, weighted_figures
from medrep.audit.probe_statistics import Coordinates, associated_columns

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


PROBES = ("linear", "rbf", "boosting", "network")
COMPONENTS, ASSOCIATED = 50, 16
_STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # of the logistic regression: C; rows have a mean squared length of 1
_PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001)  # of the ridge regression, over the number of people
_KERNEL_PENALTIES = (10.0, 1.0, 0.1, 0.01)
_ROUNDS = {False: (25, 50, 100, 200), True: (15, 30, 60)}  # True: several levels, where a round is a tree a level
_DECAYS, _UNITS, _STEPS = (30.0, 1.0), 16, 100


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of the probes for the test half.

    Attributes:
        scores: In the order they were asked for: the number, or a score of each level.
        inner: Figure of each probe in the folds of the training half, by which one probe can be chosen without a look at the
            test half.
        of_folds: The same as ``scores`` by each probe as it was taught in each of these folds, without the people of the fold.
    """

    scores: Float[np.ndarray, "probes test outputs"]
    inner: Float[np.ndarray, " probes"]
    of_folds: Float[np.ndarray, "folds probes test outputs"]


@dataclass(frozen=True, eq=False)
class _Seen:
    """Input of a probe: the table, rows of it (the training half first), their coordinates, the training half's labels."""

    table: Float[np.ndarray, "_ columns"]
    rows: Int[np.ndarray, " people"]
    inside: Float[np.ndarray, "people components"]
    outside: Float[np.ndarray, " people"]
    length: Float[np.ndarray, " people"]
    labels: Shaped[np.ndarray, " train"]
    levels: int
    seed: int


@dataclass(frozen=True, eq=False)
class TrainingHalf:
    """The half of the participants that probes are trained on.

    Attributes:
        rows: Of the table.
        labels: Of these rows: a number, or a code of 0 to the number of levels - 1.
        participants: Of these rows; a participant's rows stay in one fold.
    """

    rows: Int[np.ndarray, " train"]
    labels: Shaped[np.ndarray, " train"]
    participants: Shaped[np.ndarray, " train"]


_Probe = Callable[[_Seen, np.ndarray, np.ndarray, tuple[Any, ...]], np.ndarray]


def predict_unseen(
    table: Float[np.ndarray, "people columns"],
    half: TrainingHalf,
    test: Int[np.ndarray, " test"],
    levels: int,
    seed: int,
    probes: Sequence[str] = PROBES,
) -> Predictions:
    """Train and tune every probe on the training half, and predict the test half.

    Args:
        table: Rows of people, without missing cells.
        half: Rows to learn from, and their labels.
        test: Rows to predict.
        levels: How many levels there are; 0 for a number.
        seed: Of folds, boosting and the network.
        probes: Which of `PROBES` to train.
    """
    train, labels, participants = half.rows, half.labels, half.participants
    at = Coordinates.of(table, train, test)
    rows = np.concatenate([train, test])
    seen = _Seen(
        table,
        rows,
        np.concatenate([at.train, at.test]),
        np.concatenate([np.zeros(len(train)), at.outside]),
        at.length,
        labels,
        levels,
        seed,
    )
    if not seen.inside.shape[1]:
        nothing = np.zeros((len(probes), len(test), max(levels, 1)))
        return Predictions(nothing, np.full(len(probes), np.nan), nothing[None][:0])
    fold = stratified_group_split(participants, labels, INNER_FOLDS, np.random.default_rng(seed))
    own, later = np.arange(len(train)), np.arange(len(train), len(rows))
    scores, inner, of_folds = [], [], []
    with warnings.catch_warnings(), threadpool_limits(1):  # small fits: threads cost more than they give
        warnings.simplefilter("ignore", ConvergenceWarning)  # a network that is stopped early is still a probe
        suite = _suite(levels)
        for probe, settings in (suite[name] for name in probes):
            figures, predicted = _inner_figures(probe, seen, settings, fold, later)
            best = int(np.argmax(np.nan_to_num(figures, nan=-np.inf)))
            scores.append(probe(seen, own, later, settings[best : best + 1])[0])
            inner.append(figures[best])
            of_folds.append(predicted[:, best])
    return Predictions(np.stack(scores), np.array(inner), np.stack(of_folds, axis=1))


def _suite(levels: int) -> dict[str, tuple[_Probe, tuple[Any, ...]]]:
    """Return each probe with its settings, the plainest first."""
    kernels = tuple((width, penalty) for width in WIDTHS for penalty in _KERNEL_PENALTIES)
    return {
        "linear": (_logistic, _STRENGTHS) if levels else (_ridge, _PENALTIES),
        "rbf": (_kernel_ridge, kernels),
        "boosting": (_boosting, _ROUNDS[levels > 2]),
        "network": (_network, _DECAYS),
    }


def _inner_figures(
    probe: _Probe, seen: _Seen, settings: tuple[Any, ...], fold: np.ndarray, later: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over folds of each setting's figure, and what each fold's probe with each setting says of ``later``."""
    figures, predicted = [], [np.zeros((0, len(settings), len(later), max(seen.levels, 1)))]
    for number in range(INNER_FOLDS):
        fit, left = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if len(left) and len(np.unique(seen.labels[fit])) > 1 and len(np.unique(seen.labels[left])) > 1:
            told = probe(seen, fit, np.concatenate([left, later]), settings)
            measure = AUC if seen.levels else NUMBER
            own = told[:, : len(left)]
            figures.append(weighted_figures(own, seen.labels[left], np.ones((1, len(left))), measure)[0])
            predicted.append(told[None, :, len(left) :])
    return np.mean(figures, axis=0) if figures else np.full(len(settings), np.nan), np.concatenate(predicted)


def _targets(seen: _Seen, fit: np.ndarray) -> np.ndarray:
    """Return centred targets: the number in deviations, or a column a level."""
    labels = seen.labels[fit]
    if seen.levels:
        member = np.eye(seen.levels)[labels.astype(int)]
        return member - member.mean(axis=0)
    return ((labels - labels.mean()) / labels.std())[:, None]


def _logistic(seen: _Seen, fit: np.ndarray, to: np.ndarray, settings: tuple[Any, ...]) -> np.ndarray:
    scale = seen.inside.shape[1] ** 0.5  # columns of about unit size, which the solver's tolerance is made for
    predicted = []
    for strength in settings:
        model = LogisticRegression(C=strength / scale**2, max_iter=500, tol=1e-3)
        model.fit(seen.inside[fit] * scale, seen.labels[fit])
        predicted.append(_by_level(model, seen.inside[to] * scale, seen.levels))
    return np.stack(predicted)


def _ridge(seen: _Seen, fit: np.ndarray, to: np.ndarray, settings: tuple[Any, ...]) -> np.ndarray:
    mean = seen.inside[fit].mean(axis=0)
    left, sizes, right = np.linalg.svd(seen.inside[fit] - mean, full_matrices=False)
    turned, aim = (seen.inside[to] - mean) @ right.T, left.T @ _targets(seen, fit)
    return np.stack([turned * (sizes / (sizes**2 + penalty * len(fit))) @ aim for penalty in settings])


def _kernel_ridge(seen: _Seen, fit: np.ndarray, to: np.ndarray, settings: tuple[Any, ...]) -> np.ndarray:
    target = _targets(seen, fit)
    between = _squared_distances(seen.inside[to], seen.inside[fit]) + seen.outside[to, None] ** 2
    among = _squared_distances(seen.inside[fit], seen.inside[fit])
    predicted = {}
    for width in dict.fromkeys(width for width, _ in settings):
        values, vectors = np.linalg.eigh(np.exp(-width * among))
        turned, aim = np.exp(-width * between) @ vectors, vectors.T @ target
        for penalty in (penalty for own, penalty in settings if own == width):
            predicted[width, penalty] = turned @ (aim / (np.maximum(values, 0.0) + penalty)[:, None])
    return np.stack([predicted[setting] for setting in settings])


def _boosting(seen: _Seen, fit: np.ndarray, to: np.ndarray, settings: tuple[Any, ...]) -> np.ndarray:
    chosen = associated_columns(seen.table, seen.rows[fit], seen.labels[fit], seen.levels, ASSOCIATED)
    columns = np.asarray(seen.table[np.ix_(seen.rows, chosen)], dtype=float)
    inputs = np.concatenate([seen.inside[:, :COMPONENTS], seen.length[:, None], columns], axis=1)
    kind = HistGradientBoostingClassifier if seen.levels else HistGradientBoostingRegressor
    model = kind(max_iter=max(settings), **boosting_settings(seen.seed)).fit(inputs[fit], seen.labels[fit])
    staged = model.staged_predict_proba(inputs[to]) if seen.levels else model.staged_predict(inputs[to])
    stages = {k: stage for k, stage in enumerate(staged, start=1) if k in settings}
    return np.stack([_placed(stages[k], getattr(model, "classes_", None), seen.levels) for k in settings])


def _network(seen: _Seen, fit: np.ndarray, to: np.ndarray, settings: tuple[Any, ...]) -> np.ndarray:
    inputs = seen.inside[:, :COMPONENTS]
    inputs = (inputs - inputs[fit].mean(axis=0)) / np.maximum(inputs[fit].std(axis=0), 1e-12)
    inputs = np.clip(inputs, -10.0, 10.0)
    predicted = []
    for decay in settings:
        shape = {"hidden_layer_sizes": (_UNITS,), "solver": "lbfgs", "alpha": decay, "max_iter": _STEPS}
        model = (MLPClassifier if seen.levels else MLPRegressor)(**shape, random_state=seen.seed)
        model.fit(inputs[fit], seen.labels[fit] if seen.levels else _targets(seen, fit)[:, 0])
        predicted.append(
            _by_level(model, inputs[to], seen.levels) if seen.levels else model.predict(inputs[to])[:, None]
        )
    return np.stack(predicted)


def _squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    inner = left @ right.T
    return np.maximum((left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2 * inner, 0.0)


def _by_level(model: Any, inputs: np.ndarray, levels: int) -> np.ndarray:
    return _placed(model.predict_proba(inputs), model.classes_, levels)


def _placed(predicted: np.ndarray, classes: np.ndarray | None, levels: int) -> np.ndarray:
    """Return a column a level, 0 for those a fold has not seen; a single column for a number."""
    if classes is None:
        return predicted[:, None]
    scores = np.zeros((len(predicted), levels))
    scores[:, classes.astype(int)] = predicted
    return scores
