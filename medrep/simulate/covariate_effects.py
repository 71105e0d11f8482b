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
    """The strength ``t + 0.3 t^2`` with t = (value - reference) / sd, both in the covariate's unit."""

    reference: float
    sd: float


@persisted(constants={"kind": "categorical"})
@dataclass(frozen=True)
class LevelCurve:
    """A strength for each level of a categorical covariate; zero for the reference."""

    reference: str
    strengths: dict[str, float]


Curve = ContinuousCurve | LevelCurve


def draw_curve(name: str, values: Iterable[object], *, seed: int) -> Curve:
    """Choose the curve that suits a column: numbers get a continuous one, anything else one of levels.

    For numbers, it is the curve around their mean with their sd. For levels, the first in alphabetical order is the
    reference, and the others have strengths of 0.7 to 1.3 with a random sign. Missing values are left out. Raises
    CovariateError if the values do not vary, or none is there.
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
    """Look up how strongly a value acts: zero at the reference.

    Raises CovariateError, with the covariate's name, for what is no number or an unknown level.
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

    The amplitude is the size at strength 1 where the field is 1, as a fraction of the volume's scale.
    """

    name: str
    amplitude: float
    curve: Curve
    field: WaveField


def draw_covariate_effect(
    name: str, values: Iterable[object], *, seed: int, amplitude: float = 0.08
) -> CovariateEffect:
    """Draw the effect of one covariate on volumes, with another field for another name.

    Numbers make it continuous, with the mean as reference; texts and booleans categorical, with the first level in
    alphabetical order. The amplitude is a fraction of a volume's scale. Raises CovariateError if the values do not vary.
    """
    field = draw_wave_field(stream(seed, "covariate", name))
    return CovariateEffect(name, amplitude, draw_curve(name, values, seed=seed), field)


def apply_covariate_effect(
    volume: Num[np.ndarray, "x y z"], effect: CovariateEffect, value: object
) -> Float32[np.ndarray, "x y z"]:
    """Plant a covariate's effect in a volume.

    With s the 99th percentile of the magnitudes of the nonzero voxels::

        x' = x + amplitude * s * field * strength(value) * min(1, |x| / (0.1 s))

    The last factor is 1 in tissue and fades to 0 in air, which stays air. At the reference the values stay as they are (in
    float32), NaN and infinite voxels always. Raises CohortError if the volume holds nothing but zeros and NaN, and
    CovariateError if the value is missing or unknown.
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

    The amplitude is the size at strength 1 where a column's pattern, in [-1, 1], is 1, in the column's standard deviations.
    """

    name: str
    amplitude: float
    curve: Curve
    pattern: dict[str, float]


def draw_feature_covariate_effect(
    name: str, values: Iterable[object], columns: Sequence[str], *, seed: int, amplitude: float = 0.5
) -> FeatureCovariateEffect:
    """Draw the effect of one covariate on a table, with a pattern uniform in [-1, 1]; see `draw_covariate_effect`."""
    pattern: list[float] = stream(seed, "feature covariate", name).uniform(-1.0, 1.0, len(columns)).tolist()
    curve = draw_curve(name, values, seed=seed)
    return FeatureCovariateEffect(name, amplitude, curve, dict(zip(columns, pattern, strict=True)))


def apply_feature_covariate_effect(
    features: pd.DataFrame, effect: FeatureCovariateEffect, values: Iterable[object]
) -> pd.DataFrame:
    """Plant a covariate's effect in a table: ``x' = x + amplitude * d * pattern * strength(value)``, in float64.

    d is the standard deviation of each column over the whole table, whose columns are those that the effect was drawn for.
    Raises CohortError if values and rows differ in number or the effect is for other columns, and CovariateError if a
    value is missing or unknown.
    """
    row_values = list(values)
    if len(row_values) != len(features):
        raise CohortError(
            f"{effect.name}: {len(row_values)} values are given for a table of {len(features)} rows; give one for each"
        )
    if tuple(map(str, features.columns)) != tuple(effect.pattern):
        raise CohortError(f"{effect.name}: the effect is drawn for other columns than the table's; draw it anew")
    table = features.astype(np.float64)
    pushes = np.array([strength(effect.name, effect.curve, value) for value in row_values])
    size = effect.amplitude * table.std(ddof=0).to_numpy() * np.array(list(effect.pattern.values()))
    return pd.DataFrame(table.to_numpy() + np.outer(pushes, size), index=features.index, columns=features.columns)
