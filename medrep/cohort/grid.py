"""The columns of a matrix: their names, or the voxel grid on which they lie in space; and when two grids are the same place."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

SAME_PLACE = 0.25
"""Two grids are in one place where none of their corners lie further apart than this share of the shortest voxel edge."""

World: TypeAlias = tuple[tuple[float, ...], ...]
"""An affine row by row, voxel index -> world, mm, RAS+."""


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
    world: World | None = None

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

    def to_json(self) -> dict[str, Any]:
        """Return the grid as JSON content; `from_json` is its inverse."""
        content: dict[str, Any] = {"shape": list(self.shape), "spacing": list(self.spacing)}
        return content if self.world is None else {**content, "world": [list(row) for row in self.world]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Grid":
        """Rebuild a grid from the content of `to_json`.

        Raises:
            ValueError: Counts or lengths that are none.
        """
        x, y, z = (int(length) for length in content["shape"])
        a, b, c = (float(edge) for edge in content["spacing"])
        if [x, y, z] != list(content["shape"]) or min(x, y, z) < 1:
            raise ValueError(f"shape {content['shape']} is not three counts of voxels")
        if not all(math.isfinite(edge) and edge > 0 for edge in (a, b, c)):
            raise ValueError(f"spacing {content['spacing']} is not three lengths in mm")
        return cls((x, y, z), (a, b, c), _world(content.get("world")))


@dataclass(frozen=True)
class Columns:
    """What the columns of a matrix, people x columns, are.

    Attributes:
        names: Feature names; empty for voxels.
        count: Number of columns.
        grid: Where the columns lie in space, if they do.
    """

    names: tuple[str, ...]
    count: int
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


def _world(rows: Any) -> World | None:
    if rows is None:
        return None
    affine = np.array(rows, dtype=float)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or affine[3].tolist() != [0, 0, 0, 1]:
        raise ValueError(f"world {rows} is not an affine of 4 x 4 numbers that ends in 0, 0, 0, 1")
    return world_rows(affine)
