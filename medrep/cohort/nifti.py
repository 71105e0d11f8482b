"""Volumes with their geometry, read and written.

The one place that imports nibabel for images; `medrep.export.meshes` does for surfaces, and nothing else does.

A file is opened whole or refused with one line. What would force a guess about geometry is refused: an affine that no
code vouches for, a header without its image, a header that claims more than the file can hold.
"""

import gzip
import logging
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import isal_zlib
from jaxtyping import Float, Float32, Int32, Shaped
from nibabel.imageglobals import logger as nibabel_logger
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from medrep.atomic import atomic_file
from medrep.cohort.label_likeness import label_levels
from medrep.errors import CohortError

nibabel_logger.setLevel(logging.CRITICAL)  # it tells what it mended in a header without telling in which file

MOST_VOXELS = 2**31
"""Volumes above this are refused before anything is allocated."""

_DEFLATE_LIMIT = 1032  # no deflate stream expands further than this, so a header can be checked before decompression
_HEADER_BYTES = 348
_GZIP = 31  # window bits, and a gzip header around
_ENDINGS = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz", ".mgh", ".mgz")
_UNITS = {1: "metres", 3: "micrometres"}
_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}  # the time units of a NIfTI header
_AXES_CURES = {3: "take one volume or the mean of it", 4: "a time series is needed: its volumes along a fourth axis"}
_MOST_LABEL = 2**24  # float32, in which images are read, tells whole numbers apart up to here


@dataclass(frozen=True)
class Volume:
    """A 3-D image in its own grid.

    Attributes:
        data: Intensities in scanner units, float32, axes as stored, in the file's order in memory.
        affine: Voxel index -> world, millimetres, RAS+.
    """

    data: Float32[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]

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
    """

    data: Float32[np.ndarray, "x y z volumes"]
    affine: Float[np.ndarray, "4 4"]
    repetition: float


@dataclass(frozen=True)
class LabelMap:
    """A 3-D image of regions: each voxel holds its region's number, 0 outside of all.

    Attributes:
        data: Region numbers, axes as stored.
        affine: Voxel index -> world, millimetres, RAS+.
    """

    data: Int32[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]


def read_image(path: Path) -> Volume:
    """Read a 3-D intensity image (NIfTI-1, NIfTI-2 or MGH; a fourth axis of length one is dropped).

    Args:
        path: The file.

    Returns:
        Data in float32 with the file's scaling applied, and its affine. NaN voxels are returned as they are.

    Raises:
        CohortError: One line: what is wrong with the file and what to do about it.
    """
    image = _open(path)
    shape = _checked_shape(path, image)
    affine = _checked_affine(path, image)
    data = _read_data(path, image).reshape(shape)
    levels = label_levels(data)
    if levels:
        raise CohortError(
            f"{path}: looks like a label map ({levels} whole-number values), not an image; choose another suffix"
        )
    return Volume(data, affine)


def read_series(path: Path) -> Series:
    """Read a 4-D image; NaN voxels are returned as they are.

    Raises:
        CohortError: One line: what is wrong with the file and what to do about it.
    """
    image = _open(path)
    shape = _checked_shape(path, image, axes=4)
    affine = _checked_affine(path, image)
    data = np.ascontiguousarray(_read_data(path, image).reshape(shape))
    return Series(data, affine, _repetition(image))


def read_labels(path: Path) -> LabelMap:
    """Read a 3-D label map.

    Raises:
        CohortError: One line: an unusable file, or voxels that are no whole number from 0.
    """
    image = _open(path)
    shape = _checked_shape(path, image)
    affine = _checked_affine(path, image)
    data = _read_data(path, image).reshape(shape)
    strange = data[~((data >= 0) & (data < _MOST_LABEL) & (data == np.round(data)))]
    if len(strange):
        raise CohortError(
            f"{path}: {len(strange)} voxels are no region number ({strange[0]:g}, ...); a label map holds whole numbers from 0"
        )
    return LabelMap(np.ascontiguousarray(data, dtype=np.int32), affine)


def in_memory(data: Shaped[np.ndarray, "..."], affine: Float[np.ndarray, "4 4"]) -> nib.Nifti1Image:
    """Return an array as the image object that neuroimaging libraries take."""
    return nib.Nifti1Image(data, affine)


def write_image(path: Path, volume: Volume) -> None:
    """Write a float32 NIfTI-1 file (NIfTI-2 above 32767 voxels along an axis) atomically.

    The affine goes into both sform and qform where a qform can hold it. The same volume gives the same bytes: no time
    stamp enters the gzip header.
    """
    _write(path, np.asarray(volume.data, dtype=np.float32), volume.affine)


def write_label_map(path: Path, labels: LabelMap) -> None:
    """Write region numbers as `write_image` does intensities, in the smallest of uint8, int16 and int32 that holds them."""
    kinds = (np.uint8, np.int16, np.int32)
    kind = next(kind for kind in kinds if labels.data.max() <= np.iinfo(kind).max)
    _write(path, labels.data.astype(kind), labels.affine)


def missing_voxels(volume: Volume) -> int:
    """Return how many voxels are NaN or infinite."""
    return int(np.count_nonzero(~np.isfinite(volume.data)))


def _write(path: Path, data: Shaped[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"]) -> None:
    form = nib.Nifti1Image if max(data.shape) < 2**15 else nib.Nifti2Image
    image = form(data, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_sform(affine, code="scanner")
    try:
        image.header.set_qform(affine, code="scanner", strip_shears=False)
    except HeaderDataError:
        image.header.set_qform(None, code="unknown")
    content = image.to_bytes()
    with atomic_file(path) as partial:
        partial.write_bytes(gzip.compress(content, compresslevel=4, mtime=0) if path.suffix == ".gz" else content)


def _open(path: Path) -> nib.spatialimages.SpatialImage:
    _check_file(path)
    if not path.name.lower().endswith(_ENDINGS):
        raise CohortError(f"{path}: not a file that is read ({', '.join(_ENDINGS)}); convert it to NIfTI")
    try:
        with np.errstate(all="ignore"):
            image = _unpacked(path) or nib.load(path)
    except Exception as error:  # nibabel lets through whatever a damaged header trips over: KeyError, TypeError, ...
        raise CohortError(f"{path}: not a readable image ({_first_line(error)}); convert it to NIfTI again") from None
    if isinstance(image, nib.Cifti2Image):
        raise CohortError(f"{path}: a CIFTI matrix has no voxel grid; export it as features.tsv")
    if isinstance(image, nib.AnalyzeImage) and not isinstance(image, nib.Nifti1Image | nib.Nifti1Pair):
        raise CohortError(
            f"{path}: ANALYZE files do not say which side is left; convert to NIfTI with a known orientation"
        )
    if not isinstance(image, nib.Nifti1Image | nib.Nifti1Pair | nib.MGHImage):
        raise CohortError(f"{path}: {type(image).__name__} is not read; convert it to NIfTI")
    return image


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise CohortError(f"{path}: no such file") from None
    except OSError as error:
        raise CohortError(f"{path}: cannot be opened ({error.strerror})") from None
    if not path.is_file():
        raise CohortError(f"{path}: not a file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise CohortError(f"{path}: cannot be opened ({error.strerror})") from None
    for own, other, what in ((".hdr", ".img", "a header without its image"), (".img", ".hdr", "no header beside it")):
        for packed in ("", ".gz"):
            ending = own + packed
            if path.name.endswith(ending):
                partner = path.name.removesuffix(ending) + other + packed
                if not path.with_name(partner).is_file():
                    raise CohortError(f"{path}: {what}; put {partner} there or convert to .nii")
    if size == 0:
        raise CohortError(f"{path}: the file is empty (0 bytes); fetch or convert it again")


def _checked_shape(path: Path, image: nib.spatialimages.SpatialImage, axes: int = 3) -> tuple[int, ...]:
    shape = tuple(int(length) for length in image.shape)
    voxels = int(np.prod([max(length, 0) for length in shape], dtype=object))
    if not shape or voxels == 0 or min(shape) < 1:
        raise CohortError(f"{path}: the header gives the shape {shape}, which holds no voxel; convert it again")
    if voxels > MOST_VOXELS or voxels * image.get_data_dtype().itemsize > _most_bytes(path, image):
        raise CohortError(
            f"{path}: the header claims {voxels:.3g} voxels, more than the file can hold; convert it again"
        )
    if image.get_data_dtype().fields or image.get_data_dtype().kind == "c":
        raise CohortError(
            f"{path}: colour or complex voxels ({image.get_data_dtype()}); one real number a voxel is needed"
        )
    kept = shape[:axes] if all(length == 1 for length in shape[axes:]) else shape
    if len(kept) != axes:
        cure = "a 3-D image is needed" if len(kept) < 3 else _AXES_CURES[axes]
        raise CohortError(f"{path}: has {len(kept)} axes {kept}, not {axes}; {cure}")
    return kept


def _most_bytes(path: Path, image: nib.spatialimages.SpatialImage) -> int:
    holder = Path(image.file_map["image"].filename or path)
    size = holder.stat().st_size if holder.exists() else 0
    return size * _DEFLATE_LIMIT if holder.suffix.lower() in {".gz", ".mgz"} else size


def _checked_affine(path: Path, image: nib.spatialimages.SpatialImage) -> np.ndarray:
    header = image.header
    if isinstance(header, nib.Nifti1Header) and int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise CohortError(
            f"{path}: no orientation (sform and qform codes are 0); set the affine with a tool that knows it"
        )
    if isinstance(image, nib.MGHImage) and not _mgh_has_orientation(path):
        raise CohortError(f"{path}: no orientation (goodRASFlag is 0); set the affine with a tool that knows it")
    unit = _UNITS.get(int(header["xyzt_units"]) % 8, "") if isinstance(header, nib.Nifti1Header) else ""
    if unit:
        raise CohortError(f"{path}: the header gives lengths in {unit}; convert the affine and the header to mm")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not _invertible(affine):
        raise CohortError(f"{path}: the affine {affine[:3].tolist()} cannot be inverted; set a valid one")
    return affine


def _repetition(image: nib.spatialimages.SpatialImage) -> float:
    header = image.header
    unit = _SECONDS.get(int(header["xyzt_units"]) & 0x38, 0.0) if isinstance(header, nib.Nifti1Header) else 1e-3
    seconds = unit * float((*header.get_zooms(), 0, 0, 0, 0)[3])
    return seconds if 0 < seconds < np.inf else 0.0


def _mgh_has_orientation(path: Path) -> bool:
    with ImageOpener(str(path)) as file:  # read again, since nibabel fills in an orientation and sets the flag itself
        return any(file.read(30)[28:30])


def _invertible(affine: Float[np.ndarray, "4 4"]) -> bool:
    largest = np.abs(affine[:3, :3]).max(axis=0)
    if not (np.isfinite(affine).all() and largest.min() > 1e-9 and np.abs(affine).max() < 1e9):
        return False
    unit = affine[:3, :3] / largest
    return bool(abs(np.linalg.det(unit / np.linalg.norm(unit, axis=0))) > 1e-6)


def _read_data(path: Path, image: nib.spatialimages.SpatialImage) -> Shaped[np.ndarray, "..."]:
    try:
        with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite, and is counted as such
            return np.asarray(image.dataobj, dtype=np.float32)
    except MemoryError:
        raise CohortError(f"{path}: {image.shape} voxels do not fit into memory; resample it first") from None
    except Exception as error:  # as in _open
        raise CohortError(f"{path}: the data are cut off or damaged ({_first_line(error)}); fetch it again") from None


def _unpacked(path: Path) -> nib.Nifti1Image | None:
    """Return a .nii.gz unpacked in one go, twice as fast as through a file object; None for all that is not plainly one.

    Never more is unpacked than the header claims, and memory is taken for what the file holds only.
    """
    if not path.name.lower().endswith(".nii.gz"):
        return None
    packed, stream = path.read_bytes(), isal_zlib.decompressobj(_GZIP)
    try:
        head = stream.decompress(packed, _HEADER_BYTES)
        header = nib.Nifti1Header(head, check=False)
        if len(head) < _HEADER_BYTES or header["magic"] != b"n+1":
            return None
        voxels = int(np.prod(header["dim"][1 : header["dim"][0] + 1], dtype=object))
        rest = int(header["vox_offset"]) + voxels * header.get_data_dtype().itemsize - _HEADER_BYTES
        if not 0 < voxels <= MOST_VOXELS or rest <= 0:
            return None
        whole = head + stream.decompress(stream.unconsumed_tail, rest)
        more = stream.decompress(stream.unconsumed_tail, 1)  # the end of the stream, and with it its checksum
    except Exception:  # a damaged header or stream: nibabel tells in what
        return None
    if len(whole) < _HEADER_BYTES + rest or not (more or stream.eof):  # cut off, or of several members; nibabel tells
        return None
    return nib.Nifti1Image.from_bytes(whole)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
