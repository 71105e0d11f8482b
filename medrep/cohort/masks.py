"""Masks of volumes: which voxels are fitted, stored and changed.

``input.mask`` names one of three: the voxels of one image for all (a path), of each person's own mask beside their image
(``bids``), or those that are not background in most people (``auto``). People's own masks differ at the edge, so the columns of
a model are not what all have in common: a voxel is one that at least half of the people have, and who lacks it is left out of
its fit and keeps it as it is.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from medrep._files import release_pages
from medrep.cohort.bids import runs
from medrep.cohort.grid import Columns, Grid, world_rows
from medrep.cohort.image_files import checked_shape, open_image
from medrep.cohort.image_quality import background
from medrep.cohort.inputs import AUTO, BIDS
from medrep.cohort.nifti import Place, Volume, checked_affine, read_place, read_voxels, refuse_other_grid
from medrep.cohort.transforms import VolumePipeline, resampled
from medrep.errors import CohortError, listed

HALF = 0.5
"""Where a mask is resampled, a voxel is inside from so much of it on."""
_SAME_PLACE = 1e-3  # mm, and of a voxel's edge


def own_mask(image: Path) -> Path:
    """Return where a person's mask lies: beside the image, with the same entities but ``desc-brain`` and the suffix ``mask``."""
    stem, ending = image.name, ""
    for known in (".nii.gz", ".nii", ".mgz"):
        if image.name.endswith(known):
            stem, ending = image.name.removesuffix(known), known
    entities = [part for part in stem.split("_")[:-1] if not part.startswith("desc-")]
    places = [image.with_name("_".join([*entities, "desc-brain", f"mask{end}"])) for end in (ending, ".nii.gz", ".nii")]
    return next((place for place in places if runs(place)[0].is_file()), places[0])


def read_own_mask(image: Path, volume: Volume) -> Volume:
    """Read a person's own mask, 0 or 1 a voxel.

    Args:
        image: Their image.
        volume: What it holds: the mask has to lie on its voxels.

    Raises:
        CohortError: One line: no mask, one of another grid, or an empty one.
    """
    path = _there(image)
    mask = read_mask(path)
    _refuse_elsewhere(path, Place(mask.data.shape, mask.affine, 0.0), Place(volume.data.shape, volume.affine, 0.0))
    return mask


def _there(image: Path) -> Path:
    path = own_mask(image)
    if not runs(path)[0].is_file():
        raise CohortError(f"no mask {path.name} beside {image.name}")
    return path


def _refuse_elsewhere(path: Path, mask: Place, image: Place) -> None:
    if mask.shape != image.shape or np.abs(mask.affine - image.affine).max() > _SAME_PLACE:
        raise CohortError(
            f"{path}: a grid of {' x '.join(map(str, mask.shape))} voxels that is not that of the image"
            f" ({' x '.join(map(str, image.shape))}); resample the mask to the image"
        )


def read_mask(path: Path) -> Volume:
    """Read a mask: whatever is not 0 is inside, of the masks of several runs in at least half of them.

    Raises:
        CohortError: One line: an unusable file, or an empty mask.
    """
    files = runs(path)
    masks = [_read_mask(file) for file in files]
    for file, mask in zip(files, masks, strict=True):
        refuse_other_grid(file, mask, files[0], masks[0])
    return replace(masks[0], data=(np.mean([mask.data for mask in masks], axis=0) >= HALF).astype(np.float32))


def _read_mask(path: Path) -> Volume:
    opened = open_image(path)
    shape = checked_shape(path, opened)
    affine = checked_affine(path, opened)
    inside = np.nan_to_num(read_voxels(path, opened).reshape(shape)) != 0
    if not inside.any():
        raise CohortError(f"{path}: the mask is empty: every voxel is 0")
    return Volume(inside.astype(np.float32), affine)


def file_mask(path: Path, grid: Grid) -> Bool[np.ndarray, " voxels"]:
    """Return which voxels of the common grid lie inside a mask image.

    Raises:
        CohortError: One line: an unusable file, or a mask that the grid does not reach.
    """
    mask = read_mask(path)
    x, y, z = mask.data.shape
    own = Grid((x, y, z), mask.spacing, world_rows(mask.affine))
    inside = resampled(np.ascontiguousarray(mask.data)[None], own, grid, outside="zero").ravel() >= HALF
    if not inside.any():
        raise CohortError(
            f"{path}: no voxel of the mask lies on the images' grid; mend its affine, or register it first"
        )
    return inside


def refuse_own_masks(files: pd.Series) -> None:
    """Refuse people without a mask of their own, or with one of another grid than their image, before anything is read.

    Args:
        files: Index: key; values: images.

    Raises:
        CohortError: Everybody.
    """
    problems = []
    for key, file in files.items():
        image = Path(str(file))
        try:
            path = _there(image)
            _refuse_elsewhere(path, read_place(path), read_place(image))
        except CohortError as error:
            problems.append(f"{key}: {error}")
    if problems:
        cure = "make them, or set input.mask to auto or to a file"
        raise CohortError(listed("masks that cannot be used", problems, cure))


def own_masks(files: pd.Series, pipeline: VolumePipeline) -> Bool[np.ndarray, " voxels"]:
    """Return the voxels of the common grid that lie in at least half of some people's own masks.

    Args:
        files: Index: key; values: images.
        pipeline: To the common grid.

    Raises:
        CohortError: Masks that cannot be used: all of them.
    """
    count, good, problems = np.zeros(0, np.int32), 0, []
    for key, file in files.items():
        try:
            own = pipeline.place(read_mask(own_mask(Path(str(file))))).values.ravel() >= HALF
        except CohortError as error:
            problems.append(f"{key}: {error}")
            continue
        count = own.astype(np.int32) if not good else count + own
        good += 1
    if problems:
        raise CohortError(
            listed("masks that cannot be used", problems, "mend them, or leave the people out with --exclude")
        )
    return 2 * count >= good


def not_background(rows: Float[np.ndarray, "people voxels"], ground: float | None) -> Bool[np.ndarray, " voxels"]:
    """Return the voxels that are not background in at least half of some people.

    Args:
        rows: Whole grids; memory-mapped ones are let go of again.
        ground: The value of background; None: there is none.

    Raises:
        CohortError: Images without a background, or that are all background.
    """
    if ground is None:
        raise CohortError(
            "input.mask auto: no value stands for background in most of the images (outside of the head or brain voxels have to"
            " hold one and the same); set input.mask to a mask image, or to bids"
        )
    count = np.zeros(rows.shape[1], np.int32)
    for row in rows:
        count += row != np.float32(ground)
        release_pages(rows)
    inside: np.ndarray = 2 * count >= len(rows)
    if not inside.any():
        raise CohortError(
            f"input.mask auto: no voxel differs from {ground:g} in half of the people; look at the images"
        )
    return inside


def masked_voxels(named: str, grid: Grid, some: Sequence[Shaped[np.ndarray, " some"]]) -> int:
    """Return about how many voxels a mask would leave, before all are read.

    Args:
        named: ``input.mask``.
        grid: The common one.
        some: Some voxels of some people (`thinned`): of their own masks where these are asked for, else of their images.

    Raises:
        CohortError: A mask that cannot be.
    """
    if not named:
        return grid.size
    if named not in {AUTO, BIDS}:
        return int(file_mask(Path(named), grid).sum())
    if not some:
        raise CohortError(f"input.mask {named}: nobody's image can be used")
    voxels = np.stack(some)
    inside = voxels.mean(axis=0) >= HALF if named == BIDS else not_background(voxels, background(some))
    return round(float(inside.mean()) * grid.size)


def mask_note(columns: Columns, named: str) -> str:
    """Return how many voxels a mask leaves, and which they are.

    Args:
        columns: With a grid and a mask.
        named: ``input.mask``.
    """
    which = {
        AUTO: "that are not background in at least half of the people",
        BIDS: "in at least half of the people's own masks; where somebody's own ends, voxels stay as they are",
    }.get(named, f"inside {named}")
    whole = 0 if columns.grid is None else columns.grid.size
    return f"mask: {columns.count} of {whole} voxels ({columns.count / max(whole, 1):.0%}) are fitted and changed, those {which}"
