"""What a covariate does to anybody's volume or features: a pattern times the strength of the value."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float32, Num

from medrep.errors import CohortError
from medrep.simulate.plant.curve import Curve, draw_curve, strength
from medrep.simulate.plant.field import WaveField, draw_wave_field, wave_field
from medrep.simulate.plant.intensity import intensity_scale
from medrep.simulate.seeding import stream

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
