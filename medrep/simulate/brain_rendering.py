"""A brain's parameters -> a T1-weighted volume: distances to surfaces, painted from the outside in."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from medrep.errors import CohortError
from medrep.simulate.brains import Brain, Wave
from medrep.simulate.solids import Field, capsule, ellipsoid, inside, paint

SCALP, MUSCLE, SKULL, MARROW, FLUID = 660.0, 400.0, 70.0, 260.0, 150.0
SULCUS_DEPTH_MM = 17.0


def render_brain(brain: Brain, shape: tuple[int, int, int], spacing: float) -> Float32[np.ndarray, "x y z"]:
    """Render one head as a T1-weighted volume.

    Axes run to the right, to the front and up (RAS); the origin, between the two halves of the brain, is the middle of
    the grid, so that the affine is diag(spacing) with the translation -(shape - 1) / 2 * spacing. The head measures
    about 160 x 195 x 160 mm: 40 x 48 x 40 voxels of 4 mm hold it.

    Args:
        brain: From `draw_brains`.
        shape: Voxels along x, y and z.
        spacing: Edge of a voxel, mm.

    Returns:
        Intensities of about 0 to 1000, never negative.

    Raises:
        CohortError: If the shape or the spacing is not positive.
    """
    if min(shape) < 1 or not spacing > 0:
        raise CohortError(f"cannot render shape {shape} at {spacing} mm; both must be positive")
    edge = spacing / brain.head_scale
    points = _deform(_grid(shape, edge), brain.deformation)
    hull = _hull(points)
    image = _head(points, hull, edge)

    depth = np.maximum(hull, _sulci(points, hull, brain))
    cortex = brain.cortex_mm / brain.head_scale
    white = brain.grey + brain.contrast
    image = paint(image, inside(depth, edge), brain.grey)
    image = paint(image, inside(depth + np.float32(cortex), edge), white)

    sided = [np.abs(points[0]), points[1], points[2]]
    image = _deep_structures(image, points, sided, brain, edge)
    noise = np.random.default_rng(brain.noise_seed).standard_normal(shape, dtype=np.float32)
    # A magnitude image: noise cannot take it below zero.
    magnitude: Field = np.abs(image + np.float32(brain.noise_sd) * noise)
    return magnitude


def _grid(shape: tuple[int, int, int], edge: float) -> list[Field]:
    axes = [(np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)) * np.float32(edge) for size in shape]
    return list(np.meshgrid(*axes, indexing="ij"))


def _angle(points: Sequence[Field], wave: Wave) -> Field:
    kx, ky, kz = np.asarray(wave.vector, np.float32)
    angle: Field = points[0] * kx + points[1] * ky + points[2] * kz + np.float32(wave.phase)
    return angle


def _deform(points: list[Field], waves: Sequence[Wave]) -> list[Field]:
    moved = [axis.copy() for axis in points]
    for wave in waves:
        ripple = np.sin(_angle(points, wave))
        for axis, step in zip(moved, wave.weight, strict=True):
            axis += np.float32(step) * ripple
    return moved


def _hull(points: list[Field]) -> Field:
    """Measure the distance to the smooth hull of the brain, with the fissure between the hemispheres cut in."""
    x, y, z = points
    sided = [np.abs(x), y, z]
    # Narrower at the front than at the back, as seen from above.
    cerebrum = ellipsoid([x * (1 + np.float32(0.0016) * y), y, z], (0, 0, 8), (66, 84, 57))
    cerebrum = np.maximum(cerebrum, -(z + 22 + np.float32(0.12) * y))
    temporal = ellipsoid(sided, (42, 4, -22), (22, 42, 20))
    core = ellipsoid(points, (0, -6, 2), (40, 40, 27))
    fissure = np.minimum(np.float32(1.4) - sided[0], core)
    hemispheres = np.maximum(np.minimum(cerebrum, temporal), fissure)
    cerebellum = ellipsoid(sided, (22, -52, -38), (28, 26, 22))
    brainstem = capsule(points, (0, -18, -16), (0, -26, -95), 11.0)
    hull: Field = np.minimum(hemispheres, np.minimum(cerebellum, brainstem))
    return hull


def _sulci(points: list[Field], hull: Field, brain: Brain) -> Field:
    """Measure the distance to the sulci: sheets on the zero level of the folding waves, down to a depth."""
    level = np.zeros_like(hull)
    slope = [np.zeros_like(hull) for _ in range(3)]
    for wave in brain.folds:
        angle = _angle(points, wave)
        weight = np.float32(wave.weight[0])
        level += weight * np.sin(angle)
        swing = weight * np.cos(angle)
        for axis, k in zip(slope, np.asarray(wave.vector, np.float32), strict=True):
            axis += k * swing
    steepness = np.sqrt(slope[0] ** 2 + slope[1] ** 2 + slope[2] ** 2)
    # |level| / steepness is the distance to the sheet; the floor keeps it finite where the level is flat.
    sheet = np.abs(level) / np.maximum(steepness, np.float32(0.08))
    half_width = np.float32(brain.sulcus_mm / brain.head_scale)
    sulci: Field = np.minimum(half_width - sheet, hull + np.float32(SULCUS_DEPTH_MM))
    return sulci


def _head(points: list[Field], hull: Field, edge: float) -> Field:
    vault = ellipsoid(points, (0, 0, 4), (67, 85, 62))
    neck = capsule(points, (0, -8, -30), (0, -16, -140), 50.0)
    face = ellipsoid(points, (0, 40, -50), (52, 48, 50))
    skin = np.minimum(np.minimum(vault - 12, neck), face)
    cavity = np.minimum(np.maximum(vault, -(points[2] + 16 + np.float32(0.12) * points[1])), hull) - 3
    image = paint(np.zeros_like(hull), inside(skin, edge), SCALP)
    image = paint(image, inside(skin + 9, edge), MUSCLE)
    image = paint(image, inside(np.maximum(cavity - 5, skin + 4), edge), SKULL)
    image = paint(image, inside(np.abs(cavity - np.float32(2.5)) - np.float32(1.0), edge), MARROW)
    return paint(image, inside(cavity, edge), FLUID)


def _deep_structures(image: Field, points: list[Field], sided: list[Field], brain: Brain, edge: float) -> Field:
    deep_grey = brain.grey + 0.35 * brain.contrast
    thalamus = ellipsoid(sided, (10, -14, 4), (9, 14, 8))
    putamen = ellipsoid(sided, (27, 4, 2), (5, 17, 9))
    caudate = capsule(sided, (15, 22, 6), (17, -8, 17), 4.5)
    for nucleus in (thalamus, putamen, caudate):
        image = paint(image, inside(nucleus, edge), deep_grey)
    hippocampus = capsule(sided, (24, -8, -21), (27, -32, -12), 7.5 * brain.hippocampus_scale)
    image = paint(image, inside(hippocampus, edge), brain.grey)

    # The right and the left ventricle differ in width; the step lies in the midplane, where there is no ventricle.
    lean = np.sign(points[0]) * np.float32(0.5 * brain.ventricle_asymmetry)
    width = np.float32(4.2 * brain.ventricle_scale) * np.exp(lean)
    frontal = capsule(sided, (9, 28, 7), (7, 2, 15), 0.0)
    body = capsule(sided, (7, 2, 15), (13, -30, 15), 0.0)
    occipital = capsule(sided, (13, -30, 15), (23, -52, 5), 0.0)
    lateral = np.minimum(np.minimum(frontal, body), occipital) - width
    third = np.maximum(sided[0] - np.float32(1.2 * brain.ventricle_scale), ellipsoid(points, (0, -8, -2), (5, 14, 9)))
    septum = np.float32(0.8) - sided[0]
    image = paint(image, inside(np.maximum(lateral, septum), edge), FLUID)
    return paint(image, inside(third, edge), FLUID)
