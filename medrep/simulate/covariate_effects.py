"""Planted effects of covariates: a pattern times the strength of the value."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float32, Num

from medrep._persisted import persisted
from medrep.errors import CohortError, CovariateError
from medrep.simulate.field import WaveField, draw_wave_field, intensity_scale, wave_field
from medrep.simulate.participants import stream

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


# Voxels at this fraction of the scale and above are tissue and take the whole effect; air takes none.
TISSUE = 0.1


@dataclass(frozen=True)
class CovariateEffect:
    """The effect of one covariate on a volume; see `apply_covariate_effect` for the formula.

    Attributes:
        name: The covariate.
        amplitude: Size at strength 1 where the field is 1, as a fraction of the volume's scale.
        curve: How strongly each value acts.
        field: Where it acts, in [-1, 1].
    """

    name: str
    amplitude: float
    curve: Curve
    field: WaveField


def draw_covariate_effect(
    name: str, values: Iterable[object], *, seed: int, amplitude: float = 0.08
) -> CovariateEffect:
    """Draw the effect of one covariate on volumes.

    Args:
        name: The covariate; another name gives another field.
        values: The cohort's column: numbers make it continuous, texts and booleans categorical.
        seed: Any integer from 0.
        amplitude: Size at strength 1, as a fraction of a volume's scale.

    Returns:
        The effect; its reference is the mean, or the first level in alphabetical order.

    Raises:
        CovariateError: If the values do not vary.
    """
    field = draw_wave_field(stream(seed, "covariate", name))
    return CovariateEffect(name, amplitude, draw_curve(name, values, seed=seed), field)


def apply_covariate_effect(
    volume: Num[np.ndarray, "x y z"], effect: CovariateEffect, value: object
) -> Float32[np.ndarray, "x y z"]:
    """Plant a covariate's effect in a volume.

    With s the 99th percentile of the magnitudes of the nonzero voxels::

        x' = x + amplitude * s * field * strength(value) * min(1, |x| / (0.1 s))

    The last factor is 1 in tissue and fades to 0 in air, which stays air.

    Args:
        volume: Intensities in any unit.
        effect: From `draw_covariate_effect`.
        value: The person's number or level.

    Returns:
        A new volume in the same unit; at the reference it has the same values (in float32). NaN and infinite voxels
        stay so.

    Raises:
        CohortError: If the volume holds nothing but zeros and NaN.
        CovariateError: If the value is missing or unknown.
    """
    values = volume.astype(np.float32)
    scale = np.float32(intensity_scale(values))
    push = np.float32(effect.amplitude * strength(effect.name, effect.curve, value))
    field = wave_field(effect.field, (values.shape[0], values.shape[1], values.shape[2]))
    tissue = np.minimum(np.abs(values) / (np.float32(TISSUE) * scale), 1)
    return np.where(np.isfinite(values), values + push * scale * field * tissue, values)


@dataclass(frozen=True)
class FeatureCovariateEffect:
    """The effect of one covariate on the columns of a table.

    Attributes:
        name: The covariate.
        amplitude: Size at strength 1 where the pattern is 1, in a column's standard deviations.
        curve: How strongly each value acts.
        pattern: Column -> how strongly it acts on it, in [-1, 1].
    """

    name: str
    amplitude: float
    curve: Curve
    pattern: dict[str, float]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.pattern)


def draw_feature_covariate_effect(
    name: str, values: Iterable[object], columns: Sequence[str], *, seed: int, amplitude: float = 0.5
) -> FeatureCovariateEffect:
    """Draw the effect of one covariate on a table.

    Args:
        name: The covariate; another name gives another pattern.
        values: The cohort's column: numbers make it continuous, texts and booleans categorical.
        columns: The table's columns.
        seed: Any integer from 0.
        amplitude: Size at strength 1, in a column's standard deviations.

    Returns:
        The effect, with a pattern uniform in [-1, 1].

    Raises:
        CovariateError: If the values do not vary.
    """
    pattern: list[float] = stream(seed, "feature covariate", name).uniform(-1.0, 1.0, len(columns)).tolist()
    curve = draw_curve(name, values, seed=seed)
    return FeatureCovariateEffect(name, amplitude, curve, dict(zip(columns, pattern, strict=True)))


def apply_feature_covariate_effect(
    features: pd.DataFrame, effect: FeatureCovariateEffect, values: Iterable[object]
) -> pd.DataFrame:
    """Plant a covariate's effect in a table: ``x' = x + amplitude * d * pattern * strength(value)``.

    Args:
        features: Numbers, one row a person; d is the standard deviation of each column over the whole table.
        effect: From `draw_feature_covariate_effect`, for the table's columns in its order.
        values: The covariate of each row, in the table's order.

    Returns:
        A new table with the same rows and columns, in float64.

    Raises:
        CohortError: If values and rows differ in number, or the effect is for other columns.
        CovariateError: If a value is missing or unknown.
    """
    row_values = list(values)
    if len(row_values) != len(features):
        raise CohortError(
            f"{effect.name}: {len(row_values)} values are given for a table of {len(features)} rows; give one for each"
        )
    if tuple(map(str, features.columns)) != effect.columns:
        raise CohortError(f"{effect.name}: the effect is drawn for other columns than the table's; draw it anew")
    table = features.astype(np.float64)
    pushes = np.array([strength(effect.name, effect.curve, value) for value in row_values])
    size = effect.amplitude * table.std(ddof=0).to_numpy() * np.array(list(effect.pattern.values()))
    return pd.DataFrame(table.to_numpy() + np.outer(pushes, size), index=features.index, columns=features.columns)
