"""Probes: predictors trained on some participants that read covariates of others, and the coordinates that they look at.

Each is tuned by folds of participants within the training half, on the figure that is reported (`probe_figures`); the other
half's labels are never seen. Linear and RBF look at exact coordinates (`Coordinates`), so that many columns cost little.
Boosting and the network look at the leading `COMPONENTS` of them, and boosting also at each person's overall spread and at the
columns that go along most with the label on the people it is fitted on (`associated_columns`), in place or in spread.

Columns are standardised by the training half's means and deviations (labels are not looked at), those that do not vary there
are left out, and rows are scaled so that their mean squared length is 1. A linear probe with a squared penalty and a kernel of
distances only see inner products with training people, and these are kept exactly: the coordinates of everybody along the
training half's principal components, and how far outside of their span a person lies. 2000 columns of 250 people are 249.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from threadpoolctl import threadpool_limits

from medrep.audit.data import design_basis
from medrep.audit.probe_figures import (
    AUC,
    INNER_FOLDS,
    NUMBER,
    WIDTHS,
    boosting_settings,
    stratified_group_split,
    weighted_figures,
)

_COLUMNS_AT_ONCE = 4096
_CONSTANT = 1e-9  # of a column's size
_SPANNED = 1e-12  # of the largest eigenvalue


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Coordinates of training and test people.

    Attributes:
        train: Along the principal components, the one of largest variance first.
        test: The same of test people.
        outside: Distance of each test person from the span of the training half.
        length: Mean square of each person's standardised columns, training people first.
    """

    train: Float[np.ndarray, "train components"]
    test: Float[np.ndarray, "test components"]
    outside: Float[np.ndarray, " test"]
    length: Float[np.ndarray, " people"]

    @classmethod
    def of(
        cls,
        table: Float[np.ndarray, "people columns"],
        train: Int[np.ndarray, " train"],
        test: Int[np.ndarray, " test"],
    ) -> "Coordinates":
        """Find the coordinates; the table is read a few columns at a time.

        Args:
            table: Rows of people, without missing cells.
            train: The rows whose means, deviations and components are used.
            test: Other rows.
        """
        rows, count = np.concatenate([train, test]), len(train)
        if table.shape[1] < count:
            return cls._of_columns(table, rows, count)
        inner, used = np.zeros((len(rows), count)), 0
        length = np.zeros(len(rows))
        for _, block in standardised_chunks(table, rows, count):
            inner += block @ block[:count].T
            length += np.einsum("pc,pc->p", block, block)
            used += block.shape[1]
        inner, length = inner / max(used, 1), length / max(used, 1)
        values, vectors = np.linalg.eigh(inner[:count])
        spanned = np.flatnonzero(values > _SPANNED * max(values.max(initial=0.0), 1e-300))[::-1]
        coordinates = inner @ (vectors[:, spanned] / np.sqrt(values[spanned]))
        return cls._split(coordinates, length, count)

    @classmethod
    def _of_columns(cls, table: np.ndarray, rows: np.ndarray, count: int) -> "Coordinates":
        """As `of`, by the covariance of columns where these are fewer than people."""
        blocks = [block for _, block in standardised_chunks(table, rows, count)]
        whole = np.concatenate(blocks, axis=1) if blocks else np.zeros((len(rows), 0))
        whole /= max(whole.shape[1], 1) ** 0.5
        values, vectors = np.linalg.eigh(whole[:count].T @ whole[:count])
        spanned = np.flatnonzero(values > _SPANNED * max(values.max(initial=0.0), 1e-300))[::-1]
        return cls._split(whole @ vectors[:, spanned], np.einsum("pc,pc->p", whole, whole), count)

    @classmethod
    def _split(cls, coordinates: np.ndarray, length: np.ndarray, count: int) -> "Coordinates":
        inside = np.einsum("pc,pc->p", coordinates, coordinates)
        outside = np.sqrt(np.maximum(length - inside, 0.0))[count:]
        return cls(coordinates[:count], coordinates[count:], outside, length)


def standardised_chunks(
    table: Float[np.ndarray, "people columns"], rows: Int[np.ndarray, " rows"], count: int
) -> Iterator[tuple[Int[np.ndarray, " some"], Float[np.ndarray, "rows some"]]]:
    """Yield column numbers and these columns of some rows, standardised by the first ``count``; constant ones are skipped."""
    for start in range(0, table.shape[1], _COLUMNS_AT_ONCE):
        block = np.asarray(table[rows, start : start + _COLUMNS_AT_ONCE], dtype=float)
        own = block[:count]
        mean, sd = own.mean(axis=0), own.std(axis=0)
        varies = sd > _CONSTANT * np.maximum(np.abs(own).max(axis=0, initial=0.0), 1e-300)
        if varies.any():
            yield start + np.flatnonzero(varies), (block[:, varies] - mean[varies]) / sd[varies]


def associated_columns(
    table: Float[np.ndarray, "people columns"],
    rows: Int[np.ndarray, " rows"],
    labels: Shaped[np.ndarray, " rows"],
    levels: int,
    most: int,
) -> Int[np.ndarray, " chosen"]:
    """Return column numbers: half of them by R2 of the column on the label, half by R2 of its distance from its mean.

    A number enters with its square, so that bent courses count.

    Args:
        table: Rows of people.
        rows: Rows to look at.
        labels: Their labels: a number, or a code of 0 to ``levels`` - 1.
        levels: How many levels there are; 0 for a number.
        most: How many columns; all of them where the table has no more.
    """
    if table.shape[1] <= most:
        return np.arange(table.shape[1])
    basis = _basis(labels, levels)
    numbers, place, spread = [np.zeros(0, int)], [np.zeros(0)], [np.zeros(0)]
    for own, block in standardised_chunks(table, rows, len(rows)):
        away = np.abs(block)
        away -= away.mean(axis=0)
        numbers.append(own)
        place.append(((basis.T @ block) ** 2).sum(axis=0))
        spread.append(((basis.T @ away) ** 2).sum(axis=0) / np.maximum((away**2).mean(axis=0), 1e-12))
    columns = np.concatenate(numbers)
    first = columns[np.argsort(-np.concatenate(place), kind="stable")[: most // 2]]
    by_spread = columns[np.argsort(-np.concatenate(spread), kind="stable")]
    rest = by_spread[~np.isin(by_spread, first)][: most - len(first)]
    return np.concatenate([first, rest])


def _basis(labels: np.ndarray, levels: int) -> Float[np.ndarray, "rows width"]:
    """Return an orthonormal basis of what the label tells, the mean taken out."""
    y = np.eye(levels)[labels.astype(int)] if levels else ((labels - labels.mean()) / labels.std())[:, None]
    design = y if levels else np.concatenate([y, y**2], axis=1)
    return design_basis(design - design.mean(axis=0))


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
