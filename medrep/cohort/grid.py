"""The columns of a matrix: their names, or the voxel grid on which they lie in space; and when two grids are the same place."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from medrep._persisted import Read, given, persisted, stored

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


def _count(read: Read) -> int:
    return len(read["names"]) if read["grid"] is None else read["grid"].size


@dataclass(frozen=True)
class Columns:
    """What the columns of a matrix, people x columns, are.

    Attributes:
        names: Feature names; empty for voxels.
        count: Number of columns.
        grid: Where the columns lie in space, if they do.
    """

    names: tuple[str, ...]
    count: int = field(metadata=given(_count))
    grid: Grid | None


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
