"""Generated, planted and sampled cohorts as folders, with the truth beside them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._files import write_json
from medrep._persisted import to_json
from medrep.cohort.grid import grid_lattice
from medrep.cohort.inputs import ShapeInput
from medrep.cohort.kinds.base import RowForm
from medrep.cohort.meshing import BorderError, mesh_lattice
from medrep.cohort.nifti import LabelMap, Volume, write_image, write_label_map
from medrep.cohort.participants import KEY_COLUMNS
from medrep.cohort.shapes import ROOMS, larger_grid, shape_columns, shape_grid
from medrep.cohort.surfaces import Surface
from medrep.derivatives.bids import MeshFormat, of_structure, write_description, write_matrix, write_tsv
from medrep.derivatives.meshes import mesh_beside, write_mesh
from medrep.models import Model
from medrep.models.shape.mean_shape import LevelFunction, clear_level

TRUTH = Path("derivatives") / "truth"
_PLANTED = ("cohort with planted effects", "the same people without the planted site effects")
_MESH_CELLS = 96


def write_feature_cohort(
    folder: Path,
    participants: pd.DataFrame,
    features: pd.DataFrame,
    clean: pd.DataFrame,
    truth: Mapping[str, Any],
    persons: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Write participants.tsv and features.tsv, and the same without site effects as the truth.

    Args:
        folder: Where to.
        participants: A row a person or visit.
        features: Index: participant, or participant and session.
        clean: The same without site effects.
        truth: Of truth.json.
        persons: Further tables of the truth by name, of people (``levels``, ``slopes``).
    """
    own = {folder / TRUTH / f"{name}.tsv": table for name, table in (persons or {}).items()}
    for path, table in ({folder / "features.tsv": features, folder / TRUTH / "features.tsv": clean} | own).items():
        keys = [table.index.get_level_values(level).astype(str) for level in range(table.index.nlevels)]
        ids = pd.DataFrame(dict(zip(KEY_COLUMNS, keys, strict=False)))
        write_matrix(path, ids, [str(name) for name in table.columns], table.to_numpy(float))
    _finish(folder, participants, truth, *_PLANTED)


def write_volume_cohort(
    folder: Path,
    participants: pd.DataFrame,
    volumes: Iterable[tuple[str, Volume, Volume]],
    truth: Mapping[str, Any],
    advance: Callable[[int], None],
) -> None:
    """Write one image a person, and the same without site effects as the truth.

    For each person there is a path below the folder, the image, and the image without site effects.
    """
    for relative, image, clean in volumes:
        write_image(folder / relative, image)
        write_image(folder / TRUTH / relative, clean)
        advance(1)
    _finish(folder, participants, truth, *_PLANTED)


def _finish(folder: Path, participants: pd.DataFrame, truth: Mapping[str, Any], name: str, name_of_truth: str) -> None:
    for place in (folder, folder / TRUTH):
        write_tsv(place / "participants.tsv", participants)
    write_json(folder / TRUTH / "truth.json", truth)
    write_description(folder / TRUTH, name_of_truth, [], {})
    write_description(folder, name, [], {"Description": "generated; not real people"})


def write_shape_cohort(
    folder: Path,
    participants: pd.DataFrame,
    organs: Iterable[tuple[str, LabelMap, Mapping[str, LabelMap]]],
    truth: Mapping[str, Any],
    advance: Callable[[int], None],
) -> None:
    """Write one label map a person, and the same person's organ at other covariates as the truth.

    For each person there is a path below the folder, the map, and maps at other covariates by their ``desc``.
    """
    for relative, labels, others in organs:
        write_label_map(folder / relative, labels)
        place = folder / TRUTH / relative
        for desc, other in others.items():
            write_label_map(place.with_name(place.name.replace("desc-organ", f"desc-{desc}")), other)
        advance(1)
    _finish(folder, participants, truth, "organs with known effects", "the same people at other covariates")


@dataclass(frozen=True)
class Drawn:
    """Participants drawn by a model that can ``sample``: their table, their covariates, seed of every draw, and form."""

    model: Model
    people: pd.DataFrame
    frame: pd.DataFrame
    seed: int
    suffix: str
    content: Mapping[str, Any]
    form: RowForm | None = None

    def rows(self) -> Iterator[tuple[str, Float[np.ndarray, " columns"]]]:
        """Draw one participant at a time: id, and row of the model's columns."""
        for position, who in enumerate(self.people["participant_id"].to_list()):
            yield str(who), self.row(position, self.model)

    def row(self, position: int, model: Model) -> Float[np.ndarray, " columns"]:
        """Draw one participant, on the grid of a model."""
        own = int(np.random.SeedSequence([self.seed, position]).generate_state(1)[0])
        return model.sample(self.frame.iloc[position : position + 1], seed=own)[0]

    def write_tables(self, folder: Path) -> None:
        """Write participants.tsv and dataset_description.json."""
        write_tsv(folder / "participants.tsv", self.people)
        write_description(folder, "people drawn by a model", [], self.content)


def write_shape_samples(
    folder: Path, drawn: Drawn, wanted: ShapeInput, mesh: MeshFormat, advance: Callable[[int], None]
) -> None:
    """Write a label map and meshes with ``desc-sampled`` for each participant; a structure has its first region's number."""
    for position, who in enumerate(drawn.people["participant_id"].astype(str)):
        place = folder / who / "anat" / f"{who}_desc-sampled_{drawn.suffix}.nii.gz"
        for room in ROOMS:
            section = larger_grid(wanted, room * wanted.size)
            columns = shape_columns(section)
            model = drawn.model if columns == drawn.model.columns else drawn.model.on_grid(columns)
            try:
                _write_organ(place, drawn.row(position, model), section, mesh)
                break
            except BorderError:
                if room == ROOMS[-1]:
                    raise
        write_json(place.with_name(place.name.replace(".nii.gz", ".json")), dict(drawn.content))
        advance(1)
    drawn.write_tables(folder)


def _write_organ(place: Path, row: Float[np.ndarray, " columns"], wanted: ShapeInput, mesh: MeshFormat) -> None:
    grid, centre = shape_grid(wanted), np.asarray(wanted.centre)
    level = LevelFunction.through(grid_lattice(grid), row)
    surfaces = [mesh_lattice(clear_level(level, k), level.lattice, _MESH_CELLS) for k in range(level.count)]
    numbers = np.array([own[0] for own in wanted.structures.values()] or [1])
    levels = row.reshape(len(numbers), -1)
    labels = np.where(levels.min(axis=0) < 0, numbers[levels.argmin(axis=0)], 0).astype(np.int32)
    write_label_map(place, LabelMap(labels.reshape(grid.shape), grid.affine(wanted.centre)))
    for name, surface in zip(wanted.regions, surfaces, strict=True):
        write_mesh(mesh_beside(of_structure(place, name), mesh), Surface(surface.vertices + centre, surface.faces))


def write_samples(folder: Path, drawn: Drawn, advance: Callable[[int], None]) -> None:
    """Write participants.tsv and features.tsv, or images with ``desc-sampled``, of a model of features or volumes."""
    model, grid = drawn.model, drawn.model.columns.grid
    if model.columns.names:
        data = model.sample(drawn.frame, seed=drawn.seed)
        data = data if drawn.form is None else drawn.form.released(data)
        advance(len(data))
        ids = pd.DataFrame({"participant_id": drawn.people["participant_id"].to_list()})
        write_matrix(folder / "features.tsv", ids, model.columns.names, data)
        extra = {} if grid is None else {"Grid": to_json(grid)}
        write_json(folder / "features.json", {**drawn.content, **extra})
    elif grid is not None:
        for who, row in drawn.rows():
            stem = folder / who / "anat" / f"{who}_desc-sampled_{drawn.suffix}"
            volume = Volume(row.astype(np.float32).reshape(grid.shape), grid.affine())
            write_image(stem.with_name(f"{stem.name}.nii.gz"), volume)
            write_json(stem.with_name(f"{stem.name}.json"), dict(drawn.content))
            advance(1)
    drawn.write_tables(folder)
