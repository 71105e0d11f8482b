"""Whether the images of a cohort are in one unit. MR intensities are arbitrary, and location and scale cannot mend that."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

MOST_FOLD = 4.0
"""Scanners differ by tens of percent; a wider spread between people means different units."""


def mean_level(values: Float[np.ndarray, "..."]) -> float:
    """Return the mean absolute intensity of an image, NaN voxels left out."""
    known = np.abs(values[np.isfinite(values)])
    return float(known.mean(dtype=np.float64)) if len(known) else 0.0


def uneven_brightness(levels: Mapping[str, float]) -> str:
    """Return a warning if people's mean intensities differ more than scanners do, or nothing.

    Args:
        levels: Key -> mean absolute intensity of the person's image, in the file's units.
    """
    values = np.array([level for level in levels.values() if level > 0])
    if len(values) < 2:
        return ""
    low, high = np.quantile(values, [0.05, 0.95])
    if high <= MOST_FOLD * low:
        return ""
    darkest, brightest = (chosen(levels, key=lambda key: levels[key]) for chosen in (min, max))
    return (
        f"the images are not in one unit: mean intensities differ {high / low:.0f}-fold between the darkest and the"
        f" brightest 5 % of people ({darkest}: {levels[darkest]:.3g}, {brightest}: {levels[brightest]:.3g}); bring them to one"
        " unit, or pass --set input.intensity=p99"
    )
