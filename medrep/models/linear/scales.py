"""Scales of batch levels, and the estimation of a level that training did not have.

The pooled deviation of a column is the geometric mean of its levels' deviations, weighed by people, so that the log scales of a
batch covariate average to 0: one noisy site among many does not become everybody's measure, as it would in a root mean square.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.special import digamma, polygamma

from medrep.cohort.cohort import Cohort
from medrep.cohort.kinds import InputKind, Listener, imported
from medrep.cohort.support import ranges_outside
from medrep.models.base import Adaptation, Model


@dataclass
class LevelSums:
    """Sums over the participants of one unseen level.

    Attributes:
        width: Number of columns.
        people: How many people it has.
        effects: Sum of their rows of the design matrix.
        rows: Their covariates, a frame of one row each.
        known: In how many of them each column has a value.
        residual: Sum of standardised residuals.
        squares: Sum of their squares.
    """

    width: int
    people: int = 0
    effects: Float[np.ndarray, " effects"] | float = 0.0
    rows: list[pd.DataFrame] = field(default_factory=list)
    known: Float[np.ndarray, " columns"] = field(init=False)
    residual: Float[np.ndarray, " columns"] = field(init=False)
    squares: Float[np.ndarray, " columns"] = field(init=False)

    def __post_init__(self) -> None:
        self.known, self.residual, self.squares = np.zeros((3, self.width))

    def add(
        self,
        data: Float[np.ndarray, " columns"],
        residual: Float[np.ndarray, " columns"],
        effects: Float[np.ndarray, " effects"],
        frame: pd.DataFrame,
    ) -> None:
        """Add one person: data (NaN where missing), standardised residual (0 there), row of the design matrix, covariates."""
        self.people += 1
        self.rows.append(frame)
        self.effects = self.effects + effects
        self.known += np.isfinite(data)
        self.residual += residual
        self.squares += residual**2

    def mean(self) -> Float[np.ndarray, " columns"]:
        """Return the mean residual of each column; 0 where nobody has a value."""
        mean: np.ndarray = self.residual / np.maximum(self.known, 1)
        return mean

    def variance(self) -> Float[np.ndarray, " columns"]:
        """Return the variance of each column, divisor n - 1; 1 where it cannot be told."""
        spread = np.maximum(self.squares - self.known * self.mean() ** 2, 0) / np.maximum(self.known - 1, 1)
        return np.where(self.known > 1, spread, 1.0)

    def frame(self) -> pd.DataFrame:
        """Return the people's covariates."""
        return pd.concat(self.rows)

    def mean_effects(self) -> Float[np.ndarray, " effects"]:
        """Return the mean row of the design matrix."""
        return np.asarray(self.effects) / max(self.people, 1)


def adapted_model(
    model: Model, cohort: Cohort, frame: pd.DataFrame, listener: Listener
) -> tuple[Model, tuple[Adaptation, ...]]:
    """Return the model with sites that training did not have, estimated from their own people, and what was estimated.

    People who cannot be read are left to whoever writes or scores them.
    """
    keys = unknown_participants(model, frame.loc[cohort.table.index])
    if not len(keys):
        return model, ()
    people = cohort.input.adapting(cohort.source.select(keys), model.columns, listener)
    model, notes = model.adapt(model.dataset(rows, frame.loc[some]) for some, rows in people)
    told = tuple(_placed(note, model, frame.loc[keys]) for note in notes)
    for note in told:
        effects = "covariates' effects taken as known" if note.effect_se is None else f"{note.effect_se:.2f} by effects"
        error = f"location known to {note.location_se:.2f} sd, {effects}"
        listener.say(f"  adapted: {note.covariate} {note.level!r} from {note.people} of its people ({error})")
        if note.outside:
            listener.warn(
                f"{note.covariate} {note.level!r}: its people leave the range of training ({note.outside}); what covariates do"
                " there is extrapolated, and what that misses is taken for the site's"
            )
    return model, told


def adapted_unit(unit: Model | None, cohort: Cohort, frame: pd.DataFrame) -> Model | None:
    """Return what moves units with sites that training did not have, estimated from their own people."""
    keys = frame.index[:0] if unit is None else unknown_participants(unit, frame.loc[cohort.table.index])
    if unit is None or not len(keys):
        return unit
    units = measured_units(cohort.input, cohort.source.select(keys).files)
    return unit if units is None else unit.adapt([unit.dataset(units.to_numpy(), frame.loc[units.index])])[0]


def measured_units(kind: InputKind[Any], files: pd.Series) -> pd.DataFrame | None:
    """Return the logarithms of each image's own units, where a kind harmonises them; None where it does not."""
    found: pd.DataFrame | None = imported(kind.units)(kind.section, files) if kind.units else None
    return found


def _placed(note: Adaptation, model: Model, frame: pd.DataFrame) -> Adaptation:
    """Add in which covariates the level's people leave the range of training."""
    own = frame[frame[note.covariate].astype(str) == note.level]
    return replace(note, outside="; ".join(ranges_outside(model.schema, own)))


def unknown_participants(model: Model, frame: pd.DataFrame) -> pd.Index:
    """Return the keys of people with a batch level that training did not have."""
    strange = pd.Series(False, index=frame.index)
    for name in [name for name in model.schema.batches if name in frame]:  # nobody's label is looked at without columns
        strange |= ~frame[name].isin(model.schema.levels(name))
    return frame.index[strange]


_STEP = np.log(4.0)
_CLEARLY = (np.log(2.5), 2.0)  # beyond this, and beyond so many standard errors of it
_PERHAPS = (np.log(2.0), 1.0)
_MOST_STEPS = 8
_APART = (5.0, 7.0)
_COMMON = 0.75
_WITHIN = 1.1503  # three quarters of a normal distribution lie within so many standard deviations
_WIDEST = 0.5


@dataclass(frozen=True)
class Apart:
    """Scales that no other column of their level shares: too far out to be of the same prior, so they are not shrunk to it.

    Attributes:
        share: How far each is believed as it is: 0 (of the same prior as the others) to 1.
        excess: By how much each is beyond what its level is in the other columns, times that share.
        shift: What the far ones moved their column's pooled deviation by, and so all its levels.
    """

    share: Float[np.ndarray, "levels columns"]
    excess: Float[np.ndarray, "levels columns"]
    shift: Float[np.ndarray, " columns"]

    @property
    def taken(self) -> Float[np.ndarray, "levels columns"]:
        """The share that is not shrunk."""
        return self.excess + self.shift

    @classmethod
    def none(cls, levels: int, dtype: np.dtype) -> "Apart":
        """Return that all are of one prior, in any number of columns."""
        nothing = np.zeros((levels, 1), dtype)
        return cls(nothing, nothing, np.zeros(1, dtype))

    @classmethod
    def of(
        cls,
        raw: Float[np.ndarray, "levels columns"],
        freedom: Float[np.ndarray, " levels"],
        told: Bool[np.ndarray, "levels columns"],
        parts: Sequence[slice],
    ) -> "Apart":
        """Find them: beyond five standard errors and five robust deviations of the level's other columns, wholly from seven on.

        Args:
            raw: Log scales before shrinkage.
            freedom: Residual degrees of freedom of each level.
            told: Which of them could be estimated.
            parts: Which levels belong to which batch covariate; none where the levels are not compared with each other.
        """
        share, excess = np.zeros_like(raw), np.zeros_like(raw)
        usual = _usual(raw, told, parts, _median)
        error = np.sqrt(log_scale_variance(freedom))
        for row, own in enumerate(raw - usual):
            here = told[row]
            if here.sum() < 2:
                continue
            beyond = own - _densest(np.sort(own[here])[:, None])[0]
            spread = min(float(np.quantile(np.abs(beyond[here]), _COMMON)) / _WITHIN, _WIDEST)
            width = max(float(error[row]), spread)
            far = np.abs(beyond) / _width(beyond, width, freedom[row])
            share[row] = np.where(here, np.clip((far - _APART[0]) / (_APART[1] - _APART[0]), 0, 1), 0)
            excess[row] = share[row] * beyond
        shift = np.zeros(raw.shape[1])
        for part in parts:
            shift += (share[part] * usual[part]).sum(axis=0) / np.maximum(share[part].sum(axis=0), 1)
        return cls(share, excess, shift)


def log_scales(
    ratio: Float[np.ndarray, "levels columns"], freedom: Float[np.ndarray, "levels *_"]
) -> Float[np.ndarray, "levels columns"]:
    """Return log(s) without its bias: E log(s^2) = digamma(nu/2) - log(nu/2), the same in all columns, so no average mends it.

    A ratio of exactly 1 stands for one that cannot be told: 0.
    """
    half = np.maximum(_by_column(freedom), 0.5) / 2
    raw = 0.5 * (np.log(ratio) - digamma(half) + np.log(half))
    return np.where(ratio == 1, 0.0, raw)


def log_scale_variance(freedom: Float[np.ndarray, "levels *columns"]) -> Float[np.ndarray, "levels *columns"]:
    """Variance of log(s) with s^2 a mean square on nu degrees of freedom, trigamma(nu/2)/4; infinite where there are none."""
    return np.where(freedom > 0.5, polygamma(1, np.maximum(freedom, 0.5) / 2) / 4, np.inf)


def told_scales(
    ratio: Float[np.ndarray, "levels columns"], freedom: Float[np.ndarray, "levels *_"]
) -> Bool[np.ndarray, "levels columns"]:
    """Tell which scales could be estimated."""
    return (ratio != 1) & (_by_column(freedom) > 0.5)


def pooled_level(
    log_scale: Float[np.ndarray, "levels columns"],
    weights: Float[np.ndarray, "levels columns"],
    parts: Sequence[slice],
) -> Float[np.ndarray, "levels columns"]:
    """Return the weighted mean log scale of each level's batch covariate, in every column."""
    level = np.zeros_like(log_scale)
    for part in parts:
        total = weights[part].sum(axis=0)
        mean = (weights[part] * log_scale[part]).sum(axis=0) / np.where(total > 0, total, 1)
        level[part] = mean
    return level


def level_scale(
    levels: Float[np.ndarray, "people levels"], log_scale: Float[np.ndarray, "levels block"], parts: Iterable[slice]
) -> Float[np.ndarray, "people block"]:
    """Return delta for each person: the product over batch covariates, 1 where the membership is pooled.

    Args:
        levels: Membership of each person.
        log_scale: Of each level.
        parts: Which levels belong to which batch covariate.
    """
    scale: np.ndarray | None = None
    for part in parts:
        own = levels[:, part]
        factor, pooled = own @ np.exp(log_scale[part]), 1 - own.sum(axis=1)
        if pooled.any():
            factor += pooled[:, None]
        scale = factor if scale is None else np.multiply(scale, factor, out=scale)
    return np.ones((len(levels), log_scale.shape[1])) if scale is None else scale


def weight_steps(
    ratio: Float[np.ndarray, "levels columns"],
    freedom: Float[np.ndarray, "levels *_"],
    parts: Sequence[slice],
    *,
    sure: bool,
) -> Int[np.ndarray, "levels columns"]:
    """Return log scales for weighing people, in whole steps of a factor 4; 0 where a level is not apart from the others.

    Weights need not be exact to be good, and few different ones let columns share a solution.

    Args:
        ratio: Mean squares over the pooled one.
        freedom: Residual degrees of freedom of each level, the same in all columns or a column each.
        parts: Which levels belong to which batch covariate.
        sure: Whether a level has to be clearly apart, or only to look so.
    """
    told = told_scales(ratio, freedom)
    raw = log_scales(ratio, freedom)
    beyond = raw - _usual(raw, told, parts, _densest)
    freedom = _by_column(freedom)
    error = np.sqrt(np.where(freedom > 0.5, log_scale_variance(freedom), 0))
    least, errors = _CLEARLY if sure else _PERHAPS
    clear = told & (np.abs(beyond) > least + errors * _width(beyond, error, freedom))
    steps = np.clip(np.rint(beyond / _STEP), -_MOST_STEPS, _MOST_STEPS)
    return np.where(clear, steps, 0).astype(np.int64)


def step_weights(
    steps: Int[np.ndarray, "levels *columns"], levels: Float[np.ndarray, "people levels"]
) -> Float[np.ndarray, "people *columns"]:
    """Return the weight of each person: 1 / variance, in units of a level whose step is 0."""
    weights: np.ndarray = np.exp(-2 * _STEP * (levels @ steps))
    return weights


def _by_column(freedom: Float[np.ndarray, "levels *_"]) -> Float[np.ndarray, "levels _"]:
    return freedom if freedom.ndim > 1 else freedom[:, None]


def _usual(
    raw: Float[np.ndarray, "levels columns"],
    told: Bool[np.ndarray, "levels columns"],
    parts: Sequence[slice],
    middle: Callable[[Float[np.ndarray, "some columns"]], Float[np.ndarray, " columns"]],
) -> Float[np.ndarray, "levels columns"]:
    """Return where most levels of each level's batch covariate are, in every column."""
    usual = np.zeros_like(raw)
    for part in parts:
        counts = told[part].sum(axis=0)
        for count in np.unique(counts[counts > 0]):
            some = np.flatnonzero(counts == count)
            ordered = np.sort(np.where(told[part], raw[part], np.inf)[:, some], axis=0)[:count]
            usual[part, some] = middle(ordered)
    return usual


def _median(ordered: Float[np.ndarray, "some columns"]) -> Float[np.ndarray, " columns"]:
    middle: np.ndarray = np.median(ordered, axis=0)
    return middle


def _densest(ordered: Float[np.ndarray, "some columns"]) -> Float[np.ndarray, " columns"]:
    """Return the middle of the shortest interval that holds half of the sorted values: of two clusters it is in one."""
    half, columns = (len(ordered) + 1) // 2, np.arange(ordered.shape[1])
    start = np.argmin(ordered[half - 1 :] - ordered[: len(ordered) - half + 1], axis=0)
    middle: np.ndarray = (ordered[start, columns] + ordered[start + half - 1, columns]) / 2
    return middle


def _width(beyond: np.ndarray, width: np.ndarray | float, freedom: np.ndarray | float) -> np.ndarray:
    """Widen what counts as near on the lower side: the logarithm of a mean square on few degrees of freedom has a long tail."""
    return np.where(beyond < 0, width * (1 + 4 / np.maximum(freedom, 0.5)), width)
