"""Organs for the shape benchmark: label maps through the same reader as a user's, and distances between surfaces."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.grid import grid_lattice
from medrep.cohort.inputs import ShapeInput
from medrep.cohort.meshing import mesh_lattice
from medrep.cohort.nifti import LabelMap
from medrep.cohort.shapes import MARGIN, distances_on, second_moments, shape_grid
from medrep.cohort.surfaces import Surface, extract_surface, sample_surface
from medrep.models.shape.mean_shape import LevelFunction

SAMPLES = 20000
CELLS = 96


@dataclass(frozen=True, eq=False)
class Organs:
    """People's organs on one grid.

    Attributes:
        section: The measured ``input`` section.
        masks: One a person, with its own affine.
        surfaces: The same as surfaces, in the coordinates of the grid, mm.
        rows: Signed distances on the grid, mm.
    """

    section: ShapeInput
    masks: list[LabelMap]
    surfaces: list[Surface]
    rows: np.ndarray

    def some(self, people: np.ndarray) -> Organs:
        """Return some people."""
        masks, surfaces = ([one[k] for k in people] for one in (self.masks, self.surfaces))
        return replace(self, masks=masks, surfaces=surfaces, rows=self.rows[people])


def read_organs(masks: list[LabelMap], section: ShapeInput | None = None) -> Organs:
    """Measure masks as `medrep train` does (without alignment).

    Args:
        masks: One a person.
        section: Of another cohort, whose grid is used; measured here if None.
    """
    world = [extract_surface(mask.data > 0, mask.affine) for mask in masks]
    section = section or _measured(world, masks)
    shift = np.eye(4)
    shift[:3, 3] = -np.asarray(section.centre)
    surfaces = [surface.transformed(shift) for surface in world]
    points = grid_lattice(shape_grid(section)).nodes()
    rows = np.stack([distances_on(surface, section, points) for surface in surfaces])
    return Organs(section, masks, surfaces, rows)


def mesh_row(row: np.ndarray, section: ShapeInput, cells: int = CELLS) -> Surface:
    """Return the zero level of a row, in the coordinates of the grid; what runs out of the box ends a voxel before its border."""
    level = LevelFunction.through(grid_lattice(shape_grid(section)), row)
    half = level.lattice.nodes()[-1] - max(section.spacing)
    return mesh_lattice(lambda p: np.maximum(level.values(p), (np.abs(p) - half).max(axis=1)), level.lattice, cells)


def surface_distances(first: Surface, second: Surface, seed: int = 0) -> tuple[float, float]:
    """Return mean symmetric Chamfer distance and HD95, mm, over points drawn by area.

    Chamfer is the mean of the two mean distances; HD95 the larger of the two 95% quantiles.
    """
    a, b = (sample_surface(surface, SAMPLES, seed)[0] for surface in (first, second))
    there, back = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    return float((there.mean() + back.mean()) / 2), float(max(np.quantile(there, 0.95), np.quantile(back, 0.95)))


def dice(row: np.ndarray, mask: LabelMap, section: ShapeInput) -> float:
    """Return the overlap of a level with a mask, in the mask's own voxels."""
    level = LevelFunction.through(grid_lattice(shape_grid(section)), row)
    index = np.indices(mask.data.shape).reshape(3, -1).T
    world = index @ mask.affine[:3, :3].T + mask.affine[:3, 3] - np.asarray(section.centre)
    inside, true = level.values(world) < 0, mask.data.ravel() > 0
    return 2 * float((inside & true).sum()) / float(inside.sum() + true.sum())


def quality(row: np.ndarray, mask: LabelMap, surface: Surface, section: ShapeInput) -> dict[str, float]:
    """Return chamfer and hd95 (mm), dice, and volume_error (share of the true volume) of a level against an organ."""
    made = mesh_row(row, section)
    chamfer, hd95 = surface_distances(surface, made)
    volume = abs(made.volume / surface.volume - 1)
    return {"chamfer": chamfer, "hd95": hd95, "dice": dice(row, mask, section), "volume_error": volume}


def transferred(frame: pd.DataFrame, schema: CovariateSchema) -> pd.DataFrame:
    """Return a covariate table in the form of the schema."""
    return schema.transfer(frame.set_axis(pd.Index([f"p{k}" for k in range(len(frame))]), axis=0))


def _measured(world: list[Surface], masks: list[LabelMap]) -> ShapeInput:
    size = float(np.mean([np.sqrt(np.trace(second_moments(surface))) for surface in world]))
    low = np.min([surface.vertices.min(axis=0) for surface in world], axis=0) - MARGIN * size
    high = np.max([surface.vertices.max(axis=0) for surface in world], axis=0) + MARGIN * size
    edge = float(np.median([np.linalg.norm(mask.affine[:3, :3], axis=0).min() for mask in masks]))
    shape = tuple(int(n) for n in np.ceil((high - low) / edge) + 1)
    centre = tuple(float(x) for x in (low + high) / 2)
    return ShapeInput(suffix="mask", spacing=(edge,) * 3, shape=shape, centre=centre, size=size)
