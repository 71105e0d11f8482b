"""What the header of an image says: where its voxels lie in the world, and what of it is kept when new voxels are written.

A NIfTI header may hold two affines. The sform is used where its code is above zero, as nibabel, FSL and SPM do it, else the
qform. Where both are there and lie apart, that is told; where they put left on opposite sides, nobody can know which of them
is right and the image is refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float, Shaped
from nibabel.spatialimages import HeaderDataError

from medrep.cohort.grid import SAME_PLACE, corner_distance
from medrep.cohort.image_files import mgh_has_orientation
from medrep.errors import CohortError

_NAMED = 3
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
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"{len(keys)} image{'s' if len(keys) > 1 else ''} ({', '.join(keys[:_NAMED])}{more})"


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
