"""Signed distances to simple solids (mm, negative inside), and the soft edge that stands for partial volume."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32
from scipy.special import expit

Field = Float32[np.ndarray, "x y z"]
Points = Sequence[Field]
Triple = tuple[float | int, float | int, float | int]


def ellipsoid(points: Points, centre: Triple, semi_axes: Triple) -> Field:
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


def capsule(points: Points, start: Triple, end: Triple, radius: float) -> Field:
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
