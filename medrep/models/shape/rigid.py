"""How organs lie: the rigid motion between two organs, by their surfaces.

With E the level of the one organ (zero on its surface), x_j points of the other's surface and m a middle, the other lies by
P(y) = m + t + R (y - m), R a rotation, where P minimises the distances along the normal

    sum_j E(P^-1(x_j))^2,

found by damped Gauss-Newton steps from the shift that brings the middles together. A change on one side of an organ counts as a
motion of the whole as far as it is one. A ball says nothing of how it is turned, and a rod little of its turn about itself.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from medrep.models.shape.mean_shape import LevelFunction, Levels, Points, SurfacePoints

Motion = Float[np.ndarray, "corners corners"]
"""A rigid motion of 2 or 3 dimensions as a matrix of 3 x 3 or 4 x 4, mm."""

POINTS = 1000
"""Points of a surface that are looked at, at most."""
_PLANES = {2: ((0, 1),), 3: ((1, 2), (2, 0), (0, 1))}
_STEPS = 30
_STILL = 1e-5  # of the organ's size
_DAMPING = 1e-4


@dataclass(frozen=True, eq=False)
class Poses:
    """How people's organs lie, in the coordinates of a model's grid.

    Attributes:
        motions: Bring the template onto each person's organ, mm.
        middle: Middle of the template's surface, mm.
        size: Root mean square distance of the template's surface from its centre, mm.
        in_effects: Whether the model counts position as an effect of covariates.
    """

    motions: Float[np.ndarray, "people corners corners"]
    middle: Float[np.ndarray, " dims"]
    size: float
    in_effects: bool


def rigid_motion(level: LevelFunction, surface: SurfacePoints, middle: Float[np.ndarray, " dims"]) -> Motion:
    """Return the motion that brings an organ onto another's surface.

    Args:
        level: Of the organ.
        surface: Of the other.
        middle: Of the organ, what turns turn about, mm.
    """
    points, which = surface.points, surface.structures
    away = points - points.mean(axis=0)
    size = float(np.sqrt((away**2).sum(axis=1).mean()))
    back = _shifted(middle - points.mean(axis=0))
    damping, (loss, square, pull) = (
        _DAMPING,
        _looked_at(level.slopes(moved(back, points), which), moved(back, points), middle, size),
    )
    for _ in range(_STEPS):
        damped = square + (damping * np.trace(square) + 1e-12) * np.eye(len(pull))
        step = -np.linalg.solve(damped, pull)
        tried = about(middle, step[: len(middle)], step[len(middle) :] / size) @ back
        then = _looked_at(level.slopes(moved(tried, points), which), moved(tried, points), middle, size)
        if then[0] > loss:
            damping *= 10
            continue
        back, damping, (loss, square, pull) = tried, damping / 3, then
        if np.abs(step).max() < _STILL * size:
            break
    return np.linalg.inv(back)


def moved(motion: Motion, points: Points) -> Points:
    """Return where a motion brings points, mm."""
    dims = points.shape[1]
    return np.asarray(points @ motion[:dims, :dims].T + motion[:dims, dims])


def about(
    centre: Float[np.ndarray, " dims"], shift: Float[np.ndarray, " dims"], turns: Float[np.ndarray, " turns"]
) -> Motion:
    """Return the motion that turns about a centre, by a rotation vector in radians, and then shifts, mm."""
    found = _shifted(centre + shift)
    found[:-1, :-1] = rotation(turns)
    return found @ _shifted(-centre)


def rotation(turns: Float[np.ndarray, " turns"]) -> Float[np.ndarray, "dims dims"]:
    """Return the rotation by a rotation vector, radians: about three axes, or, of one number, in the plane."""
    if len(turns) == 1:
        return np.ascontiguousarray(Rotation.from_rotvec([0.0, 0.0, turns[0]]).as_matrix()[:2, :2])
    return np.asarray(Rotation.from_rotvec(turns).as_matrix())


def turns_of(matrix: Float[np.ndarray, "dims dims"]) -> Float[np.ndarray, " turns"]:
    """Return the rotation vector of a rotation, radians; the inverse of `rotation`."""
    if len(matrix) == 2:
        return np.array([np.arctan2(matrix[1, 0], matrix[0, 0])])
    return np.asarray(Rotation.from_matrix(matrix).as_rotvec())


def nearest_rotation(matrix: Float[np.ndarray, "dims dims"]) -> Float[np.ndarray, "dims dims"]:
    """Return the rotation that is nearest to a matrix."""
    left, _, right = np.linalg.svd(matrix)
    proper = np.ones(len(matrix))
    proper[-1] = np.sign(np.linalg.det(left @ right))
    return np.asarray((left * proper) @ right)


def _shifted(shift: Float[np.ndarray, " dims"]) -> Motion:
    found = np.eye(len(shift) + 1)
    found[:-1, -1] = shift
    return found


def _looked_at(
    seen: tuple[Levels, Points], points: Points, middle: Float[np.ndarray, " dims"], size: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the sum of squares of levels, and its normal equations for a small motion, turns times the size.

    `seen` are levels and slopes at the points.
    """
    found, slope = seen
    arms = (points - middle) / size
    turning = [arms[:, a] * slope[:, b] - arms[:, b] * slope[:, a] for a, b in _PLANES[points.shape[1]]]
    ways = np.column_stack([slope, *turning])
    return float(found @ found), ways.T @ ways, ways.T @ found
