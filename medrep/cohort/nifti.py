"""Volumes, series and label maps with their geometry, read and written.

Of medrep only this, `medrep.cohort.image_files` (files opened and checked) and `medrep.cohort.image_headers` (what a header says)
import nibabel for images; `medrep.export.meshes` does for surfaces.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float, Float32, Int32, Shaped

from medrep.atomic import atomic_file
from medrep.cohort.image_files import checked_shape, first_line, open_header, open_image
from medrep.cohort.image_headers import (
    checked_affine,
    forms_apart,
    image_with_header,
    image_without_header,
    kept_header,
    repetition_time,
)
from medrep.cohort.label_likeness import label_levels
from medrep.errors import CohortError

_MOST_LABEL = 2**24  # float32, in which images are read, tells whole numbers apart up to here


@dataclass(frozen=True)
class Place:
    """Where an image lies, as its header says.

    Attributes:
        shape: Voxels along each of the first three axes.
        affine: Voxel index -> world, millimetres, RAS+.
        forms_apart: How far sform and qform put its corners apart, mm; 0 where there is one of them only.
    """

    shape: tuple[int, ...]
    affine: Float[np.ndarray, "4 4"]
    forms_apart: float

    @property
    def shortest_edge(self) -> float:
        """The shortest edge of a voxel, mm."""
        return _shortest_edge(self.affine)


@dataclass(frozen=True)
class Volume:
    """A 3-D image in its own grid.

    Attributes:
        data: Intensities in scanner units, float32, axes as stored, in the file's order in memory.
        affine: Voxel index -> world, millimetres, RAS+.
        header: Of the NIfTI file that was read, to be written again; None otherwise.
    """

    data: Float32[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    header: nib.Nifti1Header | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge lengths in millimetres."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


@dataclass(frozen=True)
class Series:
    """A 4-D image: volumes of one grid, one after another.

    Attributes:
        data: Intensities in scanner units, float32, axes as stored, time last.
        affine: Voxel index -> world, millimetres, RAS+.
        repetition: Seconds from one volume to the next as the header states them; 0 where it does not.
        forms_apart: How far sform and qform put its corners apart, mm; 0 where there is one of them only.
    """

    data: Float32[np.ndarray, "x y z volumes"]
    affine: Float[np.ndarray, "4 4"]
    repetition: float
    forms_apart: float = 0.0

    @property
    def shortest_edge(self) -> float:
        """The shortest edge of a voxel, mm."""
        return _shortest_edge(self.affine)


@dataclass(frozen=True)
class LabelMap:
    """A 3-D image of regions: each voxel holds its region's number, 0 outside of all.

    Attributes:
        data: Region numbers, axes as stored.
        affine: Voxel index -> world, millimetres, RAS+.
        header: Of the NIfTI file that was read, to be written again; None otherwise.
    """

    data: Int32[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    header: nib.Nifti1Header | None = None

    @property
    def forms_apart(self) -> float:
        """How far sform and qform put the corners apart, mm; 0 where there is one of them only."""
        return forms_apart(self.header, self.data.shape)

    @property
    def shortest_edge(self) -> float:
        """The shortest edge of a voxel, mm."""
        return _shortest_edge(self.affine)


def read_image(path: Path) -> Volume:
    """Read a 3-D intensity image (NIfTI-1, NIfTI-2 or MGH; a fourth axis of length one is dropped).

    Args:
        path: The file.

    Returns:
        Data in float32 with the file's scaling applied, and its affine. NaN voxels are returned as they are.

    Raises:
        CohortError: One line: what is wrong with the file and what to do about it.
    """
    image = open_image(path)
    shape = checked_shape(path, image)
    affine = checked_affine(path, image)
    data = _read_data(path, image).reshape(shape)
    levels = label_levels(data)
    if levels:
        raise CohortError(
            f"{path}: looks like a label map ({levels} whole-number values), not an image; choose another suffix"
        )
    return Volume(data, affine, kept_header(image))


def read_series(path: Path) -> Series:
    """Read a 4-D image; NaN voxels are returned as they are.

    Raises:
        CohortError: One line: what is wrong with the file and what to do about it.
    """
    image = open_image(path)
    shape = checked_shape(path, image, axes=4)
    affine = checked_affine(path, image)
    data = np.ascontiguousarray(_read_data(path, image).reshape(shape))
    return Series(data, affine, repetition_time(image), forms_apart(image.header, shape))


def read_labels(path: Path) -> LabelMap:
    """Read a 3-D label map.

    Raises:
        CohortError: One line: an unusable file, or voxels that are no whole number from 0.
    """
    image = open_image(path)
    shape = checked_shape(path, image)
    affine = checked_affine(path, image)
    data = _read_data(path, image).reshape(shape)
    strange = data[~((data >= 0) & (data < _MOST_LABEL) & (data == np.round(data)))]
    if len(strange):
        raise CohortError(
            f"{path}: {len(strange)} voxels are no region number ({strange[0]:g}, ...); a label map holds whole numbers from 0"
        )
    return LabelMap(np.ascontiguousarray(data, dtype=np.int32), affine, kept_header(image))


def in_memory(data: Shaped[np.ndarray, "..."], affine: Float[np.ndarray, "4 4"]) -> nib.Nifti1Image:
    """Return an array as the image object that neuroimaging libraries take."""
    return nib.Nifti1Image(data, affine)


def read_place(path: Path) -> Place:
    """Read where a 3-D image lies out of its header, without looking at its voxels.

    Raises:
        CohortError: One line: no such image, or no orientation.
    """
    image = open_header(path)
    shape = tuple(int(length) for length in image.shape)
    if len(shape) < 3 or min(shape) < 1 or any(length > 1 for length in shape[3:]):
        raise CohortError(f"{path}: the axes {shape} are no 3-D image")
    return Place(shape[:3], checked_affine(path, image), forms_apart(image.header, shape))


def write_image(path: Path, volume: Volume) -> None:
    """Write a float32 NIfTI file atomically, under the header that the volume was read with where it has one.

    Without one it is NIfTI-1 (NIfTI-2 above 32767 voxels along an axis), and the affine goes into both sform and qform where
    a qform can hold it. The same volume gives the same bytes: no time stamp enters the gzip header.
    """
    _write(path, np.asarray(volume.data, dtype=np.float32), volume.affine, volume.header)


def write_label_map(path: Path, labels: LabelMap) -> None:
    """Write region numbers as `write_image` does intensities, in the smallest of uint8, int16 and int32 that holds them."""
    kinds = (np.uint8, np.int16, np.int32)
    kind = next(kind for kind in kinds if labels.data.max() <= np.iinfo(kind).max)
    _write(path, labels.data.astype(kind), labels.affine, labels.header)


def missing_voxels(volume: Volume) -> int:
    """Return how many voxels are NaN or infinite."""
    return int(np.count_nonzero(~np.isfinite(volume.data)))


def _shortest_edge(affine: Float[np.ndarray, "4 4"]) -> float:
    return float(np.linalg.norm(affine[:3, :3], axis=0).min())


def _write(
    path: Path, data: Shaped[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"], header: nib.Nifti1Header | None
) -> None:
    image = image_without_header(data, affine) if header is None else image_with_header(data, affine, header)
    content = image.to_bytes()
    with atomic_file(path) as partial:
        partial.write_bytes(gzip.compress(content, compresslevel=4, mtime=0) if path.suffix == ".gz" else content)


def _read_data(path: Path, image: nib.spatialimages.SpatialImage) -> Shaped[np.ndarray, "..."]:
    try:
        with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite, and is counted as such
            return np.asarray(image.dataobj, dtype=np.float32)
    except MemoryError:
        raise CohortError(f"{path}: {image.shape} voxels do not fit into memory; resample it first") from None
    except Exception as error:  # as in open_image
        raise CohortError(f"{path}: the data are cut off or damaged ({first_line(error)}); fetch it again") from None
