"""Loading of volumes: image files -> rows of a people x voxels matrix, with every failure named."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32

from medrep._files import release_pages
from medrep.cohort.grid import Columns, Grid, Mask, grid_problem
from medrep.cohort.image_quality import background, looked_at, mean_level, thinned
from medrep.cohort.inputs import AUTO, BIDS, SAMPLED, VolumeInput
from medrep.cohort.masks import (
    HALF,
    file_mask,
    mask_note,
    not_background,
    own_masks,
    read_own_mask,
    refuse_own_masks,
)
from medrep.cohort.nifti import Volume, missing_voxels, read_image
from medrep.cohort.transforms import (
    Placed,
    VolumePipeline,
    common_grid,
    intensity_landmarks,
    landmark_unit,
    log_steps,
    place_notes,
    read_places,
    resampled_notes,
)
from medrep.errors import CohortError, listed

_CELLS = 2**23  # volumes that wait to be placed together hold no more voxels


@dataclass(frozen=True)
class Loaded:
    """One person's volume, or why there is none.

    Attributes:
        key: The person (and session).
        path: The file.
        volume: In its own grid; None after a failure.
        placed: On the common grid; None after a failure.
        error: One line, empty if all went well.
        own: The person's own mask on the common grid, where ``input.mask`` asks for it.
    """

    key: str
    path: Path
    volume: Volume | None
    placed: Placed | None
    error: str
    own: Bool[np.ndarray, "x y z"] | None = None

    def row(self, columns: Columns) -> Float32[np.ndarray, " columns"]:
        """Return the voxels that are columns of a model, NaN where they are outside of the person's own mask.

        Args:
            columns: On the common grid.
        """
        if self.placed is None:
            raise CohortError(self.error)
        row = columns.inside(self.placed.values)
        return row if self.own is None else np.where(columns.inside(self.own), row, np.float32(np.nan))

    @property
    def resampled(self) -> bool:
        """True if the volume lay elsewhere in the world than the common grid."""
        return self.placed is not None and isinstance(self.placed.way, Grid)


def load_volumes(
    files: pd.Series, wanted: VolumeInput, *, common: Grid | None = None, workers: int = 0
) -> Iterator[Loaded]:
    """Read volumes one after another through the pipeline, in the order of ``files``.

    Args:
        files: Index: key; values: paths.
        wanted: The ``input`` section.
        common: The grid that all have to arrive in, of a model or of `common_grid`; None: any.
        workers: Processes that read ahead; 0 reads in this one.

    Yields:
        One entry a file. A file that cannot be used, or that arrives in another grid, is an entry with an error, never an
        exception.
    """
    reader: Any = _Reader(tuple((str(key), Path(str(path))) for key, path in files.items()), wanted, common)
    if not workers:
        yield from (reader[place] for place in range(len(reader)))
    else:
        from torch.utils.data import DataLoader  # seconds

        yield from DataLoader(reader, batch_size=None, shuffle=False, num_workers=workers, collate_fn=_as_it_is)


def mean_landmarks(
    wanted: VolumeInput, files: pd.Series, advance: Callable[[int], None] = lambda count: None
) -> tuple[float, ...]:
    """Return the mean over images of their landmarks, each in the image's own unit; empty where no image can be read.

    Args:
        wanted: The ``input`` section.
        files: Index: key; values: paths. Who reads their voxels says which cannot be used.
        advance: Called with the number of images read.

    Raises:
        CohortError: See `_read_landmarks`.
    """
    found = [landmarks / landmark_unit(landmarks) for landmarks in _read_landmarks(wanted, files, advance).values()]
    return tuple(float(value) for value in np.mean(found, axis=0)) if found else ()


def log_units(wanted: VolumeInput, files: pd.Series) -> pd.DataFrame | None:
    """Return `log_steps` of the landmarks of each image, where they are to be harmonised; None where they are not.

    Args:
        wanted: The ``input`` section.
        files: Index: key; values: paths; images that cannot be read are left out.

    Raises:
        CohortError: See `_read_landmarks`.
    """
    if not wanted.harmonize_unit:
        return None
    found = _read_landmarks(wanted, files, lambda count: None)
    return pd.DataFrame.from_dict({key: log_steps(own) for key, own in found.items()}, orient="index", dtype=float)


def _read_landmarks(
    wanted: VolumeInput, files: pd.Series, advance: Callable[[int], None]
) -> dict[str, Float[np.ndarray, " landmarks"]]:
    """Return the landmarks of those images that can be read.

    Raises:
        CohortError: Everybody whose landmarks are to be harmonised and are not above zero.
    """
    found: dict[str, np.ndarray] = {}
    problems: list[str] = []
    for key, path in files.items():
        try:
            found[str(key)] = intensity_landmarks(read_image(Path(str(path))).data, wanted.intensity)
        except CohortError:
            continue
        finally:
            advance(1)
        if wanted.harmonize_unit and found[str(key)][0] <= 0:
            problems.append(f"{key}: its brightest voxels are not above zero")
    if problems:
        cure = "leave the people out with --exclude, or set input.harmonize_unit=false"
        raise CohortError(listed("images whose unit cannot be harmonised", problems, cure))
    return found


def load_alike(files: pd.Series, wanted: VolumeInput, common: Grid | None = None) -> list[Loaded]:
    """Read a few volumes; those of one shape and affine go through the pipeline together, which is several times quicker.

    Args:
        files: Index: key; values: paths.
        wanted: The ``input`` section.
        common: As in `load_volumes`.

    Returns:
        What `load_volumes` yields, without the volumes in their own grids.
    """
    pipeline, found = VolumePipeline(wanted, common), dict[str, Loaded]()
    waiting: dict[tuple[tuple[int, ...], bytes], list[_Read]] = {}

    def place(some: list[_Read]) -> None:
        own: list[np.ndarray | None] = [None] * len(some)
        try:
            placed = pipeline.place_alike([one.volume for one in some])
            problem = "" if common is None else grid_problem(placed[0].grid, common)
            masks = [one.mask for one in some if one.mask is not None]
            if masks:
                own = [mask.values >= HALF for mask in pipeline.place_alike(masks)]
        except CohortError as error:  # in one place all or none
            problem = str(error)
        for k, one in enumerate(some):
            found[one.key] = Loaded(one.key, one.path, None, None if problem else placed[k], problem, own[k])
        some.clear()

    for key, path in files.items():
        try:
            read = _Read.of(str(key), Path(str(path)), wanted)
        except CohortError as error:
            found[str(key)] = Loaded(str(key), Path(str(path)), None, None, str(error))
            continue
        alike = waiting.setdefault((read.volume.data.shape, read.volume.affine.tobytes()), [])
        alike.append(read)
        if (len(alike) + 1) * read.volume.data.size > _CELLS:
            place(alike)
    for alike in waiting.values():
        if alike:
            place(alike)
    return [found[str(key)] for key in files.index]


@dataclass(frozen=True, eq=False)
class Filled:
    """Volumes of a cohort as one matrix.

    Attributes:
        rows: A row a person.
        columns: Voxels of the common grid, or of a mask of it.
        levels: Mean absolute intensity of each person, by key (`mean_level`).
    """

    rows: Float32[np.ndarray, "people columns"]
    columns: Columns
    levels: dict[str, float]


def fill_matrix(
    files: pd.Series,
    wanted: VolumeInput,
    matrix: Callable[[int, int], np.ndarray],
    advance: Callable[[int], None],
    workers: int = 0,
    *,
    like: Columns | None = None,
    tell: Callable[[list[str]], None] = lambda notes: None,
) -> Filled:
    """Read all volumes of a cohort into one matrix, a row a person.

    Args:
        files: Index: key; values: paths.
        wanted: The ``input`` section.
        matrix: Makes the float32 matrix (people, voxels) once a grid is known, for instance memory-mapped; with ``input.mask``
            it may be asked for a further one, whose first rows are then read no more.
        advance: Called with the number of people read.
        workers: Processes that read ahead.
        like: Columns of a model; None: the grid in which most of the images arrive, and the mask that is asked for.
        tell: Called with what is to be said of where the images lie.

    Returns:
        The matrix, its columns, and what was seen on the way.

    Raises:
        CohortError: Every file that cannot be used, or that arrives in another grid; a mask that cannot be.
    """
    places = read_places(files)
    tell(place_notes(places))
    grid = common_grid(places, wanted) if like is None else like.grid
    reading = _Reading(files, wanted, grid, workers, advance)
    columns, first = (like, None) if like is not None or grid is None else _columns(reading, grid, matrix)
    rows: np.ndarray | None = None
    done = np.zeros(len(files), dtype=bool)
    if first is not None and columns is not None:
        rows = matrix(len(files), columns.count)
        for place, position in enumerate(reading.sampled):
            rows[position] = columns.inside(first[place])
            release_pages(rows)
            release_pages(first)
        done[reading.sampled] = True
    rest = np.flatnonzero(~done)
    for position, loaded in zip(rest, reading.volumes(rest), strict=True):
        if loaded.placed is None:
            continue
        columns = columns or Columns.of_grid(loaded.placed.grid)
        rows = matrix(len(files), columns.count) if rows is None else rows
        rows[position] = loaded.row(columns)
        release_pages(rows)
    reading.refuse()
    if rows is None or columns is None or columns.grid is None:
        raise CohortError("there are no images")
    if like is None and columns.mask is not None:
        columns = replace(columns, mask=replace(columns.mask, background=reading.ground()))
        tell([mask_note(columns, wanted.mask)])
    tell(resampled_notes(reading.resampled))
    return Filled(rows, columns, {str(key): reading.levels[str(key)] for key in files.index})


def common_columns(
    files: pd.Series,
    wanted: VolumeInput,
    matrix: Callable[[int, int], np.ndarray],
    tell: Callable[[list[str]], None] = lambda notes: None,
) -> Columns:
    """Return the columns that `fill_matrix` would find, of no more images than tell the mask and its background.

    Args:
        files: Index: key; values: paths.
        wanted: The ``input`` section.
        matrix: Makes the float32 matrix (people, voxels) of those people.
        tell: Called with what is to be said of where the images lie, and of the mask.

    Raises:
        CohortError: Files among those that are read that cannot be used; a mask that cannot be.
    """
    places = read_places(files)
    tell(place_notes(places))
    reading = _Reading(files, wanted, common_grid(places, wanted), 0, lambda count: None)
    if reading.grid is None:
        found = [loaded.placed.grid for loaded in reading.volumes(np.arange(1)) if loaded.placed is not None]
        reading.refuse()
        return Columns.of_grid(found[0])
    columns, first = _columns(reading, reading.grid, matrix)
    if columns.mask is None:
        return columns
    if first is None:
        for _ in reading.volumes(reading.looked_at):
            pass
        reading.refuse()
    columns = replace(columns, mask=replace(columns.mask, background=reading.ground()))
    tell([mask_note(columns, wanted.mask)])
    return columns


def _columns(
    reading: "_Reading", grid: Grid, matrix: Callable[[int, int], np.ndarray]
) -> tuple[Columns, np.ndarray | None]:
    """Return the columns that are asked for, and whole rows of the sampled people where these had to be read for it."""
    wanted, files = reading.wanted, reading.files
    if not wanted.mask:
        return Columns.of_grid(grid), None
    if wanted.mask == BIDS:
        refuse_own_masks(files)
        inside = own_masks(files.iloc[reading.sampled], VolumePipeline(wanted, grid))
        return Columns.of_grid(grid, Mask.of(inside)), None
    if wanted.mask != AUTO:
        return Columns.of_grid(grid, Mask.of(file_mask(Path(wanted.mask), grid))), None
    first = matrix(len(reading.sampled), grid.size)
    for place, loaded in enumerate(reading.volumes(reading.sampled)):
        if loaded.placed is not None:
            first[place] = loaded.placed.values.ravel()
            release_pages(first)
    reading.refuse()
    inside = not_background(first, reading.ground())
    return Columns.of_grid(grid, Mask.of(inside)), first


class _Reading:
    """Volumes that are read, and what was seen on the way.

    Args:
        files: Index: key; values: paths.
        wanted: The ``input`` section.
        grid: The common one.
        workers: Processes that read ahead.
        advance: Called with the number of people read.
    """

    def __init__(
        self, files: pd.Series, wanted: VolumeInput, grid: Grid | None, workers: int, advance: Callable[[int], None]
    ) -> None:
        self.files, self.wanted, self.grid = files, wanted, grid
        self.sampled = np.sort(looked_at(files.index, SAMPLED))
        self.levels: dict[str, float] = {}
        self.resampled: list[str] = []
        self.looked_at = np.sort(self.sampled[looked_at(files.index[self.sampled])])
        self._names = {str(files.index[place]) for place in self.looked_at} if wanted.mask else set()
        self._thinned: list[np.ndarray] = []
        self._problems: list[str] = []
        self._workers, self._advance = workers, advance

    def volumes(self, positions: np.ndarray) -> Iterator[Loaded]:
        """Yield the volumes of some people."""
        some = self.files.iloc[positions]
        for loaded in load_volumes(some, self.wanted, common=self.grid, workers=self._workers):
            if loaded.placed is None:
                self._problems.append(f"{loaded.key}: {loaded.error}")
            else:
                self.levels[loaded.key] = mean_level(loaded.placed.values)
                self.resampled += [loaded.key] if loaded.resampled else []
                if loaded.key in self._names:
                    self._thinned.append(thinned(loaded.placed.values).copy())
            yield loaded
            self._advance(1)

    def ground(self) -> float | None:
        """Return the value of background, of whole grids."""
        return background(self._thinned)

    def refuse(self) -> None:
        """Refuse what could not be read.

        Raises:
            CohortError: All of it.
        """
        if self._problems:
            cure = "mend them, or leave the people out with --exclude"
            raise CohortError(listed("images that cannot be used", self._problems, cure))


@dataclass(frozen=True)
class _Read:
    """A person's volume, and their own mask where that is asked for, both in their own grid."""

    key: str
    path: Path
    volume: Volume
    mask: Volume | None

    @classmethod
    def of(cls, key: str, path: Path, wanted: VolumeInput) -> "_Read":
        volume = read_image(path)
        bad = missing_voxels(volume)
        if bad and wanted.missing == "error":
            cure = "mend the image, or set input.missing to keep"
            raise CohortError(f"{path}: {bad} of {volume.data.size} voxels are NaN or infinite; {cure}")
        return cls(key, path, volume, read_own_mask(path, volume) if wanted.mask == BIDS else None)


@dataclass(frozen=True)
class _Reader:
    """Volumes by their number; processes that read ahead have a copy."""

    files: tuple[tuple[str, Path], ...]
    wanted: VolumeInput
    common: Grid | None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> Loaded:
        key, path = self.files[place]
        try:
            pipeline = VolumePipeline(self.wanted, self.common)
            read = _Read.of(key, path, self.wanted)
            placed = pipeline.place(read.volume)
            own = None if read.mask is None else pipeline.place(read.mask).values >= HALF
        except CohortError as error:
            return Loaded(key, path, None, None, str(error))
        problem = "" if self.common is None else grid_problem(placed.grid, self.common)
        return Loaded(key, path, None, None, problem) if problem else Loaded(key, path, read.volume, placed, "", own)


def _as_it_is(item: Any) -> Any:
    return item
