"""Moved organs, a person at a time: a label map in the input's own grid, and a mesh in world millimetres."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int32
from scipy.ndimage import distance_transform_edt

from medrep.atomic import write_json
from medrep.cohort.inputs import Input
from medrep.cohort.lattice import grid_lattice
from medrep.cohort.meshing import mesh_lattice
from medrep.cohort.nifti import LabelMap, write_label_map
from medrep.cohort.shapes import PlacedShape, load_shapes, shape_grid
from medrep.cohort.surfaces import Surface
from medrep.errors import CohortError, ModelError
from medrep.export.derivative import Failure, MeshFormat, Removal, write_latents
from medrep.export.meshes import mesh_beside, write_mesh
from medrep.export.mover import Mover
from medrep.export.volumes import described_name, sidecar
from medrep.models import Adaptation, AdditiveShape, Model
from medrep.models.shape.template import LevelFunction

_MESH_CELLS = 128


def export_shapes(
    folder: Path,
    root: Path,
    mover: Mover,
    files: pd.Series,
    frame: pd.DataFrame,
    wanted: Input,
    done: Removal,
    ids: pd.DataFrame,
    *,
    mesh: MeshFormat = "gifti",
    advance: Callable[[int], None] = lambda people: None,
) -> list[Failure]:
    """Write a label map, a mesh and a sidecar a person, latents.tsv, and latents_sd.tsv where the model knows it.

    Args:
        folder: Where to; the cohort's own layout is kept below it.
        root: The cohort's folder.
        mover: The model and what to do with it.
        files: Index: key; values: paths of label maps.
        frame: Covariates, index: key.
        wanted: The measured ``input`` section of training.
        done: For the sidecars; says how the files are named.
        ids: Key columns of the people, index: key.
        mesh: What meshes are written as.
        advance: Called with the number of people done.

    Returns:
        The people who could not be delivered.
    """
    grid = shape_grid(wanted)
    if mover.model.columns.grid != grid:
        raise ModelError("the model was not trained on shapes of this grid; set input.kind as in training")
    lattice, centre = grid_lattice(grid), np.asarray(wanted.centre)
    failures: list[Failure] = []
    latents: dict[str, np.ndarray] = {}
    spread: dict[str, np.ndarray] = {}
    for loaded in load_shapes(files, wanted):
        relative = loaded.path.relative_to(root).as_posix()
        try:
            if loaded.placed is None:
                raise CohortError(loaded.error)
            row, z, sd = _moved(mover, loaded.placed, frame.loc[[loaded.key]])
            level = LevelFunction.through(lattice, row)
            labels = _relabelled(loaded.placed, row, level, centre)
            surface = _meshed(level, loaded.placed, centre)
        except (CohortError, ModelError) as error:
            failures.append(Failure(loaded.key, relative, "read" if loaded.placed is None else "move", str(error)))
            advance(1)
            continue
        place = folder / described_name(relative, done.desc)
        write_label_map(place, LabelMap(labels, loaded.placed.labels.affine))
        write_mesh(mesh_beside(place, mesh), surface)
        write_json(sidecar(place), {**done.to_json(), **_facts(loaded.placed, labels, surface), "Sources": [relative]})
        latents[loaded.key], spread[loaded.key] = z, sd
        advance(1)
    for name, values in (("latents.tsv", latents), ("latents_sd.tsv", spread)):
        if values and all(len(row) for row in values.values()):
            write_latents(folder / name, ids.loc[list(values)], np.stack(list(values.values())))
    return failures


def adapt_shapes(
    model: Model,
    files: pd.Series,
    frame: pd.DataFrame,
    wanted: Input,
    advance: Callable[[int], None] = lambda people: None,
) -> tuple[Model, tuple[Adaptation, ...]]:
    """Estimate unseen batch levels from the organs of the people who have them; unusable files are left to the export."""

    def people() -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
        for loaded in load_shapes(files, wanted):
            if loaded.placed is not None:
                yield loaded.placed.row[None], frame.loc[[loaded.key]]
            advance(1)

    return model.adapt(people())


def _moved(mover: Mover, placed: PlacedShape, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the moved level on the grid, the latents, and how well each is known (empty where the model does not say)."""
    row = placed.row[None]
    if not isinstance(mover.model, AdditiveShape):
        return mover.move(row, frame)[0], mover.encode(row, frame)[0], np.zeros(0)
    there = mover.model.schema.moved(frame, mover.target)
    person = mover.model.person(placed.row, frame)
    nodes = mover.model.population.template.lattice.nodes()
    return placed.row + person.change(nodes, mover.model.mean(there)), *mover.model.latents(person)


def _relabelled(
    placed: PlacedShape,
    row: Float[np.ndarray, " points"],
    level: LevelFunction,
    centre: Float[np.ndarray, "3"],
) -> Int32[np.ndarray, "x y z"]:
    """Return the moved organ in the person's own grid; other regions stay where the organ does not come to lie."""
    labels, before = placed.labels.data, placed.organ.mask
    if np.array_equal(row, placed.row):
        return labels
    inside = (level.values(placed.voxels(centre)) < 0).reshape(labels.shape)
    if not inside.any():
        raise ModelError("nothing is left of the organ in the image's own grid at these covariates")
    # Everything gets the number of the organ's nearest part; a filled cavity has none of its own.
    nearest = distance_transform_edt(~(before & (labels > 0)), return_distances=False, return_indices=True)
    return np.where(inside, labels[tuple(nearest)], np.where(before, 0, labels)).astype(np.int32)


def _meshed(level: LevelFunction, placed: PlacedShape, centre: Float[np.ndarray, "3"]) -> Surface:
    """Return the moved organ's surface in world millimetres."""
    aligned = mesh_lattice(level.values, level.lattice, _MESH_CELLS)
    return Surface(placed.alignment.back(aligned.vertices + centre), aligned.faces)


def _facts(placed: PlacedShape, labels: Int32[np.ndarray, "x y z"], surface: Surface) -> dict[str, object]:
    organ = np.isin(labels, np.unique(placed.labels.data[placed.organ.mask & (placed.labels.data > 0)]))
    sides = [bool(organ.take(index, axis=axis).any()) for axis in range(3) for index in (0, -1)]
    return {
        "VolumeMm3": round(surface.volume, 3),
        "CutByImageBorder": any(sides),
        "Alignment": placed.alignment.to_json(),
        "Notes": list(placed.organ.notes),
    }
