"""Planted effects of age and sex on organs: a smooth warp of a label map.

The organ's front shrinks with age around the organ's own centre line, and men's organs are larger all over.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int32, Shaped
from scipy.ndimage import gaussian_filter, map_coordinates

from medrep._persisted import persisted
from medrep.cohort.nifti import LabelMap
from medrep.errors import CohortError, CovariateError
from medrep.simulate.geometry import smoothstep
from medrep.simulate.participants import CENTRE_YEARS, LEVELS, stream

SIGMA_VOXELS = 1.3

_ROUNDS = 100
_PUSH = 2.0
_BORDER = 4


def label_at(data: Int32[np.ndarray, "x y z"], indices: Float[np.ndarray, "n 3"]) -> Int32[np.ndarray, " n"]:
    """Read a label map between its voxels, at places in voxels that may lie off the grid.

    A label's share is its indicator, smoothed (sigma 1.3 voxels); the indicators of the voxels at which the shares tell
    another label than the map are pushed until none is left, so that the surface is about the smoothest one that the
    map allows. Plain smoothing would take a few percent off an organ, and plain interpolation leaves the flat steps of
    the map where they are under any move of less than half a voxel. The label with the largest share is taken where all
    shares come to over half, else 0. At the voxel centres it is the map, but for structures a voxel thin, perhaps.
    """
    inside = np.argwhere(data > 0)
    if not len(inside):
        return np.zeros(len(indices), dtype=np.int32)
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    box = np.pad(data[tuple(slice(*edges) for edges in zip(low, high, strict=True))], _BORDER)
    names = np.unique(box[box > 0])
    places = (indices - (low - _BORDER)).T
    shares = [map_coordinates(share, places, order=3, mode="constant") for share in _shares(box, names)]
    return _largest(np.stack(shares), names)


def _shares(data: Int32[np.ndarray, "x y z"], names: Int32[np.ndarray, " k"]) -> Float[np.ndarray, "k x y z"]:
    truth = np.stack([data == name for name in names]).astype(np.float64)
    pushed = truth
    for _ in range(_ROUNDS):
        shares = np.stack([gaussian_filter(part, SIGMA_VOXELS, mode="constant") for part in pushed])
        wrong = _largest(shares, names) != data
        if not wrong.any():
            break
        pushed = pushed + _PUSH * wrong * (truth - shares)
    return shares


def _largest(shares: Float[np.ndarray, "k *grid"], names: Int32[np.ndarray, " k"]) -> Int32[np.ndarray, "*grid"]:
    return np.where(shares.sum(axis=0) > 0.5, names[shares.argmax(axis=0)], 0).astype(np.int32)


_HALVINGS = 40


@dataclass(frozen=True, eq=False)
class OrganAxis:
    """Where an organ lies, front along +y: its centroid, and the middle and half the length of its extent along y, in mm.

    `line` holds x and z of its centre line (columns) as quadratics of (y - middle) / length, highest power first, mm.
    """

    centroid: Float[np.ndarray, "3"]
    middle: float
    length: float
    line: Float[np.ndarray, "3 2"]


def organ_axis(labels: LabelMap) -> OrganAxis:
    """Measure the axis of the organ that a label map holds.

    Raises:
        CohortError: If the map is empty, or the organ less than three voxels long along y.
    """
    inside = np.argwhere(labels.data > 0)
    if not len(inside):
        raise CohortError(f"a label map of shape {labels.data.shape} holds no region, so there is no organ to reshape")
    points = _to_world(inside, labels.affine)
    low, high = float(points[:, 1].min()), float(points[:, 1].max())
    if high - low < 2 * np.linalg.norm(labels.affine[:3, :3], axis=0).min():
        raise CohortError(f"the organ is {high - low:g} mm long from back to front; three voxels are the least")
    middle, length = (low + high) / 2, (high - low) / 2
    line = np.polyfit((points[:, 1] - middle) / length, points[:, [0, 2]], 2)
    return OrganAxis(points.mean(axis=0), middle, length, line)


def scale_front(
    axis: OrganAxis, factor: float, larger: float, points: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Move points in mm with the organ: its front scaled around the centre line and towards the middle, then all of it.

    With t = (y - middle) / length, w = 3 t^2 - 2 t^3 within [0, 1] and the centre line q::

        k = 1 + (factor - 1) w(t)
        y' = middle + k (y - middle)
        (x', z') = q(y') + k ((x, z) - q(y))
        p'' = centroid + larger (p' - centroid)

    The factor of the front end is above 0.41, below which the warp folds over.
    """
    t = (points[:, 1] - axis.middle) / axis.length
    k = 1 + (factor - 1) * smoothstep(t)
    across = _centre(axis, k * t) + k[:, None] * (points[:, [0, 2]] - _centre(axis, t))
    transformed = np.stack([across[:, 0], axis.middle + axis.length * k * t, across[:, 1]], axis=1)
    return axis.centroid + larger * (transformed - axis.centroid)


def unscale_front(
    axis: OrganAxis, factor: float, larger: float, points: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Find where `scale_front` moved points from; same arguments."""
    transformed = axis.centroid + (points - axis.centroid) / larger
    place = (transformed[:, 1] - axis.middle) / axis.length
    t = _unscaled(place, factor)
    k = 1 + (factor - 1) * smoothstep(t)
    across = _centre(axis, t) + (transformed[:, [0, 2]] - _centre(axis, place)) / k[:, None]
    return np.stack([across[:, 0], axis.middle + axis.length * t, across[:, 1]], axis=1)


def _to_world(indices: Shaped[np.ndarray, "n 3"], affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "n 3"]:
    """Send voxel indices through an affine; the inverse affine sends places in mm to indices."""
    return indices @ affine[:3, :3].T + affine[:3, 3]


def _centre(axis: OrganAxis, t: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    return np.stack([t**2, t, np.ones_like(t)], axis=1) @ axis.line


def _unscaled(place: Float[np.ndarray, " n"], factor: float) -> Float[np.ndarray, " n"]:
    """Solve ``t (1 + (factor - 1) w(t)) = place``, which rises with t, by bisection where w is neither 0 nor 1."""
    low, high = np.zeros_like(place), np.ones_like(place)
    for _ in range(_HALVINGS):
        t = (low + high) / 2
        short = t * (1 + (factor - 1) * smoothstep(t)) < place
        low, high = np.where(short, t, low), np.where(short, high, t)
    return np.where(place <= 0, place, np.where(place >= factor, place / factor, (low + high) / 2))


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
    """Draw an effect whose three amounts lie within a tenth of those of `SHAPE_EFFECT`; its reference is age 50 and sex F."""
    linear, quadratic, larger = stream(seed, "shape effect").uniform(0.9, 1.1, 3).tolist()
    return ShapeEffect(
        linear=SHAPE_EFFECT.linear * linear,
        quadratic=SHAPE_EFFECT.quadratic * quadratic,
        male=1 + (SHAPE_EFFECT.male - 1) * larger,
    )


def apply_shape_effect(labels: LabelMap, effect: ShapeEffect, *, age: float, sex: str) -> LabelMap:
    """Give one organ, in which nothing is planted, the shape of another age (years) and sex.

    The organ's front, weighed by w from its middle m along +y of the world (0) to its front end (1), is scaled by f
    around the centre line and towards the middle; a man's organ is then scaled by ``male`` around its centroid. The
    middle, the centre line and the centroid are the given organ's; `scale_front` has the formula::

        f = 1 - linear (age - 50) / 30 - quadratic (max(age - 50, 0) / 25)^2

    Each voxel takes the label at the place that it comes from, by `label_at`. At age 50 and sex F the map is the given one,
    bit for bit. Otherwise, where the organ would come closer than four voxels to a border, voxels are added there and the
    affine is moved along; after `pad_for_shape_effect` none are.

    Raises:
        CohortError: If the map is empty, or the organ less than three voxels long along y.
        CovariateError: If the age is no number or so high that nothing is left, or the sex unknown.
    """
    factor, larger = age_factor(effect, age), _sex_factor(effect, sex)
    if factor == 1.0 and larger == 1.0:
        return LabelMap(labels.data.copy(), labels.affine)
    axis = organ_axis(labels)
    padded = _pad(labels, _needed(labels, axis, factor, larger))
    places = _to_world(np.indices(padded.data.shape).reshape(3, -1).T, padded.affine)
    sources = unscale_front(axis, factor, larger, places)
    planted = label_at(labels.data, _to_world(sources, np.linalg.inv(labels.affine)))
    return LabelMap(planted.reshape(padded.data.shape), padded.affine)


def pad_for_shape_effect(labels: LabelMap, effect: ShapeEffect, ages: Iterable[float]) -> LabelMap:
    """Add as many empty voxels as the organ needs at any of these ages (years) in both sexes, four to spare.

    `apply_shape_effect` keeps that grid, and raises the same errors.
    """
    axis = organ_axis(labels)
    factors = [1.0, *(age_factor(effect, age) for age in ages)]
    needed = [_needed(labels, axis, factor, larger) for factor in factors for larger in (1.0, effect.male)]
    return _pad(labels, np.max(needed, axis=0))


def age_factor(effect: ShapeEffect, age: float) -> float:
    """Compute the width and length of the front end over those at fifty, f of `apply_shape_effect`; age in years.

    Raises CovariateError if the age is no number, or so high that the factor falls below 0.42.
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
    warped = scale_front(axis, factor, larger, _to_world(np.argwhere(labels.data > 0), labels.affine))
    indices = _to_world(warped, np.linalg.inv(labels.affine))
    # One voxel more than the centres reach, for the outer halves of the voxels.
    low, high = np.floor(indices.min(axis=0)) - 1, np.ceil(indices.max(axis=0)) + 1
    last = np.array(labels.data.shape) - 1
    return np.maximum(np.stack([MARGIN_VOXELS - low, high + MARGIN_VOXELS - last], axis=1), 0).astype(np.int64)


def _pad(labels: LabelMap, voxels: Shaped[np.ndarray, "3 2"]) -> LabelMap:
    affine = labels.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ voxels[:, 0]
    return LabelMap(np.pad(labels.data, voxels), affine)
