"""GIFTI and CIFTI-2 files of surfaces: their values, and which of them are neighbours on the mesh.

A file is kept as the bytes that it is, with the places in it that hold values, so that what is written again differs in its
values alone. nibabel's writer would change white space and headers, and of GIFTI in the other byte order the numbers.
"""

import base64
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from logging import CRITICAL
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
from jaxtyping import Float, Shaped

from medrep.cohort.bids import SURFACE_ENDINGS
from medrep.errors import CohortError

_MOST_VALUES = 2**24  # of a GIFTI array; the finest meshes have some 300,000 vertices
_TYPES = {"NIFTI_TYPE_FLOAT32": "f4", "NIFTI_TYPE_FLOAT64": "f8"}
_NO_VALUES = {
    "POINTSET": "a mesh",
    "TRIANGLE": "a mesh",
    "LABEL": "labels",
    "NODE_INDEX": "values of some vertices only",
}
_SIDES = {"_hemi-L_": "left", "_hemi-R_": "right"}
_NAMED = 5
_CIFTI_CODE = 32  # of the extension that holds CIFTI's XML
_ROOT = re.compile(rb"<CIFTI\b[^>]*>")
_INDEX_MAP = re.compile(rb"<MatrixIndicesMap\b.*?</MatrixIndicesMap>", re.DOTALL)


@dataclass(frozen=True, eq=False)
class StoredValues:
    """An array of a file.

    Attributes:
        data: As stored; a column of each map.
        start: Where its bytes begin in the file.
        stop: Where they end.
        encoding: ``ASCII``, ``Base64Binary``, ``GZipBase64Binary``, or empty for plain bytes.
    """

    data: Float[np.ndarray, "values maps"]
    start: int
    stop: int
    encoding: str = ""


@dataclass(frozen=True, eq=False)
class SurfaceFile:
    """A GIFTI or CIFTI-2 file.

    Attributes:
        path: Where it lies.
        content: All of its bytes.
        arrays: Its values: an array a map (GIFTI), or one array (CIFTI).
        maps: Names of its maps, or numbers of its time points.
        parts: Structures that the values are of, and how many each has.
        names: Of the values, each another.
        meshes: Structures whose values are of vertices, and how many vertices their mesh has.
    """

    path: Path
    content: bytes
    arrays: tuple[StoredValues, ...]
    maps: tuple[str, ...]
    parts: tuple[tuple[str, int], ...]
    names: tuple[str, ...]
    meshes: tuple[tuple[str, int], ...] = ()

    @property
    def values(self) -> Float[np.ndarray, "values maps"]:
        """All values, a column of each map."""
        return np.concatenate([array.data for array in self.arrays], axis=1)

    def chosen(self, wanted: str) -> slice:
        """Return which maps are looked at.

        Args:
            wanted: As ``input.map`` says.

        Raises:
            CohortError: There is no such map, or several where none is chosen.
        """
        count = len(self.maps)
        if wanted == "mean" or (not wanted and count == 1):
            return slice(0, count)
        if self.maps.count(wanted) == 1:
            return slice(place := self.maps.index(wanted), place + 1)
        if wanted.isdecimal() and 0 < int(wanted) <= count:
            return slice(int(wanted) - 1, int(wanted))
        more = ", ..." if count > _NAMED else ""
        held = f"{self.path}: maps or time points: {count} ({', '.join(self.maps[:_NAMED])}{more})"
        problem = f"none or several are {wanted!r}" if wanted else "one value a vertex is needed"
        raise CohortError(
            f"{held}; {problem}: set input.map to a name or a number from 1, or to mean for the mean of all"
        )


def read_content(path: Path) -> bytes:
    """Return the bytes of a person's file.

    Raises:
        CohortError: One line: a file that is not there, cannot be opened or is empty.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CohortError(f"{path}: no such file; for one hemisphere alone set input.entities to {{hemi: L}}") from None
    except OSError as error:
        raise CohortError(f"{path}: cannot be opened ({error.strerror})") from None
    if not content:
        raise CohortError(f"{path}: the file is empty (0 bytes); fetch or convert it again")
    return content


def read_surface(path: Path) -> SurfaceFile:
    """Read a file.

    Raises:
        CohortError: One line: what is wrong with the file and what to do about it.
    """
    content = read_content(path)
    if not path.name.endswith(SURFACE_ENDINGS):
        raise CohortError(f"{path}: not a surface that is read ({', '.join(SURFACE_ENDINGS)})")
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of nibabel: what it doubts and can do without
            return _gifti(path, content) if path.name.endswith(".gii") else _cifti(path, content)
    except CohortError:
        raise
    except Exception as error:  # nibabel and expat let through whatever a damaged file trips over
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise CohortError(f"{path}: the data are cut off or damaged ({said}); fetch it again") from None


def rewritten(file: SurfaceFile, change: Float[np.ndarray, " values"], maps: slice) -> bytes:
    """Return a file's bytes with a change added to some of its maps; a value whose change is 0 stays bit for bit.

    Args:
        file: As it was read.
        change: What is added to each value of each of these maps.
        maps: Which.
    """

    def changed(number: int, column: np.ndarray) -> np.ndarray:
        if number not in range(maps.start, maps.stop):
            return column
        with np.errstate(all="ignore"):  # a value that float32 cannot hold becomes infinite
            return np.where(change == 0, column, column + change)

    return _with_maps(file, changed)


def refilled(file: SurfaceFile, values: Float[np.ndarray, " values"]) -> bytes:
    """Return a file's bytes with other values in each of its maps."""
    return _with_maps(file, lambda _, column: values.astype(column.dtype))


def _with_maps(file: SurfaceFile, changed: Callable[[int, np.ndarray], np.ndarray]) -> bytes:
    """Return a file's bytes with each map, by its number, as it is changed."""
    pieces, end, first = list[bytes](), 0, 0
    for stored in file.arrays:
        own = range(first, first := first + stored.data.shape[1])
        data = stored.data.copy()
        for place, number in enumerate(own):
            data[:, place] = changed(number, data[:, place])
        text = file.content[stored.start : stored.stop]
        pieces += [
            file.content[end : stored.start],
            _encoded(stored, data, text) if data.tobytes() != stored.data.tobytes() else text,
        ]
        end = stored.stop
    return b"".join([*pieces, file.content[end:]])


def _encoded(stored: StoredValues, data: Shaped[np.ndarray, "values maps"], text: bytes) -> bytes:
    """Return values in the encoding and byte order of an array, with the white space around it."""
    if not stored.encoding:
        return data.tobytes()  # a row of CIFTI's matrix is a value's maps
    if stored.encoding == "ASCII":
        new, old = data[:, 0], stored.data[:, 0]
        words = iter(
            np.where((new == old) | np.isnan(old), "", new.astype(new.dtype.newbyteorder("=")).astype(str)).tolist()
        )
        return re.sub(rb"\S+", lambda found: next(words).encode() or found[0], text)
    raw = data.tobytes()
    body = base64.b64encode(raw if stored.encoding == "Base64Binary" else zlib.compress(raw))
    return text[: len(text) - len(text.lstrip())] + body + text[len(text.rstrip()) :]


class _Arrays:
    """The arrays of a GIFTI file: their attributes with the map's ``Name``, and where their data begin and end."""

    def __init__(self, content: bytes) -> None:
        self.found: list[tuple[dict[str, str], int, int]] = []
        self._content, self._open, self._pair, self._start = content, dict[str, str](), ["", ""], 0
        self._reading = ""
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler, self._parser.EndElementHandler = self._begin, self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.EntityDeclHandler = self._entity
        self._parser.Parse(content, True)

    def _entity(self, name: str, *_: object) -> None:
        raise ValueError(f"it declares the entity {name}, which no GIFTI file needs")

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        if name == "DataArray":
            self._open = dict(attributes)
        elif name in ("Name", "Value"):
            self._reading = name
            self._pair[name == "Value"] = ""
        elif name == "Data":
            self._start = self._content.index(b">", self._parser.CurrentByteIndex) + 1

    def _text(self, text: str) -> None:
        if self._reading:
            self._pair[self._reading == "Value"] += text

    def _end(self, name: str) -> None:
        self._reading = ""
        if name == "MD" and self._pair[0].strip() == "Name":
            self._open.setdefault("Name", self._pair[1].strip())
        elif name == "Data":
            self.found.append((self._open, self._start, max(self._start, self._parser.CurrentByteIndex)))


def _gifti(path: Path, content: bytes) -> SurfaceFile:
    stored, maps = [], []
    for number, (about, start, stop) in enumerate(_Arrays(content).found, 1):
        intent, form = about.get("Intent", "").removeprefix("NIFTI_INTENT_"), about.get("DataType", "")
        if intent in _NO_VALUES:
            raise CohortError(
                f"{path}: holds {_NO_VALUES[intent]} (NIFTI_INTENT_{intent}), not a value of every vertex"
            )
        if form not in _TYPES:
            raise CohortError(f"{path}: holds {form or 'no numbers'}; convert it to {' or '.join(_TYPES)}")
        shape = [int(about[f"Dim{axis}"]) for axis in range(int(about["Dimensionality"]))]
        if not shape or not 0 < shape[0] <= _MOST_VALUES or any(length != 1 for length in shape[1:]):
            raise CohortError(f"{path}: an array of {' x '.join(map(str, shape))} values; one a vertex is needed")
        sign = {"LittleEndian": "<", "BigEndian": ">"}[about["Endian"]]
        encoding = about.get("Encoding", "")
        values = _decoded(content[start:stop], encoding, np.dtype(sign + _TYPES[form]), shape[0])
        stored.append(StoredValues(values[:, None], start, stop, encoding))
        maps.append(about.get("Name", "") or str(number))
    counts = {len(array.data) for array in stored}
    if len(counts) != 1:
        raise CohortError(
            f"{path}: holds {'no values' if not counts else 'maps of different lengths'}; convert it again"
        )
    side, count = next((word for mark, word in _SIDES.items() if mark in path.name), "vertex"), counts.pop()
    names = tuple(f"{side}_{number}" for number in range(count))
    return SurfaceFile(path, content, tuple(stored), tuple(maps), ((side, count),), names, ((side, count),))


def read_pointset(path: Path, content: bytes) -> SurfaceFile:
    """Return the points of a GIFTI mesh as one array of values, x, y and z of each point after one another.

    Raises:
        CohortError: None or several sets of points, or points that are no rows of three float32 or float64.
    """
    found = [one for one in _Arrays(content).found if one[0].get("Intent", "").endswith("_POINTSET")]
    if len(found) != 1:
        raise CohortError(f"{path}: holds {len(found)} sets of points (NIFTI_INTENT_POINTSET); one is needed")
    about, start, stop = found[0]
    form, count = about.get("DataType", ""), int(about["Dim0"])
    order = about.get("ArrayIndexingOrder", "RowMajorOrder")
    if form not in _TYPES or about.get("Dim1") != "3" or order != "RowMajorOrder" or not 0 < count <= _MOST_VALUES:
        told = f"{count} x {about.get('Dim1', '1')} {form or 'numbers'} in {order}"
        raise CohortError(f"{path}: its points are {told}; convert them to rows of x, y, z in float32")
    sign, encoding = {"LittleEndian": "<", "BigEndian": ">"}[about["Endian"]], about.get("Encoding", "")
    values = _decoded(content[start:stop], encoding, np.dtype(sign + _TYPES[form]), 3 * count)
    stored = StoredValues(values[:, None], start, stop, encoding)
    return SurfaceFile(path, content, (stored,), ("points",), (("point", 3 * count),), ())


def _decoded(text: bytes, encoding: str, dtype: np.dtype[Any], count: int) -> Float[np.ndarray, " values"]:
    if encoding == "ASCII":
        values = np.array(text.split()).astype(np.float64).astype(dtype)
    elif encoding in ("Base64Binary", "GZipBase64Binary"):
        raw = base64.b64decode(text)
        if encoding != "Base64Binary":  # no more is unpacked than can be
            raw = zlib.decompressobj().decompress(raw, count * dtype.itemsize + 1)
        values = np.frombuffer(raw, dtype)
    else:
        raise ValueError(f"its encoding {encoding!r} is not read, only ASCII, Base64Binary and GZipBase64Binary")
    if len(values) != count:
        raise ValueError(f"{len(values)} values of the {count} that its header tells of")
    return values


@dataclass(frozen=True)
class _Axis:
    """An axis of a CIFTI matrix: its kind, its parts with their sizes, a name of each place, and the vertices of whole meshes."""

    kind: str
    parts: tuple[tuple[str, int], ...]
    names: tuple[str, ...]
    meshes: tuple[tuple[str, int], ...] = ()


def _cifti(path: Path, content: bytes) -> SurfaceFile:
    from nibabel import Nifti2Header  # a tenth of a second to import
    from nibabel.imageglobals import logger

    logger.setLevel(CRITICAL)  # it tells what is wrong with a header without telling in which file
    header = Nifti2Header.from_fileobj(BytesIO(content))
    xml = next((one.content for one in header.extensions if one.get_code() == _CIFTI_CODE), b"")
    root, found = _ROOT.findall(xml)[:1], dict[int, _Axis]()
    for one in _INDEX_MAP.findall(xml):
        found |= _axes(b"".join([*root, b"<Matrix>", one, b"</Matrix></CIFTI>"]))
    axes = [found[number] for number in sorted(found)]
    kinds = [axis.kind for axis in axes]
    if kinds not in [[maps, columns] for maps in ("Scalar", "Series") for columns in ("BrainModel", "Parcels")]:
        said = " x ".join(kinds) or "nothing"
        raise CohortError(f"{path}: a CIFTI matrix of {said}; one value a vertex or parcel is needed")
    dtype, shape, start = header.get_data_dtype(), tuple(len(axis.names) for axis in axes), header.get_data_offset()
    if dtype.kind != "f" or header.get_slope_inter() not in [(None, None), (1, 0)]:
        raise CohortError(f"{path}: its values are {dtype} or scaled; convert them to float32 without scaling")
    if shape != header.get_data_shape()[4:]:
        raise ValueError(f"a matrix of {header.get_data_shape()[4:]}, and axes of {shape}")
    data = np.frombuffer(content, dtype, shape[0] * shape[1], start).reshape(shape, order="F")
    twice = [name for name, often in Counter(axes[1].names).items() if often > 1]
    if twice:
        raise CohortError(f"{path}: several parcels are named {', '.join(twice[:_NAMED])}; give each a name of its own")
    stored = StoredValues(data.T, start, start + data.nbytes)
    return SurfaceFile(path, content, (stored,), axes[0].names, axes[1].parts, axes[1].names, axes[1].meshes)


@lru_cache(maxsize=8)
def _axes(xml: bytes) -> dict[int, _Axis]:
    """Read an index map of a CIFTI file: half a second for 91,000 grayordinates, and most people have the same."""
    from nibabel.cifti2 import Cifti2Extension

    header = Cifti2Extension.from_bytes(xml).get_object()
    return {number: _axis(header.get_axis(number)) for number in header.mapped_indices}


def _axis(axis: Any) -> _Axis:
    kind = type(axis).__name__.removesuffix("Axis")
    if kind != "BrainModel":
        plain = range(1, len(axis) + 1) if kind == "Series" else axis.name.tolist()
        return _Axis(kind, ((kind.lower(), len(axis)),), tuple(map(str, plain)))
    parts, names, meshes = list[tuple[str, int]](), list[str](), list[tuple[str, int]]()
    for structure, _, own in axis.iter_structures():
        word = str(structure).removeprefix("CIFTI_STRUCTURE_")
        parts.append((word, len(own)))
        meshes += [(word, int(own.nvertices[structure]))] if own.surface_mask.any() else []
        places = own.vertex[:, None].tolist() if own.surface_mask.any() else own.voxel.tolist()
        names += [f"{word}_{'_'.join(map(str, place))}" for place in places]
    return _Axis(kind, tuple(parts), tuple(names), tuple(meshes))
