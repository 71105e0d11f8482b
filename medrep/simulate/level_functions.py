"""Geometry of level functions in any number of dimensions: slope, outward normal, points on the surface.

A level function is negative inside a shape and zero on its surface; the ones here are about distances in mm.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "points dim"]
Levels = Float[np.ndarray, " points"]
LevelFunction = Callable[[Points], Levels]

STEP_MM = 1e-3  # of the differences; these functions bend over millimetres
_FLAT = 0.6  # below this slope a point is in the middle of a shape, where the direction is ill defined
_REACH_MM = 8.0


def gradient(function: LevelFunction, points: Points) -> Points:
    """Differentiate a level function by central differences.

    Args:
        function: Points in mm -> mm.
        points: mm.

    Returns:
        Slopes, mm a mm.
    """
    shifts = STEP_MM * np.eye(points.shape[1])
    slopes = [(function(points + shift) - function(points - shift)) / (2 * STEP_MM) for shift in shifts]
    return np.stack(slopes, axis=1)


def outward_normal(function: LevelFunction, points: Points) -> Points:
    """Find the direction in which a level function grows, extended smoothly to everywhere.

    Args:
        function: Points in mm -> mm.
        points: mm.

    Returns:
        Unit vectors up to 8 mm outside and in to where the slope falls below 0.6; from there they fade smoothly, to
        zero at 16 mm outside and at slope 0.
    """
    slope = gradient(function, points)
    steepness = np.linalg.norm(slope, axis=1)
    fade = smoothstep(steepness / _FLAT) * (1 - smoothstep(function(points) / _REACH_MM - 1))
    return slope * (fade / np.maximum(steepness, 1e-12))[:, None]


def smoothstep(share: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Rise smoothly from 0 at 0 to 1 at 1, ``3 t^2 - 2 t^3``, and stay constant outside."""
    t = np.clip(share, 0.0, 1.0)
    risen: Float[np.ndarray, " n"] = t * t * (3 - 2 * t)
    return risen


def surface_points(
    function: LevelFunction, half_extent: tuple[float, ...], count: int, rng: np.random.Generator
) -> Points:
    """Scatter points over the surface, about evenly.

    Args:
        function: Points in mm -> mm, about a distance.
        half_extent: Half the edges of a box around the origin that holds the shape, mm.
        count: How many points are thrown within 2 mm of the surface.
        rng: Where they come from.

    Returns:
        Those points moved onto the surface along the slope, level below 1e-6 mm; the few that do not arrive are left
        out.
    """
    corner = np.array(half_extent)
    near = np.empty((0, len(corner)))
    while len(near) < count:
        thrown = rng.uniform(-corner, corner, (4 * count, len(corner)))
        near = np.concatenate([near, thrown[np.abs(function(thrown)) < 2.0]])
    points = near[:count]
    for _ in range(12):
        slope = gradient(function, points)
        points = points - slope * (function(points) / np.maximum((slope**2).sum(axis=1), 0.1))[:, None]
    arrived: Points = points[np.abs(function(points)) < 1e-6]
    return arrived
