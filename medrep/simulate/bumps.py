"""Smooth random displacements in any number of dimensions: Gaussian bumps at fixed places with random weights."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medrep.simulate.level_functions import Points

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
