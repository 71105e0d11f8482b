"""Removal from volumes, a person at a time: every voxel's change is brought back to the input's own grid and added."""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from medrep.atomic import write_json
from medrep.cohort.inputs import Input
from medrep.cohort.loaders import Loaded, grid_problem, load_volumes
from medrep.cohort.nifti import Volume, write_image
from medrep.cohort.transforms import VolumePipeline
from medrep.errors import ModelError
from medrep.export.derivative import Failure, Removal, write_latents
from medrep.export.mover import Mover
from medrep.models import Adaptation, Model


def export_volumes(
    folder: Path,
    root: Path,
    mover: Mover,
    files: pd.Series,
    frame: pd.DataFrame,
    wanted: Input,
    done: Removal,
    ids: pd.DataFrame,
    *,
    advance: Callable[[int], None] = lambda people: None,
) -> list[Failure]:
    """Write one image and sidecar a person, and latents.tsv.

    Args:
        folder: Where to; the cohort's own layout is kept below it.
        root: The cohort's folder.
        mover: The model and what to do with it.
        files: Index: key; values: paths.
        frame: Covariates, index: key.
        wanted: The ``input`` section of training.
        done: For the sidecars; says how the images are named.
        ids: Key columns of the people, index: key.
        advance: Called with the number of people done.

    Returns:
        The people who could not be delivered.
    """
    pipeline = VolumePipeline(wanted)
    failures: list[Failure] = []
    latents: dict[str, np.ndarray] = {}
    for loaded in load_volumes(files, wanted):
        problem = _problem(mover.model, loaded)
        if problem or loaded.placed is None or loaded.volume is None:
            failures.append(Failure(loaded.key, _relative(loaded.path, root), "read", problem))
            advance(1)
            continue
        own = frame.loc[[loaded.key]]
        row = loaded.placed.values.reshape(1, -1)
        change = (mover.move(row, own) - row).reshape(loaded.placed.values.shape)
        # Where a voxel is NaN the change is NaN too; the voxel stays what it was.
        moved = loaded.volume.data + pipeline.back(np.nan_to_num(change, nan=0.0), loaded.placed)
        place = folder / described_name(_relative(loaded.path, root), done.desc)
        write_image(place, Volume(moved, loaded.volume.affine))
        write_json(sidecar(place), {**done.to_json(), "Sources": [_relative(loaded.path, root)]})
        latents[loaded.key] = mover.encode(row, own)[0]
        advance(1)
    if latents:
        write_latents(folder / "latents.tsv", ids.loc[list(latents)], np.stack(list(latents.values())))
    return failures


def adapt_volumes(
    model: Model,
    files: pd.Series,
    frame: pd.DataFrame,
    wanted: Input,
    advance: Callable[[int], None] = lambda people: None,
) -> tuple[Model, tuple[Adaptation, ...]]:
    """Estimate unseen batch levels from the volumes of the people who have them; unusable files are left to the export."""

    def people() -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
        for loaded in load_volumes(files, wanted):
            if not _problem(model, loaded) and loaded.placed is not None:
                yield loaded.placed.values.reshape(1, -1), frame.loc[[loaded.key]]
            advance(1)

    return model.adapt(people())


def described_name(relative: str, desc: str) -> PurePosixPath:
    """Return the path of a derivative: the same place, ``desc-...`` before the suffix, always .nii.gz."""
    path = PurePosixPath(relative)
    stem = path.name.removesuffix(".gz")
    for ending in (".nii", ".mgz", ".mgh", ".hdr", ".img"):
        stem = stem.removesuffix(ending)
    *entities, suffix = stem.split("_")
    kept = [entity for entity in entities if not entity.startswith("desc-")]
    return path.with_name("_".join([*kept, f"desc-{desc}", suffix]) + ".nii.gz")


def sidecar(image: Path) -> Path:
    """Return the JSON beside an image."""
    return image.with_name(image.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def _problem(model: Model, loaded: Loaded) -> str:
    if loaded.placed is None:
        return loaded.error
    if model.columns.grid is None:
        raise ModelError(
            "the model was trained on a feature table, the cohort has images; set input.kind as in training"
        )
    return grid_problem(loaded.placed.grid, model.columns.grid)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
