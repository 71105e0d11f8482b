"""The values of covariates that a report's slider can be set to, in and a little beyond what training people had."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from medrep.cohort.covariates import POOLED, Categorical, Continuous, CovariateSchema

_STEPS, _FEWER_STEPS = 13, 5
_BEYOND = 0.15


@dataclass(frozen=True)
class Axis:
    """One covariate of the slider.

    Attributes:
        name: The covariate.
        unit: Of a continuous one.
        values: What it can be set to, in order; the person's own is among them.
        own: Which value is the person's own.
        low: Lowest value of training; None for a categorical covariate.
        high: Highest value of training.
    """

    name: str
    unit: str
    values: tuple[float | str, ...]
    own: int
    low: float | None = None
    high: float | None = None


def axes_around(schema: CovariateSchema, own: Mapping[str, str | float], most: int) -> tuple[Axis, ...]:
    """Return one axis a covariate; effects come before batches, and what does not fit is left out or made coarser.

    Args:
        schema: Of the model.
        own: The person's values.
        most: Combinations at most.
    """
    axes: list[Axis] = []
    left = most
    for covariate in sorted(schema.fitted, key=lambda one: one.declared.role == "batch"):
        value = own[covariate.declared.name]
        if isinstance(covariate, Continuous):
            axis = _numbers(covariate, float(value), _STEPS if left >= 4 * _STEPS else _FEWER_STEPS)
        else:
            axis = _levels(covariate, str(value), left)
        if 1 < len(axis.values) <= left:
            axes.append(axis)
            left //= len(axis.values)
    return tuple(axes)


def combinations(axes: Sequence[Axis]) -> list[dict[str, float | str]]:
    """Return every combination of values, the last axis running fastest."""
    return [dict(zip([a.name for a in axes], some, strict=True)) for some in product(*(a.values for a in axes))]


def _numbers(covariate: Continuous, own: float, steps: int) -> Axis:
    beyond = _BEYOND * (covariate.high - covariate.low)
    start = covariate.low - beyond if covariate.low < 0 else max(covariate.low - beyond, 0.0)
    values = np.linspace(start, covariate.high + beyond, steps)
    values[int(np.argmin(np.abs(values - own)))] = own
    place = int(np.flatnonzero(values == own)[0])
    numbers = tuple(float(value) for value in values)
    return Axis(covariate.declared.name, covariate.declared.unit, numbers, place, covariate.low, covariate.high)


def _levels(covariate: Categorical, own: str, most: int) -> Axis:
    often = sorted(covariate.levels, key=lambda level: -covariate.counts[covariate.levels.index(level)])
    pooled = (POOLED,) if covariate.declared.role == "batch" else ()
    chosen = dict.fromkeys((own, covariate.reference, *pooled, *often))
    kept = set(list(chosen)[:most])
    values = tuple(level for level in dict.fromkeys((*pooled, *covariate.levels, own)) if level in kept)
    return Axis(covariate.declared.name, "", values, values.index(own))
