"""Shortcuts: is a target read from a covariate that goes with it? Read on people in whom the two conflict.

A covariate, such as site, is a cue of a target, such as diagnosis: each level suggests the class that is more frequent there
than elsewhere. People in whom it is right are the majority, people in whom it conflicts are the minority. A reader that relies on
the cue reads the minority worse, at worst below chance.

One linear reader is looked at along its training (`learning_paths`), by people whom it was not taught by. At each checkpoint t
the accuracies of the majority and of the minority, each class counting alike, are drawn against each other, as probits: M_t and
m_t, mean distances from the threshold in deviations within class and group. Without a shortcut both grow in proportion, and the
path is a line from chance. A shortcut that is learned first, and the target later, bends it below that line (the "moon shape" of
Liang et al. 2023), and the curvature is the mean over checkpoints, up to where training stops, of

    m_t - (m_T / M_T) M_t,

with a standard error by leaving out one person at a time. A shortcut that is never unlearned does not bend the path: it is the
gap between both accuracies that shows it.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.stats import chi2_contingency
from scipy.stats import t as student_t

from medrep.audit.data import AuditData, compact, covariate_design, drawn_columns, residual
from medrep.audit.finding import Finding
from medrep.audit.intervals import share_interval, student
from medrep.audit.learning_paths import LearningPath, folds_of, learning_path
from medrep.audit.utility import first_rows
from medrep.cohort.covariates import Continuous, CovariateSchema

METRICS = ("majority_accuracy", "minority_accuracy", "minority_gap", "minority_curvature")
FEWEST = 8
"""People of each class, of the majority and of the minority."""
CUE = 0.05
"""p of target by covariate (chi-square) above which the covariate is no cue."""
_AT_LEVEL = 10
_MOST = 1000
_LEAST_READ = 0.2  # probit of the majority's accuracy, .58: below it there is no path to speak of


@dataclass(frozen=True, eq=False)
class CuedPeople:
    """People in whom a cue and a target agree or conflict.

    Attributes:
        classes: The target, -1 or 1.
        agrees: Whether the cue is right.
    """

    classes: Float[np.ndarray, " people"]
    agrees: Bool[np.ndarray, " people"]

    @property
    def cells(self) -> list[Bool[np.ndarray, " people"]]:
        """Majority of both classes, then minority of both."""
        return [who & (self.classes == k) for who in (self.agrees, ~self.agrees) for k in (-1.0, 1.0)]

    @property
    def fewest(self) -> int:
        """People in the smallest of the cells."""
        return min(int(cell.sum()) for cell in self.cells)


@dataclass(frozen=True)
class Measured:
    """A figure.

    Attributes:
        estimate: NaN where nothing can be said.
        error: Its standard error.
        freedom: Degrees of freedom of the error.
    """

    estimate: float
    error: float
    freedom: float

    @property
    def p(self) -> float:
        """Of the figure against 0; NaN where nothing can be said."""
        if np.isnan(self.estimate):
            return float("nan")
        return float(2 * student_t.sf(abs(self.estimate) / self.error, self.freedom)) if self.error > 0 else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """95% by Student's t."""
        half = student(self.freedom) * self.error
        return self.estimate - half, self.estimate + half


@dataclass(frozen=True)
class Reliance:
    """Figures of a path.

    Attributes:
        majority: Accuracy where training stops.
        minority: The same.
        gap: The first less the second.
        curvature: Of the path; NaN where the majority is hardly read.
    """

    majority: Measured
    minority: Measured
    gap: Measured
    curvature: Measured


def reliance(path: LearningPath, people: CuedPeople) -> Reliance:
    """Return how differently the majority and the minority are read.

    Args:
        path: Of one target.
        people: Those who were read; each cell has two or more.
    """
    scores = (path.scores[: int(path.stop[0]) + 1, :, 0] * people.classes).T
    parts = np.stack([np.ones_like(scores), scores, scores**2, scores > 0])
    member = np.stack(people.cells, axis=1)
    sums = np.einsum("apt,pc->act", parts, member)
    own = parts[:, :, None, :] * member[None, :, :, None]
    whole, without = _figures(sums), _figures(sums[:, None] - own)
    squares = (1 - 1 / len(scores)) * (without - without.mean(axis=0)) ** 2
    of_cells = member.T.astype(float) @ squares
    errors = np.sqrt(of_cells.sum(axis=0))
    # Welch and Satterthwaite: of few people in one of the cells the error is known badly.
    fewer = (of_cells**2 / (member.sum(axis=0) - 1)[:, None]).sum(axis=0)
    freedom = np.divide(errors**4, fewer, out=np.full(4, people.fewest - 1.0), where=fewer > 0)
    # Shares of few people near 1 seem to be known too well: as if one more had been read rightly and one wrongly.
    count = sums[0, :, -1]
    share = (sums[3, :, -1] + 1) / (count + 2)
    of_shares = share * (1 - share) / (count + 2) / 4
    errors[2] = of_shares.sum() ** 0.5
    freedom[2] = of_shares.sum() ** 2 / (of_shares**2 / (count - 1)).sum()
    whole[3] = np.where(np.isnan(errors[3]), np.nan, whole[3])  # without one of them the majority is hardly read
    return Reliance(*(Measured(*one) for one in np.stack([whole, errors, freedom], axis=1).tolist()))


def _figures(sums: Float[np.ndarray, "4 *draws cells checkpoints"]) -> Float[np.ndarray, "*draws 4"]:
    """Return the figures of a path from sums of 1, scores, their squares and right readings in each cell."""
    count = sums[0]
    means = sums[1] / count
    within = np.maximum(sums[2] - sums[1] * means, 0.0).sum(axis=-2) / count.sum(axis=-2)
    margins = means / np.sqrt(np.maximum(within, 1e-300))[..., None, :]
    majority, minority = margins[..., :2, :].mean(axis=-2), margins[..., 2:, :].mean(axis=-2)
    right = sums[3, ..., -1] / count[..., -1]
    ends = right[..., :2].mean(axis=-1), right[..., 2:].mean(axis=-1)
    at = majority[..., -1:]
    bent = minority - minority[..., -1:] / np.where(at > _LEAST_READ, at, np.nan) * majority
    return np.stack([*ends, ends[0] - ends[1], bent.mean(axis=-1)], axis=-1)


def cued_people(target: Float[np.ndarray, " people"], cue: pd.Series) -> tuple[Int[np.ndarray, " some"], CuedPeople]:
    """Return the places of people in whom a cue says anything, and in whom of them it is right.

    Args:
        target: -1 or 1, NaN where it is not known.
        cue: A level each.
    """
    labels = cue.astype(str).to_numpy(object)
    known = np.isfinite(target)
    says = np.zeros(len(target))
    if known.any():
        overall = float(target[known].mean())
        for level in np.unique(labels[known]):
            here = known & (labels == level)
            if here.sum() >= _AT_LEVEL:
                says[here] = np.sign(np.round(target[here].mean() - overall, 12))
    chosen = np.flatnonzero(says)
    return chosen, CuedPeople(target[chosen], says[chosen] == target[chosen])


def audit_shortcuts(
    data: AuditData, outcome: "tuple[pd.Series, bool] | None" = None, *, min_n: int = 20, seed: int = 0
) -> list[Finding]:
    """Read targets from tables, in people in whom a covariate goes with the target and in those in whom it conflicts.

    Args:
        data: People whom the model never saw; the first row of each counts.
        outcome: The target, missing where it is not known, and whether it is a number; None: kept covariates with two levels.
        min_n: Fewest people.
        seed: Of the people drawn where there are many, and of folds.

    Returns:
        Of each table, target and other covariate with levels ``majority_accuracy``, ``minority_accuracy``, ``minority_gap``
        and ``minority_curvature``.
    """
    rows = first_rows(data.participants)
    rows = np.sort(np.random.default_rng([seed, 83]).permutation(rows)[:_MOST])
    if outcome is not None:
        targets = {str(outcome[0].name): _two_classes(outcome[0].iloc[rows], continuous=outcome[1])}
    else:
        named = [name for name in data.kept if not data.continuous(name) and name not in data.schema.batches]
        targets = {name: _two_classes(data.frame[name].iloc[rows], continuous=False) for name in named}
    cues = [one.declared.name for one in data.schema.fitted if not isinstance(one, Continuous)]
    found: list[Finding] = []
    for target, values in targets.items():
        for cue in cues:
            if cue != target and (outcome is not None or cue in data.schema.batches):
                found += _of_cue(data, rows, (target, values), cue, (min_n, seed))
    return found


def _of_cue(
    data: AuditData, rows: np.ndarray, target: tuple[str, "np.ndarray | None"], cue: str, needs: tuple[int, int]
) -> list[Finding]:
    name, values = target
    min_n, seed = needs
    groups = [f"{table}/{name} by {cue}" for table in data.tables]
    people = CuedPeople(np.zeros(0), np.zeros(0, bool))
    short = f"{name} does not have two classes"
    if values is not None:
        labels = data.frame[cue].iloc[rows]
        chosen, people = cued_people(values, labels)
        rows, short = rows[chosen], _too_little(people, labels.iloc[chosen], min_n)
    if short:
        return [Finding(m, g, len(people.classes), status="insufficient", note=short) for g in groups for m in METRICS]
    codes = sum((k * cell for k, cell in enumerate(people.cells)), np.zeros(len(rows), int))
    folds = folds_of(codes, np.random.default_rng([seed, 89]))
    # What goes with the cue by way of a covariate that is kept is not counted as the cue's.
    others = CovariateSchema(tuple(data.schema[one] for one in data.kept if one not in (name, cue)))
    design = covariate_design(data.frame.iloc[rows], others)
    found: list[Finding] = []
    for group, table in zip(groups, data.tables.values(), strict=True):
        own = compact(residual(drawn_columns(table[rows], seed), design), seed)
        figures = reliance(learning_path(own, people.classes[:, None], folds), people)
        found += _findings(group, figures, people, f"{cue} suggests {name}")
    return found


def _too_little(people: CuedPeople, labels: pd.Series, min_n: int) -> str:
    """Return why nothing can be said; empty where it can."""
    n, cue = len(people.classes), labels.name
    if n < min_n or people.fewest < FEWEST:
        return (
            f"{n} people, {people.fewest} in the smallest of: each class, where {cue} agrees with it, and where it"
            f" conflicts; {min_n} and {FEWEST} are needed"
        )
    p = float(chi2_contingency(pd.crosstab(labels.astype(str).to_numpy(object), people.classes), correction=False)[1])
    return "" if p <= CUE else f"{cue} is no cue: it goes with the target no more than chance may explain (p = {p:.2f})"


def _findings(group: str, figures: Reliance, people: CuedPeople, says: str) -> list[Finding]:
    n, right = len(people.classes), people.agrees
    about = f"{says} rightly in {right.mean():.0%} of people; balanced over classes"
    found: list[Finding] = []
    for metric, share, who in zip(METRICS, (figures.majority, figures.minority), (right, ~right), strict=False):
        ends = share_interval(share.estimate, share.error, int(who.sum()), n)
        found.append(Finding(metric, group, n, share.estimate, *ends, note=about))
    low, high = figures.gap.interval
    note = f"majority less minority; {about}"
    found.append(
        Finding(METRICS[2], group, n, figures.gap.estimate, max(low, -1.0), min(high, 1.0), figures.gap.p, note=note)
    )
    bent = figures.curvature
    if np.isnan(bent.estimate):
        note = "the majority is hardly read: there is no path whose curvature could be told"
        return [*found, Finding(METRICS[3], group, n, status="insufficient", note=note)]
    note = "probits by which the minority lies off the line on the way; below 0: a shortcut is learned first"
    return [*found, Finding(METRICS[3], group, n, bent.estimate, *bent.interval, bent.p, note=note)]


def _two_classes(values: pd.Series, *, continuous: bool) -> "np.ndarray | None":
    """Return -1 and 1, NaN where nothing is known; a number is above its median or not. None: not two classes."""
    if continuous:
        numbers = values.to_numpy(float, na_value=np.nan)
        if not np.isfinite(numbers).any():
            return None
        coded = np.where(np.isfinite(numbers), np.where(numbers > np.nanmedian(numbers), 1.0, -1.0), np.nan)
    else:
        levels = sorted(values.dropna().astype(str).unique())
        if len(levels) != 2:
            return None
        text = values.astype(object).where(values.notna(), None)
        coded = np.array([np.nan if cell is None else 2.0 * (str(cell) == levels[1]) - 1 for cell in text])
    return coded
