"""Surfaces: a value a vertex, grayordinate or parcel of each person, in GIFTI or CIFTI-2 files."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Shaped

from medrep.cohort.bids import SURFACE_ENDINGS, hemispheres, runs
from medrep.cohort.grid import Columns, Mesh
from medrep.cohort.inputs import ImageInput, Missing
from medrep.cohort.kinds.base import Blocks, Checked, Listener, Matrix, Room, load_people
from medrep.cohort.kinds.volume import FileKind
from medrep.cohort.neighbours import find_neighbours
from medrep.cohort.plausibility import same_data
from medrep.cohort.samples import Source
from medrep.cohort.splits import row_fingerprint
from medrep.cohort.surface_files import SurfaceFile, read_surface
from medrep.errors import CohortError, listed


@dataclass(frozen=True)
class SurfaceInput(ImageInput):
    """Kind ``surface``: ``.shape.gii`` and ``.func.gii`` of both hemispheres, or one CIFTI-2 file, a row of participants.tsv.

    The files ``hemi-L`` and ``hemi-R`` of one name belong together; ``entities: {hemi: L}`` takes one hemisphere alone.

    Attributes:
        missing: What NaN values do, such as those of a medial wall: ``error``, or ``keep`` (left out of the fit and left NaN on
            export).
        map: Which map (or time point) of files with several: its name, its number from 1, or ``mean``, the mean of all.
        mesh: Mesh on which vertices are neighbours: a GIFTI file (``.surf.gii``) with ``{hemi}`` for L and R, absolute or from
            the current folder; ``none``: no neighbours; empty: one beside the files, TemplateFlow's, or fsaverage.
    """

    suffix: str = "thickness"
    missing: Missing = "error"
    map: str = ""
    mesh: str = ""


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
    files = tuple(read_surface(part) for part in ((path,) if "hemi" in wanted.entities else hemispheres(path)))
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

    Returns:
        Key, surface and an empty text; or key, None and one line of what is wrong. Never an exception.
    """

    def unlike(found: PersonSurface) -> str:
        told = "other vertices or parcels than" if len(names) == len(found.names) else f"not the {len(names)} values of"
        return f"has {_counted(found.parts)}, {told} the model; give surfaces as in training"

    return load_people(files, lambda path: read_person(path, wanted), names, unlike)


def _counted(parts: Sequence[tuple[str, int]]) -> str:
    total = sum(count for _, count in parts)
    return f"{total} values ({', '.join(f'{name} {count}' for name, count in parts)})"


@dataclass
class _Layouts:
    """Layouts of the values of people, to find whoever is unlike most."""

    found: dict[str, tuple[tuple[tuple[str, int], ...], int]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    means: int = 0
    first: PersonSurface | None = None

    def add(self, key: str, surface: PersonSurface) -> bool:
        """Take a person; return whether their columns are those of the first."""
        self.first = self.first or surface
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

    def neighbours(self, wanted: SurfaceInput) -> tuple[Mesh | None, list[str]]:
        """Return which columns are neighbours, and what is to be said of it."""
        if self.first is None:
            return None, []
        mesh, told = find_neighbours(self.names, self.first.files, wanted.mesh)
        return mesh, [told] if told else []

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
    forecaster: ClassVar[str] = "medrep.derivatives.surfaces:ForecastSurfaces"
    written: ClassVar[tuple[str, ...]] = ("path", "sidecar", "path_right", "sidecar_right")
    better_configs: ClassVar[str] = "linear_latents.yaml or vae_features.yaml"

    def measured(self, source: Source, listener: Listener) -> "tuple[SurfaceKind, tuple[str, ...]]":
        """Return the kind as it is."""
        del source, listener
        return self, ()

    def common_columns(self, source: Source, room: Callable[[int, int], np.ndarray], listener: Listener) -> Columns:
        """Return the values of the first person's files; see `InputKind.common_columns`."""
        del room, listener
        for key, surface, error in self._load(source.files, None):
            if surface is None:
                raise CohortError(f"surfaces that cannot be used: {key}: {error}")
            return Columns(surface.names, len(surface.names), None)
        raise CohortError("there are no surfaces")

    def matrix(
        self, source: Source, room: Room, listener: Listener, *, like: Columns | None = None, workers: int = 0
    ) -> Matrix:
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
        mesh, told = (None, []) if like is not None else layouts.neighbours(self.section)
        listener.notes([*layouts.notes(), *told])
        return rows, like or Columns(layouts.names, len(layouts.names), None, mesh=mesh)

    def adapting(self, source: Source, like: Columns, listener: Listener) -> Blocks:
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
        problems += layouts.problems()
        try:
            told = layouts.neighbours(self.section)[1]
        except CohortError as error:
            told, problems = [], [*problems, str(error)]
        listener.notes([*layouts.notes(), *told])
        for line in same_data(marks):
            listener.warn(line)
        good = len(source.files) - len(problems)
        return Checked(tuple(problems), f"{good} surfaces of {len(layouts.names)} values" if good else "")

    def pictures(self, files: Sequence[Path]) -> "tuple[list[Float[np.ndarray, 'x y z']], None]":
        """Return no pictures: a report shows the values that change most."""
        del files
        return [], None

    def _load(self, files: pd.Series, like: Columns | None) -> Iterator[tuple[str, PersonSurface | None, str]]:
        return load_surfaces(files, self.section, () if like is None else like.names)
