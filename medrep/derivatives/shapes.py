"""Removal from organs, written as a label map in the input's own grid and a mesh in world millimetres, and their scores."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int32
from scipy.ndimage import distance_transform_edt, map_coordinates

from medrep._files import write_json
from medrep._persisted import to_json
from medrep.cohort.grid import Columns
from medrep.cohort.inputs import ShapeInput
from medrep.cohort.kinds import InputKind
from medrep.cohort.meshing import BorderError, mesh_lattice
from medrep.cohort.nifti import Volume, write_image, write_label_map
from medrep.cohort.samples import Sample, Samples, sample_files
from medrep.cohort.shapes import LoadedShape, PlacedShape, larger_grid, load_alike, shape_grid
from medrep.cohort.surfaces import Surface
from medrep.derivatives.bids import Destination, described_name, sidecar
from medrep.derivatives.forecasts import SD, ImageForecaster, Written
from medrep.derivatives.meshes import mesh_beside, write_mesh
from medrep.derivatives.scores import Scorer
from medrep.derivatives.tasks import Result, Task, block_size
from medrep.derivatives.transform import Transform
from medrep.errors import CohortError, ModelError
from medrep.models import Model
from medrep.models.shape.mean_shape import LevelFunction
from medrep.models.shape.pose import POSE
from medrep.models.shape.rigid import POINTS, about, rigid_motion

_MESH_CELLS = 128
_NOTHING = "nothing is left of the organ in the image's own grid at these covariates"
_ROOMS = (0.0, 0.5, 1.5)
"""Room around the grid in which a person is moved, shares of the organs' size: more where the moved organ leaves the grid."""


class TransformShapes(Task):
    """Writes a label map, a mesh and a sidecar a person."""

    def __init__(self, transform: Transform, kind: InputKind[ShapeInput], to: Destination) -> None:
        wanted = kind.section
        if transform.model.columns.grid != shape_grid(wanted):
            raise ModelError("the model was not trained on shapes of this grid; set input.kind as in training")
        self._transform, self._wanted, self._to = transform, wanted, to
        self.by_person = transform.by_person
        self.block_size = block_size(transform.model.columns.count, 1, transform.visits if self.by_person else 1)

    def work(self, people: Sequence[Sample]) -> list[Result]:
        """Move a few people; see `Task.work`."""
        own, results = Samples.of(people), dict[str, Result]()
        for person in dict.fromkeys(own.persons.tolist()):
            some = own.take(np.flatnonzero(own.persons == person))
            results |= {one.key: one for one in self._move(some)}
        return [results[key] for key in own.keys]

    def _move(self, visits: Samples) -> Iterator[Result]:
        """Move the visits of one person, or one visit."""
        for room in _ROOMS:
            results, cut = self._moved(visits, room * self._wanted.size)
            if not (cut and _can_grow(self._transform.model)):
                break
        yield from results

    def _moved(self, visits: Samples, room: float) -> tuple[list[Result], bool]:
        """Move visits on a grid with some millimetres more around; return also whether the grid cut somebody."""
        results, good, cut = list[Result](), list[tuple[PlacedShape, LoadedShape]](), False
        wanted, grow = larger_grid(self._wanted, room), _can_grow(self._transform.model)
        for loaded in load_alike(sample_files(visits), wanted, grow=grow):
            if loaded.placed is None:
                results.append(Result(loaded.key, loaded.error, "read"))
            else:
                good.append((loaded.placed, loaded))
        if not good:
            return results, False
        frame = visits.covariates.loc[[loaded.key for _, loaded in good]]
        whose = ["own"] * len(good) if self.by_person else None
        model = _on_own_grid(self._transform.model, good[0][0])
        try:
            rows, (latents, deviations) = replace(self._transform, model=model).move_and_encode(
                model.dataset(np.stack([placed.row for placed, _ in good]), frame, whose)
            )
        except (CohortError, ModelError) as error:
            return [*results, *(Result(loaded.key, str(error), "move") for _, loaded in good)], False
        for place, (placed, loaded) in enumerate(good):
            arrays = {"latents": latents[place]}
            if deviations is not None and deviations.shape[1]:
                arrays["latents_sd"] = deviations[place]
            try:
                files = self._write(placed, loaded.path, rows[place], frame.iloc[[place]])
                results.append(Result(loaded.key, arrays=arrays, files=files))
            except (CohortError, ModelError) as error:
                cut |= isinstance(error, BorderError)
                results.append(Result(loaded.key, str(error), "move"))
        return results, cut

    def _write(
        self, placed: PlacedShape, path: Path, row: Float[np.ndarray, " points"], frame: pd.DataFrame
    ) -> tuple[str, ...]:
        """Write one person's files; return their names."""
        source = path.relative_to(self._to.root).as_posix()
        place = described_name(source, self._to.done.desc)
        mesh = mesh_beside(place, self._to.mesh)
        change = self._transform.pose_change(frame)
        facts = _write_organ(placed, row, (self._to.folder / place, self._to.folder / mesh), change)
        content = {**self._to.done.to_json(), **self._transform.outside(frame), **facts, "Sources": [source]}
        write_json(self._to.folder / sidecar(place), content)
        return (str(place), str(mesh), str(sidecar(place)))


class ForecastShapes(ImageForecaster[ShapeInput, LoadedShape]):
    """Writes the organ that is expected as a label map and a mesh, and the standard deviation of its surface's distance, mm."""

    def read(self, files: pd.Series) -> Iterator[tuple[str, LoadedShape | None, str]]:
        """Read label maps; see `ImageForecaster.read`."""
        for loaded in load_alike(files, self.wanted, grow=_can_grow(self.model)):
            yield loaded.key, None if loaded.error else loaded, loaded.error

    def fitting(self, last: LoadedShape) -> Model:
        """Return the model for the grid of the person's visits, which may have grown."""
        return _on_own_grid(self.model, _placed(last))

    def row(self, visit: LoadedShape) -> Float[np.ndarray, " columns"]:
        """Return the distances on the grid of all organs."""
        return _placed(visit).row

    def write(
        self,
        last: LoadedShape,
        estimate: Float[np.ndarray, " columns"],
        sd: Float[np.ndarray, " columns"],
        years: float,
    ) -> Written:
        """Write a label map, a mesh and an image of deviations; see `ImageForecaster.write`."""
        placed = _placed(last)
        lattice = placed.lattice
        place = self.name(last.path, years)
        mesh = mesh_beside(place, self.to.mesh)
        facts = _write_organ(placed, estimate, (self.to.folder / place, self.to.folder / mesh))
        files = [str(place), str(mesh), self.describe(place, last.path, years, **facts)]
        stem, _, _ = self.name(last.path, years, "sd").name.rpartition("_")
        beside = place.with_name(f"{stem}_distance.nii.gz")
        index = (placed.voxels() - lattice.origin) / lattice.spacing
        spread = map_coordinates(sd.reshape(lattice.shape), index.T, order=1, mode="nearest")
        labels = placed.labels
        shown = (spread / placed.alignment.scale).reshape(labels.data.shape).astype(np.float32)
        write_image(self.to.folder / beside, Volume(shown, labels.affine))
        files += [
            str(beside),
            self.describe(beside, last.path, years, Description=f"{SD} Of the distance, mm.", Units="mm"),
        ]
        return Written(tuple(files), str(place), str(beside))


def _can_grow(model: Model) -> bool:
    """Return whether people may lie beyond the grid that a model was trained on."""
    return "organs" in model.capabilities


def _on_own_grid(model: Model, placed: PlacedShape) -> Model:
    """Return the model for the grid that a person is on."""
    grid = shape_grid(placed.wanted)
    return model if grid == model.columns.grid else model.on_grid(Columns((), grid.size, grid))


def _placed(loaded: LoadedShape) -> PlacedShape:
    if loaded.placed is None:
        raise CohortError(loaded.error)
    return loaded.placed


def _write_organ(
    placed: PlacedShape,
    row: Float[np.ndarray, " points"],
    to: tuple[Path, Path],
    change: Float[np.ndarray, " columns"] | None = None,
) -> dict[str, object]:
    """Write a moved organ as label map and mesh; return its facts. `change` moves it as a whole, too, mm and degrees."""
    level = LevelFunction.through(placed.lattice, row)
    motion = None if change is None else _whole_motion(placed, row, level, change)
    labels = _relabelled(placed, row, level, motion)
    surface = _meshed(level, placed)
    surface = surface if motion is None else surface.transformed(motion)
    write_label_map(to[0], replace(placed.labels, data=labels))
    write_mesh(to[1], surface)
    facts = _facts(placed, labels, surface)
    return facts if change is None else {**facts, "PoseChange": dict(zip(POSE, change.tolist(), strict=True))}


def _whole_motion(
    placed: PlacedShape, row: Float[np.ndarray, " points"], level: LevelFunction, change: Float[np.ndarray, " columns"]
) -> Float[np.ndarray, "4 4"] | None:
    """Return what moves the moved organ as a whole, world mm: onto the person's own, and on; None where nothing is moved."""
    if np.array_equal(row, placed.row) and not change.any():
        return None
    if not (row < 0).any():
        raise ModelError(_NOTHING)
    own = LevelFunction.through(placed.lattice, placed.row).surface(POINTS)[0]
    laid = rigid_motion(level, own, level.surface(POINTS)[0].mean(axis=0))
    to_grid = placed.to_grid
    return about(placed.centroid, change[:3], np.radians(change[3:])) @ np.linalg.inv(to_grid) @ laid @ to_grid


class ScoreShapes(Task):
    """Scores organs, a person at a time: each takes seconds.

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
        self.by_person, self.block_size = self._scorer.by_person, self._scorer.block_size

    def work(self, people: Sequence[Sample]) -> list[Result]:
        """Score a few organs; see `Task.work`."""
        own, results = Samples.of(people), dict[str, Result]()
        whose = own.persons.tolist() if self.by_person else own.keys
        for person in dict.fromkeys(whose):
            some = own.take([place for place, who in enumerate(whose) if who == person])
            results |= {one.key: one for one in self._score(some)}
        return [results[key] for key in own.keys]

    def _score(self, visits: Samples) -> list[Result]:
        """Score the visits of one person, or one visit."""
        found = load_alike(sample_files(visits), self._wanted, grow=_can_grow(self._scorer.model))
        results = [Result(one.key, one.error, "read") for one in found if one.placed is None]
        good = [one.placed for one in found if one.placed is not None]
        if not good:
            return results
        some = visits.take([place for place, one in enumerate(found) if one.placed is not None])
        asked = replace(self._scorer, model=_on_own_grid(self._scorer.model, good[0]))
        asked = replace(asked, visits=len(good)) if self.by_person else asked
        try:
            scored = asked.results(np.stack([placed.row for placed in good]), some)
        except (CohortError, ModelError) as error:
            return [*results, *(Result(key, str(error), "score") for key in some.keys)]
        volumes = [{"volume_mm3": _volume(placed)} for placed in good]
        told = zip(scored, volumes, strict=True)
        return [*results, *(replace(one, figures={**one.figures, **volume}) for one, volume in told)]


def _volume(placed: PlacedShape) -> float:
    """Return the volume of the organ's voxels, mm3."""
    edges = abs(float(np.linalg.det(placed.labels.affine[:3, :3])))
    return round(int(placed.organ.mask.sum()) * edges, 3)


def _relabelled(
    placed: PlacedShape,
    row: Float[np.ndarray, " points"],
    level: LevelFunction,
    motion: Float[np.ndarray, "4 4"] | None,
) -> Int32[np.ndarray, "x y z"]:
    """Return the moved organ in the person's own grid; other regions stay where the organ does not come to lie."""
    labels, before = placed.labels.data, placed.organ.mask
    if motion is None and np.array_equal(row, placed.row):
        return labels
    inside = (level.values(placed.voxels(motion)) < 0).reshape(labels.shape)
    if not inside.any():
        raise ModelError(_NOTHING)
    # Everything gets the number of the organ's nearest part; a filled cavity has none of its own.
    nearest = distance_transform_edt(~(before & (labels > 0)), return_distances=False, return_indices=True)
    if motion is not None:
        # Parts go with the organ: a voxel gets the number of where it came from.
        back = np.linalg.solve(placed.labels.affine, np.linalg.solve(motion, placed.labels.affine))
        came = np.rint(back[:3, :3] @ np.indices(labels.shape).reshape(3, -1) + back[:3, 3:]).astype(np.int64)
        came = np.clip(came, 0, np.asarray(labels.shape)[:, None] - 1).reshape(3, *labels.shape)
        nearest = np.stack([axis[tuple(came)] for axis in nearest])
    return np.where(inside, labels[tuple(nearest)], np.where(before, 0, labels)).astype(np.int32)


def _meshed(level: LevelFunction, placed: PlacedShape) -> Surface:
    """Return the moved organ's surface in world millimetres."""
    aligned = mesh_lattice(level.values, level.lattice, _MESH_CELLS)
    return Surface(placed.alignment.back(aligned.vertices + np.asarray(placed.wanted.centre)), aligned.faces)


def _facts(placed: PlacedShape, labels: Int32[np.ndarray, "x y z"], surface: Surface) -> dict[str, object]:
    organ = np.isin(labels, np.unique(placed.labels.data[placed.organ.mask & (placed.labels.data > 0)]))
    sides = [bool(organ.take(index, axis=axis).any()) for axis in range(3) for index in (0, -1)]
    return {
        "VolumeMm3": round(surface.volume, 3),
        "CutByImageBorder": any(sides),
        "Alignment": to_json(placed.alignment),
        "Notes": list(placed.organ.notes),
    }
