"""What age and sex do to the shape of anybody's organ: a smooth warp of a label map, in world coordinates.

The organ's front shrinks with age around the organ's own centre line, and men's organs are larger all over.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from medrep._persisted import persisted
from medrep.cohort.nifti import LabelMap
from medrep.errors import CovariateError
from medrep.simulate.age import CENTRE_YEARS
from medrep.simulate.participants import LEVELS
from medrep.simulate.plant.label_shares import label_at
from medrep.simulate.plant.organ_axis import OrganAxis, organ_axis, scale_front, to_world, unscale_front
from medrep.simulate.seeding import stream

MARGIN_VOXELS = 4
SMALLEST_FACTOR = 0.42  # below 0.41 the warp folds over


@persisted(
    keys=("linear", "quadratic", "male", "reference"), constants={"reference": {"age": CENTRE_YEARS, "sex": "F"}}
)
@dataclass(frozen=True)
class ShapeEffect:
    """The effect of age and sex on an organ; see `apply_shape_effect` for the formula.

    Attributes:
        linear: What the front loses of its width and length in the thirty years up to or from fifty, as a fraction.
        quadratic: What it loses further in the first twenty-five years after fifty.
        male: A man's width and length over a woman's.
    """

    linear: float = 0.12
    quadratic: float = 0.12
    male: float = 1.04


SHAPE_EFFECT = ShapeEffect()


def draw_shape_effect(*, seed: int) -> ShapeEffect:
    """Draw an effect whose three amounts lie within a tenth of those of `SHAPE_EFFECT`.

    Args:
        seed: Any integer from 0.

    Returns:
        The effect; its reference is age 50 and sex F.
    """
    linear, quadratic, larger = stream(seed, "shape effect").uniform(0.9, 1.1, 3).tolist()
    return ShapeEffect(
        linear=SHAPE_EFFECT.linear * linear,
        quadratic=SHAPE_EFFECT.quadratic * quadratic,
        male=1 + (SHAPE_EFFECT.male - 1) * larger,
    )


def apply_shape_effect(labels: LabelMap, effect: ShapeEffect, *, age: float, sex: str) -> LabelMap:
    """Give one organ the shape of another age and sex.

    The organ's front, weighed by w from its middle m along +y of the world (0) to its front end (1), is scaled by f
    around the centre line and towards the middle; a man's organ is then scaled by ``male`` around its centroid. The
    middle, the centre line and the centroid are the given organ's; `scale_front` has the formula::

        f = 1 - linear (age - 50) / 30 - quadratic (max(age - 50, 0) / 25)^2

    Each voxel takes the label at the place that it comes from, by `label_at`.

    Args:
        labels: One organ that nothing is planted in, in any parts and any orientation.
        effect: From `draw_shape_effect`, or `SHAPE_EFFECT`.
        age: Years.
        sex: F or M.

    Returns:
        A new map. At age 50 and sex F it is the given one, bit for bit. Otherwise, where the organ would come closer
        than four voxels to a border, voxels are added there and the affine is moved along; after
        `pad_for_shape_effect` none are.

    Raises:
        CohortError: If the map is empty, or the organ less than three voxels long along y.
        CovariateError: If the age is no number or so high that nothing is left, or the sex unknown.
    """
    factor, larger = age_factor(effect, age), _sex_factor(effect, sex)
    if factor == 1.0 and larger == 1.0:
        return LabelMap(labels.data.copy(), labels.affine)
    axis = organ_axis(labels)
    padded = _pad(labels, _needed(labels, axis, factor, larger))
    places = to_world(np.indices(padded.data.shape).reshape(3, -1).T, padded.affine)
    sources = unscale_front(axis, factor, larger, places)
    planted = label_at(labels.data, to_world(sources, np.linalg.inv(labels.affine)))
    return LabelMap(planted.reshape(padded.data.shape), padded.affine)


def pad_for_shape_effect(labels: LabelMap, effect: ShapeEffect, ages: Iterable[float]) -> LabelMap:
    """Add as many empty voxels as the organ needs at any of these ages in both sexes, four to spare.

    Args:
        labels: As for `apply_shape_effect`.
        effect: The effect that will be applied.
        ages: Years; the youngest decides.

    Returns:
        The map on a grid that `apply_shape_effect` keeps as it is.

    Raises:
        CohortError: If the map is empty, or the organ less than three voxels long along y.
        CovariateError: If an age is no number or too high.
    """
    axis = organ_axis(labels)
    factors = [1.0, *(age_factor(effect, age) for age in ages)]
    needed = [_needed(labels, axis, factor, larger) for factor in factors for larger in (1.0, effect.male)]
    return _pad(labels, np.max(needed, axis=0))


def age_factor(effect: ShapeEffect, age: float) -> float:
    """Compute the width and length of the front end over those at fifty.

    Args:
        effect: The effect.
        age: Years.

    Returns:
        f of `apply_shape_effect`.

    Raises:
        CovariateError: If the age is no number, or so high that the factor falls below 0.42.
    """
    if not math.isfinite(age):
        raise CovariateError(f"age: {age!r} is not a number; give one, or leave the person out")
    beyond = max(age - CENTRE_YEARS, 0.0)
    factor = 1 - effect.linear * (age - CENTRE_YEARS) / 30 - effect.quadratic * (beyond / 25) ** 2
    if factor < SMALLEST_FACTOR:
        raise CovariateError(
            f"age: at {age:g} the organ's front shrinks to {factor:.2f} of its width; plant a lower age"
        )
    return factor


def _sex_factor(effect: ShapeEffect, sex: str) -> float:
    if sex not in LEVELS["sex"]:
        raise CovariateError(f"sex: level {sex!r} is not one of {', '.join(LEVELS['sex'])}")
    return effect.male if sex == "M" else 1.0


def _needed(labels: LabelMap, axis: OrganAxis, factor: float, larger: float) -> Shaped[np.ndarray, "3 2"]:
    warped = scale_front(axis, factor, larger, to_world(np.argwhere(labels.data > 0), labels.affine))
    indices = to_world(warped, np.linalg.inv(labels.affine))
    # One voxel more than the centres reach, for the outer halves of the voxels.
    low, high = np.floor(indices.min(axis=0)) - 1, np.ceil(indices.max(axis=0)) + 1
    last = np.array(labels.data.shape) - 1
    return np.maximum(np.stack([MARGIN_VOXELS - low, high + MARGIN_VOXELS - last], axis=1), 0).astype(np.int64)


def _pad(labels: LabelMap, voxels: Shaped[np.ndarray, "3 2"]) -> LabelMap:
    affine = labels.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ voxels[:, 0]
    return LabelMap(np.pad(labels.data, voxels), affine)
