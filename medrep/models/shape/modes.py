"""Smooth fields: what a displacement can look like before anybody was seen.

A field is a cubic spline on a coarse lattice around the organ. Its coefficients at nodes x, y have, a priori, the covariance

    k(x, y) = sum_j sd_j^2 exp(-|x - y|^2 / (2 length_j^2)),

a sum over a few scales, from shifts of the whole organ to its details. The leading eigenvectors of k, scaled to unit prior
variance, are the modes: a field is a sum of modes times coefficients a ~ N(0, I). Lengths and deviations are shares of the
organ's size, so that the same settings serve a hippocampus and a heart.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import eigh
from scipy.sparse import csr_array

from medrep._persisted import stored
from medrep.cohort.lattice import Lattice

SCALES = ((0.15, np.inf), (0.08, 2.0), (0.055, 1.0), (0.04, 0.5), (0.03, 0.28))
"""Deviation and length of each scale, as shares of the organ's size."""
SPACING = 0.3
"""Distance of lattice nodes, as a share of the organ's size."""
REACH = 1.0
"""Nodes farther than this from the template's surface carry nothing; a share of the organ's size."""
_TILE = 1024  # points at a time, so that all about them stays in cache


@dataclass(frozen=True, eq=False)
class SmoothModes:
    """Modes of smooth fields.

    Attributes:
        lattice: Where the splines sit.
        nodes: Which nodes carry something.
        shapes: Value of each mode at each of these nodes, mm.
    """

    lattice: Lattice = field(metadata=stored(""))
    nodes: Int[np.ndarray, " nodes"]
    shapes: Float[np.ndarray, "nodes modes"]

    @classmethod
    def around(
        cls,
        low: Float[np.ndarray, " dims"],
        high: Float[np.ndarray, " dims"],
        distance: Callable[[np.ndarray], np.ndarray],
        size: float,
        count: int,
    ) -> "SmoothModes":
        """Make modes around an organ.

        Args:
            low: Lower corner of the box in which people lie, mm.
            high: Upper corner, mm.
            distance: Distance of points to the template's surface, mm, either sign.
            size: The organ's size, mm: root mean square distance of its surface from its centre.
            count: Modes at most.
        """
        lattice = Lattice.around(low, high, SPACING * size)
        places = lattice.nodes()
        nodes = np.flatnonzero(np.abs(distance(np.clip(places, low, high))) < REACH * size)
        squared = ((places[nodes][:, None] - places[nodes][None]) ** 2).sum(axis=2)
        kernel = np.zeros_like(squared)
        for sd, length in SCALES:
            kernel += (sd * size) ** 2 * np.exp(-squared / (2 * (length * size) ** 2))
        count = min(count, len(nodes))
        values, vectors = eigh(kernel, subset_by_index=[len(nodes) - count, len(nodes) - 1])
        present = values > 1e-9 * values[-1]
        shapes = (vectors * np.sqrt(np.maximum(values, 0)))[:, present][:, ::-1]
        # An eigenvector's sign is arbitrary: its largest entry is made positive, so that a refit gives the same latents.
        # The first of entries that are as large but for rounding: symmetric modes have several.
        sizes = np.abs(shapes)
        strongest = (sizes >= (1 - 1e-6) * sizes.max(axis=0)).argmax(axis=0)
        signs = np.sign(shapes[strongest, np.arange(shapes.shape[1])])
        return cls(lattice, nodes, np.ascontiguousarray(shapes * signs))

    @property
    def count(self) -> int:
        """Number of modes."""
        return self.shapes.shape[1]

    def at(self, points: Float[np.ndarray, "points dims"]) -> Float[np.ndarray, "points modes"]:
        """Return the value of each mode at points, mm."""
        return self._values(points, self.shapes)

    def field(
        self, points: Float[np.ndarray, "points dims"], coefficients: Float[np.ndarray, "modes outputs"]
    ) -> Float[np.ndarray, "points outputs"]:
        """Return a field, a sum of modes, at points, mm."""
        return self._values(points, self.shapes @ coefficients)

    def field_slopes(
        self, points: Float[np.ndarray, "points dims"], coefficients: Float[np.ndarray, "modes outputs"]
    ) -> tuple[Float[np.ndarray, "points outputs"], Float[np.ndarray, "points outputs dims"]]:
        """Return a field, mm, and its derivative by position (no unit)."""
        control = self.shapes @ coefficients
        found = np.empty((len(points), control.shape[1]))
        slopes = np.empty((*found.shape, self.lattice.dims))
        for start in range(0, len(points), _TILE):
            tile = slice(start, start + _TILE)
            index, weight, gradient = self.lattice.slopes(points[tile])
            splines = self._splines(index)
            found[tile] = splines(weight) @ control
            for axis in range(self.lattice.dims):
                slopes[tile, :, axis] = splines(gradient[:, axis]) @ control
        return found, slopes

    def _values(
        self, points: Float[np.ndarray, "points dims"], control: Float[np.ndarray, "nodes outputs"]
    ) -> Float[np.ndarray, "points outputs"]:
        found = np.empty((len(points), control.shape[1]))
        for start in range(0, len(points), _TILE):
            tile = slice(start, start + _TILE)
            index, weight = self.lattice.weights(points[tile])
            found[tile] = self._splines(index)(weight) @ control
        return found

    @cached_property
    def _place(self) -> Int[np.ndarray, " lattice"]:
        """Where each node of the lattice is among those that carry something; -1 where it carries nothing."""
        place = np.full(self.lattice.size, -1)
        place[self.nodes] = np.arange(len(self.nodes))
        return place

    def _splines(self, index: Int[np.ndarray, "points taps"]) -> Callable[[np.ndarray], csr_array]:
        """Return what makes a sparse matrix, points x nodes, of weights of these taps."""
        own = self._place[index].ravel()
        kept = np.flatnonzero(own >= 0)
        own = own[kept]
        starts = np.searchsorted(kept, np.arange(len(index) + 1) * index.shape[1])
        return lambda weight: csr_array((weight.ravel()[kept], own, starts), shape=(len(index), len(self.nodes)))
