"""Surfaces: a value a vertex, grayordinate or parcel of each person, in GIFTI or CIFTI-2 files.

A file is kept as the bytes that it is, with the places in it that hold values, so that what is written again differs in its
values alone. nibabel's writer would change white space and headers, and of GIFTI in the other byte order the numbers.
"""

import base64
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import BytesIO
from logging import CRITICAL
from pathlib import Path
from typing import Any, ClassVar
from xml.parsers import expat

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Shaped

from medrep.cohort.bids import SURFACE_ENDINGS, hemispheres, runs
from medrep.cohort.grid import Columns
from medrep.cohort.inputs import ImageInput, Missing
from medrep.cohort.kinds.base import Checked, Listener, Source
from medrep.cohort.kinds.volume import FileKind
from medrep.cohort.plausibility import same_data
from medrep.cohort.splits import row_fingerprint
from medrep.errors import CohortError, listed

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


@dataclass(frozen=True)
class SurfaceInput(ImageInput):
    """Kind ``surface``: ``.shape.gii`` and ``.func.gii`` of both hemispheres, or one CIFTI-2 file, a row of participants.tsv.

    The files ``hemi-L`` and ``hemi-R`` of one name belong together; ``entities: {hemi: L}`` takes one hemisphere alone.

    Attributes:
        missing: What NaN values do, such as those of a medial wall: ``error``, or ``keep`` (left out of the fit and left NaN on
            export).
        map: Which map (or time point) of files with several: its name, its number from 1, or ``mean``, the mean of all.
    """

    suffix: str = "thickness"
    missing: Missing = "error"
    map: str = ""


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
    """

    path: Path
    content: bytes
    arrays: tuple[StoredValues, ...]
    maps: tuple[str, ...]
    parts: tuple[tuple[str, int], ...]
    names: tuple[str, ...]

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


@dataclass(frozen=True, eq=False)
class PersonSurface:
    """One person's files, and their values as a row.

    Attributes:
        files: Of the left hemisphere, then of the right one; or one file.
        maps: Which maps of each file are looked at.
        row: The map, or the mean of the maps; NaN where a value is missing.
        names: Of the columns.
        runs: Those that the row is the mean of; none where it is of the files themselves.
    """

    files: tuple[SurfaceFile, ...]
    maps: tuple[slice, ...]
    row: Float32[np.ndarray, " columns"]
    names: tuple[str, ...]
    runs: "tuple[PersonSurface, ...]" = ()

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """Structures that the values are of, and how many each has."""
        return tuple(part for file in self.files for part in file.parts)


def read_person(path: Path, wanted: SurfaceInput) -> PersonSurface:
    """Read a person's file, with that of the other hemisphere where it has one.

    Args:
        path: Of two hemispheres either one's; or the name of the mean of several runs (`medrep.cohort.bids.runs`).
        wanted: The ``input`` section.

    Raises:
        CohortError: One line: what is wrong with which file and what to do about it.
    """
    if len(runs(path)) > 1:
        return _mean([read_person(run, wanted) for run in runs(path)])
    files = tuple(_read_file(part) for part in ((path,) if "hemi" in wanted.entities else hemispheres(path)))
    maps = tuple(file.chosen(wanted.map) for file in files)
    with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite, and is counted as missing
        rows = [
            np.asarray(file.values[:, some].mean(axis=1, dtype=np.float64), np.float32)
            for file, some in zip(files, maps, strict=True)
        ]
    for file, row in zip(files, rows, strict=True):
        bad = int(np.count_nonzero(~np.isfinite(row)))
        if bad and wanted.missing == "error":
            cure = "mend the file, or set input.missing to keep (for instance where a medial wall is NaN)"
            raise CohortError(f"{file.path}: {bad} of {len(row)} values are NaN or infinite; {cure}")
        row[~np.isfinite(row)] = np.nan
    names = files[0].names if len(files) == 1 else tuple(name for file in files for name in file.names)
    return PersonSurface(files, maps, np.concatenate(rows), names)


def _mean(own: list[PersonSurface]) -> PersonSurface:
    """Return the mean of a person's runs."""
    for run in own:
        if run.names != own[0].names:
            there, here = own[0].files[0].path, run.files[0].path
            told = f"has {_counted(run.parts)}, and {there.name} {_counted(own[0].parts)}, so that runs have no mean"
            raise CohortError(f"{here}: {told}; choose --run first or all")
    row = np.stack([run.row for run in own]).mean(axis=0, dtype=np.float64)
    return replace(own[0], row=np.asarray(row, np.float32), runs=tuple(own))


def load_surfaces(
    files: pd.Series, wanted: SurfaceInput, names: tuple[str, ...] = ()
) -> Iterator[tuple[str, PersonSurface | None, str]]:
    """Read people's surfaces one after another, in the order of ``files``.

    Args:
        files: Index: key; values: paths.
        wanted: The ``input`` section.
        names: Columns of a model that they must have; any if empty.

    Yields:
        Key, surface and an empty text; or key, None and one line of what is wrong. Never an exception.
    """
    for key, path in files.items():
        try:
            found = read_person(Path(str(path)), wanted)
        except CohortError as error:
            yield str(key), None, str(error)
            continue
        if names and found.names != names:
            told = (
                "other vertices or parcels than"
                if len(names) == len(found.names)
                else f"not the {len(names)} values of"
            )
            yield str(key), None, f"{path}: has {_counted(found.parts)}, {told} the model; give surfaces as in training"
        else:
            yield str(key), found, ""


def _counted(parts: Sequence[tuple[str, int]]) -> str:
    total = sum(count for _, count in parts)
    return f"{total} values ({', '.join(f'{name} {count}' for name, count in parts)})"


@dataclass
class _Layouts:
    """Layouts of the values of people, to find whoever is unlike most."""

    found: dict[str, tuple[tuple[tuple[str, int], ...], int]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    means: int = 0

    def add(self, key: str, surface: PersonSurface) -> bool:
        """Take a person; return whether their columns are those of the first."""
        self.names = self.names or surface.names
        self.found[key] = surface.parts, hash(surface.names)
        self.means = max(self.means, *(some.stop - some.start for some in surface.maps))
        return surface.names == self.names

    def problems(self) -> list[str]:
        """Return a line for everybody who is unlike most."""
        if not self.found:
            return []
        most = Counter(self.found.values()).most_common(1)[0][0]
        return [
            f"{key}: has {_counted(own[0])}, unlike most people, who have "
            + (_counted(most[0]) if own[0] != most[0] else "as many of other vertices or parcels")
            for key, own in self.found.items()
            if own != most
        ]

    def notes(self) -> list[str]:
        """Return what is to be said of means."""
        return (
            [f"the mean of {self.means} maps or time points of a file is taken (input.map)"] if self.means > 1 else []
        )


@dataclass(frozen=True)
class SurfaceKind(FileKind[SurfaceInput]):
    """A value a vertex, grayordinate or parcel of each person."""

    section: SurfaceInput = field(default_factory=SurfaceInput)

    kind: ClassVar[str] = "surface"
    section_type: ClassVar[type[SurfaceInput]] = SurfaceInput
    on_grid: ClassVar[bool] = False
    endings: ClassVar[tuple[str, ...]] = SURFACE_ENDINGS
    transform: ClassVar[str] = "medrep.derivatives.surfaces:TransformSurfaces"
    scorer: ClassVar[str] = "medrep.derivatives.surfaces:ScoreSurfaces"
    written: ClassVar[tuple[str, ...]] = ("path", "sidecar", "path_right", "sidecar_right")
    better_configs: ClassVar[str] = "linear_latents.yaml or vae_features.yaml"

    def measured(self, source: Source, listener: Listener) -> "tuple[SurfaceKind, tuple[str, ...]]":
        """Return the kind as it is."""
        del source, listener
        return self, ()

    def matrix(
        self,
        source: Source,
        room: Callable[[int, int], np.ndarray],
        listener: Listener,
        *,
        like: Columns | None = None,
        workers: int = 0,
    ) -> tuple[Shaped[np.ndarray, "people columns"], Columns]:
        """Read everybody's values, in the columns of the first person's files or a model's; see `InputKind.matrix`."""
        del workers
        rows, layouts, problems = None, _Layouts(), list[str]()
        files = source.files
        with listener.track("read surfaces", len(files)) as advance:
            for place, (key, surface, error) in enumerate(self._load(files, like)):
                if surface is None:
                    problems.append(f"{key}: {error}")
                elif layouts.add(key, surface) and not problems:
                    rows = room(len(files), len(layouts.names)) if rows is None else rows
                    rows[place] = surface.row
                advance(1)
        problems += layouts.problems()
        if problems or rows is None:
            cure = "mend them, or leave the people out with --exclude"
            raise CohortError(listed("surfaces that cannot be used", problems, cure))
        listener.notes(layouts.notes())
        return rows, Columns(layouts.names, len(layouts.names), None)

    def adapting(
        self, source: Source, like: Columns, listener: Listener
    ) -> Iterator[tuple[pd.Index, Shaped[np.ndarray, "people columns"]]]:
        """Yield one surface after another; see `InputKind.adapting`."""
        with listener.track("adapt to unseen sites", len(source.files)) as advance:
            for key, surface, _ in self._load(source.files, like):
                if surface is not None:
                    yield pd.Index([key]), surface.row[None]
                advance(1)

    def row(self, source: Source, key: str, like: Columns) -> Shaped[np.ndarray, " columns"]:
        """Return one person's values; see `InputKind.row`."""
        _, surface, error = next(self._load(source.files.loc[[key]], like))
        if surface is None:
            raise CohortError(error)
        return surface.row

    def errors(self, files: pd.Series) -> Iterator[tuple[str, str]]:
        """Read one surface after another; see `InputKind.errors`."""
        yield from ((key, error) for key, _, error in self._load(files, None))

    def check(self, source: Source, listener: Listener, look: Callable[[str, np.ndarray], None]) -> Checked:
        """Look for files that cannot be used, and for values that are missing or the same in everybody; see `InputKind.check`."""
        layouts, problems, marks = _Layouts(), list[str](), dict[str, str]()
        low, high = np.zeros(0), np.zeros(0)
        missing = 0
        with listener.track("read surfaces", len(source.files)) as advance:
            for key, surface, error in self._load(source.files, None):
                if surface is None:
                    problems.append(f"{key}: {error}")
                elif layouts.add(key, surface):
                    row = surface.row
                    low, high = (np.fmin(low, row), np.fmax(high, row)) if len(low) else (row, row)
                    missing += int(np.isnan(row).sum())
                    marks[key] = row_fingerprint(row)
                    look(key, row)
                advance(1)
        constant = int((low == high).sum()) if len(marks) > 1 else 0
        listener.notes(
            [f"constant and left as they are: {constant} of {len(low)} values of a person"] if constant else []
        )
        listener.notes([f"{missing} missing values are left out of the fit and stay missing"] if missing else [])
        listener.notes(layouts.notes())
        for line in same_data(marks):
            listener.warn(line)
        problems += layouts.problems()
        good = len(source.files) - len(problems)
        return Checked(tuple(problems), f"{good} surfaces of {len(layouts.names)} values" if good else "")

    def pictures(self, files: Sequence[Path]) -> "tuple[list[Float[np.ndarray, 'x y z']], None]":
        """Return no pictures: a report shows the values that change most."""
        del files
        return [], None

    def _load(self, files: pd.Series, like: Columns | None) -> Iterator[tuple[str, PersonSurface | None, str]]:
        return load_surfaces(files, self.section, () if like is None else like.names)


def _read_file(path: Path) -> SurfaceFile:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CohortError(f"{path}: no such file; for one hemisphere alone set input.entities to {{hemi: L}}") from None
    except OSError as error:
        raise CohortError(f"{path}: cannot be opened ({error.strerror})") from None
    if not content:
        raise CohortError(f"{path}: the file is empty (0 bytes); fetch or convert it again")
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
    return SurfaceFile(path, content, tuple(stored), tuple(maps), ((side, count),), names)


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
    """An axis of a CIFTI matrix: its kind, its parts with their sizes, and a name of each place on it."""

    kind: str
    parts: tuple[tuple[str, int], ...]
    names: tuple[str, ...]


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
    return SurfaceFile(path, content, (stored,), axes[0].names, axes[1].parts, axes[1].names)


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
    parts, names = list[tuple[str, int]](), list[str]()
    for structure, _, own in axis.iter_structures():
        word = str(structure).removeprefix("CIFTI_STRUCTURE_")
        parts.append((word, len(own)))
        places = own.vertex[:, None].tolist() if own.surface_mask.any() else own.voxel.tolist()
        names += [f"{word}_{'_'.join(map(str, place))}" for place in places]
    return _Axis(kind, tuple(parts), tuple(names))
