"""Voxel grids, masks of them, lattices of cubic B-splines on them, and columns that are neighbours without a grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from itertools import product
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Shaped, UInt8

from medrep._persisted import Read, given, persisted, stored
from medrep.errors import CohortError

SAME_PLACE = 0.25
"""Two grids are in one place where none of their corners lie further apart than this share of the shortest voxel edge."""

World: TypeAlias = tuple[tuple[float, ...], ...]
"""An affine row by row, voxel index -> world, mm, RAS+."""


def _refuse_no_grid(grid: "Grid") -> None:
    if min(grid.shape) < 1:
        raise ValueError(f"shape {list(grid.shape)} is not three counts of voxels")
    if not all(math.isfinite(edge) and edge > 0 for edge in grid.spacing):
        raise ValueError(f"spacing {list(grid.spacing)} is not three lengths in mm")
    if grid.world is not None:
        rows = [len(row) for row in grid.world]
        if rows != [4] * 4 or not np.isfinite(grid.world).all() or grid.world[3] != (0, 0, 0, 1):
            raise ValueError(f"world {grid.world} is not an affine of 4 x 4 numbers that ends in 0, 0, 0, 1")


@persisted(check=_refuse_no_grid)
@dataclass(frozen=True)
class Grid:
    """Columns in C order of a box of voxels.

    Attributes:
        shape: Voxels along each axis.
        spacing: Voxel edge lengths in millimetres.
        world: Where its voxels lie; None where that is not known (feature tables, shapes, models of before it was kept).
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    world: World | None = field(default=None, metadata=stored(omitted=lambda grid: grid.world is None))

    @property
    def size(self) -> int:
        """Number of voxels, and so of columns."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def affine(self, centre: Sequence[float] | None = None) -> Float[np.ndarray, "4 4"]:
        """Return an affine, voxel index -> world, mm, RAS+.

        Args:
            centre: Point of the world in which the middle of the grid lies; None: where the grid lies, or around the origin
                where that is not known.
        """
        if centre is None and self.world is not None:
            return np.array(self.world)
        middle = np.zeros(3) if centre is None else np.asarray(centre)
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = middle - (np.asarray(self.shape) - 1) / 2 * np.asarray(self.spacing)
        return affine


@dataclass(frozen=True, eq=False)
class Mask:
    """Voxels of a grid that are columns; the others are background, of everybody or of most.

    Attributes:
        background: The value that stands for nothing in the images, found on whole grids; None where there is none.
        bits: A bit a voxel in C order, packed.
    """

    background: float | None
    bits: UInt8[np.ndarray, " bytes"]

    @classmethod
    def of(cls, inside: Bool[np.ndarray, "..."], background: float | None = None) -> "Mask":
        """Pack what is inside."""
        return cls(background, np.packbits(np.ravel(inside)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and np.array_equal(self.bits, other.bits) and self.background == other.background

    def __hash__(self) -> int:
        return hash(self.bits.tobytes())

    @cached_property
    def places(self) -> Int[np.ndarray, " inside"]:
        """Positions of the voxels inside, in C order of the grid."""
        return np.flatnonzero(np.unpackbits(self.bits))


@dataclass(frozen=True, eq=False)
class Mesh:
    """Columns that are neighbours, such as vertices that share an edge.

    Attributes:
        edges: Positions of two columns, the lower one first.
    """

    edges: Int32[np.ndarray, "edges 2"]


def _count(read: Read) -> int:
    if read["mask"] is not None:
        return len(read["mask"].places)
    return len(read["names"]) if read["grid"] is None else read["grid"].size * max(1, len(read["structures"]))


def _refuse_other_mask(columns: "Columns") -> None:
    edges = np.zeros((0, 2), np.int32) if columns.mesh is None else columns.mesh.edges
    if edges.min(initial=0) < 0 or edges.max(initial=-1) >= columns.count:
        raise ValueError("the mesh has edges of columns that are not there")
    if columns.mask is None:
        return
    if columns.grid is None or len(columns.mask.bits) != -(-columns.grid.size // 8) or not columns.count:
        raise ValueError("the mask is of no voxel of the grid, or of another one")
    if columns.mask.places[-1] >= columns.grid.size:
        raise ValueError("the mask has voxels beyond the grid")


@persisted(check=_refuse_other_mask)
@dataclass(frozen=True)
class Columns:
    """Names, count and grid of the columns of a matrix, participants x columns.

    Attributes:
        names: Feature names; empty for voxels.
        count: Number of columns.
        grid: Where the columns lie in space, if they do.
        mask: Which voxels of the grid are columns; None: all.
        mesh: Which columns are neighbours, where they have no grid and it is known. Columns of other neighbours are the same.
        structures: Names of structures that each have the whole grid, one after another; empty: what has one is not named.
    """

    names: tuple[str, ...]
    count: int = field(metadata=given(_count))
    grid: Grid | None
    mask: Mask | None = field(default=None, metadata=stored(omitted=lambda columns: columns.mask is None))
    mesh: Mesh | None = field(
        default=None, compare=False, metadata=stored(omitted=lambda columns: columns.mesh is None)
    )
    structures: tuple[str, ...] = field(default=(), metadata=stored(omitted=lambda columns: not columns.structures))

    @classmethod
    def of_grid(cls, grid: Grid, mask: Mask | None = None, structures: Sequence[str] = ()) -> "Columns":
        """Return the voxels of a grid, or those inside a mask, or the whole grid for each of some structures."""
        count = grid.size * max(1, len(structures)) if mask is None else len(mask.places)
        return cls((), count, grid, mask, structures=tuple(structures))

    @cached_property
    def reach(self) -> tuple[slice, slice, slice]:
        """The smallest box of voxels that holds all columns.

        Raises:
            ValueError: Columns that lie nowhere.
        """
        if self.grid is None:
            raise ValueError("the columns have no grid")
        if self.mask is None:
            x, y, z = (slice(0, length) for length in self.grid.shape)
        else:
            along = np.unravel_index(self.mask.places, self.grid.shape)
            x, y, z = (slice(int(axis.min()), int(axis.max()) + 1) for axis in along)
        return x, y, z

    def inside(self, box: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, " columns"]:
        """Return the columns of a volume on the grid."""
        return np.ravel(box) if self.mask is None else np.ravel(box)[self.mask.places]

    def box(self, row: Float[np.ndarray, " columns"], outside: float = 0.0) -> Float[np.ndarray, "x y z"]:
        """Return a row as a volume on the grid.

        Args:
            row: Of values in these columns.
            outside: Value of voxels outside the mask.

        Raises:
            ValueError: Columns that lie nowhere.
        """
        if self.grid is None:
            raise ValueError("the columns have no grid")
        if self.mask is None:
            return row.reshape(self.grid.shape)
        whole = np.full(self.grid.size, outside, row.dtype)
        whole[self.mask.places] = row
        return whole.reshape(self.grid.shape)


def world_rows(affine: Float[np.ndarray, "4 4"]) -> World:
    """Return an affine as the rows that a `Grid` holds."""
    return tuple(tuple(float(number) for number in row) for row in affine)


def corner_distance(one: Float[np.ndarray, "4 4"], other: Float[np.ndarray, "4 4"], shape: Sequence[int]) -> float:
    """Return the largest distance, mm, between where two affines put a corner of a box of voxels.

    Between the corners no voxel lies further apart: the difference of two affine maps is affine.
    """
    corners = np.array(list(product(*[(0, length - 1) for length in shape], [1])), dtype=float)
    return float(np.linalg.norm(corners @ (one - other)[:3].T, axis=1).max())


def grid_problem(own: Grid, common: Grid) -> str:
    """Return what sets a volume's grid apart from the common one, or nothing."""
    if own.shape != common.shape:
        return f"grid {own.shape} differs from {common.shape}; set input.shape to cut or pad to one grid"
    return spacing_problem(own, common) or _place_problem(own, common)


def spacing_problem(own: Grid, common: Grid) -> str:
    """Return how voxels differ in size, or nothing."""
    if np.allclose(own.spacing, common.spacing, rtol=0.01):
        return ""
    edges, wanted = (tuple(round(edge, 3) for edge in grid.spacing) for grid in (own, common))
    return f"voxels of {edges} mm differ from {wanted} mm; set input.spacing to resample"


def _place_problem(own: Grid, common: Grid) -> str:
    """Return how a grid of the common shape and spacing lies elsewhere in the world; nothing where that is not known of both."""
    if own.world is None or common.world is None or own.world == common.world:
        return ""
    here, there = np.array(own.world), np.array(common.world)
    far = corner_distance(here, there, common.shape)
    if far <= SAME_PLACE * min(common.spacing):
        return ""
    middle = np.array([*((length - 1) / 2 for length in common.shape), 1.0])
    off = float(np.linalg.norm((here @ middle - there @ middle)[:3]))
    turned = here[:3, :3] / own.spacing @ np.linalg.inv(there[:3, :3] / common.spacing)
    angle = float(np.degrees(np.arccos(np.clip((np.trace(turned) - 1) / 2, -1, 1))))
    how = f"its middle {off:.3g} mm away, its axes turned by {angle:.3g} degrees"
    return (
        f"lies apart from the common grid by up to {far:.3g} mm in the world ({how}); set input.spacing to resample all images"
        " onto one grid of the world, or register them first"
    )


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
