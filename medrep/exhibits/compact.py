"""Images in few bytes: on fewer voxels, as grey values, and changes as whole numbers of a step."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def resized(image: Float[np.ndarray, "x y z"], shape: Sequence[int]) -> Float[np.ndarray, "a b c"]:
    """Return an image on fewer voxels of the same box, smoothed first, so that nothing is missed between them."""
    if tuple(shape) == image.shape:
        return image.astype(np.float32)
    from scipy.ndimage import gaussian_filter, zoom  # half a second, which tables do not need

    factors = np.array(image.shape) / np.array(shape)
    smooth = gaussian_filter(image.astype(np.float32), np.maximum(0, (factors - 1) / 2))
    fewer = zoom(smooth, 1 / factors, order=1, mode="nearest", grid_mode=True)
    return np.asarray(np.clip(fewer, smooth.min(), smooth.max()), np.float32)


def as_bytes(image: Float[np.ndarray, "..."], low: float, high: float) -> np.ndarray:
    """Return grey values 0 to 255 for intensities from low to high."""
    return np.clip((image - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)


def stepped(changes: Float[np.ndarray, "..."], levels: int = 127) -> float:
    """Return the step in which changes fit into whole numbers from -levels to levels."""
    return max(float(np.abs(changes).max(initial=0.0)) / levels, 1e-12)
