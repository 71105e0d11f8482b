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
    """Approximate the signed distance to an axis-aligned ellipsoid, exactly zero on its surface; all in mm.

    It is of first order near the surface: k0 (k0 - 1) / k1 with k0 = |p/a| and k1 = |p/a^2|.
    """
    scaled = [
        (axis - c) / np.float32(a) for axis, c, a in zip(points, np.asarray(centre, np.float32), semi_axes, strict=True)
    ]
    k0 = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    steep = [part / np.float32(a) for part, a in zip(scaled, semi_axes, strict=True)]
    k1 = np.sqrt(steep[0] ** 2 + steep[1] ** 2 + steep[2] ** 2)
    return k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-6))


def capsule(points: Coordinates, start: Triple, end: Triple, radius: float) -> Field:
    """Measure the exact signed distance to a capsule, a segment thickened to a radius; all in mm."""
    along = np.subtract(end, start)
    unit = (along / (along @ along)).astype(np.float32)
    offset = [axis - c for axis, c in zip(points, np.asarray(start, np.float32), strict=True)]
    t = np.clip(offset[0] * unit[0] + offset[1] * unit[1] + offset[2] * unit[2], 0, 1)
    gap = [part - t * np.float32(step) for part, step in zip(offset, along, strict=True)]
    return np.sqrt(gap[0] ** 2 + gap[1] ** 2 + gap[2] ** 2) - np.float32(radius)


def inside(distance: Field, spacing: float) -> Field:
    """Turn a signed distance into the share of the voxel that lies inside; the edge is as soft as a voxel is wide."""
    return expit(distance * np.float32(-4.0 / spacing))


def paint(image: Field, share: Field, intensity: float) -> Field:
    """Mix an image with a tissue of one intensity that takes a share of each voxel."""
    return image + share * (np.float32(intensity) - image)


Points = Float[np.ndarray, "points dim"]
Levels = Float[np.ndarray, " points"]
LevelFunction = Callable[[Points], Levels]

STEP_MM = 1e-3  # of the differences; these functions bend over millimetres
_FLAT = 0.6  # below this slope a point is in the middle of a shape, where the direction is ill defined
_REACH_MM = 8.0


def gradient(function: LevelFunction, points: Points) -> Points:
    """Differentiate a level function of points in mm by central differences: slopes, mm a mm."""
    shifts = STEP_MM * np.eye(points.shape[1])
    slopes = [(function(points + shift) - function(points - shift)) / (2 * STEP_MM) for shift in shifts]
    return np.stack(slopes, axis=1)


def outward_normal(function: LevelFunction, points: Points) -> Points:
    """Find the direction in which a level function grows, extended smoothly to everywhere.

    These are unit vectors up to 8 mm outside and in to where the slope falls below 0.6; from there they fade smoothly, to
    zero at 16 mm outside and at slope 0.
    """
    slope = gradient(function, points)
    steepness = np.linalg.norm(slope, axis=1)
    fade = smoothstep(steepness / _FLAT) * (1 - smoothstep(function(points) / _REACH_MM - 1))
    return slope * (fade / np.maximum(steepness, 1e-12))[:, None]


def smoothstep(share: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Rise smoothly from 0 at 0 to 1 at 1, ``3 t^2 - 2 t^3``, and stay constant outside."""
    t = np.clip(share, 0.0, 1.0)
    return t * t * (3 - 2 * t)


def surface_points(
    function: LevelFunction, half_extent: tuple[float, ...], count: int, rng: np.random.Generator
) -> Points:
    """Scatter points over the surface, about evenly; a box of twice `half_extent` (mm) around the origin holds the shape.

    As many as `count` are thrown within 2 mm of the surface and moved onto it along the slope, level below 1e-6 mm; the few
    that do not arrive are left out.
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
    return points[np.abs(function(points)) < 1e-6]


WIDTHS_MM = (9.0, 14.0)


@dataclass(frozen=True, eq=False)
class Bumps:
    """Where the bumps sit for everybody, and the standard deviation of each component of a weight; all in mm."""

    centres: Float[np.ndarray, "bumps dim"]
    widths: Float[np.ndarray, " bumps"]
    weight_sd: float


def draw_bumps(surface: Points, count: int, sd: float, rng: np.random.Generator) -> Bumps:
    """Spread bumps over a surface, each new one as far as possible from those before, with widths of 9 to 14 mm.

    The surface has many more points than bumps. `sd` (mm) is the standard deviation over people that each component of the
    displacement shall have, root mean square over the surface.
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
    return bumps.weight_sd * rng.standard_normal(bumps.centres.shape)


def bump_field(bumps: Bumps, weights: Float[np.ndarray, "bumps dim"], points: Points) -> Points:
    """Compute ``sum_j weights_j exp(-|p - centre_j|^2 / (2 width_j^2))``, in mm."""
    return _heights(points, bumps.centres, bumps.widths) @ weights


def _heights(
    points: Points, centres: Float[np.ndarray, "bumps dim"], widths: Float[np.ndarray, " bumps"]
) -> Float[np.ndarray, "points bumps"]:
    squared = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    return np.exp(squared / (-2 * widths**2))
