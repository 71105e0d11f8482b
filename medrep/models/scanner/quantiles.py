"""Intensity quantiles, block by block and overall: what identifies shading and curve without voxels that correspond."""

import numpy as np
from jaxtyping import Float, Float32, Int

LOCAL = np.array([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])
OVERALL = np.array([0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999])
_ENOUGH = 2**18


def quantile_features(
    image: Float32[np.ndarray, "a b c"], labels: Int[np.ndarray, "a b c"], count: int
) -> Float[np.ndarray, " features"]:
    """Return `LOCAL` quantiles of each block, block by block, and `OVERALL` quantiles of the volume.

    Args:
        image: Intensities; of more than 2^18 voxels every n-th is looked at.
        labels: Block of each voxel.
        count: Number of blocks; one without voxels gets the overall quantiles.
    """
    # An odd stride does not fall into step with the usual even side lengths.
    stride = image.size // _ENOUGH + 1 | 1
    values, places = image.ravel()[::stride], labels.ravel()[::stride]
    order = np.argsort(values)
    ranked, blocks = values[order].astype(np.float64), places[order]
    grouped = ranked[np.argsort(blocks, kind="stable")]
    sizes = np.bincount(blocks, minlength=count)
    starts = np.cumsum(sizes) - sizes
    whole = np.zeros(1, int), np.array([len(ranked)])
    local = _interpolated(grouped, starts[:, None], sizes[:, None], LOCAL)
    local[sizes == 0] = _interpolated(ranked, *whole, LOCAL)
    return np.concatenate([local.ravel(), _interpolated(ranked, *whole, OVERALL)])


def feature_levels(count: int) -> Float[np.ndarray, " features"]:
    """Return the level of each feature's quantile."""
    return np.concatenate([np.tile(LOCAL, count), OVERALL])


def _interpolated(ranked: np.ndarray, start: np.ndarray, size: np.ndarray, levels: np.ndarray) -> np.ndarray:
    place = start + levels * np.maximum(size - 1, 0)
    below = np.minimum(np.floor(place).astype(int), len(ranked) - 1)
    part = place - below
    values: np.ndarray = ranked[below] * (1 - part) + ranked[np.minimum(below + 1, len(ranked) - 1)] * part
    return values
