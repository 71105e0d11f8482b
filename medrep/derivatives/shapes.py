"""Removal from organs, written as a label map in the input's own grid and a mesh in world millimetres, and their scores."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int32
from scipy.ndimage import distance_transform_edt

from medrep._files import write_json
from medrep._persisted import to_json
from medrep.cohort.grid import grid_lattice
from medrep.cohort.inputs import ShapeInput
from medrep.cohort.kinds import InputKind
from medrep.cohort.meshing import mesh_lattice
from medrep.cohort.nifti import write_label_map
from medrep.cohort.samples import Sample, sample_files, sample_frame
from medrep.cohort.shapes import PlacedShape, load_shapes, shape_grid
from medrep.cohort.surfaces import Surface
from medrep.derivatives.bids import Destination, described_name, sidecar
from medrep.derivatives.meshes import mesh_beside, write_mesh
from medrep.derivatives.scores import Scorer
from medrep.derivatives.tasks import Result, Task
from medrep.derivatives.transform import Transform
from medrep.errors import CohortError, ModelError
from medrep.models.shape.mean_shape import LevelFunction

_MESH_CELLS = 128


class TransformShapes(Task):
    """Writes a label map, a mesh and a sidecar a person."""

    def __init__(self, transform: Transform, kind: InputKind[ShapeInput], to: Destination) -> None:
        wanted = kind.section
        if transform.model.columns.grid != shape_grid(wanted):
            raise ModelError("the model was not trained on shapes of this grid; set input.kind as in training")
        self._transform, self._wanted, self._to = transform, wanted, to
        self._lattice, self._centre = grid_lattice(shape_grid(wanted)), np.asarray(wanted.centre)
        self.block_size = 1

    def work(self, people: Sequence[Sample]) -> list[Result]:
        """Move a few people; see `Task.work`."""
        frame, results = sample_frame(people), []
        for loaded in load_shapes(sample_files(people), self._wanted):
            try:
                if loaded.placed is None:
                    raise CohortError(loaded.error)
                arrays, files = self._write(loaded.placed, loaded.path, frame.loc[[loaded.key]])
                results.append(Result(loaded.key, arrays=arrays, files=files))
            except (CohortError, ModelError) as error:
                results.append(Result(loaded.key, str(error), "read" if loaded.placed is None else "move"))
        return results

    def _write(
        self, placed: PlacedShape, path: Path, frame: pd.DataFrame
    ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Write one person's files; return latents and the files' names."""
        (row,), (latents, deviations) = self._transform.move_and_encode(
            self._transform.model.dataset(placed.row[None], frame)
        )
        level = LevelFunction.through(self._lattice, row)
        labels = _relabelled(placed, row, level, self._centre)
        surface = _meshed(level, placed, self._centre)
        source = path.relative_to(self._to.root).as_posix()
        place = described_name(source, self._to.done.desc)
        mesh = mesh_beside(place, self._to.mesh)
        write_label_map(self._to.folder / place, replace(placed.labels, data=labels))
        write_mesh(self._to.folder / mesh, surface)
        facts = {**self._transform.outside(frame), **_facts(placed, labels, surface)}
        content = {**self._to.done.to_json(), **facts, "Sources": [source]}
        write_json(self._to.folder / sidecar(place), content)
        arrays = {"latents": latents[0]}
        if deviations is not None and deviations.shape[1]:
            arrays["latents_sd"] = deviations[0]
        return arrays, (str(place), str(mesh), str(sidecar(place)))


class ScoreShapes(Task):
    """Scores organs, one at a time: each takes seconds.

    Args:
        scorer: What is asked.
        kind: Label maps, as measured by training.
        names: None.
    """

    def __init__(self, scorer: Scorer, kind: InputKind[ShapeInput], names: Sequence[str]) -> None:
        del names
        if scorer.model.columns.grid != shape_grid(kind.section):
            raise ModelError("the model was not trained on shapes of this grid; set input.kind as in training")
        self._scorer, self._wanted = replace(scorer, most=1), kind.section
        self.block_size = 1

    def work(self, people: Sequence[Sample]) -> list[Result]:
        """Score a few organs; see `Task.work`."""
        results = []
        for one, loaded in zip(people, load_shapes(sample_files(people), self._wanted), strict=True):
            if loaded.placed is None:
                results.append(Result(loaded.key, loaded.error, "read"))
                continue
            affine, voxels = loaded.placed.labels.affine, int(loaded.placed.organ.mask.sum())
            volume = round(voxels * abs(float(np.linalg.det(affine[:3, :3]))), 3)
            try:
                results += self._scorer.results(loaded.placed.row[None], [one], {"volume_mm3": volume})
            except (CohortError, ModelError) as error:
                results.append(Result(loaded.key, str(error), "score"))
        return results


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
        "Alignment": to_json(placed.alignment),
        "Notes": list(placed.organ.notes),
    }
