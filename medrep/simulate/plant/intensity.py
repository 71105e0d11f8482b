"""The scale of a volume in its own unit, so that one planted effect suits any scanner's numbers."""

import numpy as np
from jaxtyping import Num

from medrep.errors import CohortError

PERCENTILE = 99.0


def intensity_scale(volume: Num[np.ndarray, "x y z"]) -> float:
    """Measure the 99th percentile of the magnitudes of a volume's nonzero voxels.

    Args:
        volume: Intensities in any unit; NaN and infinite voxels are left out, and so is the sign.

    Returns:
        The scale, above zero, in the volume's unit.

    Raises:
        CohortError: If no voxel is nonzero and finite.
    """
    present = np.abs(volume[np.isfinite(volume) & (volume != 0)])
    if present.size == 0:
        raise CohortError(
            f"a volume of shape {volume.shape} has no nonzero finite voxel, so nothing can be planted in it"
        )
    return float(np.percentile(present, PERCENTILE))
