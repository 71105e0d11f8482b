"""A level function on a lattice: the template's, or a person's own signed distance; mm, negative inside."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.ndimage import spline_filter

from medrep._persisted import given, persisted, stored
from medrep.cohort.lattice import Lattice, grid_lattice

_TILE = 16384


@persisted(sizes={"nodes": lambda read: grid_lattice(read["columns"].grid).size})
@dataclass(frozen=True, eq=False)
class LevelFunction:
    """A cubic spline through values on a lattice.

    Attributes:
        lattice: The lattice.
        coefficients: One a node.
    """

    lattice: Lattice = field(metadata=given(lambda read: grid_lattice(read["columns"].grid)))
    coefficients: Float[np.ndarray, " nodes"] = field(metadata=stored(""))

    @classmethod
    def through(cls, lattice: Lattice, values: Float[np.ndarray, " nodes"]) -> "LevelFunction":
        """Return the spline that takes the values, mm, at the inner nodes."""
        filtered = spline_filter(np.asarray(values, np.float64).reshape(lattice.shape), order=3, mode="mirror")
        return cls(lattice, filtered.ravel())

    def values(self, points: Float[np.ndarray, "points dims"]) -> Float[np.ndarray, " points"]:
        """Return the level at points, mm."""
        out = np.empty(len(points))
        for start in range(0, len(points), _TILE):
            index, weight = self.lattice.weights(points[start : start + _TILE])
            out[start : start + _TILE] = np.einsum("pt,pt->p", weight, self.coefficients[index])
        return out

    def slopes(
        self, points: Float[np.ndarray, "points dims"]
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "points dims"]]:
        """Return level, mm, and gradient at points."""
        index, weight, gradient = self.lattice.slopes(points)
        coefficients = self.coefficients[index]
        return np.einsum("pt,pt->p", weight, coefficients), np.einsum("pdt,pt->pd", gradient, coefficients)

    def onto_surface(self, points: Float[np.ndarray, "points dims"]) -> Float[np.ndarray, "points dims"]:
        """Move points near the zero level onto it, along the gradient, mm."""
        for _ in range(3):
            level, slope = self.slopes(points)
            points = points - (level / np.maximum((slope**2).sum(axis=1), 0.25))[:, None] * slope
        return points
