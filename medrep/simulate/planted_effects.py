"""Effects planted into volumes and feature tables: of sites, and of covariates (a pattern times the strength of the value).

Shadings and patterns are smooth random fields on the cube [-1, 1]^3; amounts are fractions of a volume's intensity scale.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Num
from scipy.ndimage import gaussian_filter

from medrep._persisted import persisted
from medrep.errors import CohortError, CovariateError, listed
from medrep.simulate.participants import stream

# Degrees along x, y and z of the Legendre products up to total degree two; the constant is the gain's business.
DEGREES = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 1, 0), (1, 0, 1), (0, 1, 1))
LATTICE = (25, 25, 25)
WAVES = 6


def legendre_field(coefficients: tuple[float, ...], shape: tuple[int, int, int]) -> Float32[np.ndarray, "x y z"]:
    """Evaluate a polynomial of degree two without a constant: sum_k a_k P_i(x) P_j(y) P_l(z).

    The coefficients are one for each of `DEGREES`; the outermost voxel centres lie at -1 and 1.
    """
    if len(coefficients) != len(DEGREES):
        raise CohortError(f"a bias field has {len(DEGREES)} coefficients, but it is given {len(coefficients)}")
    axes = _axes(shape)
    powers = [(np.ones_like(axis), axis, (3 * axis**2 - 1) / 2) for axis in axes]
    field = np.zeros(shape, dtype=np.float32)
    for coefficient, (i, j, k) in zip(coefficients, DEGREES, strict=True):
        field += np.float32(coefficient) * powers[0][i] * powers[1][j] * powers[2][k]
    return field


def draw_legendre(rng: np.random.Generator, sd: float) -> tuple[float, ...]:
    """Draw the coefficients of a field with this standard deviation over the cube; up to 0.14, no value passes -1."""
    # The mean square of P_i P_j P_k over the cube is 1 / ((2i+1) (2j+1) (2k+1)).
    norms = np.sqrt(np.prod(2 * np.array(DEGREES) + 1, axis=1))
    direction = rng.standard_normal(len(DEGREES))
    coefficients: list[float] = (sd * norms * direction / np.linalg.norm(direction)).tolist()
    return tuple(coefficients)


@dataclass(frozen=True)
class WaveField:
    """A sum of slow plane waves, scaled so that the largest value on a lattice of 25^3 points is one.

    The vectors are in radians a unit of the cube, along x, y and z.
    """

    vectors: tuple[tuple[float, float, float], ...]
    phases: tuple[float, ...]
    weights: tuple[float, ...]


def draw_wave_field(rng: np.random.Generator) -> WaveField:
    """Draw a smooth field of waves that are one to four cube edges long; it reaches 1 or -1 somewhere."""
    directions = rng.standard_normal((WAVES, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    vectors = directions * rng.uniform(np.pi / 4, np.pi, (WAVES, 1))
    phases = rng.uniform(0.0, 2 * np.pi, WAVES)
    weights = rng.uniform(0.5, 1.0, WAVES)
    raw = _waves(vectors, phases, weights, LATTICE)
    weights /= np.abs(raw).max()
    triples = tuple((float(x), float(y), float(z)) for x, y, z in vectors)
    return WaveField(triples, tuple(phases.tolist()), tuple(weights.tolist()))


def wave_field(field: WaveField, shape: tuple[int, int, int]) -> Float32[np.ndarray, "x y z"]:
    """Evaluate a field on a grid, within [-1, 1]."""
    values = _waves(np.array(field.vectors), np.array(field.phases), np.array(field.weights), shape)
    return np.clip(values, -1, 1)


def _axes(shape: tuple[int, int, int]) -> list[np.ndarray]:
    centres = [np.linspace(-1, 1, size, dtype=np.float32) if size > 1 else np.zeros(1, np.float32) for size in shape]
    return list(np.meshgrid(*centres, indexing="ij", sparse=True))


def _waves(
    vectors: np.ndarray, phases: np.ndarray, weights: np.ndarray, shape: tuple[int, int, int]
) -> Float32[np.ndarray, "x y z"]:
    x, y, z = _axes(shape)
    values = np.zeros(shape, dtype=np.float32)
    singles = (part.astype(np.float32) for part in (vectors, phases, weights))
    for vector, phase, weight in zip(*singles, strict=True):
        values += weight * np.sin(vector[0] * x + vector[1] * y + vector[2] * z + phase)
    return values


PERCENTILE = 99.0


def intensity_scale(volume: Num[np.ndarray, "x y z"]) -> float:
    """Measure the 99th percentile of the magnitudes of a volume's nonzero voxels, NaN and infinite ones left out.

    Raises CohortError if no voxel is nonzero and finite.
    """
    present = np.abs(volume[np.isfinite(volume) & (volume != 0)])
    if present.size == 0:
        raise CohortError(
            f"a volume of shape {volume.shape} has no nonzero finite voxel, so nothing can be planted in it"
        )
    return float(np.percentile(present, PERCENTILE))


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


BIAS_SD = 0.1


@persisted(keys=("gain", "gamma", "bias", "blur_mm", "noise", "bias_degrees"), constants={"bias_degrees": DEGREES})
@dataclass(frozen=True)
class SiteEffect:
    """The effect of one site on a volume; see `apply_site_effect` for the formula.

    `bias` has nine coefficients of the shading, a polynomial of degree two without a constant on the cube; `blur_mm` is the
    sigma of the Gaussian point spread; `noise` is a standard deviation, as a fraction of the scale.
    """

    gain: float = 1.0
    gamma: float = 1.0
    bias: tuple[float, ...] = (0.0,) * len(DEGREES)
    blur_mm: float = 0.0
    noise: float = 0.0


NO_SITE_EFFECT = SiteEffect()


def _site_names(sites: Iterable[str]) -> list[str]:
    """List the distinct sites in the order of their first appearance; CohortError if there is none, or one is not text."""
    names = list(dict.fromkeys(sites))
    strange = [repr(name) for name in names if not isinstance(name, str)]
    if strange or not names:
        raise CohortError(f"sites must be texts, at least one; found {', '.join(strange) or 'none'}")
    return names


def draw_site_effects(sites: Iterable[str], *, seed: int) -> dict[str, SiteEffect]:
    """Draw one effect for each distinct site; the first is left exactly as it is.

    The log gain lies within 0.3 of zero but at least 0.08 from it, the log gamma within 0.25, the shading has an sd of
    0.1 over the cube, the blur a sigma of 0.3 to 0.8 mm and the noise an sd of 0.01 to 0.03. A site's effect depends on
    the seed and its name alone. Raises CohortError if there is no site, or a name is not text.
    """
    spared, *others = _site_names(sites)
    return {spared: NO_SITE_EFFECT} | {name: _draw(stream(seed, "site", name)) for name in others}


def _draw(rng: np.random.Generator) -> SiteEffect:
    return SiteEffect(
        gain=float(np.exp(rng.choice([-1.0, 1.0]) * rng.uniform(0.08, 0.3))),
        gamma=float(np.exp(rng.uniform(-0.25, 0.25))),
        bias=draw_legendre(rng, BIAS_SD),
        blur_mm=float(rng.uniform(0.3, 0.8)),
        noise=float(rng.uniform(0.01, 0.03)),
    )


def apply_site_effect(
    volume: Num[np.ndarray, "x y z"],
    spacing: Float[np.ndarray, "3"] | Sequence[SupportsFloat],
    effect: SiteEffect,
    *,
    seed: int,
) -> Float32[np.ndarray, "x y z"]:
    """Send a volume through a site's scanner; `spacing` holds the edges of a voxel in mm.

    With s the 99th percentile of the magnitudes of the nonzero voxels, u = blur(x) / s and e ~ N(0, 1) in every voxel::

        x' = s * sign(u) |u|^gamma * gain * (1 + bias) + noise * s * e

    Give each person another seed of e. Voxels that are NaN or infinite stay so and do not spread; `NO_SITE_EFFECT` returns
    the values as they are (in float32). Raises CohortError if the spacing is not three positive numbers, or the volume
    holds nothing but zeros and NaN.
    """
    edges = np.array([float(edge) for edge in spacing])
    if edges.shape != (3,) or not (edges > 0).all():
        raise CohortError(f"spacing must be three positive numbers (mm), but it is {edges.tolist()}")
    values = volume.astype(np.float32)
    if effect == NO_SITE_EFFECT:
        return values
    scale = np.float32(intensity_scale(values))
    known = np.isfinite(values)
    relative = _blur(np.where(known, values, 0) / scale, known, effect.blur_mm / edges)
    shape = (values.shape[0], values.shape[1], values.shape[2])
    shading = np.float32(effect.gain) * (1 + legendre_field(effect.bias, shape))
    seen = np.sign(relative) * np.abs(relative) ** np.float32(effect.gamma) * shading
    simulate = stream(seed, "site noise").standard_normal(shape, dtype=np.float32)
    return np.where(known, scale * (seen + np.float32(effect.noise) * simulate), values)


def _blur(
    values: Float32[np.ndarray, "x y z"], known: np.ndarray, sigma: Float[np.ndarray, "3"]
) -> Float32[np.ndarray, "x y z"]:
    if not sigma.any():
        return values
    blurred: Float32[np.ndarray, "x y z"] = gaussian_filter(values, sigma, mode="nearest")
    if known.all():
        return blurred
    # Normalised convolution: unknown voxels have no weight, so that they darken no neighbour.
    weight = gaussian_filter(known.astype(np.float32), sigma, mode="nearest")
    return np.where(known, blurred / np.maximum(weight, np.float32(1e-6)), values)


@dataclass(frozen=True)
class FeatureSiteEffect:
    """The effect of one site on the columns of a table.

    The location is a shift in the column's standard deviations, the scale a factor on the distance from its mean.
    """

    columns: tuple[str, ...]
    location: tuple[float, ...]
    scale: tuple[float, ...]


def draw_feature_site_effects(
    sites: Iterable[str], columns: Sequence[str], *, seed: int
) -> dict[str, FeatureSiteEffect]:
    """Draw one effect for each distinct site: locations from N(0, 0.6) sd, log scales uniform within 0.35 of zero.

    The first site is left exactly as it is. An effect depends on the seed, the name and the number of columns alone. Raises
    CohortError if there is no site, or a name is not text.
    """
    spared, *others = _site_names(sites)
    count = len(columns)
    effects = {spared: FeatureSiteEffect(tuple(columns), (0.0,) * count, (1.0,) * count)}
    for name in others:
        rng = stream(seed, "feature site", name)
        location, log_scale = rng.normal(0.0, 0.6, count), rng.uniform(-0.35, 0.35, count)
        effects[name] = FeatureSiteEffect(tuple(columns), tuple(location.tolist()), tuple(np.exp(log_scale).tolist()))
    return effects


def apply_feature_site_effects(
    features: pd.DataFrame, sites: Iterable[str], effects: Mapping[str, FeatureSiteEffect]
) -> pd.DataFrame:
    """Send every row of a table through its site.

    With m and d the mean and the standard deviation of a column over the whole table given::

        x' = x + (scale - 1) (x - m) + location d

    Missing numbers stay missing, and rows of an untouched site keep their values exactly. Raises CohortError if sites and
    rows differ in number, a site has no effect, or an effect is for other columns than the table's, in its order.
    """
    row_sites = list(sites)
    if len(row_sites) != len(features):
        raise CohortError(
            f"{len(row_sites)} sites are given for a table of {len(features)} rows; give one for each row"
        )
    unknown = [repr(name) for name in dict.fromkeys(row_sites) if name not in effects]
    if unknown:
        raise CohortError(listed("sites without an effect", unknown, f"effects are drawn for: {', '.join(effects)}"))
    columns = tuple(map(str, features.columns))
    foreign = [name for name in dict.fromkeys(row_sites) if effects[name].columns != columns]
    if foreign:
        raise CohortError(listed("effects drawn for other columns than the table's", foreign, "draw them anew"))
    values = features.to_numpy(dtype=np.float64)
    if values.size == 0:
        return features.copy()
    # A column of missing values has neither mean nor sd, and stays missing.
    centre = features.astype(np.float64).mean().to_numpy()
    spread = features.astype(np.float64).std(ddof=0).to_numpy()
    location = np.array([effects[name].location for name in row_sites])
    scale = np.array([effects[name].scale for name in row_sites])
    planted = values + (scale - 1) * (values - centre) + location * spread
    return pd.DataFrame(planted, index=features.index, columns=features.columns)
