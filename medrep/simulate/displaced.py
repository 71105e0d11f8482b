"""Shapes whose every displacement is known, from one template.

A person's level function, in any number of dimensions, is negative inside and zero on the surface::

    s(p) = T(p + sum_k g_k(p, c_k) + h(p))

T is the template, g_k the displacement of covariate k, exactly zero at its reference, and h the person's own. The g_k
point along the template's outward normal. T grows that way, so a positive amplitude draws the surface in.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.errors import CovariateError
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
