"""Simulated brains: anatomy in a few numbers, rendered as T1-weighted volumes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32

from medrep.errors import CohortError
from medrep.simulate.geometry import Field, capsule, ellipsoid, inside, paint
from medrep.simulate.participants import age_curve, require_columns, stream


@dataclass(frozen=True)
class BrainEffects:
    """How age, sex and diagnosis change the anatomy.

    An age effect is a pair (linear, quadratic) of ``linear * t + quadratic * max(0, t)^2`` with t = (age - 50) / 10:
    fractions of width (ventricles, hippocampus), mm (cortex, half-width of sulci) or intensity (white minus grey matter). The
    others are ratios.
    """

    ventricle_age: tuple[float, float] = (0.06, 0.06)
    cortex_age: tuple[float, float] = (-0.10, -0.03)
    sulcus_age: tuple[float, float] = (0.06, 0.05)
    contrast_age: tuple[float, float] = (-12.0, -3.0)
    hippocampus_age: tuple[float, float] = (-0.02, -0.01)
    head_male: float = 1.05
    hippocampus_patient: float = 0.7


BRAIN_EFFECTS = BrainEffects()


@dataclass(frozen=True)
class _Wave:
    """A plane wave through the head, ``sin(vector . p + phase)``, with its amplitude (1 number) or a displacement in mm (3)."""

    vector: tuple[float, float, float]
    phase: float
    weight: tuple[float, ...]


@dataclass(frozen=True)
class Brain:
    """One person's anatomy, enough to render it on any grid; scales are over the template's.

    `ventricle_asymmetry` is the log ratio of the right to the left ventricle's width, `contrast` white minus grey matter. The
    deformation displaces the template, mm; the zero level of the folds is the pattern of sulci.
    """

    participant_id: str
    head_scale: float
    cortex_mm: float
    sulcus_mm: float
    ventricle_scale: float
    ventricle_asymmetry: float
    hippocampus_scale: float
    grey: float
    contrast: float
    deformation: tuple[_Wave, ...]
    folds: tuple[_Wave, ...]
    noise_sd: float
    noise_seed: int


def draw_brains(participants: pd.DataFrame, *, seed: int) -> tuple[Brain, ...]:
    """Draw everybody's anatomy from participant_id, age (years), sex and diagnosis, one brain a row.

    What is the person's own is drawn from the id and the seed alone, and the covariates act on top: the same person at
    another age keeps the folds, the deformation and the noise, which gives true counterfactuals. Site plays no part;
    plant it with `apply_site_effect`. Raises CovariateError if a column, a value or a level is not usable.
    """
    require_columns(participants, ["participant_id", "age", "sex", "diagnosis"])
    rng = stream(seed, "brains", "folds")
    pattern = tuple(
        _Wave(_vector(rng, 24.0, 38.0), float(rng.uniform(0.0, 2 * np.pi)), (float(rng.uniform(0.7, 1.3)),))
        for _ in range(9)
    )
    rows = zip(
        participants["participant_id"].astype(str),
        participants["age"].astype(float),
        participants["sex"].astype(str),
        participants["diagnosis"].astype(str),
        strict=True,
    )
    return tuple(_draw_brain(*row, pattern, seed) for row in rows)


def _draw_brain(person: str, age: float, sex: str, diagnosis: str, pattern: tuple[_Wave, ...], seed: int) -> Brain:
    effects = BRAIN_EFFECTS
    rng = stream(seed, "brains", person)
    own = rng.standard_normal(7)
    folds = tuple(_Wave(wave.vector, wave.phase + float(rng.normal(0.0, 0.6)), wave.weight) for wave in pattern)
    deformation = tuple(
        _Wave(_vector(rng, 55.0, 110.0), float(rng.uniform(0.0, 2 * np.pi)), _triple(rng.normal(0.0, 1.0, 3)))
        for _ in range(4)
    )
    hippocampus = (1.0 + age_curve(age, *effects.hippocampus_age)) * np.exp(0.05 * own[4])
    return Brain(
        participant_id=person,
        # The template stands between the sexes: each is half the ratio away from it.
        head_scale=float(effects.head_male ** (0.5 if sex == "M" else -0.5) * np.exp(0.02 * own[0])),
        cortex_mm=float(3.4 + 0.12 * own[1] + age_curve(age, *effects.cortex_age)),
        sulcus_mm=float(max(0.2, 0.75 + 0.06 * own[2] + age_curve(age, *effects.sulcus_age))),
        ventricle_scale=float((1.0 + age_curve(age, *effects.ventricle_age)) * np.exp(0.10 * own[3])),
        ventricle_asymmetry=float(0.08 * own[5]),
        hippocampus_scale=float(hippocampus * (effects.hippocampus_patient if diagnosis == "patient" else 1.0)),
        grey=540.0,
        contrast=float(240.0 + 8.0 * own[6] + age_curve(age, *effects.contrast_age)),
        deformation=deformation,
        folds=folds,
        noise_sd=12.0,
        noise_seed=int(rng.integers(2**32)),
    )


def _vector(rng: np.random.Generator, shortest: float, longest: float) -> tuple[float, float, float]:
    direction = rng.standard_normal(3)
    return _triple(2 * np.pi / rng.uniform(shortest, longest) * direction / np.linalg.norm(direction))


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z


def brain_truth(brains: Sequence[Brain]) -> dict[str, Any]:
    """Describe for JSON what the covariates do to the brains, and what each person's brain came to."""
    scalars = ("head_scale", "cortex_mm", "sulcus_mm", "ventricle_scale", "hippocampus_scale", "grey", "contrast")
    return {
        "age": {
            "curve": "linear * t + quadratic * max(0, t)^2, t = (age - 50) / 10",
            **{
                name.removesuffix("_age"): {"linear": value[0], "quadratic": value[1]}
                for name, value in asdict(BRAIN_EFFECTS).items()
                if name.endswith("_age")
            },
            "unit": {
                "ventricle": "fraction of width",
                "cortex": "mm",
                "sulcus": "mm",
                "contrast": "intensity",
                "hippocampus": "fraction of width",
            },
        },
        "sex": {"reference": "F", "M": {"head": BRAIN_EFFECTS.head_male, "unit": "ratio of length"}},
        "diagnosis": {
            "reference": "control",
            "patient": {"hippocampus": BRAIN_EFFECTS.hippocampus_patient, "unit": "ratio of width"},
        },
        "participants": {brain.participant_id: {name: getattr(brain, name) for name in scalars} for brain in brains},
    }


SCALP, MUSCLE, SKULL, MARROW, FLUID = 660.0, 400.0, 70.0, 260.0, 150.0
SULCUS_DEPTH_MM = 17.0


def render_brain(brain: Brain, shape: tuple[int, int, int], spacing: float) -> Float32[np.ndarray, "x y z"]:
    """Render one head as a T1-weighted volume, with intensities of about 0 to 1000, never negative; `spacing` in mm.

    Axes run to the right, to the front and up (RAS); the origin, between the two halves of the brain, is the middle of
    the grid, so that the affine is diag(spacing) with the translation -(shape - 1) / 2 * spacing. The head measures
    about 160 x 195 x 160 mm: 40 x 48 x 40 voxels of 4 mm hold it.
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
    return np.abs(image + np.float32(brain.noise_sd) * noise)


def _grid(shape: tuple[int, int, int], edge: float) -> list[Field]:
    axes = [(np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)) * np.float32(edge) for size in shape]
    return list(np.meshgrid(*axes, indexing="ij"))


def _angle(points: Sequence[Field], wave: _Wave) -> Field:
    kx, ky, kz = np.asarray(wave.vector, np.float32)
    return points[0] * kx + points[1] * ky + points[2] * kz + np.float32(wave.phase)


def _deform(points: list[Field], waves: Sequence[_Wave]) -> list[Field]:
    transformed = [axis.copy() for axis in points]
    for wave in waves:
        ripple = np.sin(_angle(points, wave))
        for axis, step in zip(transformed, wave.weight, strict=True):
            axis += np.float32(step) * ripple
    return transformed


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
    return np.minimum(hemispheres, np.minimum(cerebellum, brainstem))


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
    return np.minimum(half_width - sheet, hull + np.float32(SULCUS_DEPTH_MM))


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
