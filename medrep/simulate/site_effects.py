"""Planted effects of sites on volumes and on feature tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Num
from scipy.ndimage import gaussian_filter

from medrep._persisted import persisted
from medrep.errors import CohortError, listed
from medrep.simulate.field import DEGREES, draw_legendre, intensity_scale, legendre_field
from medrep.simulate.participants import stream

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
