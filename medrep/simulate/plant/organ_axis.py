"""The axis of one organ in world coordinates, and the warp that scales the organ's front around it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from medrep.cohort.nifti import LabelMap
from medrep.errors import CohortError
from medrep.simulate.level_functions import smoothstep

_HALVINGS = 40


@dataclass(frozen=True, eq=False)
class OrganAxis:
    """Where an organ lies, front along +y.

    Attributes:
        centroid: Of all its voxels, mm.
        middle: Of its extent along y, mm.
        length: From the middle to the front end, mm.
        line: x and z of its centre line (columns) as quadratics of (y - middle) / length, highest power first, mm.
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
    points = to_world(inside, labels.affine)
    low, high = float(points[:, 1].min()), float(points[:, 1].max())
    if high - low < 2 * np.linalg.norm(labels.affine[:3, :3], axis=0).min():
        raise CohortError(f"the organ is {high - low:g} mm long from back to front; three voxels are the least")
    middle, length = (low + high) / 2, (high - low) / 2
    line = np.polyfit((points[:, 1] - middle) / length, points[:, [0, 2]], 2)
    return OrganAxis(points.mean(axis=0), middle, length, line)


def scale_front(
    axis: OrganAxis, factor: float, larger: float, points: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Move points with the organ: its front scaled around the centre line and towards the middle, then all of it.

    With t = (y - middle) / length, w = 3 t^2 - 2 t^3 within [0, 1] and the centre line q::

        k = 1 + (factor - 1) w(t)
        y' = middle + k (y - middle)
        (x', z') = q(y') + k ((x, z) - q(y))
        p'' = centroid + larger (p' - centroid)

    Args:
        axis: The organ's.
        factor: Of the front end, above 0.41, below which the warp folds over.
        larger: Of the whole.
        points: mm.

    Returns:
        mm.
    """
    t = (points[:, 1] - axis.middle) / axis.length
    k = 1 + (factor - 1) * smoothstep(t)
    across = _centre(axis, k * t) + k[:, None] * (points[:, [0, 2]] - _centre(axis, t))
    moved = np.stack([across[:, 0], axis.middle + axis.length * k * t, across[:, 1]], axis=1)
    return axis.centroid + larger * (moved - axis.centroid)


def unscale_front(
    axis: OrganAxis, factor: float, larger: float, points: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Find where `scale_front` moved points from; same arguments."""
    moved = axis.centroid + (points - axis.centroid) / larger
    place = (moved[:, 1] - axis.middle) / axis.length
    t = _unscaled(place, factor)
    k = 1 + (factor - 1) * smoothstep(t)
    across = _centre(axis, t) + (moved[:, [0, 2]] - _centre(axis, place)) / k[:, None]
    return np.stack([across[:, 0], axis.middle + axis.length * t, across[:, 1]], axis=1)


def to_world(indices: Shaped[np.ndarray, "n 3"], affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "n 3"]:
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
