"""Image files, opened whole and checked to the last bit, or refused with one line.

A gzip file is one member or several, one behind the other (RFC 1952; block-wise packers write many), each with the checksum
and the length of its content; zeros behind the last are padding, as tapes and block devices leave it and as gzip itself
takes it. All of that is read. Anything else behind the last member, an end that is missing, and a checksum or a length
that does not fit are damage.

What would force a guess about geometry is refused: an affine that no code vouches for, two that name opposite sides left, a
header without its image, a header that claims more or less than the file holds.
"""

import logging
import sys
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import isal_zlib
from nibabel.fileholders import FileHolder
from nibabel.imageglobals import logger as nibabel_logger
from nibabel.openers import ImageOpener

from medrep.errors import CohortError

GZIP_MAGIC = b"\x1f\x8b"
"""How a gzip file begins."""

_GZIP = 31  # window bits, and a gzip header around
_PIECE = 2**20
_MOST_BEHIND = 2**30  # a small file can unpack to a thousand times its size, and holds who reads it


class GzipContent:
    """Content of a gzip file in memory, read from front to end; only after `finish` it is known to be whole.

    Args:
        packed: The file.

    Raises:
        CohortError: No gzip file; one line without the file's name, as from all methods.
    """

    def __init__(self, packed: bytes) -> None:
        if not packed.startswith(GZIP_MAGIC):
            raise CohortError("it is not packed, whatever its name says")
        self._pending, self._stream, self._ended = packed, isal_zlib.decompressobj(_GZIP), False

    def take(self, count: int) -> bytes:
        """Return the next bytes of the content; fewer only at its end.

        Args:
            count: How many at most; no more memory than that is taken.

        Raises:
            CohortError: Damage.
        """
        pieces: list[bytes] = []
        while count > 0 and not self._ended:
            piece = self._piece(count)
            pieces.append(piece)
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self) -> int:
        """Check what has not been taken, without keeping it.

        Returns:
            How many bytes were left, the last of them one that is not zero; 0 where nothing but zeros was left.

        Raises:
            CohortError: Damage.
        """
        count = last = 0
        while not self._ended:
            piece = self._piece(_PIECE)
            filled = len(piece.rstrip(b"\0"))
            last = count + filled if filled else last
            count += len(piece)
            if count > _MOST_BEHIND:
                raise CohortError(f"more than {_MOST_BEHIND} bytes behind what its header tells of")
        return last

    def _piece(self, most: int) -> bytes:
        before = len(self._pending)
        try:
            piece = self._stream.decompress(self._pending, most)
        except isal_zlib.error as error:  # type: ignore[misc]  # its stub takes the class for an instance
            raise CohortError(_told(str(error))) from None
        if self._stream.eof:
            self._pending = self._stream.unused_data.lstrip(b"\0")
            if self._pending and not self._pending.startswith(GZIP_MAGIC):
                raise CohortError(f"{len(self._pending)} bytes behind its end are no part of it")
            self._ended = not self._pending
            self._stream = isal_zlib.decompressobj(_GZIP)
            return piece
        self._pending = self._stream.unconsumed_tail
        if not piece and len(self._pending) == before:
            raise CohortError("its end is missing")
        return piece


def _told(error: str) -> str:
    """Return what isal found, in words."""
    if "checksum" in error.lower():
        return "its checksum does not fit, so at least one bit of it is not what was written"
    return f"it cannot be unpacked ({error})"


nibabel_logger.setLevel(logging.CRITICAL)  # it tells what it mended in a header without telling in which file

MOST_VOXELS = 2**31
"""Volumes above this are refused before anything is allocated."""

_ENDINGS = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz", ".mgh", ".mgz")
_NIFTI1_BYTES, _NIFTI2_BYTES, _MGH_BYTES = 348, 540, 284
_CIFTI_INTENTS = range(3000, 3100)
_BEGINNING = 2**14  # of a packed file, in which its header is
_DEFLATE_LIMIT = 1032  # no deflate stream expands further than this
_LAYOUTS = {
    (kind.sizeof_hdr, order): kind.template_dtype.newbyteorder(sign)
    for kind in (nib.Nifti1Header, nib.Nifti2Header)
    for order, sign in (("little", "<"), ("big", ">"))
}
_MOST_HEADER = 2**26  # a header of its own file, with what extends it
_MOST_FOOTER = 2**24  # what an MGH file may hold behind its voxels
_AXES_CURES = {3: "take one volume or the mean of it", 4: "a time series is needed: its volumes along a fourth axis"}


def open_image(path: Path) -> nib.spatialimages.SpatialImage:
    """Open a NIfTI-1, NIfTI-2 or MGH image; packed ones are unpacked and their checksums verified.

    Raises:
        CohortError: One line: what is wrong with the file and what to do about it.
    """
    _check_file(path)
    if not path.name.lower().endswith(_ENDINGS):
        raise CohortError(f"{path}: not a file that is read ({', '.join(_ENDINGS)}); convert it to NIfTI")
    try:
        with np.errstate(all="ignore"):
            image = _unpacked(path) or nib.load(path)
    except CohortError as error:
        raise CohortError(f"{path}: the data are cut off or damaged ({error}); fetch it again") from None
    except Exception as error:  # nibabel lets through whatever a damaged header trips over: KeyError, TypeError, ...
        raise CohortError(f"{path}: not a readable image ({first_line(error)}); convert it to NIfTI again") from None
    if isinstance(image, nib.Cifti2Image):
        raise CohortError(f"{path}: a CIFTI matrix has no voxel grid; export it as features.tsv")
    if isinstance(image, nib.AnalyzeImage) and not isinstance(image, nib.Nifti1Image | nib.Nifti1Pair):
        raise CohortError(
            f"{path}: ANALYZE files do not say which side is left; convert to NIfTI with a known orientation"
        )
    if not isinstance(image, nib.Nifti1Image | nib.Nifti1Pair | nib.MGHImage):
        raise CohortError(f"{path}: {type(image).__name__} is not read; convert it to NIfTI")
    return image


def open_header(path: Path) -> nib.spatialimages.SpatialImage:
    """Open an image for what its header says; its voxels stand for nothing, and of packed files only the beginning is read.

    Raises:
        CohortError: One line: not a file, or a header that cannot be read or claims more than the file can hold.
    """
    _check_file(path)
    name = path.name.lower()
    try:
        with np.errstate(all="ignore"):
            if not name.endswith((".nii.gz", ".mgh", ".mgz")):
                image = nib.load(path)
                if not isinstance(image, nib.spatialimages.SpatialImage):
                    raise CohortError(f"{path}: {type(image).__name__} is not read; convert it to NIfTI")
                return image
            with path.open("rb") as file:
                beginning = file.read(_BEGINNING)
            head = beginning if name.endswith(".mgh") else GzipContent(beginning).take(_NIFTI2_BYTES)
            form = _nifti_form(head) if name.endswith(".gz") else nib.MGHImage
            header = form.header_class(head[: _MGH_BYTES if form is nib.MGHImage else form.header_class.sizeof_hdr])
            shape = header.get_data_shape()
            voxels = int(np.prod(shape, dtype=object))
            if not 0 < voxels * header.get_data_dtype().itemsize <= path.stat().st_size * _DEFLATE_LIMIT:
                raise CohortError(f"{path}: the header claims {voxels:.3g} voxels, more than the file can hold")
            return form(np.broadcast_to(np.float32(0), shape), header.get_best_affine(), header)
    except CohortError:
        raise
    except Exception as error:  # as in open_image
        raise CohortError(f"{path}: not a readable image ({first_line(error)}); convert it to NIfTI again") from None


def checked_shape(path: Path, image: nib.spatialimages.SpatialImage, axes: int = 3) -> tuple[int, ...]:
    """Return the lengths of the axes that are wanted; further ones of length one are dropped.

    Raises:
        CohortError: One line: no voxel, other axes, colours, or a header that claims more or less than the file holds.
    """
    shape = tuple(int(length) for length in image.shape)
    voxels = int(np.prod([max(length, 0) for length in shape], dtype=object))
    if not shape or voxels == 0 or min(shape) < 1:
        raise CohortError(f"{path}: the header gives the shape {shape}, which holds no voxel; convert it again")
    held = image.file_map["image"].filename if image.file_map["image"].fileobj is None else None
    size = _size(held) if held else sys.maxsize  # what was unpacked is of the size that is claimed
    if voxels > MOST_VOXELS or voxels * image.get_data_dtype().itemsize > size:
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
    if held:
        _refuse_surplus(path, image, voxels, held, size)
    return kept


def mgh_has_orientation(path: Path) -> bool:
    """Return whether an MGH file says where it lies; nibabel fills in an orientation and sets the flag itself."""
    with ImageOpener(str(path)) as file:
        return any(file.read(30)[28:30])


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its name."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


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
    partner = _partner(path)
    if partner is not None and not partner.is_file():
        what = "a header without its image" if ".hdr" in path.name[-7:] else "no header beside it"
        raise CohortError(f"{path}: {what}; put {partner.name} there or convert to .nii")
    if size == 0:
        raise CohortError(f"{path}: the file is empty (0 bytes); fetch or convert it again")


def _partner(path: Path) -> Path | None:
    """Return the other file of a pair of header and image."""
    for own, other in ((".hdr", ".img"), (".img", ".hdr")):
        for packed in ("", ".gz"):
            if path.name.endswith(own + packed):
                return path.with_name(path.name.removesuffix(own + packed) + other + packed)
    return None


def _unpacked(path: Path) -> nib.spatialimages.SpatialImage | None:
    """Return a packed image, unpacked in one go and checked to its end, or an MGH one; None for all else, and for what is odd.

    Never more is kept than the header claims, and memory is taken for what the file holds only.
    """
    name = path.name.lower()
    if name.endswith(".mgh"):  # nibabel would leave the file open
        return nib.MGHImage.from_bytes(path.read_bytes())
    if not name.endswith((".gz", ".mgz")):
        return None
    packed, partner = path.read_bytes(), _partner(path)
    if not packed.startswith(GZIP_MAGIC):
        return None
    if partner is not None:
        pair = (packed, partner.read_bytes())
        return _unpacked_pair(*(pair if name.endswith(".hdr.gz") else reversed(pair)))
    content = GzipContent(packed)
    image = _unpacked_mgh(content) if name.endswith(".mgz") else _unpacked_nifti(content)
    if image is None:
        content.finish()
    return image


def _unpacked_nifti(content: GzipContent) -> nib.Nifti1Image | None:
    head = content.take(_NIFTI1_BYTES)
    form = _nifti_form(head)
    head += content.take(form.header_class.sizeof_hdr - len(head))
    header = _fields(form.header_class, head)
    if header["magic"].item() != form.header_class.single_magic or int(header["intent_code"]) in _CIFTI_INTENTS:
        return None
    size = _claimed_bytes(header)
    if size == 0:
        return None
    if header["vox_offset"] < len(head):
        raise CohortError("its voxels would begin inside of its header")
    whole = head + content.take(size - len(head))
    _refuse_other_size(len(whole), size, content.finish())
    return form.from_bytes(whole)


def _unpacked_pair(packed_header: bytes, packed_image: bytes) -> nib.Nifti1Pair | None:
    content = GzipContent(packed_header)
    head = content.take(_MOST_HEADER)
    content.finish()
    form = nib.Nifti2Pair if _nifti_form(head) is nib.Nifti2Image else nib.Nifti1Pair
    header = _fields(form.header_class, head[: form.header_class.sizeof_hdr])
    content = GzipContent(packed_image)
    size = _claimed_bytes(header) if header["magic"].item() == form.header_class.pair_magic else 0
    if size <= 0:
        content.finish()
        return None
    whole = content.take(size)
    _refuse_other_size(len(whole), size, content.finish())
    return form.from_file_map(
        {"header": FileHolder(fileobj=BytesIO(head)), "image": FileHolder(fileobj=BytesIO(whole))}
    )


def _unpacked_mgh(content: GzipContent) -> nib.MGHImage | None:
    head = content.take(_MGH_BYTES)
    lengths = np.frombuffer(head[4:20], dtype=">i4").astype(object)
    kind = int.from_bytes(head[20:24], "big")
    voxels = int(np.prod(lengths, dtype=object)) if len(lengths) == 4 and min(lengths) > 0 else 0
    known = nib.MGHImage.header_class._data_type_codes
    if not 0 < voxels <= MOST_VOXELS or kind not in known.value_set():
        return None
    size = _MGH_BYTES + voxels * int(known.bytespervox[kind])
    whole = head + content.take(size - len(head))
    _refuse_other_size(len(whole), size, 0)
    whole += content.take(_MOST_FOOTER)
    _refuse_other_size(size, size, content.finish())
    return nib.MGHImage.from_bytes(whole)


def _nifti_form(head: bytes) -> type[nib.Nifti1Image]:
    second = any(int.from_bytes(head[:4], order) == _NIFTI2_BYTES for order in ("little", "big"))
    return nib.Nifti2Image if second else nib.Nifti1Image


def _fields(kind: type[nib.Nifti1Header], head: bytes) -> Any:
    """Return the fields of a header by name: nibabel checks every one of them, which takes longer than to read a small image."""
    for order in ("little", "big"):
        if int.from_bytes(head[:4], order) == kind.sizeof_hdr:
            return np.frombuffer(head, _LAYOUTS[kind.sizeof_hdr, order])[0]
    return kind(head, check=False)


def _claimed_bytes(header: Any) -> int:
    """Return where the voxels end by a header, in bytes; 0 where it says nothing that can be."""
    axes, *lengths = header["dim"].tolist()
    voxels = prod(lengths[:axes]) if min(lengths[:axes], default=0) > 0 else 0
    if not 0 < voxels <= MOST_VOXELS:
        return 0
    itemsize = int(nib.nifti1.data_type_codes.dtype[int(header["datatype"])].itemsize)
    return int(header["vox_offset"]) + voxels * itemsize


def _refuse_other_size(held: int, size: int, surplus: int) -> None:
    if held < size:
        raise CohortError(f"{held} bytes of the {size} that its header tells of")
    if surplus:
        raise CohortError(f"{surplus} bytes too many behind the voxels that its header tells of")


def _size(held: str) -> int:
    """Return the bytes of a file; none where it is packed, which only what could not be unpacked still is here."""
    return 0 if held.lower().endswith((".gz", ".mgz")) else Path(held).stat().st_size


def _refuse_surplus(path: Path, image: nib.spatialimages.SpatialImage, voxels: int, held: str, size: int) -> None:
    """Refuse voxels that overlap the header, and what lies behind them and is no padding; packed files are checked before."""
    start = int(image.dataobj.offset)
    if isinstance(image, nib.Nifti1Image) and start < image.header.sizeof_hdr:
        raise CohortError(f"{path}: its voxels would begin inside of its header (at {start}); convert it again")
    end = start + voxels * image.get_data_dtype().itemsize
    if size > end:
        with Path(held).open("rb") as file:
            file.seek(end)
            filled = any(piece.strip(b"\0") for piece in iter(lambda: file.read(_PIECE), b""))
        if filled:
            raise CohortError(
                f"{path}: {size - end} bytes too many behind the voxels that its header tells of; convert it again"
            )
