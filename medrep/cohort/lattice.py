"""A lattice of cubic B-splines in two or three dimensions: what templates and displacement fields are made of."""

from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Float, Int

from medrep.cohort.grid import Grid
from medrep.errors import CohortError

_TAPS = np.arange(-1, 3)


@dataclass(frozen=True)
class Lattice:
    """Equidistant nodes of a box; outside of it every field goes on as it is at the border.

    Attributes:
        origin: The first node, mm.
        spacing: Distance of neighbouring nodes along each axis, mm.
        shape: Number of nodes along each axis, at least four.
    """

    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    shape: tuple[int, ...]

    @classmethod
    def around(cls, low: Float[np.ndarray, " dims"], high: Float[np.ndarray, " dims"], spacing: float) -> "Lattice":
        """Return a lattice around a box, with a node to spare on each side.

        Args:
            low: Lower corner, mm.
            high: Upper corner, mm.
            spacing: Distance of neighbouring nodes, mm.
        """
        shape = np.ceil((high - low) / spacing).astype(int) + 4
        origin = (low + high) / 2 - (shape - 1) / 2 * spacing
        return cls(tuple(origin.tolist()), (spacing,) * len(shape), tuple(shape.tolist()))

    @property
    def dims(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return int(np.prod(self.shape))

    def nodes(self) -> Float[np.ndarray, "nodes dims"]:
        """Return where the nodes are, mm, in C order."""
        axes = [
            start + step * np.arange(count)
            for start, step, count in zip(self.origin, self.spacing, self.shape, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, self.dims)

    def weights(
        self, points: Float[np.ndarray, "points dims"]
    ) -> tuple[Int[np.ndarray, "points taps"], Float[np.ndarray, "points taps"]]:
        """Return the nodes whose splines reach each point, and the value of each spline there."""
        place, shift, _ = self._located(points)
        return self._taps(place), _products([_values(shift[:, axis]) for axis in range(self.dims)])

    def slopes(
        self, points: Float[np.ndarray, "points dims"]
    ) -> tuple[Int[np.ndarray, "points taps"], Float[np.ndarray, "points taps"], Float[np.ndarray, "points dims taps"]]:
        """Return what `weights` returns, and the gradient of each spline, 1/mm; zero across the border outside of it."""
        place, shift, inside = self._located(points)
        values = [_values(shift[:, axis]) for axis in range(self.dims)]
        rates = [_rates(shift[:, axis]) * (inside[:, axis] / self.spacing[axis])[:, None] for axis in range(self.dims)]
        gradient = [
            _products([rates[axis] if axis == along else values[axis] for axis in range(self.dims)])
            for along in range(self.dims)
        ]
        return self._taps(place), _products(values), np.stack(gradient, axis=1)

    def _located(self, points: Float[np.ndarray, "points dims"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the node below each point, how far beyond it the point is (in spacings), and whether it is inside."""
        free = (points - np.asarray(self.origin)) / np.asarray(self.spacing)
        last = np.asarray(self.shape) - 2
        held = np.clip(free, 1.0, last)
        place = np.minimum(np.floor(held).astype(np.int64), last - 1)
        return place, held - place, (free >= 1.0) & (free <= last)

    def _taps(self, place: Int[np.ndarray, "points dims"]) -> Int[np.ndarray, "points taps"]:
        strides = np.cumprod((1, *self.shape[:0:-1]))[::-1]
        index = np.zeros((len(place), 1), dtype=np.int64)
        for axis in range(self.dims):
            own = (place[:, axis, None] + _TAPS) * strides[axis]
            index = (index[:, :, None] + own[:, None, :]).reshape(len(place), -1)
        return index


def grid_lattice(grid: Grid) -> Lattice:
    """Return the grid's points as a lattice around the origin, mm; an axis of one voxel is left out.

    Raises:
        CohortError: Fewer than four voxels along an axis, or than two axes.
    """
    axes = [k for k in range(3) if grid.shape[k] > 1]
    shape, spacing = tuple(grid.shape[k] for k in axes), tuple(grid.spacing[k] for k in axes)
    if len(axes) < 2 or min(shape) < 4:
        raise CohortError(f"a grid of {grid.shape} voxels is too small for shapes; give at least 4 along two axes")
    origin = tuple(-(count - 1) / 2 * step for count, step in zip(shape, spacing, strict=True))
    return Lattice(origin, spacing, shape)


def _values(t: Float[np.ndarray, " points"]) -> Float[np.ndarray, "points 4"]:
    return np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6


def _rates(t: Float[np.ndarray, " points"]) -> Float[np.ndarray, "points 4"]:
    return np.stack([-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2], axis=1) / 2


def _products(factors: list[np.ndarray]) -> Float[np.ndarray, "points taps"]:
    return reduce(lambda a, b: (a[:, :, None] * b[:, None, :]).reshape(len(a), -1), factors)
