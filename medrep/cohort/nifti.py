"""NIfTI images with their geometry, read and written.

A NIfTI header may hold two affines. The sform is used where its code is above zero, as nibabel, FSL and SPM do it, else the
qform. Where both are there and lie apart, that is told; where they put left on opposite sides, nobody can know which of them
is right and the image is refused.

Of medrep only this, `medrep.cohort.image_files` (files opened and checked) and `medrep.cohort.nifti` (what a header says)
import nibabel for images; `medrep.cohort.surface_files` and `medrep.derivatives.meshes` do for surfaces.
"""

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float, Float32, Int32, Shaped
from nibabel.spatialimages import HeaderDataError

from medrep._files import atomic_file
from medrep.cohort.bids import runs
from medrep.cohort.grid import SAME_PLACE, corner_distance
from medrep.cohort.image_files import checked_shape, first_line, mgh_has_orientation, open_header, open_image
from medrep.cohort.image_quality import label_levels
from medrep.errors import CohortError, few

_NAMED = 3
_SAME_VOXELS = 1e-3  # mm, between affines of one grid
_UNITS = {1: "metres", 3: "micrometres"}
_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}  # the time units of a NIfTI header


def checked_affine(path: Path, image: nib.spatialimages.SpatialImage) -> Float[np.ndarray, "4 4"]:
    """Return voxel index -> world, mm, RAS+.

    Raises:
        CohortError: One line: no orientation, two that contradict each other, another unit, or no valid affine.
    """
    header = image.header
    if isinstance(header, nib.Nifti1Header) and int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise CohortError(
            f"{path}: no orientation (sform and qform codes are 0); set the affine with a tool that knows it"
        )
    if isinstance(image, nib.MGHImage) and not mgh_has_orientation(path):
        raise CohortError(f"{path}: no orientation (goodRASFlag is 0); set the affine with a tool that knows it")
    unit = _UNITS.get(int(header["xyzt_units"]) % 8, "") if isinstance(header, nib.Nifti1Header) else ""
    if unit:
        raise CohortError(f"{path}: the header gives lengths in {unit}; convert the affine and the header to mm")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not _invertible(affine):
        raise CohortError(f"{path}: the affine {affine[:3].tolist()} cannot be inverted; set a valid one")
    if _has_both_forms(header) and (float(header["pixdim"][0]) < 0) != (np.linalg.det(affine[:3, :3]) < 0):
        raise CohortError(
            f"{path}: sform and qform are mirror images of each other, so which side is left is not known; find out, and set"
            " both to what is right"
        )
    return affine


def forms_apart(header: Any, shape: tuple[int, ...]) -> float:
    """Return how far sform and qform put the corners of an image apart, mm; 0 where the header holds one of them only.

    Args:
        header: Of an image whose affine was checked.
        shape: Of the image; its first three axes count.
    """
    other = _second_form(header) if _has_both_forms(header) else None
    return 0.0 if other is None else corner_distance(header.get_sform(), other, shape[:3])


def form_notes(apart: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return a line where sform and qform disagree, or none.

    Args:
        apart: Key -> how far they put the image's corners apart, and its shortest voxel edge, both in mm.
    """
    far = {key: mm for key, (mm, edge) in apart.items() if mm > SAME_PLACE * edge}
    if not far:
        return []
    most = max(far.values())
    return [
        f"{named_images(list(far))}: sform and qform of the header disagree, by up to {most:.3g} mm; the sform is used"
    ]


def named_images(keys: Sequence[str]) -> str:
    """Return how many images there are, and the first few by name."""
    return f"{len(keys)} image{'s' if len(keys) > 1 else ''} ({few(keys, _NAMED, last=' and')})"


def repetition_time(image: nib.spatialimages.SpatialImage) -> float:
    """Return the seconds from one volume to the next as the header states them; 0 where it does not."""
    header = image.header
    unit = _SECONDS.get(int(header["xyzt_units"]) & 0x38, 0.0) if isinstance(header, nib.Nifti1Header) else 1e-3
    seconds = unit * float((*header.get_zooms(), 0, 0, 0, 0)[3])
    return seconds if 0 < seconds < np.inf else 0.0


def kept_header(image: nib.spatialimages.SpatialImage) -> nib.Nifti1Header | None:
    """Return the header to write again; None for MGH files, whose header has no place in a NIfTI file."""
    return image.header if isinstance(image.header, nib.Nifti1Header) else None


def image_with_header(
    data: Shaped[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"], header: nib.Nifti1Header
) -> nib.Nifti1Image:
    """Return new voxels under the header of the image that they were made from, NIfTI-2 where that was.

    Changed are: the type of the voxels, their scaling (none), their number of axes, where they begin, the byte order
    (little-endian), and the unused ``glmin`` and ``glmax``. All else stays, extensions too: sform and qform with their codes,
    units, ``pixdim``, ``descrip``, ``intent_*``, ``cal_min`` and ``cal_max``, slice timing.
    """
    form = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    swapped = header.as_byteswapped("<")
    own = form.header_class(swapped.binaryblock, "<", False, header.extensions)
    edges = own["pixdim"].copy()
    own["magic"] = own.single_magic
    own["vox_offset"] = 0  # nibabel finds the place behind the extensions
    own.set_data_shape(data.shape)
    own.set_data_dtype(data.dtype)
    own.set_slope_inter(1, 0)
    for unused in {"glmin", "glmax"}.intersection(own.keys()):
        own[unused] = 0
    image = form(data, affine, own)
    image.header["pixdim"] = edges
    return image


def image_without_header(data: Shaped[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"]) -> nib.Nifti1Image:
    """Return voxels under a header of their own: the affine in sform and, where that can hold it, qform, both as scanner's."""
    form = nib.Nifti1Image if max(data.shape) < 2**15 else nib.Nifti2Image
    image = form(data, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_sform(affine, code="scanner")
    try:
        image.header.set_qform(affine, code="scanner", strip_shears=False)
    except HeaderDataError:
        image.header.set_qform(None, code="unknown")
    return image


def _has_both_forms(header: object) -> bool:
    return isinstance(header, nib.Nifti1Header) and int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0


def _second_form(header: nib.Nifti1Header) -> Float[np.ndarray, "4 4"] | None:
    """Return the qform of a header that has an sform, too."""
    try:
        qform = np.asarray(header.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):  # a quaternion that is none; the sform stands alone
        return None
    return qform if np.isfinite(qform).all() else None


def _invertible(affine: Float[np.ndarray, "4 4"]) -> bool:
    largest = np.abs(affine[:3, :3]).max(axis=0)
    if not (np.isfinite(affine).all() and largest.min() > 1e-9 and np.abs(affine).max() < 1e9):
        return False
    unit = affine[:3, :3] / largest
    return bool(abs(np.linalg.det(unit / np.linalg.norm(unit, axis=0))) > 1e-6)


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
        path: The file, or the name of the mean of several runs (`runs`).

    Returns:
        Data in float32 with the file's scaling applied, of several runs their mean, and the affine. NaN voxels are returned as
        they are.

    Raises:
        CohortError: One line: what is wrong with the file and what to do about it.
    """
    own, *others = runs(path)
    first = _read_image(own)
    if not others:
        return first
    total = first.data.astype(np.float64)
    for other in others:
        volume = _read_image(other)
        refuse_other_grid(other, volume, own, first)
        total += volume.data
    return Volume((total / (1 + len(others))).astype(np.float32), first.affine, first.header)


def refuse_other_grid(path: Path, volume: Volume, first: Path, there: Volume) -> None:
    """Refuse a run that does not lie on the voxels of the first.

    Raises:
        CohortError: One line.
    """
    if volume.data.shape != there.data.shape or np.abs(volume.affine - there.affine).max() > _SAME_VOXELS:
        here, size = (" x ".join(map(str, one.data.shape)) for one in (volume, there))
        raise CohortError(
            f"{path}: {here} voxels that are not those of {first.name} ({size}), so that runs have no mean; resample them to one"
            " grid, or choose --run first or all"
        )


def _read_image(path: Path) -> Volume:
    image = open_image(path)
    shape = checked_shape(path, image)
    affine = checked_affine(path, image)
    data = read_voxels(path, image).reshape(shape)
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
    data = np.ascontiguousarray(read_voxels(path, image).reshape(shape))
    return Series(data, affine, repetition_time(image), forms_apart(image.header, shape))


def read_labels(path: Path) -> LabelMap:
    """Read a 3-D label map.

    Raises:
        CohortError: One line: an unusable file, or voxels that are no whole number from 0.
    """
    if len(runs(path)) > 1:
        raise CohortError(f"{path}: label maps of several runs have no mean; choose --run first or all")
    image = open_image(path)
    shape = checked_shape(path, image)
    affine = checked_affine(path, image)
    data = read_voxels(path, image).reshape(shape)
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
    image = open_header(runs(path)[0])
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


def read_voxels(path: Path, image: nib.spatialimages.SpatialImage) -> Shaped[np.ndarray, "..."]:
    """Return the voxels of an opened image, float32, with the file's scaling applied.

    Raises:
        CohortError: One line: damage, or more than fits into memory.
    """
    try:
        with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite, and is counted as such
            return np.asarray(image.dataobj, dtype=np.float32)
    except MemoryError:
        raise CohortError(f"{path}: {image.shape} voxels do not fit into memory; resample it first") from None
    except Exception as error:  # as in open_image
        raise CohortError(f"{path}: the data are cut off or damaged ({first_line(error)}); fetch it again") from None
