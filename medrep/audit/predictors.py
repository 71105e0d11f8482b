"""Predictors that read covariates and outcomes from data, trained on real people whom neither a model nor a test has seen.

Linear, on the leading principal components of the standardised columns; the penalty is chosen by folds of participants.
They judge counterfactuals, which a model's own head must not do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold

from medrep.audit.data import drawn_columns
from medrep.audit.intervals import bootstrap, jackknife_error, percentile_interval
from medrep.audit.probe_figures import stratified_group_split
from medrep.cohort.covariates import Continuous
from medrep.cohort.dataset import Dataset
from medrep.errors import CohortError

COMPONENTS = 50
FEWEST = 5
"""Participants that a level needs in each half."""
_FOLDS, _DRAWS = 5, 500
_GROUPS = 10  # of people: so many times each reader is taught again
_TINY = 1e-12  # of a share
_STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True, eq=False)
class Components:
    """Leading principal components of standardised columns.

    Attributes:
        seed: Of the columns drawn from a wide table.
        mean: Of each column among the people of the fit.
        weights: What deviations from it are multiplied with; the mean squared length of the people of the fit is 1 at most.
    """

    seed: int
    mean: Float[np.ndarray, " columns"]
    weights: Float[np.ndarray, "columns components"]

    @classmethod
    def fit(cls, data: Float[np.ndarray, "people columns"], seed: int, most: int = COMPONENTS) -> "Components":
        """Fit; a cell that is not finite counts as its column's mean, and constant columns are left out."""
        columns = drawn_columns(data, seed)
        if not len(columns):
            return cls(seed, np.zeros(columns.shape[1]), np.zeros((columns.shape[1], 0)))
        mean = np.where(np.isfinite(columns), columns, 0.0).sum(axis=0) / np.maximum(
            np.isfinite(columns).sum(axis=0), 1
        )
        centred = np.where(np.isfinite(columns), columns - mean, 0.0)
        sd, size = centred.std(axis=0), np.abs(mean) + np.abs(centred).max(axis=0, initial=0.0)
        used = sd > 1e-9 * np.maximum(size, 1e-300)
        per_sd = np.divide(1.0, sd, out=np.zeros_like(sd), where=used) / max(int(used.sum()), 1) ** 0.5
        _, sizes, right = np.linalg.svd(centred * per_sd, full_matrices=False)
        kept = right[: min(most, int((sizes > 1e-9 * sizes.max(initial=0.0)).sum()))]
        return cls(seed, mean, per_sd[:, None] * kept.T)

    def of(self, data: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people components"]:
        """Return people's coordinates."""
        centred = drawn_columns(data, self.seed) - self.mean
        return np.where(np.isfinite(centred), centred, 0.0) @ self.weights


@dataclass(frozen=True, eq=False)
class LabelPredictor:
    """A trained predictor.

    Attributes:
        components: What it looks at.
        levels: What it tells apart, in order; none where it reads a number.
        fitted: The predictor on the components.
        mean: Of the number among the people of the fit; 0 for levels.
        sd: Its deviation; 1 for levels.
        others: The predictor, each taught by some of these people (`teaching_error`).
    """

    components: Components
    levels: tuple[str, ...]
    fitted: Any
    mean: float = 0.0
    sd: float = 1.0
    others: tuple[Any, ...] = ()

    def number(self, data: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, " people"]:
        """Return the number that is read of each person, in its own unit."""
        return self.mean + self.sd * self.fitted.predict(self.components.of(data))

    def shares(self, data: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people levels"]:
        """Return the probability of each level, as if levels were equally frequent."""
        return self.fitted.predict_proba(self.components.of(data))

    def level(self, data: Float[np.ndarray, "people columns"]) -> Int[np.ndarray, " people"]:
        """Return the number, in ``levels``, of the most probable level of each person."""
        return self.shares(data).argmax(axis=1)

    def readings(self, data: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "readers people"]:
        """Return what this reader and each of ``others`` read of people: the number, or the place in ``levels``."""
        rows, predictors = self.components.of(data), (self.fitted, *self.others)
        if self.levels:
            return np.stack([own.predict_proba(rows).argmax(axis=1) for own in predictors]).astype(float)
        return np.stack([self.mean + self.sd * own.predict(rows) for own in predictors])

    def scales(self, data: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "readers people scales"]:
        """Return what this reader and each of ``others`` read of people on a scale without steps.

        The number; of two levels the log odds of the second; of more those of each against the others.
        """
        rows, predictors = self.components.of(data), (self.fitted, *self.others)
        if not self.levels:
            return np.stack([self.mean + self.sd * own.predict(rows) for own in predictors])[..., None]
        shares = np.stack([own.predict_proba(rows) for own in predictors])
        shares = np.clip(shares[..., 1:] if len(self.levels) == 2 else shares, _TINY, 1 - _TINY)
        return np.log(shares / (1 - shares))

    def teaching_error(self, figures: Float[np.ndarray, " readers"]) -> float:
        """Return the standard error that who taught the reader adds to a figure, from what it is by each of the `readings`.

        Of numbers it is that of the delete-group jackknife, the penalty chosen anew without each group (chosen once, it said .030
        where it was .040, lognormal columns of 200 people; the jackknife takes what is no smooth choice for more, never for less,
        so that Student's t is not asked). Shares of levels are not smooth in the reader: a group left out turns
        a few people over a threshold, which the jackknife takes for tenfold (it said .06 where it was .03, ours), so that it
        is their spread over halves (Shao and Wu 1989).
        """
        if self.levels:
            return float(np.std(figures[1:])) if len(figures) > 2 else 0.0
        return jackknife_error(figures[1:])


def fit_predictor(
    components: Components,
    data: Float[np.ndarray, "people columns"],
    values: pd.Series,
    participants: Shaped[np.ndarray, " people"],
    seed: int,
    *,
    continuous: bool,
    groups: int = 0,
) -> LabelPredictor:
    """Train a predictor.

    Args:
        components: What to look at.
        data: Real people.
        values: What to read; people without a value, or with a level of fewer than `FEWEST` participants, are left out.
        participants: Whose each row is; a participant's rows stay in one fold.
        seed: Of the folds.
        continuous: Whether it is a number.
        groups: How many times to teach it again by some of these people.

    Raises:
        CohortError: A number without variation, or fewer than two levels with people enough.
    """
    who = np.asarray(participants).astype(str)
    known = values.notna().to_numpy(copy=True)
    labels = values.astype(str).to_numpy(object)
    levels: tuple[str, ...] = ()
    if not continuous:
        counts = pd.Series(who[known]).groupby(labels[known]).nunique()
        levels = tuple(sorted(str(level) for level in counts.index[counts >= FEWEST]))
        known &= np.isin(labels, levels)
    few = len(np.unique(who[known])) < 2 * FEWEST
    flat = not np.ptp(values[known].to_numpy(float)) > 0 if continuous and not few else len(levels) < 2
    if few or (continuous and flat) or (not continuous and flat):
        raise CohortError(
            f"{values.name} cannot be learned from {len(np.unique(who[known]))} participants; it has to vary, and"
            f" two levels need {FEWEST} participants each"
        )
    rows, own = components.of(data[known]), who[known]
    if continuous:
        y = values[known].to_numpy(float)
        aim = (y - y.mean()) / y.std()
        best = _ridge(rows, aim, own, seed)
        others = _taught_again(best, rows, aim, own, groups, seed)
        return LabelPredictor(components, (), best, float(y.mean()), float(y.std()), others)
    folds = _folds(own, seed)
    codes = np.array([levels.index(label) for label in labels[known]])
    # A fold without one of the levels teaches nothing of it.
    folds = [fold for fold in folds if len(np.unique(codes[fold[0]])) == len(levels)]
    logistic = LogisticRegression(class_weight="balanced", max_iter=2000, tol=1e-3)
    best = logistic.fit(rows, codes)
    if folds:
        search = GridSearchCV(logistic, {"C": list(_STRENGTHS)}, scoring=_mean_recall, cv=folds)
        best = search.fit(rows, codes).best_estimator_
    return LabelPredictor(components, levels, best, others=_taught_again(best, rows, codes, own, groups, seed))


def _folds(who: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(GroupKFold(min(_FOLDS, len(np.unique(who))), shuffle=True, random_state=seed).split(who, groups=who))


def _ridge(rows: np.ndarray, aim: np.ndarray, who: np.ndarray, seed: int) -> Ridge:
    """Fit a ridge regression with the penalty that errs least over folds of participants."""
    missed = np.zeros(len(_STRENGTHS))
    for train, test in _folds(who, seed):
        mean, base = rows[train].mean(axis=0), aim[train].mean()
        left, sizes, right = np.linalg.svd(rows[train] - mean, full_matrices=False)
        turned, along, left_out = (rows[test] - mean) @ right.T, left.T @ (aim[train] - base), aim[test] - base
        for k, penalty in enumerate(_STRENGTHS):
            missed[k] += ((left_out - turned @ (sizes / (sizes**2 + penalty) * along)) ** 2).mean()
    return Ridge(alpha=_STRENGTHS[int(missed.argmin())]).fit(rows, aim)


def _taught_again(
    best: Ridge | LogisticRegression, rows: np.ndarray, aim: np.ndarray, who: np.ndarray, times: int, seed: int
) -> tuple[Any, ...]:
    """Teach a predictor again without each of some groups of participants; one of levels by halves of them (`teaching_error`)."""
    rng, levels = np.random.default_rng([seed, 1]), isinstance(best, LogisticRegression)
    if times < 2 or len(np.unique(who)) < times:
        return ()
    if levels:
        dealt = [stratified_group_split(who, aim, 2, rng) for _ in range(times // 2)]
        chosen = [part == half for part in dealt for half in (0, 1)]
    else:
        part = stratified_group_split(who, aim, times, rng)
        chosen = [part != group for group in range(times)]
    if not levels:
        return tuple(_ridge(rows[own], aim[own], who[own], seed) for own in chosen)
    whole = len(np.unique(aim))
    return tuple(clone(best).fit(rows[own], aim[own]) for own in chosen if len(np.unique(aim[own])) == whole)


@dataclass(frozen=True, eq=False)
class Reading:
    """How one covariate is read.

    Attributes:
        predictor: None where it could not be trained.
        able: Whether real people of the other half are read better than by chance (the 95% interval lies above).
        note: How well.
    """

    predictor: LabelPredictor | None
    able: bool
    note: str


def fit_readings(
    dataset: Dataset,
    train: Int[np.ndarray, " train"],
    test: Int[np.ndarray, " test"],
    seed: int,
) -> dict[str, Reading]:
    """Train a reader of every covariate on some rows, and say how well each reads other ones.

    Args:
        dataset: Real people.
        train: Rows to learn from.
        test: Rows of other participants, to judge the readers.
        seed: Of folds, resampling and the columns drawn.
    """
    components = Components.fit(dataset.values[train], seed)
    asked = {c.declared.name: isinstance(c, Continuous) for c in dataset.schema.fitted}
    return {
        name: fit_reading(components, dataset, (dataset.covariates[name], number), (train, test), seed)
        for name, number in asked.items()
    }


def fit_reading(
    components: Components,
    dataset: Dataset,
    asked: tuple[pd.Series, bool],
    rows: tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]],
    seed: int,
) -> Reading:
    """Train a reader on some rows, and say how well it reads other ones.

    Args:
        components: What it looks at.
        dataset: Real people.
        asked: What is read, of each row, missing where it is not known; and whether it is a number.
        rows: Rows to learn from, and rows of other participants, to judge the reader.
        seed: Of folds and resampling.
    """
    data, participants, (values, number), (train, test) = dataset.values, dataset.units, asked, rows
    try:
        predictor = fit_predictor(
            components, data[train], values.iloc[train], participants[train], seed, continuous=number, groups=_GROUPS
        )
    except CohortError as error:
        return Reading(None, able=False, note=str(error))
    test = test[values.iloc[test].notna().to_numpy()]
    return _judged(predictor, data[test], values.iloc[test], participants[test], seed)


def split(dataset: Dataset, seed: int) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
    """Split rows into two halves of participants, alike in levels (of a participant's first row), drawn by the seed."""
    levels = [c.declared.name for c in dataset.schema.fitted if not isinstance(c, Continuous)]
    frame = dataset.covariates
    together = frame[levels].astype(str).apply("\x1f".join, axis=1).to_numpy(str) if levels else np.zeros(len(frame))
    part = stratified_group_split(dataset.units.astype(str), together, 2, np.random.default_rng(seed))
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1)


def _mean_recall(predictor: LogisticRegression, rows: np.ndarray, codes: np.ndarray) -> float:
    """Return the share read rightly of each level that is there, and the mean of these: a fold may lack a level."""
    right = predictor.predict(rows) == codes
    return float(np.mean([right[codes == code].mean() for code in np.unique(codes)]))


def _judged(
    predictor: LabelPredictor, data: Float[np.ndarray, "people columns"], values: pd.Series, who: np.ndarray, seed: int
) -> Reading:
    """Say how well a reader reads real people, and whether that is better than chance."""
    if not len(data):
        return Reading(predictor, able=False, note="nobody is left to judge the reader on")
    skill: Callable[[np.ndarray], float]
    if predictor.levels:
        labels, read = values.astype(str).to_numpy(object), np.array(predictor.levels, object)[predictor.level(data)]
        own = [labels == level for level in predictor.levels]
        chance, name = 1 / len(predictor.levels), "balanced accuracy"

        def skill(rows: np.ndarray) -> float:
            right = labels[rows] == read[rows]
            return float(np.mean([right[level[rows]].mean() for level in own if level[rows].any()]))

    else:
        y, number = values.to_numpy(float), predictor.number(data)
        chance, name = 0.0, "R2"

        def skill(rows: np.ndarray) -> float:
            total = float(((y[rows] - y[rows].mean()) ** 2).sum())
            return 1 - float(((y[rows] - number[rows]) ** 2).sum()) / total if total > 0 else float("nan")

    low, high = percentile_interval(bootstrap(skill, len(data), _DRAWS, np.random.default_rng(seed), who))
    at = skill(np.arange(len(data)))
    note = f"reader of {values.name}: {name} {at:.2f} ({low:.2f} to {high:.2f}), chance {chance:.2f}"
    return Reading(predictor, able=low > chance, note=note)
