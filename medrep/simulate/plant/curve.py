"""How strongly a covariate's value acts: a curve for numbers, a table for levels."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medrep._persisted import persisted
from medrep.errors import CovariateError
from medrep.simulate.seeding import stream

QUADRATIC = 0.3


@persisted(keys=("kind", "reference", "sd", "quadratic"), constants={"kind": "continuous", "quadratic": QUADRATIC})
@dataclass(frozen=True)
class ContinuousCurve:
    """The strength ``t + 0.3 t^2`` with t = (value - reference) / sd.

    Attributes:
        reference: The value without an effect, in the covariate's unit.
        sd: In the covariate's unit, above zero.
    """

    reference: float
    sd: float


@persisted(constants={"kind": "categorical"})
@dataclass(frozen=True)
class LevelCurve:
    """A strength for each level of a categorical covariate.

    Attributes:
        reference: The level without an effect.
        strengths: One each, in order; zero for the reference.
    """

    reference: str
    strengths: dict[str, float]


Curve = ContinuousCurve | LevelCurve


def draw_curve(name: str, values: Iterable[object], *, seed: int) -> Curve:
    """Choose the curve that suits a column: numbers get a continuous one, anything else one of levels.

    Args:
        name: The covariate.
        values: The column; missing values are left out.
        seed: Any integer from 0.

    Returns:
        For numbers, the curve around their mean with their sd. For levels, the first in alphabetical order is the
        reference, and the others have strengths of 0.7 to 1.3 with a random sign.

    Raises:
        CovariateError: If the values do not vary, or none is there.
    """
    column = pd.Series(list(values))
    present = column[column.notna()]
    distinct = sorted(map(str, present.unique()))
    if len(distinct) < 2:
        raise CovariateError(f"{name}: an effect needs two different values, but the column holds {distinct or 'none'}")
    if pd.api.types.is_numeric_dtype(present) and not pd.api.types.is_bool_dtype(present):
        numbers = present.to_numpy(dtype=np.float64)
        return ContinuousCurve(float(numbers.mean()), float(numbers.std()))
    rng = stream(seed, "curve", name)
    count = len(distinct) - 1
    drawn: list[float] = (rng.choice([-1.0, 1.0], count) * rng.uniform(0.7, 1.3, count)).tolist()
    return LevelCurve(distinct[0], dict(zip(distinct, (0.0, *drawn), strict=True)))


def strength(name: str, curve: Curve, value: object) -> float:
    """Look up how strongly a value acts.

    Args:
        name: The covariate, for the error's sake.
        curve: From `draw_curve`.
        value: A number, or a level.

    Returns:
        The strength; zero at the reference.

    Raises:
        CovariateError: If a number is missing or not a number, or the level is unknown.
    """
    if isinstance(curve, LevelCurve):
        if str(value) not in curve.strengths:
            raise CovariateError(f"{name}: level {value!r} is not one of {', '.join(curve.strengths)}")
        return curve.strengths[str(value)]
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise CovariateError(f"{name}: {value!r} is not a number; give one, or leave the person out")
    t = (number - curve.reference) / curve.sd
    return t + QUADRATIC * t * t
