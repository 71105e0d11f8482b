"""Shapes whose every displacement is known, from one template; and organs, a family of them.

A person's level function, in any number of dimensions, is negative inside and zero on the surface::

    s(p) = T(p + sum_k g_k(p, c_k) + h(p))

T is the template, g_k the displacement of covariate k, exactly zero at its reference, and h the person's own. The g_k
point along the template's outward normal. T grows that way, so a positive amplitude draws the surface in.

Organs are about the size of a hippocampus; age and sex act on them in known places by known amounts. Axes run to the right, to
the front and up (RAS, mm). Their template is a bow, thicker at its front end (positive y).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import expit

from medrep.cohort.grid import Grid
from medrep.cohort.nifti import LabelMap
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
from medrep.simulate.participants import CENTRE_YEARS, require_columns, stream

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


HALF_EXTENT_MM = (10.0, 21.0, 10.0)
ROOM_MM = 9.0
MARGIN_VOXELS = 4
BUMPS = 26
MALE_MM = -1.2

_FRONT_MM, _BACK_MM = 11.5, -13.0  # where the round ends begin
_BOW_MM = (2.0, -4.0)  # how far the ends lie from the middle, along x and z
_SOFT_MM = 2.0  # keeps the template smooth on its axis
_POINTS_AT_ONCE = 100_000
_LATERAL_MM = (8.0, -6.0, 0.0)


def organ_template(points: Float[np.ndarray, "points 3"]) -> Levels:
    """Measure about the signed distance to the template: a bent capsule of 17 x 40 x 18 mm that tapers to the back.

    The slope is 1 within 0.3 up to 3 mm from the surface.
    """
    x, y, z = points.T
    bow = (y / 20.0) ** 2 - 0.35
    beyond = np.logaddexp(0.0, y - _FRONT_MM) - np.logaddexp(0.0, _BACK_MM - y)
    radius = 7.8 + 1.3 * np.tanh(y / 15.0)
    squared = (x - _BOW_MM[0] * bow) ** 2 + (z - _BOW_MM[1] * bow) ** 2 + beyond**2
    # Softening flattens the slope; 1.05 brings it back to 1 at the surface.
    return 1.05 * (np.sqrt(squared + _SOFT_MM**2) - np.sqrt(radius**2 + _SOFT_MM**2))


def organ_family(*, seed: int) -> Displaced:
    """Draw the family of organs, with the fields ``age`` (years) and ``sex``; their references are 50 and F.

    Along the outward normal, so that a positive amplitude makes the organ smaller::

        age: a(age) - a(reference)   a = 1.5 mm (age - 50) / 30 + 0.6 mm (max(age - 60, 0) / 20)^2   front half
        sex: -1.2 mm for M against F, that is, larger                                                 lateral (+x), middle
    """
    fields = {
        "age": CovariateField(CENTRE_YEARS, _age_mm, _front),
        "sex": CovariateField("F", {"F": 0.0, "M": MALE_MM}, _lateral),
    }
    return draw_family(organ_template, HALF_EXTENT_MM, fields, BUMPS, stream(seed, "organs"))


def draw_organs(participants: pd.DataFrame, *, seed: int) -> DisplacedCohort:
    """Draw everybody's organ from participant_id, age (years) and sex, one shape a row.

    What is the person's own is drawn from the id and the seed alone, so that the same person at another age or sex is
    a true counterfactual; `level` gives it without drawing again. Columns such as site play no part. Raises CovariateError
    if a column, a value or a level is not usable.
    """
    require_columns(participants, ["participant_id", "age", "sex"])
    family = organ_family(seed=seed)
    ids = [str(person) for person in participants["participant_id"]]
    people = tuple(draw_shape(family, person, stream(seed, "organs", person)) for person in ids)
    return DisplacedCohort(participants.copy(), family, people)


def organ_grid(spacing: float = 1.0) -> tuple[Grid, Float[np.ndarray, "4 4"]]:
    """Lay a grid of this spacing (mm), and its affine, that holds everybody's organ at any age with four voxels to spare.

    The world's origin is the middle of the grid.
    """
    if not spacing > 0:
        raise CohortError(f"a spacing of {spacing} mm is not positive")
    half = [int(np.ceil((edge + ROOM_MM) / spacing)) + MARGIN_VOXELS for edge in HALF_EXTENT_MM]
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [-spacing * voxels for voxels in half]
    x, y, z = (2 * voxels + 1 for voxels in half)
    return Grid((x, y, z), (float(spacing), float(spacing), float(spacing))), affine


def render_organ(
    organ: DisplacedShape, covariates: Mapping[str, Any], grid: Grid, affine: Float[np.ndarray, "4 4"]
) -> LabelMap:
    """Fill with 1 the voxels whose centre lies inside a person's organ, at any age (years) and sex.

    Raises CohortError if the organ comes closer than four voxels to the border, or no voxel lies inside, and
    CovariateError if the age is absent or no number, or the sex absent or unknown.
    """
    voxels = np.indices(grid.shape).reshape(3, -1).T
    slabs = np.array_split(voxels, max(1, len(voxels) // _POINTS_AT_ONCE))
    levels = [level(organ, covariates, slab @ affine[:3, :3].T + affine[:3, 3]) for slab in slabs]
    inside = (np.concatenate(levels) < 0).reshape(grid.shape)
    core = inside[(slice(MARGIN_VOXELS, -MARGIN_VOXELS),) * 3]
    if np.count_nonzero(core) != np.count_nonzero(inside) or not inside.any():
        raise CohortError(
            f"{organ.participant_id}: a grid of {grid.shape} voxels does not hold the organ with "
            f"{MARGIN_VOXELS} voxels to spare; take that of organ_grid"
        )
    return LabelMap(inside.astype(np.int32), affine)


def organ_truth(family: Displaced) -> dict[str, Any]:
    """Describe the effects as a dictionary ready for JSON."""
    formulas = {
        "age": "1.5 mm (age - 50) / 30 + 0.6 mm (max(age - 60, 0) / 20)^2, inward, times 1 / (1 + exp(-y / 3 mm))",
        "sex": f"{MALE_MM} mm for M against F, inward, times exp(-|p - {_LATERAL_MM}|^2 / (2 (11 mm)^2))",
    }
    return {
        name: {"reference": field.reference, "displacement": formulas[name]} for name, field in family.fields.items()
    }


def _age_mm(age: float) -> float:
    return 1.5 * (age - 50.0) / 30.0 + 0.6 * (max(age - 60.0, 0.0) / 20.0) ** 2


def _front(points: Points) -> Levels:
    return expit(points[:, 1] / 3.0)


def _lateral(points: Points) -> Levels:
    return np.exp(((points - np.array(_LATERAL_MM)) ** 2).sum(axis=1) / -(2 * 11.0**2))
