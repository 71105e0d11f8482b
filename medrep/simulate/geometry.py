"""Solids, smooth bumps and level functions: the geometry that simulated bodies are made of.

A level function is negative inside a shape and zero on its surface; the ones here are about distances in mm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from scipy.special import expit

Field = Float32[np.ndarray, "x y z"]
Coordinates = Sequence[Field]
Triple = tuple[float | int, float | int, float | int]


def ellipsoid(points: Coordinates, centre: Triple, semi_axes: Triple) -> Field:
    """Approximate the signed distance to an axis-aligned ellipsoid, exactly zero on its surface.

    Args:
        points: The x, y and z coordinates of every voxel, mm.
        centre: mm.
        semi_axes: mm.

    Returns:
        Distance in mm, of first order near the surface: k0 (k0 - 1) / k1 with k0 = |p/a| and k1 = |p/a^2|.
    """
    scaled = [
        (axis - c) / np.float32(a) for axis, c, a in zip(points, np.asarray(centre, np.float32), semi_axes, strict=True)
    ]
    k0 = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    steep = [part / np.float32(a) for part, a in zip(scaled, semi_axes, strict=True)]
    k1 = np.sqrt(steep[0] ** 2 + steep[1] ** 2 + steep[2] ** 2)
    distance: Field = k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-6))
    return distance


def capsule(points: Coordinates, start: Triple, end: Triple, radius: float) -> Field:
    """Measure the signed distance to a capsule: a segment thickened to a radius.

    Args:
        points: The x, y and z coordinates of every voxel, mm.
        start: One end of the segment, mm.
        end: The other end, mm; different from the first.
        radius: mm.

    Returns:
        Distance in mm, exact.
    """
    along = np.subtract(end, start)
    unit = (along / (along @ along)).astype(np.float32)
    offset = [axis - c for axis, c in zip(points, np.asarray(start, np.float32), strict=True)]
    t = np.clip(offset[0] * unit[0] + offset[1] * unit[1] + offset[2] * unit[2], 0, 1)
    gap = [part - t * np.float32(step) for part, step in zip(offset, along, strict=True)]
    distance: Field = np.sqrt(gap[0] ** 2 + gap[1] ** 2 + gap[2] ** 2) - np.float32(radius)
    return distance


def inside(distance: Field, spacing: float) -> Field:
    """Turn a signed distance into the share of the voxel that lies inside.

    Args:
        distance: mm, negative inside.
        spacing: Edge of a voxel, mm; the edge is as soft as a voxel is wide.

    Returns:
        Shares from 0 to 1.
    """
    share: Field = expit(distance * np.float32(-4.0 / spacing))
    return share


def paint(image: Field, share: Field, intensity: float) -> Field:
    """Cover an image with one tissue.

    Args:
        image: Intensities so far.
        share: How much of each voxel the tissue takes, 0 to 1.
        intensity: The tissue's own intensity.

    Returns:
        The image mixed with the tissue.
    """
    painted: Field = image + share * (np.float32(intensity) - image)
    return painted


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


WIDTHS_MM = (9.0, 14.0)


@dataclass(frozen=True, eq=False)
class Bumps:
    """Where the bumps sit, for everybody.

    Attributes:
        centres: mm.
        widths: Sigmas, mm.
        weight_sd: Standard deviation of each component of a weight, mm.
    """

    centres: Float[np.ndarray, "bumps dim"]
    widths: Float[np.ndarray, " bumps"]
    weight_sd: float


def draw_bumps(surface: Points, count: int, sd: float, rng: np.random.Generator) -> Bumps:
    """Spread bumps over a surface, each new one as far as possible from those before.

    Args:
        surface: Points on it, many more than bumps, mm.
        count: Number of bumps.
        sd: What each component of the displacement shall have as its standard deviation over people, root mean square
            over the surface, mm.
        rng: Where the first place and the widths, 9 to 14 mm, come from.

    Returns:
        The bumps, with the weights' standard deviation that gives the displacement's.
    """
    chosen = [int(rng.integers(len(surface)))]
    gap = np.full(len(surface), np.inf)
    while len(chosen) < count:
        gap = np.minimum(gap, np.linalg.norm(surface - surface[chosen[-1]], axis=1))
        chosen.append(int(gap.argmax()))
    centres, widths = surface[chosen], rng.uniform(*WIDTHS_MM, count)
    variance = (_heights(surface, centres, widths) ** 2).sum(axis=1).mean()
    return Bumps(centres, widths, float(sd / np.sqrt(variance)))


def draw_weights(bumps: Bumps, rng: np.random.Generator) -> Float[np.ndarray, "bumps dim"]:
    """Draw one person's weights, in mm."""
    weights: Float[np.ndarray, "bumps dim"] = bumps.weight_sd * rng.standard_normal(bumps.centres.shape)
    return weights


def bump_field(bumps: Bumps, weights: Float[np.ndarray, "bumps dim"], points: Points) -> Points:
    """Compute ``sum_j weights_j exp(-|p - centre_j|^2 / (2 width_j^2))``.

    Args:
        bumps: From `draw_bumps`.
        weights: From `draw_weights`, mm.
        points: mm.

    Returns:
        Displacements, mm.
    """
    field: Points = _heights(points, bumps.centres, bumps.widths) @ weights
    return field


def _heights(
    points: Points, centres: Float[np.ndarray, "bumps dim"], widths: Float[np.ndarray, " bumps"]
) -> Float[np.ndarray, "points bumps"]:
    squared = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    return np.exp(squared / (-2 * widths**2))
