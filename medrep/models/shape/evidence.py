"""What is seen of a person: points of the surface, and signed distances at some points of the grid around it.

Where a field squeezes or stretches space, the template's level is no distance any more, except where it is zero: what is near the
surface counts most. Points off it say on which side they are and how far, which a template needs that is still far away.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from medrep.models.shape.template import LevelFunction

BAND = 0.25
"""Distances are looked at, and clipped, up to this share of the organ's size."""
TRUST = 0.08
"""At this distance from the surface (a share of the organ's size) a point of the band counts half."""
PATCH = 0.08
"""Errors of neighbouring points are alike over this length, a share of the organ's size: a patch of surface counts once."""
FAR = 0.4
"""Points beyond the band, as a share of those on the surface: they keep the template from surfaces that nobody has."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Some points and the person's signed distance there.

    Attributes:
        points: mm.
        distances: Signed distance, mm, clipped to the band.
        weights: How much each point counts; their sum is the number of patches of surface.
        band: Where distances are clipped, mm.
    """

    points: Float[np.ndarray, "points dims"]
    distances: Float[np.ndarray, " points"]
    weights: Float[np.ndarray, " points"]
    band: float

    @classmethod
    def of(
        cls,
        own: LevelFunction,
        row: Float[np.ndarray, " nodes"],
        size: float,
        count: int,
        rng: np.random.Generator,
    ) -> "Evidence":
        """Draw points on and around a person's surface.

        Args:
            own: The spline through the person's signed distance, mm.
            row: The distance at the spline's nodes, mm.
            size: The organ's size, mm.
            count: Points on the surface at most, and around it.
            rng: Of the draw.
        """
        band, lattice = BAND * size, own.lattice
        distance, nodes = np.abs(np.asarray(row, np.float64)), lattice.nodes()
        close, near = distance < max(lattice.spacing), distance < band
        cell = float(np.prod(lattice.spacing))
        patches = np.count_nonzero(near) * cell / (2 * band) / (PATCH * size) ** (lattice.dims - 1)
        around, far = _some(near, count, rng), _some(~near, int(FAR * count), rng)
        surface = own.onto_surface(nodes[_some(close, count, rng)])
        off = np.concatenate([around, far])
        clipped = np.clip(np.asarray(row, np.float64)[off], -band, band)
        less = 1 / (1 + (clipped[: len(around)] / (TRUST * size)) ** 2)
        # Far points say nothing while the template stays away from them, and all the more where it does not.
        trust = np.concatenate([np.ones(len(surface)), less, np.ones(len(far))])
        return cls(
            np.concatenate([surface, nodes[off]]),
            np.concatenate([np.zeros(len(surface)), clipped]),
            trust * (patches / trust.sum()),
            band,
        )


def _some(where: Bool[np.ndarray, " nodes"], count: int, rng: np.random.Generator) -> Int[np.ndarray, " some"]:
    found = np.flatnonzero(where)
    return np.sort(rng.choice(found, min(count, len(found)), replace=False))
