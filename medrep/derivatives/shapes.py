"""Removal from organs, written as a label map in the input's own grid and a mesh in world millimetres, and their scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
from jaxtyping import Float, Int32, Int64
from scipy.ndimage import distance_transform_edt, map_coordinates

from medrep._files import write_json
from medrep._persisted import to_json
from medrep.cohort.inputs import ShapeInput
from medrep.cohort.kinds import InputKind
from medrep.cohort.meshing import BorderError, mesh_lattice
from medrep.cohort.nifti import Volume, write_image, write_label_map
from medrep.cohort.samples import Sample, Samples, sample_files
from medrep.cohort.shapes import ROOMS, LoadedShape, PlacedShape, larger_grid, load_alike, shape_columns
from medrep.cohort.surfaces import Surface
from medrep.derivatives.bids import Destination, MeshFormat, described_name, of_structure, sidecar
from medrep.derivatives.deviations import DESCRIPTIONS
from medrep.derivatives.forecasts import SD, ImageForecaster, Written
from medrep.derivatives.meshes import mesh_beside, write_mesh
from medrep.derivatives.scores import Scorer, volume_column
from medrep.derivatives.tasks import Result, Task, block_size
from medrep.derivatives.transform import Transform
from medrep.errors import CohortError, ModelError
from medrep.models import Model
from medrep.models.shape.mean_shape import LevelFunction, clear_level
from medrep.models.shape.pose import POSE
from medrep.models.shape.rigid import POINTS, about, rigid_motion

_MESH_CELLS = 128


class TransformShapes(Task):
    """Writes a label map, a mesh and a sidecar a person."""

    def __init__(self, transform: Transform, kind: InputKind[ShapeInput], to: Destination) -> None:
        wanted = kind.section
        _refuse_other_grid(transform.model, wanted)
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
        for room in ROOMS:
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
        to = _Organ(self._to.folder, place, self._to.mesh, self._transform.pose_change(frame))
        meshes, facts = _write_organ(placed, row, to)
        content = {**self._to.done.to_json(), **self._transform.outside(frame), **facts, "Sources": [source]}
        write_json(self._to.folder / sidecar(place), content)
        return (str(place), *meshes, str(sidecar(place)))


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
        meshes, facts = _write_organ(placed, estimate, _Organ(self.to.folder, place, self.to.mesh))
        files = [str(place), *meshes, self.describe(place, last.path, years, **facts)]
        stem, _, _ = self.name(last.path, years, "sd").name.rpartition("_")
        beside = place.with_name(f"{stem}_distance.nii.gz")
        index = (placed.voxels() - lattice.origin) / lattice.spacing
        several, labels = sd.reshape(-1, *lattice.shape), placed.labels
        spread = map_coordinates(several[0], index.T, order=1, mode="nearest")
        if len(several) > 1:  # that of the nearest structure
            levels = LevelFunction.through(lattice, estimate).everywhere(placed.voxels()).reshape(len(several), -1)
            all_of_them = [map_coordinates(one, index.T, order=1, mode="nearest") for one in several]
            spread = np.take_along_axis(np.stack(all_of_them), levels.argmin(axis=0)[None], axis=0)[0]
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
    columns = shape_columns(placed.wanted)
    return model if columns == model.columns else model.on_grid(columns)


def _refuse_other_grid(model: Model, wanted: ShapeInput) -> None:
    if model.columns != shape_columns(wanted):
        raise ModelError("the model was not trained on shapes of this grid; set input.kind as in training")


def _placed(loaded: LoadedShape) -> PlacedShape:
    if loaded.placed is None:
        raise CohortError(loaded.error)
    return loaded.placed


@dataclass(frozen=True, eq=False)
class _Organ:
    """Where and how a moved organ is written, and what moves it as a whole, mm and degrees."""

    folder: Path
    place: PurePath
    mesh: MeshFormat
    change: Float[np.ndarray, " columns"] | None = None


def _write_organ(
    placed: PlacedShape, row: Float[np.ndarray, " levels"], to: _Organ
) -> tuple[tuple[str, ...], dict[str, object]]:
    """Write a moved organ as label map, and as a mesh of each structure; return the meshes' names, and its facts."""
    level = LevelFunction.through(placed.lattice, row)
    motion = None if to.change is None else _whole_motion(placed, row, level, to.change)
    labels = _relabelled(placed, row, level, motion)
    names = list(placed.wanted.regions)
    surfaces = {name: _meshed(level, structure, placed) for structure, name in enumerate(names)}
    if motion is not None:
        surfaces = {name: surface.transformed(motion) for name, surface in surfaces.items()}
    write_label_map(to.folder / to.place, replace(placed.labels, data=labels))
    meshes = [mesh_beside(of_structure(to.place, name), to.mesh) for name in names]
    for path, surface in zip(meshes, surfaces.values(), strict=True):
        write_mesh(to.folder / path, surface)
    facts = _facts(placed, labels, surfaces)
    if to.change is not None:
        facts["PoseChange"] = dict(zip(POSE, to.change.tolist(), strict=True))
    return tuple(map(str, meshes)), facts


def _whole_motion(
    placed: PlacedShape, row: Float[np.ndarray, " levels"], level: LevelFunction, change: Float[np.ndarray, " columns"]
) -> Float[np.ndarray, "4 4"] | None:
    """Return what moves the moved organ as a whole, world mm: onto the person's own, and on; None where nothing is moved."""
    if np.array_equal(row, placed.row) and not change.any():
        return None
    if (row >= 0).all():
        raise ModelError(_nothing_left("the organ"))
    own = LevelFunction.through(placed.lattice, placed.row).surface(POINTS)
    laid = rigid_motion(level, own, level.surface(POINTS).points.mean(axis=0))
    to_grid = placed.to_grid
    return about(placed.centroid, change[:3], np.radians(change[3:])) @ np.linalg.inv(to_grid) @ laid @ to_grid


def _nothing_left(what: str) -> str:
    return f"nothing is left of {what} in the image's own grid at these covariates"


class ScoreShapes(Task):
    """Scores organs, a person at a time: each takes seconds.

    Args:
        scorer: What is asked.
        kind: Label maps, as measured by training.
        names: None.
    """

    def __init__(self, scorer: Scorer, kind: InputKind[ShapeInput], names: Sequence[str]) -> None:
        del names
        _refuse_other_grid(scorer.model, kind.section)
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
        volumes = [_volumes(placed) for placed in good]
        # z of a distance to the surface at a point of the grid is no map of the organ: its summary is kept.
        kept = [{name: row for name, row in one.arrays.items() if name not in DESCRIPTIONS} for one in scored]
        told = zip([replace(one, arrays=own) for one, own in zip(scored, kept, strict=True)], volumes, strict=True)
        return [*results, *(replace(one, figures={**one.figures, **volume}) for one, volume in told)]


def _volumes(placed: PlacedShape) -> dict[str, float]:
    """Return the volume of the organ's voxels, mm3, and of each structure's."""
    edges = abs(float(np.linalg.det(placed.labels.affine[:3, :3])))
    counts = [int(organ.mask.sum()) for organ in placed.organs]
    own = {
        volume_column(name): round(count * edges, 3)
        for name, count in zip(placed.wanted.structures, counts, strict=False)
    }
    return {volume_column(""): round(sum(counts) * edges, 3), **own}


def _relabelled(
    placed: PlacedShape,
    row: Float[np.ndarray, " levels"],
    level: LevelFunction,
    motion: Float[np.ndarray, "4 4"] | None,
) -> Int32[np.ndarray, "x y z"]:
    """Return the moved organ in the person's own grid; other regions stay where the organ does not come to lie."""
    labels, names = placed.labels.data, list(placed.wanted.regions)
    if motion is None and np.array_equal(row, placed.row):
        return labels
    levels = level.everywhere(placed.voxels(motion)).reshape(len(names), -1)
    deepest = levels.argmin(axis=0)
    moved = np.where(np.any([organ.mask for organ in placed.organs], axis=0), 0, labels)
    came = None if motion is None else _came_from(placed, motion)
    for structure, (name, organ) in enumerate(zip(names, placed.organs, strict=True)):
        inside = ((levels[structure] < 0) & (deepest == structure)).reshape(labels.shape)
        if not inside.any():
            raise ModelError(_nothing_left(f"structure {name}" if name else "the organ"))
        # Everything gets the number of the organ's nearest part; a filled cavity has none of its own.
        own = np.isin(labels, placed.wanted.regions[name]) if name else labels > 0
        nearest = distance_transform_edt(~(organ.mask & own), return_distances=False, return_indices=True)
        if came is not None:
            nearest = np.stack([axis[tuple(came)] for axis in nearest])
        moved = np.where(inside, labels[tuple(nearest)], moved)
    return moved.astype(np.int32)


def _came_from(placed: PlacedShape, motion: Float[np.ndarray, "4 4"]) -> Int64[np.ndarray, "3 x y z"]:
    """Return the voxel that each voxel of an organ moved as a whole came from, the nearest inside the image."""
    affine, shape = placed.labels.affine, placed.labels.data.shape
    back = np.linalg.solve(affine, np.linalg.solve(motion, affine))
    came = np.rint(back[:3, :3] @ np.indices(shape).reshape(3, -1) + back[:3, 3:]).astype(np.int64)
    return np.clip(came, 0, np.asarray(shape)[:, None] - 1).reshape(3, *shape)


def _meshed(level: LevelFunction, structure: int, placed: PlacedShape) -> Surface:
    """Return the moved organ's surface in world millimetres."""
    aligned = mesh_lattice(clear_level(level, structure), level.lattice, _MESH_CELLS)
    return Surface(placed.alignment.back(aligned.vertices + np.asarray(placed.wanted.centre)), aligned.faces)


def _facts(
    placed: PlacedShape, labels: Int32[np.ndarray, "x y z"], surfaces: Mapping[str, Surface]
) -> dict[str, object]:
    masks = [organ.mask & (placed.labels.data > 0) for organ in placed.organs]
    organ = np.isin(labels, np.unique(placed.labels.data[np.any(masks, axis=0)]))
    sides = [bool(organ.take(index, axis=axis).any()) for axis in range(3) for index in (0, -1)]
    volumes = {name: surface.volume for name, surface in surfaces.items()}
    apart = {name: round(volumes[name], 3) for name in placed.wanted.structures}
    return {
        "VolumeMm3": round(sum(volumes.values()), 3),
        **({"StructureVolumesMm3": apart} if apart else {}),
        "CutByImageBorder": any(sides),
        "Alignment": to_json(placed.alignment),
        "Notes": list(placed.notes),
    }
