"""Shapes whose every displacement is known: organs and starmen from one template.

A person's level function, in any number of dimensions, is negative inside and zero on the surface::

    s(p) = T(p + sum_k g_k(p, c_k) + h(p))

T is the template, g_k the displacement of covariate k, exactly zero at its reference, and h the person's own. The g_k
point along the template's outward normal. T grows that way, so a positive amplitude draws the surface in.

A starman is about 40 mm across and as simple as a shape with two covariates gets; the head points along +y.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.errors import CohortError, CovariateError
from medrep.simulate.geometry import (
    Bumps,
    LevelFunction,
    Levels,
    Points,
    bump_field,
    draw_bumps,
    draw_weights,
    outward_normal,
    surface_points,
)
from medrep.simulate.participants import stream

IDENTITY_SD_MM = 0.3
TRANSLATION_SD_MM = 0.15
_SURFACE_POINTS = 2000


@dataclass(frozen=True, eq=False)
class CovariateField:
    """The displacement of one covariate: an amplitude of its value, times a weight of the place, along the normal.

    The amplitude is in mm along the outward normal where the weight (points in mm -> [0, 1]) is 1, as a function of a
    number or with an entry for each level; that of the reference is taken off.
    """

    reference: float | str
    amplitude: Callable[[float], float] | Mapping[str, float]
    weight: LevelFunction


@dataclass(frozen=True, eq=False)
class Displaced:
    """A family of shapes: what all its people share.

    The template is about the signed distance near its surface; a box of twice `half_extent` around the origin holds it (mm).
    """

    template: LevelFunction
    fields: Mapping[str, CovariateField]
    bumps: Bumps
    half_extent: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class DisplacedShape:
    """One person of a family, with weights of the family's bumps and a translation in mm."""

    participant_id: str
    family: Displaced
    weights: Float[np.ndarray, "bumps dim"]
    translation: Float[np.ndarray, " dim"]


@dataclass(frozen=True, eq=False)
class DisplacedCohort:
    """Simulated people, one row and one shape each, with the truth about their shapes."""

    participants: pd.DataFrame
    family: Displaced
    people: tuple[DisplacedShape, ...]


def draw_family(
    template: LevelFunction,
    half_extent: tuple[float, ...],
    fields: Mapping[str, CovariateField],
    bumps: int,
    rng: np.random.Generator,
) -> Displaced:
    """Draw what everybody shares: as many bumps over the template's surface.

    Each component of a person's bumps has a standard deviation of 0.3 mm on the surface.
    """
    surface = surface_points(template, half_extent, _SURFACE_POINTS, rng)
    return Displaced(template, fields, draw_bumps(surface, bumps, IDENTITY_SD_MM, rng), half_extent)


def draw_shape(family: Displaced, participant_id: str, rng: np.random.Generator) -> DisplacedShape:
    """Draw one person: weights of the bumps, and a translation with a standard deviation of 0.15 mm along each axis."""
    weights = draw_weights(family.bumps, rng)
    translation = TRANSLATION_SD_MM * rng.standard_normal(weights.shape[1:])
    return DisplacedShape(participant_id, family, weights, translation)


def displacement(family: Displaced, name: str, value: object, points: Points) -> Points:
    """Compute ``g(p) = (amplitude(value) - amplitude(reference)) weight(p) n(p)``, the truth about one covariate, in mm.

    It is along the outward normal n of the template, and exactly zero at the reference. Raises CovariateError if the
    family has no such covariate, or the value is no number or not a known level.
    """
    if name not in family.fields:
        raise CovariateError(f"covariate {name!r} moves nothing here; those that do are {', '.join(family.fields)}")
    return _normal_distance(family, {name: value}, points)[:, None] * outward_normal(family.template, points)


def identity_displacement(shape: DisplacedShape, points: Points) -> Points:
    """Compute the person's own displacement ``h(p) = translation + sum_j weights_j bump_j(p)``, mm at points in mm."""
    return bump_field(shape.family.bumps, shape.weights, points) + shape.translation


def level(shape: DisplacedShape, covariates: Mapping[str, Any], points: Points) -> Levels:
    """Evaluate a person's level function s(p) in mm, negative inside, at any values of the family's covariates.

    Other entries, such as the further columns of a table's row, play no part. Raises CovariateError if a covariate is
    absent, or a value is no number or not a known level.
    """
    family = shape.family
    absent = [name for name in family.fields if name not in covariates]
    if absent:
        raise CovariateError(f"{shape.participant_id}: no {', '.join(absent)}; give a value, or the reference")
    along = _normal_distance(family, {name: covariates[name] for name in family.fields}, points)
    transformed = along[:, None] * outward_normal(family.template, points)
    return family.template(points + transformed + identity_displacement(shape, points))


def _normal_distance(family: Displaced, values: Mapping[str, Any], points: Points) -> Levels:
    total = np.zeros(len(points))
    for name, value in values.items():
        field = family.fields[name]
        amplitude = _amplitude(name, field, value) - _amplitude(name, field, field.reference)
        total += amplitude * field.weight(points)
    return total


def _amplitude(name: str, field: CovariateField, value: Any) -> float:
    if isinstance(field.amplitude, Mapping):
        if value not in field.amplitude:
            raise CovariateError(f"{name}: level {value!r} is not one of {', '.join(field.amplitude)}")
        return field.amplitude[value]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise CovariateError(f"{name}: {value!r} is not a number; give one, or leave the person out")
    return field.amplitude(number)


HALF_EXTENT_MM = (21.0, 21.0)
BUMPS = 20
ARM_DEGREES = (18.0, 162.0)
LEG_DEGREES = (234.0, 306.0)

_RADIUS_MM = 16.0
_STAR = 0.18  # the radius changes by this fraction between the limbs
_SOFT_MM = 5.0  # keeps the template smooth in its middle
_LIMB_MM = 8.0


def starman_template(points: Float[np.ndarray, "points 2"]) -> Levels:
    """Measure about the signed distance to ``|p| = 16 mm (1 + 0.18 cos(5 (theta - 90 degrees)))``, in mm.

    The difference of the two sides, softened in the middle, is divided by its own slope on the surface; the slope is then
    1 within 0.3 up to 3 mm from the surface.
    """
    radius = np.sqrt((points**2).sum(axis=1) + _SOFT_MM**2)
    limb = ((points[:, 1] - 1j * points[:, 0]) / radius) ** 5 * (1 + (_SOFT_MM / _RADIUS_MM) ** 2) ** 2.5
    surface = np.sqrt((_RADIUS_MM * (1 + _STAR * limb.real)) ** 2 + _SOFT_MM**2)
    slant = 5 * _RADIUS_MM * _STAR * limb.imag / radius
    return (radius - surface) / np.sqrt(1 + slant**2)


def starman_family(*, seed: int) -> Displaced:
    """Draw the family of starmen, with the fields ``arms`` and ``legs``; both have the reference 0.

    Along the outward normal, which makes a limb longer where the amplitude is negative::

        arms: -2 mm arms                   around the tips of both arms
        legs: -1.6 mm legs - 0.6 mm legs^2   around the tips of both legs
    """
    fields = {
        "arms": CovariateField(0.0, _arms_mm, partial(_tips, degrees=ARM_DEGREES)),
        "legs": CovariateField(0.0, _legs_mm, partial(_tips, degrees=LEG_DEGREES)),
    }
    return draw_family(starman_template, HALF_EXTENT_MM, fields, BUMPS, stream(seed, "starmen"))


def draw_starmen(n: int, *, seed: int) -> DisplacedCohort:
    """Draw people with arms and legs of any length, uniform in [-1, 1], and one shape a row.

    A person's own shape depends on the seed and the id (``sub-0001`` on) alone.
    """
    if n < 1:
        raise CohortError(f"n is {n}; ask for at least 1 starman")
    width = max(4, len(str(n)))
    ids = [f"sub-{number:0{width}d}" for number in range(1, n + 1)]
    rng = stream(seed, "starmen", "covariates")
    table = pd.DataFrame({"participant_id": ids, "arms": rng.uniform(-1, 1, n), "legs": rng.uniform(-1, 1, n)})
    family = starman_family(seed=seed)
    people = tuple(draw_shape(family, person, stream(seed, "starmen", person)) for person in ids)
    return DisplacedCohort(table, family, people)


def _arms_mm(arms: float) -> float:
    return -2.0 * arms


def _legs_mm(legs: float) -> float:
    return -1.6 * legs - 0.6 * legs**2


def _tips(points: Float[np.ndarray, "points 2"], degrees: tuple[float, ...]) -> Levels:
    angles = np.radians(degrees)
    tips = _RADIUS_MM * (1 + _STAR) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    near = np.exp(((points[:, None] - tips) ** 2).sum(axis=2) / -(2 * _LIMB_MM**2))
    return 1 - np.prod(1 - near, axis=1)
