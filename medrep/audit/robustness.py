"""Robustness of effects: how strong somebody would have to be whom nobody measured, to explain an effect away.

An effect is a coefficient of a covariate D in a regression of a column Y on D and X: 1, splines of the other numbers, levels, and
all batches. With t its statistic on df degrees of freedom, f = |t| / sqrt(df) and R2_{Y~D|X} = f^2 / (1 + f^2). A confounder that
tells as much as R of what X leaves of D, and R of what D and X leave of Y, makes the effect zero for (Cinelli and Hazlett 2020)

    R = RV(f) = (sqrt(f^4 + 4 f^2) - f^2) / 2,

and its interval of level 1 - alpha reach zero from RV(f - f*) on, f* = t*_{alpha, df - 1} / sqrt(df - 1); where f > 1 / f*
the confounder that does it tells less of Y than R, and (f^2 - f*^2) / (1 + f^2) is enough.

The yardstick is what was measured: a confounder as strong as the batches B, seen from without them. With r_D = R2_{D~B|X} and
r_Y = R2_{Y~B|D,X} it tells at most (their section 4.4)

    R_D = r_D / (1 - r_D),   R_Y = ((1 + sqrt(g)) / sqrt(1 - g))^2 r_Y / (1 - r_Y),   g = r_D^2 / (1 - r_D)^2

and takes sqrt(R_Y R_D / (1 - R_D)) / f of the effect. One row a person, the first one.

What an outcome predicted from acquisition alone reaches is measured by the audit's probes on the levels of the batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import false_discovery_control
from scipy.stats import t as student_t

from medrep.audit.data import LATENTS, AuditData, design_basis
from medrep.audit.finding import Finding
from medrep.audit.holdout_split import HoldoutSplit, Probing
from medrep.audit.intervals import random_halves, student
from medrep.audit.mechanisms import covariate_contrasts, smooth_design, spread_columns, varying_columns
from medrep.audit.utility import first_rows

ALPHA = 0.05
METRICS = ("partial_r2", "robustness_value", "robustness_significant", "effect_left")
_NOTES = {
    "partial_r2": "share of what others leave that the covariate tells; p: corrected for the number of columns",
    "robustness_value": "partial R2, with covariate and column, of a confounder that makes the effect 0",
    "robustness_significant": f"partial R2 of a confounder that makes the effect's {1 - ALPHA:.0%} interval reach 0",
    "effect_left": "share of the effect that a confounder as strong as the batches leaves; below 0: the sign turns",
}
_TOO_STRONG = "the batches tell half of the covariate or more: nobody can say what a confounder as strong leaves"
_SHOWN, _SAMPLES, _SPARE = 3, 20, 10
_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects of one covariate on columns.

    Attributes:
        t: Of each column.
        freedom: Residual degrees of freedom.
    """

    t: Float[np.ndarray, " columns"]
    freedom: int

    @property
    def f(self) -> Float[np.ndarray, " columns"]:
        """Cohen's f of each column."""
        f: np.ndarray = np.abs(self.t) / self.freedom**0.5
        return f

    @property
    def partial_r2(self) -> Float[np.ndarray, " columns"]:
        """Share of what others leave of each column that the covariate tells."""
        shares: np.ndarray = self.f**2 / (1 + self.f**2)
        return shares

    @property
    def values(self) -> Float[np.ndarray, " columns"]:
        """Robustness value: how strong a confounder makes each effect zero."""
        return robustness_value(self.f)

    @property
    def p(self) -> Float[np.ndarray, " columns"]:
        """Of each effect, corrected for the number of columns."""
        own = 2 * student_t.sf(np.abs(self.t), self.freedom)
        return np.asarray(false_discovery_control(own, method="bh"))

    def significant(self, alpha: float = ALPHA) -> Float[np.ndarray, " columns"]:
        """Return how strong a confounder makes each effect's interval of level 1 - alpha reach zero; 0 where it does already."""
        critical = float(student_t.ppf(1 - alpha / 2, self.freedom - 1)) / (self.freedom - 1) ** 0.5
        inner = robustness_value(np.maximum(self.f - critical, 0.0))
        corner = (self.f**2 - critical**2) / (1 + self.f**2)
        return np.where(self.f > 1 / critical, corner, inner)


def robustness_value(f: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return (sqrt(f^4 + 4 f^2) - f^2) / 2, the robustness value of effects of Cohen's f."""
    squares = f**2
    # The same without the difference of two large numbers.
    values: np.ndarray = 2 * f / (np.sqrt(squares + 4) + f)
    return values


def effects_on(
    table: Float[np.ndarray, "people columns"],
    values: Float[np.ndarray, " people"],
    others: Float[np.ndarray, "people width"],
) -> Effects:
    """Regress columns on a covariate and others.

    Args:
        table: Columns that vary.
        values: The covariate: a number, or whether somebody has a level.
        others: Columns of the regression, the constant among them; aliased ones do no harm.

    Returns:
        t of 0 where the others tell the covariate wholly.
    """
    basis = design_basis(others)
    own = values - basis @ (basis.T @ values)
    left = table - basis @ (basis.T @ table)
    freedom = len(table) - basis.shape[1] - 1
    length = float(own @ own)
    if length <= _TINY * float(values @ values):
        return Effects(np.zeros(table.shape[1]), freedom)
    products = own @ left
    rest = np.maximum((left**2).sum(axis=0) - products**2 / length, 1e-300)
    return Effects(products / np.sqrt(length * rest / freedom), freedom)


def told_beyond(
    table: Float[np.ndarray, "people columns"],
    block: Float[np.ndarray, "people more"],
    others: Float[np.ndarray, "people width"],
) -> Float[np.ndarray, " columns"]:
    """Return the share of what others leave of each column that a block of columns tells.

    Args:
        table: The columns.
        block: What is asked for.
        others: Columns of the regression before it.
    """
    before, after = design_basis(others), design_basis(np.concatenate([others, block], axis=1))
    left = ((table - before @ (before.T @ table)) ** 2).sum(axis=0)
    rest = ((table - after @ (after.T @ table)) ** 2).sum(axis=0)
    shares: np.ndarray = np.clip(1 - rest / np.maximum(left, 1e-300), 0.0, 1.0)
    return shares


def share_left(
    f: Float[np.ndarray, " columns"], of_covariate: float, of_columns: Float[np.ndarray, " columns"]
) -> Float[np.ndarray, " columns"]:
    """Return the share of effects that a confounder as strong as a measured block leaves; below 0: it turns the sign.

    Args:
        f: Cohen's f of the effects.
        of_covariate: Partial R2 of the block with the covariate.
        of_columns: Partial R2 of the block with each column, given the covariate.

    Returns:
        NaN where no confounder can be as strong: the block tells half of the covariate or more.
    """
    if of_covariate >= 0.5:
        return np.full(len(f), np.nan)
    strength = of_covariate / (1 - of_covariate)
    within = strength**2
    most = (1 + within**0.5) ** 2 / (1 - within) * of_columns / np.maximum(1 - of_columns, _TINY)
    bias = np.sqrt(np.minimum(most, 1.0) * strength / (1 - strength))
    left: np.ndarray = 1 - bias / np.maximum(f, 1e-300)
    return left


def audit_robustness(
    data: AuditData, outcome: "tuple[pd.Series, bool] | None" = None, *, min_n: int = 20, seed: int = 0
) -> list[Finding]:
    """Measure how robust effects on columns are.

    Args:
        data: People whom the model never saw.
        outcome: A value a row, missing where it is not known, and whether it is a number; None: none is named.
        min_n: Fewest people.
        seed: Of the samples of people behind intervals, and of probes.

    Returns:
        Of each table (``raw``, ``exported``) and effect ``partial_r2``, ``robustness_value``, ``robustness_significant`` and
        ``effect_left``, the median over columns and the strongest few; of each effect ``acquisition_covariate`` (partial R2 of
        the batches with the covariate); and ``acquisition_outcome`` and ``acquisition_outcome_excess``, the outcome from the
        batches alone.
    """
    found: list[Finding] = []
    named = [name for name in data.kept if name not in data.schema.batches]
    for name in named:
        if outcome is None or name != outcome[0].name:
            contrasts = covariate_contrasts(data.frame, data.schema, name)
            found += _of_effect(data, name, _labelled(data, name, contrasts), (min_n, seed))
    if outcome is not None:
        found += _of_effect(data, str(outcome[0].name), _outcome_contrasts(*outcome), (min_n, seed))
        if data.schema.batches:
            found += outcome_from_acquisition(data, *outcome, min_n=min_n, seed=seed)
    return found


def outcome_from_acquisition(
    data: AuditData, outcome: pd.Series, continuous: bool, *, min_n: int = 20, seed: int = 0
) -> list[Finding]:
    """Measure how well the outcome is told by the batches alone: by a shortcut that needs no anatomy.

    Args:
        data: The people.
        outcome: A value a row, missing where it is not known.
        continuous: Whether it is a number.
        min_n: Fewest people.
        seed: Of the split and of probes.
    """
    name, metrics = str(outcome.name), ("acquisition_outcome", "acquisition_outcome_excess")
    split = HoldoutSplit.of(outcome, data.participants, seed, continuous=continuous, probing=Probing(min_n=min_n))
    if split.too_few:
        return [Finding(metric, name, split.people, status="insufficient", note=split.too_few) for metric in metrics]
    told = split.judge(data.scaled(data.schema.batches))
    low, high = told.interval()
    batches = ", ".join(data.schema.batches)
    note = f"{split.measure} from {batches} alone, strongest probe {told.strongest_probe}; floor {told.floor:.3f}; {split.note}"
    floor, about = told.floor, f"{split.measure} over exchanged labels"
    return [
        Finding(metrics[0], name, split.people, told.strongest, low, high, told.p, note=note),
        Finding(metrics[1], name, split.people, told.strongest - floor, low - floor, high - floor, note=about),
    ]


@dataclass(frozen=True, eq=False)
class _Contrast:
    """One contrast of a covariate: what it is called, and its value in each row, NaN where it is not known."""

    label: str
    values: Float[np.ndarray, " rows"]


def _labelled(data: AuditData, name: str, contrasts: np.ndarray) -> list[_Contrast]:
    if data.continuous(name):
        return [_Contrast(name, own) for own in contrasts.T]
    labels = data.frame[name].astype(str).to_numpy(object)
    return [_Contrast(f"{name}={labels[own == 1][0]}", own) for own in contrasts.T]


def _outcome_contrasts(outcome: pd.Series, continuous: bool) -> list[_Contrast]:
    name = str(outcome.name)
    if continuous:
        return [_Contrast(name, outcome.to_numpy(float, na_value=np.nan))]
    known = outcome.dropna().astype(str)
    levels = list(known.value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable").index)
    cells = outcome.astype(object).where(outcome.notna(), None)
    of_level = [
        np.array([np.nan if cell is None else float(str(cell) == level) for cell in cells]) for level in levels[1:]
    ]
    return [_Contrast(f"{name}={level}", own) for level, own in zip(levels[1:], of_level, strict=True)]


def _of_effect(data: AuditData, name: str, contrasts: Sequence[_Contrast], needs: tuple[int, int]) -> list[Finding]:
    """Return findings of one covariate, each of its contrasts given the others."""
    batches = data.schema.batches
    found: list[Finding] = []
    for place, contrast in enumerate(contrasts):
        known = np.flatnonzero(np.all([np.isfinite(one.values) for one in contrasts], axis=0))
        rows = known[first_rows(data.participants[known])]
        frame = data.frame.iloc[rows]
        rest = [one.values[rows, None] for k, one in enumerate(contrasts) if k != place]
        around = np.concatenate([smooth_design(frame, data.schema, (name, *batches)), *rest], axis=1)
        block = np.concatenate(
            [np.ones((len(rows), 0)), *(_levels(frame[batch]) for batch in batches if batch != name)], axis=1
        )
        found += _of_contrast(data, contrast.label, _Regression(contrast.values[rows], around, block, rows), needs)
    return found


@dataclass(frozen=True, eq=False)
class _Regression:
    """A covariate, what else is held fixed, the batches, and the rows that these are of."""

    values: Float[np.ndarray, " people"]
    around: Float[np.ndarray, "people width"]
    block: Float[np.ndarray, "people more"]
    rows: Int[np.ndarray, " people"]

    @property
    def others(self) -> Float[np.ndarray, "people _"]:
        """Everything held fixed, the batches among it."""
        return np.concatenate([self.around, self.block], axis=1)

    def short(self, min_n: int) -> str:
        """Return why nothing can be said; empty where it can."""
        people, needed = len(self.rows), np.linalg.matrix_rank(self.others) + 1 + _SPARE if len(self.rows) else min_n
        if people < max(min_n, needed):
            return f"{people} people; {max(min_n, needed)} are needed"
        own = design_basis(self.others)
        left = self.values - own @ (own.T @ self.values)
        if float((left**2).sum()) <= _TINY * max(float((self.values**2).sum()), 1e-300):
            return "the batches and the other covariates tell it wholly"
        return ""


def _of_contrast(data: AuditData, label: str, asked: _Regression, needs: tuple[int, int]) -> list[Finding]:
    min_n, seed = needs
    people, short = len(asked.rows), asked.short(min_n)
    tables = [name for name in data.tables if name not in LATENTS]
    # Without batches there is no yardstick.
    metrics = METRICS if asked.block.shape[1] else METRICS[:3]
    if short:
        yardstick = [("acquisition_covariate", label)] if asked.block.shape[1] else []
        groups = [*yardstick, *((m, f"{name}/{label}") for name in tables for m in metrics)]
        return [Finding(metric, group, people, status="insufficient", note=short) for metric, group in groups]
    found: list[Finding] = []
    of_covariate = 0.0
    if asked.block.shape[1]:
        of_covariate = float(told_beyond(asked.values[:, None], asked.block, asked.around)[0])
        note = f"partial R2 of {', '.join(data.schema.batches)} with the covariate, given the others"
        found.append(Finding("acquisition_covariate", label, people, of_covariate, note=note))
    for name in tables:
        some = spread_columns(data.tables[name].shape[1])
        chosen = some[varying_columns(np.asarray(data.tables[name][np.ix_(asked.rows, some)], float))]
        if not len(chosen):
            nothing = "no column has two values"
            found += [Finding(m, f"{name}/{label}", people, status="insufficient", note=nothing) for m in metrics]
            continue
        table = np.asarray(data.tables[name][np.ix_(asked.rows, chosen)], float)
        found += _of_table(f"{name}/{label}", table, asked, of_covariate, data.column_labels(chosen), seed)
    return found


def _of_table(
    group: str,
    table: Float[np.ndarray, "people columns"],
    asked: _Regression,
    of_covariate: float,
    labels: Sequence[str],
    seed: int,
) -> list[Finding]:
    """Return the median over columns and the strongest columns of every figure."""
    people, effects = len(table), effects_on(table, asked.values, asked.others)
    given = np.concatenate([asked.around, asked.values[:, None]], axis=1)
    of_columns = told_beyond(table, asked.block, given)
    figures = {
        "partial_r2": effects.partial_r2,
        "robustness_value": effects.values,
        "robustness_significant": effects.significant(),
        "effect_left": share_left(effects.f, of_covariate, of_columns),
    }
    if not asked.block.shape[1]:
        del figures["effect_left"]
    drawn = random_halves(np.arange(people), _SAMPLES, np.random.default_rng([seed, 79]))
    others = asked.others
    enough = people // 2 >= people - effects.freedom + _SPARE
    sampled = [effects_on(table[some], asked.values[some], others[some]) for some in drawn] if enough else []
    spread = {
        "partial_r2": [float(np.median(one.partial_r2)) for one in sampled],
        "robustness_value": [float(np.median(one.values)) for one in sampled],
    }
    p, reach = effects.p, student(effects.freedom) / effects.freedom**0.5
    ends = np.stack([np.maximum(effects.f - reach, 0.0), effects.f + reach])
    within = {"partial_r2": ends**2 / (1 + ends**2), "robustness_value": robustness_value(ends)}
    strongest = np.argsort(-effects.f, kind="stable")[:_SHOWN]
    found: list[Finding] = []
    for metric, values in figures.items():
        about, median = _NOTES[metric], float(np.median(values))
        if np.isnan(median):
            found.append(Finding(metric, group, people, status="insufficient", note=_TOO_STRONG))
            continue
        half = student(_SAMPLES - 1) * float(np.std(spread[metric], ddof=1)) if spread.get(metric) else np.nan
        note = f"{about}; median over {len(values)} columns"
        found.append(
            Finding(metric, group, people, median, max(median - half, 0.0), min(median + half, 1.0), note=note)
        )
        for k in strongest:
            low, high = within[metric][:, k] if metric in within else (np.nan, np.nan)
            note = about
            if asked.block.shape[1]:
                note += (
                    f"; batches: partial R2 {of_columns[k]:.3f} with the column, {of_covariate:.3f} with the covariate"
                )
            own = float(p[k]) if metric == "partial_r2" else float("nan")
            label = f"{group} & {labels[k]}"
            found.append(Finding(metric, label, people, float(values[k]), float(low), float(high), own, note=note))
    return found


def _levels(labels: pd.Series) -> Float[np.ndarray, "people levels"]:
    own = labels.astype(str).to_numpy(object)
    return np.stack([(own == level).astype(float) for level in np.unique(own)], axis=1)
