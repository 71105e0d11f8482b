"""Smooth random fields on the cube [-1, 1]^3, and the intensity scale that planted effects are in."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Num

from medrep.errors import CohortError

# Degrees along x, y and z of the Legendre products up to total degree two; the constant is the gain's business.
DEGREES = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 1, 0), (1, 0, 1), (0, 1, 1))
LATTICE = (25, 25, 25)
WAVES = 6


def legendre_field(coefficients: tuple[float, ...], shape: tuple[int, int, int]) -> Float32[np.ndarray, "x y z"]:
    """Evaluate a polynomial of degree two without a constant: sum_k a_k P_i(x) P_j(y) P_l(z).

    The coefficients are one for each of `DEGREES`; the outermost voxel centres lie at -1 and 1.
    """
    if len(coefficients) != len(DEGREES):
        raise CohortError(f"a bias field has {len(DEGREES)} coefficients, but it is given {len(coefficients)}")
    axes = _axes(shape)
    powers = [(np.ones_like(axis), axis, (3 * axis**2 - 1) / 2) for axis in axes]
    field = np.zeros(shape, dtype=np.float32)
    for coefficient, (i, j, k) in zip(coefficients, DEGREES, strict=True):
        field += np.float32(coefficient) * powers[0][i] * powers[1][j] * powers[2][k]
    return field


def draw_legendre(rng: np.random.Generator, sd: float) -> tuple[float, ...]:
    """Draw the coefficients of a field with this standard deviation over the cube; up to 0.14, no value passes -1."""
    # The mean square of P_i P_j P_k over the cube is 1 / ((2i+1) (2j+1) (2k+1)).
    norms = np.sqrt(np.prod(2 * np.array(DEGREES) + 1, axis=1))
    direction = rng.standard_normal(len(DEGREES))
    coefficients: list[float] = (sd * norms * direction / np.linalg.norm(direction)).tolist()
    return tuple(coefficients)


@dataclass(frozen=True)
class WaveField:
    """A sum of slow plane waves, scaled so that the largest value on a lattice of 25^3 points is one.

    The vectors are in radians a unit of the cube, along x, y and z.
    """

    vectors: tuple[tuple[float, float, float], ...]
    phases: tuple[float, ...]
    weights: tuple[float, ...]


def draw_wave_field(rng: np.random.Generator) -> WaveField:
    """Draw a smooth field of waves that are one to four cube edges long; it reaches 1 or -1 somewhere."""
    directions = rng.standard_normal((WAVES, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    vectors = directions * rng.uniform(np.pi / 4, np.pi, (WAVES, 1))
    phases = rng.uniform(0.0, 2 * np.pi, WAVES)
    weights = rng.uniform(0.5, 1.0, WAVES)
    raw = _waves(vectors, phases, weights, LATTICE)
    weights /= np.abs(raw).max()
    triples = tuple((float(x), float(y), float(z)) for x, y, z in vectors)
    return WaveField(triples, tuple(phases.tolist()), tuple(weights.tolist()))


def wave_field(field: WaveField, shape: tuple[int, int, int]) -> Float32[np.ndarray, "x y z"]:
    """Evaluate a field on a grid, within [-1, 1]."""
    values = _waves(np.array(field.vectors), np.array(field.phases), np.array(field.weights), shape)
    return np.clip(values, -1, 1)


def _axes(shape: tuple[int, int, int]) -> list[np.ndarray]:
    centres = [np.linspace(-1, 1, size, dtype=np.float32) if size > 1 else np.zeros(1, np.float32) for size in shape]
    return list(np.meshgrid(*centres, indexing="ij", sparse=True))


def _waves(
    vectors: np.ndarray, phases: np.ndarray, weights: np.ndarray, shape: tuple[int, int, int]
) -> Float32[np.ndarray, "x y z"]:
    x, y, z = _axes(shape)
    values = np.zeros(shape, dtype=np.float32)
    singles = (part.astype(np.float32) for part in (vectors, phases, weights))
    for vector, phase, weight in zip(*singles, strict=True):
        values += weight * np.sin(vector[0] * x + vector[1] * y + vector[2] * z + phase)
    return values


PERCENTILE = 99.0


def intensity_scale(volume: Num[np.ndarray, "x y z"]) -> float:
    """Measure the 99th percentile of the magnitudes of a volume's nonzero voxels, NaN and infinite ones left out.

    Raises CohortError if no voxel is nonzero and finite.
    """
    present = np.abs(volume[np.isfinite(volume) & (volume != 0)])
    if present.size == 0:
        raise CohortError(
            f"a volume of shape {volume.shape} has no nonzero finite voxel, so nothing can be planted in it"
        )
    return float(np.percentile(present, PERCENTILE))
