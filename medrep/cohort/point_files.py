"""Files of points in correspondence: GIFTI meshes, PLY, and tables of landmarks.

A file is kept as the bytes that it is, with the places in it that hold coordinates, so that what is written again differs in
the coordinates of points that moved, and in nothing else: faces, colours, names and metadata stay.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medrep.cohort.bids import POINT_ENDINGS
from medrep.cohort.surface_files import read_content, read_pointset, rewritten
from medrep.errors import CohortError

_MOST_POINTS = 2**23
_NAMED = 5
_AXES = ("x", "y", "z")
_LABELS = ("name", "label", "landmark")
_MISSING = {"", "n/a", "na", "nan"}
_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}

Points = Float[np.ndarray, "points dims"]


@dataclass(frozen=True, eq=False)
class PointFile:
    """A file of points.

    Attributes:
        path: Where it lies.
        points: Coordinates, in the unit of the file (mm in GIFTI); NaN where one is missing.
        labels: Names of the points, each another; none where the file numbers them.
        moved: Returns the file's bytes with a change of each coordinate added; where it is 0 they stay as they are.
    """

    path: Path
    points: Points
    labels: tuple[str, ...]
    moved: Callable[[Points], bytes]


def read_points(path: Path) -> PointFile:
    """Read a file.

    Raises:
        CohortError: One line: what is wrong with the file and what to do about it.
    """
    content = read_content(path)
    reader = next((own for ending, own in _READERS.items() if path.name.endswith(ending)), None)
    if reader is None:
        raise CohortError(f"{path}: not a file of points that is read ({', '.join(POINT_ENDINGS)})")
    try:
        found = reader(path, content)
    except CohortError:
        raise
    except Exception as error:  # whatever a damaged file trips over
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise CohortError(f"{path}: the data are cut off or damaged ({said}); fetch it again") from None
    if len(found.points) < found.points.shape[1] + 1:
        raise CohortError(
            f"{path}: {len(found.points)} points; at least {found.points.shape[1] + 1} are needed to see a shape"
        )
    twice = [name for name, often in Counter(found.labels).items() if often > 1]
    if twice:
        raise CohortError(f"{path}: several points are named {', '.join(twice[:_NAMED])}; give each a name of its own")
    return found


def _gifti(path: Path, content: bytes) -> PointFile:
    file = read_pointset(path, content)
    flat = file.arrays[0].data[:, 0]
    return PointFile(
        path,
        np.asarray(flat, np.float64).reshape(-1, 3),
        (),
        lambda change: rewritten(file, change.ravel(), slice(0, 1)),
    )


@dataclass(frozen=True)
class _PlyHeader:
    """Header of a PLY file: its format, how many vertices, their properties (name, type), and where the data begin."""

    form: str
    count: int
    properties: tuple[tuple[str, str], ...]
    start: int

    @classmethod
    def of(cls, path: Path, content: bytes) -> "_PlyHeader":
        mark = re.search(rb"end_header[^\n]*\n", content)
        if not content.startswith(b"ply") or mark is None:
            raise CohortError(f"{path}: not a PLY file (it has no header); convert it again")
        lines = [line.split() for line in content[: mark.start()].decode("ascii", "replace").splitlines()]
        form = next((line[1] for line in lines if line[:1] == ["format"]), "")
        elements = [k for k, line in enumerate(lines) if line[:1] == ["element"]]
        if not elements or lines[elements[0]][1] != "vertex":
            raise CohortError(f"{path}: its first element is not vertex; write the vertices first")
        own = lines[elements[0] + 1 : elements[1] if len(elements) > 1 else None]
        properties = [line[1:] for line in own if line[:1] == ["property"]]
        if any(len(one) != 2 or one[0] not in _TYPES for one in properties):
            raise CohortError(f"{path}: its vertices have lists or unknown types; convert it again with x, y and z")
        names = [name for _, name in properties]
        lacking = [axis for axis in _AXES if axis not in names]
        count = int(lines[elements[0]][2])
        if lacking or not 0 <= count <= _MOST_POINTS:
            raise CohortError(f"{path}: {count} vertices, without {', '.join(lacking) or 'end'}; convert it again")
        return cls(form, count, tuple((name, _TYPES[form]) for form, name in properties), mark.end())


def _ply(path: Path, content: bytes) -> PointFile:
    header = _PlyHeader.of(path, content)
    body = content[header.start :]
    if header.form == "ascii":
        return _ply_text(path, content, header)
    sign = {"binary_little_endian": "<", "binary_big_endian": ">"}[header.form]
    dtype = np.dtype([(name, sign + form) for name, form in header.properties])
    rows = np.frombuffer(body, dtype, header.count)

    def moved(change: Points) -> bytes:
        new = rows.copy()
        for axis, own in zip(_AXES, change.T, strict=True):
            new[axis] = np.where(own == 0, rows[axis], rows[axis] + own)
        return content[: header.start] + new.tobytes() + body[rows.nbytes :]

    return PointFile(path, np.stack([rows[axis].astype(np.float64) for axis in _AXES], axis=1), (), moved)


def _ply_text(path: Path, content: bytes, header: _PlyHeader) -> PointFile:
    lines = content[header.start :].splitlines(keepends=True)
    places = [[name for name, _ in header.properties].index(axis) for axis in _AXES]
    cells = [re.split(rb"(\s+)", line.strip()) for line in lines[: header.count]]
    if len(cells) < header.count or any(len(one) < 2 * len(header.properties) - 1 for one in cells):
        raise ValueError(f"fewer than {header.count} vertices of {len(header.properties)} numbers")
    points = np.array([[float(one[2 * place]) for place in places] for one in cells])

    def moved(change: Points) -> bytes:
        new = list(lines)
        for number in np.flatnonzero((change != 0).any(axis=1)):
            own = list(cells[number])
            for place, old, more in zip(places, points[number], change[number], strict=True):
                own[2 * place] = _number(old + more) if more != 0 else own[2 * place]
            end = lines[number][len(lines[number].rstrip()) :]
            new[number] = b"".join(own) + end
        return content[: header.start] + b"".join(new)

    return PointFile(path, points, (), moved)


def _table(path: Path, content: bytes) -> PointFile:
    lines = content.splitlines(keepends=True)
    rows = [line.decode("utf-8-sig").rstrip("\r\n").split("\t") for line in lines]
    header = [name.strip().lower() for name in rows[0]]
    axes = [axis for axis in _AXES if axis in header]
    if axes not in [["x", "y"], ["x", "y", "z"]]:
        raise CohortError(f"{path}: columns {', '.join(header)}; name the coordinates x, y and z (or x and y)")
    filled = [k for k, row in enumerate(rows) if k and any(cell.strip() for cell in row)]
    short = [str(k + 1) for k in filled if len(rows[k]) != len(header)]
    if short:
        raise CohortError(f"{path}: lines {', '.join(short[:_NAMED])} have not {len(header)} cells; write tabs between")
    places = [header.index(axis) for axis in axes]
    label = next((header.index(name) for name in _LABELS if name in header), None)
    labels = () if label is None else tuple(rows[k][label].strip() for k in filled)
    wrong = [f"line {k + 1}: {rows[k][place]!r}" for k in filled for place in places if _value(rows[k][place]) is None]
    if wrong:
        raise CohortError(f"{path}: not numbers: {', '.join(wrong[:_NAMED])}; write n/a where a point is missing")
    points = np.array([[_value(rows[k][place]) for place in places] for k in filled], dtype=float)

    def moved(change: Points) -> bytes:
        new = list(lines)
        for own, k in enumerate(filled):
            if (change[own] != 0).any():
                cells = list(rows[k])
                for place, old, more in zip(places, points[own], change[own], strict=True):
                    cells[place] = _number(old + more).decode() if more != 0 else cells[place]
                new[k] = "\t".join(cells).encode() + lines[k][len(lines[k].rstrip(b"\r\n")) :]
        return b"".join(new)

    return PointFile(path, points.reshape(len(filled), len(axes)), labels, moved)


def _value(cell: str) -> float | None:
    """Return a cell's number, NaN where it says that there is none; None where it is no number."""
    try:
        return float("nan") if cell.strip().lower() in _MISSING else float(cell)
    except ValueError:
        return None


def _number(value: float) -> bytes:
    return f"{value:.9g}".encode()


_READERS: dict[str, Callable[[Path, bytes], Any]] = {".surf.gii": _gifti, ".ply": _ply, ".tsv": _table}
