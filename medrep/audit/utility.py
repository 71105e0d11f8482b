"""What is left of the biology: how well an outcome can be told before and after, where covariates cannot tell it.

A class (diagnosis) is told from the most frequent one in matched pairs (`matching.py`), by the area under the curve within
folds of pairs: every fold has as many people of the one as of the other, with the same covariates, and scores are never
compared between folds. A number is told beyond what covariates tell of it: regressed on them, the rest predicted, R2. Both
from predictions out of fold; the probe, linear or RBF, and its penalty are chosen inside each fold, so that no choice is
made on the figure that is reported. The interval is of the people who are judged, with the predictions as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from medrep.audit.findings import Finding
from medrep.audit.intervals import percentile_interval, permutation_p
from medrep.audit.matching import Matched, first_rows, match_people
from medrep.audit.means import exact_interval
from medrep.audit.profiles import compact, covariate_design
from medrep.cohort.covariates import CovariateSchema

MIN_N, DRAWS, PERMUTATIONS = 20, 1000, 999
FOLDS, _INNER_FOLDS = 5, 3
_STRENGTHS, _WIDTHS = (0.3, 3.0, 30.0, 300.0), (0.1, 0.5, 2.5)  # of rows whose mean squared length is 1


def audit_utility(
    tables: Mapping[str, Float[np.ndarray, "people _"]],
    outcome: pd.Series,
    frame: pd.DataFrame,
    schema: CovariateSchema,
    participants: Shaped[np.ndarray, " people"],
    seed: int,
    *,
    continuous: bool = False,
    min_n: int = MIN_N,
    draws: int = DRAWS,
) -> list[Finding]:
    """Measure `utility` of every table, and `utility_change` from ``raw`` to each other one.

    Args:
        tables: Name -> table; ``raw`` first.
        outcome: A value a row, missing where it is not known; its name names the group. If it is a covariate, the others are
            matched. A participant counts once, with the first session at which it is known.
        frame: Covariates.
        schema: What they are.
        participants: Whose each row is.
        seed: Of folds, resampling and permuting.
        continuous: Whether the outcome is a number.
        min_n: Fewest pairs, or fewest participants for a number.
        draws: Bootstrap samples.
    """
    name = str(outcome.name)
    known = np.flatnonzero(outcome.notna().to_numpy())
    rows = known[first_rows(np.asarray(participants)[known])]
    if continuous:
        return _of_number(tables, outcome, rows, frame, schema, seed, min_n, draws)
    labels = outcome.iloc[rows].astype(str)
    classes = list(labels.value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable").index)
    if len(classes) < 2:
        note = f"everybody is {classes[0]}" if classes else "nobody has a value"
        return [Finding("utility", f"{table}/{name}", len(rows), status="insufficient", note=note) for table in tables]
    found: list[Finding] = []
    for own in classes[1:]:
        ones, others = (rows[(labels == level).to_numpy()] for level in (own, classes[0]))
        matched = match_people(frame, schema, ones, others, leave_out=[name])
        group = name if len(classes) == 2 else f"{name}={own}"
        note = (
            f"{own} against {classes[0]}: {len(matched.rows)} pairs of {len(ones)} and {len(others)} people, matched on"
            f" {', '.join(matched.covariates) or 'nothing'}; largest imbalance left {matched.imbalance:.2f} sd"
        )
        found += _of_pairs(tables, matched, group, note, seed, min_n, draws)
    return found


@dataclass(frozen=True, eq=False)
class _Told:
    """What resampling needs of one table: a figure and its resamples, the same people in the same draws for every table."""

    estimate: float
    resampled: Float[np.ndarray, " draws"]
    p: float


def _of_pairs(
    tables: Mapping[str, np.ndarray], matched: Matched, group: str, note: str, seed: int, min_n: int, draws: int
) -> list[Finding]:
    pairs = len(matched.rows)
    if pairs < max(min_n, 2 * FOLDS):
        return _insufficient(tables, group, 2 * pairs, f"{max(min_n, 2 * FOLDS)} pairs are needed; {note}")
    folds = np.random.default_rng(seed).permutation(np.arange(pairs) % FOLDS)
    told = {name: _pairs_told(table[matched.rows.ravel()], folds, seed, draws) for name, table in tables.items()}
    return _findings(told, group, 2 * pairs, f"AUC; {note}", bound=exact_interval(pairs, pairs)[0])


def _pairs_told(
    table: Float[np.ndarray, "rows columns"], folds: Int[np.ndarray, " pairs"], seed: int, draws: int
) -> _Told:
    rows, pairs = compact(table, seed), len(folds)
    y, pair = np.tile([1, 0], pairs), np.repeat(np.arange(pairs), 2)
    scores = np.zeros(2 * pairs)
    search = _classifier()
    for fold in range(FOLDS):
        test = np.repeat(folds == fold, 2)
        inner = list(GroupKFold(_INNER_FOLDS, shuffle=True, random_state=seed).split(rows[~test], groups=pair[~test]))
        scores[test] = search.set_params(cv=inner).fit(rows[~test], y[~test]).decision_function(rows[test])
    score, within = scores.reshape(pairs, 2), folds[:, None] == folds[None, :]
    ones = np.ones((1, pairs))
    estimate = float(_area(score, within, ones)[0])
    counts = np.random.default_rng(seed).multinomial(pairs, np.full(pairs, 1 / pairs), size=draws).astype(float)
    flips = np.random.default_rng([seed, 1]).integers(2, size=(PERMUTATIONS, pairs)).astype(bool)
    null = np.array([_area(np.where(own[:, None], score[:, ::-1], score), within, ones)[0] for own in flips])
    return _Told(estimate, _area(score, within, counts), permutation_p(estimate, null))


def _area(
    score: Float[np.ndarray, "pairs 2"],
    within: Bool[np.ndarray, "pairs pairs"],
    counts: Float[np.ndarray, "draws pairs"],
) -> Float[np.ndarray, " draws"]:
    """Return the area under the curve within folds, where each pair counts so often."""
    one, other = score[:, :1], score[:, 1]
    wins = ((one > other) + 0.5 * (one == other)) * within
    return ((counts @ wins) * counts).sum(axis=1) / ((counts @ within) * counts).sum(axis=1)


def _of_number(
    tables: Mapping[str, np.ndarray],
    outcome: pd.Series,
    rows: Int[np.ndarray, " people"],
    frame: pd.DataFrame,
    schema: CovariateSchema,
    seed: int,
    min_n: int,
    draws: int,
) -> list[Finding]:
    name = str(outcome.name)
    others = CovariateSchema(tuple(c for c in schema.fitted if c.declared.name != name))
    design, y = covariate_design(frame.iloc[rows], others), outcome.iloc[rows].to_numpy(float)
    freedom = len(rows) - np.linalg.matrix_rank(design)
    if freedom < max(min_n, 2 * FOLDS) or not np.ptp(y) > 0:
        note = f"{freedom} participants more than covariates tell apart, {max(min_n, 2 * FOLDS)} are needed"
        return _insufficient(tables, name, len(rows), note)
    folds = list(KFold(FOLDS, shuffle=True, random_state=seed).split(y))
    left, told = np.zeros(len(y)), {}
    for train, test in folds:
        left[test] = y[test] - design[test] @ np.linalg.lstsq(design[train], y[train], rcond=1e-9)[0]
    counts = np.random.default_rng(seed).multinomial(len(y), np.full(len(y), 1 / len(y)), size=draws).astype(float)
    for table_name, table in tables.items():
        coordinates, predicted = compact(table[rows], seed), np.zeros(len(y))
        for train, test in folds:
            own = y[train] - design[train] @ np.linalg.lstsq(design[train], y[train], rcond=1e-9)[0]
            sd = max(float(own.std()), 1e-300)
            predicted[test] = sd * _regressor(seed).fit(coordinates[train], own / sd).predict(coordinates[test])
        missed = (left - predicted) ** 2
        resampled = 1 - (counts @ missed) / (counts @ left**2)
        rng = np.random.default_rng([seed, 1])
        null = np.array([1 - ((left[o] - predicted) ** 2).sum() / (left**2).sum() for o in _orders(rng, len(y))])
        estimate = float(1 - missed.sum() / (left**2).sum())
        told[table_name] = _Told(estimate, resampled, permutation_p(estimate, null))
    return _findings(told, name, len(rows), f"R2 beyond {', '.join(others.names) or 'the mean'}", bound=float("nan"))


def _orders(rng: np.random.Generator, n: int) -> list[Int[np.ndarray, " n"]]:
    return [rng.permutation(n) for _ in range(PERMUTATIONS)]


def _classifier() -> GridSearchCV:
    return GridSearchCV(
        Pipeline([("probe", LogisticRegression())]),
        [
            {"probe": [LogisticRegression(max_iter=2000, tol=1e-3)], "probe__C": list(_STRENGTHS)},
            {"probe": [SVC()], "probe__gamma": list(_WIDTHS), "probe__C": [1.0]},
        ],
        scoring="roc_auc",
    )


def _regressor(seed: int) -> GridSearchCV:
    penalties = list(_STRENGTHS)
    return GridSearchCV(
        Pipeline([("probe", Ridge())]),
        [
            {"probe": [Ridge()], "probe__alpha": penalties},
            {"probe": [KernelRidge(kernel="rbf")], "probe__gamma": list(_WIDTHS), "probe__alpha": penalties},
        ],
        scoring="neg_mean_squared_error",
        cv=KFold(_INNER_FOLDS, shuffle=True, random_state=seed),
    )


def _findings(told: Mapping[str, _Told], group: str, n: int, note: str, bound: float) -> list[Finding]:
    found = []
    for name, own in told.items():
        low, high = percentile_interval(own.resampled)
        if own.estimate == 1 and np.isfinite(bound):
            low = bound
        found.append(Finding("utility", f"{name}/{group}", n, own.estimate, low, high, own.p, note=note))
    raw = told.get("raw")
    for name, own in told.items() if raw is not None else ():
        if name == "raw" or raw is None:
            continue
        low, high = percentile_interval(own.resampled - raw.resampled)
        if own.estimate == raw.estimate == 1 and np.isfinite(bound):
            low, high = bound - 1, 1 - bound
        change = own.estimate - raw.estimate
        found.append(Finding("utility_change", f"{name}/{group}", n, change, low, high, note=f"{name} - raw; {note}"))
    return found


def _insufficient(tables: Mapping[str, np.ndarray], group: str, n: int, note: str) -> list[Finding]:
    of_each = [Finding("utility", f"{name}/{group}", n, status="insufficient", note=note) for name in tables]
    changes = [name for name in tables if name != "raw"] if "raw" in tables else []
    return of_each + [
        Finding("utility_change", f"{name}/{group}", n, status="insufficient", note=note) for name in changes
    ]
