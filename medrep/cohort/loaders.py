"""MONAI dataset and loader: image files -> rows of a people x voxels matrix, with every failure named."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32
from monai.data import DataLoader, Dataset

from medrep.cohort.grid import Grid, grid_problem
from medrep.cohort.inputs import VolumeInput
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
    """

    key: str
    path: Path
    volume: Volume | None
    placed: Placed | None
    error: str

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
    items = [{"key": str(key), "path": path} for key, path in files.items()]
    dataset = Dataset(data=items, transform=_Reader(wanted, common))
    yield from DataLoader(dataset, batch_size=None, shuffle=False, num_workers=workers, collate_fn=_as_it_is)


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
    waiting: dict[tuple[tuple[int, ...], bytes], list[tuple[str, Path, Volume]]] = {}

    def place(some: list[tuple[str, Path, Volume]]) -> None:
        try:
            placed = pipeline.place_alike([volume for _, _, volume in some])
            problem = "" if common is None else grid_problem(placed[0].grid, common)
        except CohortError as error:  # in one place all or none
            problem = str(error)
        for k, (key, path, _) in enumerate(some):
            found[key] = Loaded(key, path, None, None if problem else placed[k], problem)
        some.clear()

    for key, path in files.items():
        try:
            volume = _read(Path(str(path)), wanted)
        except CohortError as error:
            found[str(key)] = Loaded(str(key), Path(str(path)), None, None, str(error))
            continue
        alike = waiting.setdefault((volume.data.shape, volume.affine.tobytes()), [])
        alike.append((str(key), Path(str(path)), volume))
        if (len(alike) + 1) * volume.data.size > _CELLS:
            place(alike)
    for alike in waiting.values():
        if alike:
            place(alike)
    return [found[str(key)] for key in files.index]


def fill_matrix(
    files: pd.Series,
    wanted: VolumeInput,
    matrix: Callable[[int, int], np.ndarray],
    advance: Callable[[int], None],
    workers: int = 0,
    *,
    common: Grid | None = None,
    tell: Callable[[list[str]], None] = lambda notes: None,
) -> tuple[Float32[np.ndarray, "people voxels"], Grid]:
    """Read all volumes of a cohort into one matrix, a row a person.

    Args:
        files: Index: key; values: paths.
        wanted: The ``input`` section.
        matrix: Makes the float32 matrix (people, voxels) once a grid is known, for instance memory-mapped.
        advance: Called with the number of people read.
        workers: Processes that read ahead.
        common: The grid of a model; None: the one in which most of the images arrive.
        tell: Called with what is to be said of where the images lie.

    Returns:
        The matrix and the common grid.

    Raises:
        CohortError: Every file that cannot be used, or that arrives in another grid.
    """
    places = read_places(files)
    tell(place_notes(places))
    common = common or common_grid(places, wanted)
    rows: np.ndarray | None = None
    problems: list[str] = []
    transformed: list[str] = []
    for position, loaded in enumerate(load_volumes(files, wanted, common=common, workers=workers)):
        if loaded.placed is None:
            problems.append(f"{loaded.key}: {loaded.error}")
        else:
            common = common or loaded.placed.grid
            rows = matrix(len(files), common.size) if rows is None else rows
            rows[position] = loaded.placed.values.ravel()
            transformed += [loaded.key] if loaded.resampled else []
        advance(1)
    if problems or rows is None or common is None:
        raise CohortError(
            listed("images that cannot be used", problems, "mend them, or leave the people out with --exclude")
        )
    tell(resampled_notes(transformed))
    return rows, common


@dataclass(frozen=True)
class _Reader:
    wanted: VolumeInput
    common: Grid | None

    def __call__(self, item: dict[str, object]) -> Loaded:
        key, path = str(item["key"]), Path(str(item["path"]))
        try:
            volume = _read(path, self.wanted)
            placed = VolumePipeline(self.wanted, self.common).place(volume)
        except CohortError as error:
            return Loaded(key, path, None, None, str(error))
        problem = "" if self.common is None else grid_problem(placed.grid, self.common)
        return Loaded(key, path, None, None, problem) if problem else Loaded(key, path, volume, placed, "")


def _read(path: Path, wanted: VolumeInput) -> Volume:
    volume = read_image(path)
    bad = missing_voxels(volume)
    if bad and wanted.missing == "error":
        cure = "mend the image, or set input.missing to keep"
        raise CohortError(f"{path}: {bad} of {volume.data.size} voxels are NaN or infinite; {cure}")
    return volume


def _as_it_is(item: Loaded) -> Loaded:
    return item
