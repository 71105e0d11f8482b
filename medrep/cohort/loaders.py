"""MONAI dataset and loader: image files -> rows of a people x voxels matrix, with every failure named."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float32
from monai.data import DataLoader, Dataset

from medrep.cohort.grid import Grid
from medrep.cohort.inputs import Input
from medrep.cohort.nifti import Volume, missing_voxels, read_image
from medrep.cohort.transforms import Placed, VolumePipeline
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


def load_volumes(files: pd.Series, wanted: Input, *, workers: int = 0) -> Iterator[Loaded]:
    """Read volumes one after another through the pipeline, in the order of ``files``.

    Args:
        files: Index: key; values: paths.
        wanted: The ``input`` section.
        workers: Processes that read ahead; 0 reads in this one.

    Yields:
        One entry a file. A file that cannot be used is an entry with an error, never an exception.
    """
    items = [{"key": str(key), "path": path} for key, path in files.items()]
    dataset = Dataset(data=items, transform=_Reader(wanted))
    yield from DataLoader(dataset, batch_size=None, shuffle=False, num_workers=workers, collate_fn=_as_it_is)


def load_alike(files: pd.Series, wanted: Input) -> list[Loaded]:
    """Read a few volumes; those of one shape and affine go through the pipeline together, which is several times quicker.

    Args:
        files: Index: key; values: paths.
        wanted: The ``input`` section.

    Returns:
        What `load_volumes` yields, without the volumes in their own grids.
    """
    pipeline, found = VolumePipeline(wanted), dict[str, Loaded]()
    waiting: dict[tuple[tuple[int, ...], bytes], list[tuple[str, Path, Volume]]] = {}

    def place(some: list[tuple[str, Path, Volume]]) -> None:
        placed = pipeline.place_alike([volume for _, _, volume in some])
        found.update({some[k][0]: Loaded(some[k][0], some[k][1], None, placed[k], "") for k in range(len(some))})
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
    wanted: Input,
    matrix: Callable[[int, int], np.ndarray],
    advance: Callable[[int], None],
    workers: int = 0,
) -> tuple[Float32[np.ndarray, "people voxels"], Grid]:
    """Read all volumes of a cohort into one matrix, a row a person.

    Args:
        files: Index: key; values: paths.
        wanted: The ``input`` section.
        matrix: Makes the float32 matrix (people, voxels) once the first grid is known, for instance memory-mapped.
        advance: Called with the number of people read.
        workers: Processes that read ahead.

    Returns:
        The matrix and the common grid.

    Raises:
        CohortError: Every file that cannot be used, or that arrives in another grid than the first.
    """
    rows: np.ndarray | None = None
    grid: Grid | None = None
    problems: list[str] = []
    for position, loaded in enumerate(load_volumes(files, wanted, workers=workers)):
        if loaded.placed is None:
            problems.append(f"{loaded.key}: {loaded.error}")
        else:
            grid = grid or loaded.placed.grid
            problem = grid_problem(loaded.placed.grid, grid)
            if problem:
                problems.append(f"{loaded.key}: {problem}")
            else:
                rows = matrix(len(files), grid.size) if rows is None else rows
                rows[position] = loaded.placed.values.ravel()
        advance(1)
    if problems or rows is None or grid is None:
        raise CohortError(
            listed("images that cannot be used", problems, "mend them, or leave the people out with --exclude")
        )
    return rows, grid


def grid_problem(own: Grid, common: Grid) -> str:
    """Return what sets a volume's grid apart from the common one, or nothing."""
    if own.shape != common.shape:
        return f"grid {own.shape} differs from {common.shape}; set input.shape to cut or pad to one grid"
    if not np.allclose(own.spacing, common.spacing, rtol=0.01):
        edges, wanted = (tuple(round(edge, 3) for edge in grid.spacing) for grid in (own, common))
        return f"voxels of {edges} mm differ from {wanted} mm; set input.spacing to resample"
    return ""


@dataclass(frozen=True)
class _Reader:
    wanted: Input

    def __call__(self, item: dict[str, object]) -> Loaded:
        key, path = str(item["key"]), Path(str(item["path"]))
        try:
            volume = _read(path, self.wanted)
            return Loaded(key, path, volume, VolumePipeline(self.wanted).place(volume), "")
        except CohortError as error:
            return Loaded(key, path, None, None, str(error))


def _read(path: Path, wanted: Input) -> Volume:
    volume = read_image(path)
    bad = missing_voxels(volume)
    if bad and wanted.missing == "error":
        cure = "mend the image, or set input.missing to keep"
        raise CohortError(f"{path}: {bad} of {volume.data.size} voxels are NaN or infinite; {cure}")
    return volume


def _as_it_is(item: Loaded) -> Loaded:
    return item
