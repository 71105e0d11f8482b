"""A cohort as one matrix, people x columns: what models are fitted on and audits look at."""

import os
import sys
from typing import IO

import numpy as np
import pandas as pd

from medrep.cohort.brightness import mean_level, uneven_brightness
from medrep.cohort.cohort import Cohort
from medrep.cohort.features import missing_cells
from medrep.cohort.grid import Columns, Grid
from medrep.console import Console
from medrep.errors import CohortError, listed


def cohort_matrix(
    cohort: Cohort, console: Console, scratch: IO[bytes], workers: int, common: Grid | None = None
) -> tuple[np.ndarray, Columns]:
    """Return the people x columns matrix: the feature table, or volumes or distances in a memory-mapped scratch file.

    Args:
        cohort: The people; of organs, with the measured ``input`` section.
        console: Where to speak.
        scratch: An open file without a name, for images.
        workers: Processes that read volumes ahead.
        common: The grid of the model that volumes are for; None: the one in which most of them arrive.

    Raises:
        CohortError: Features that are missing, files that cannot be read, or no room for the scratch file.
    """
    if cohort.features is not None:
        holes = missing_cells(cohort.features)
        if holes and cohort.input.missing == "error":
            cure = "mend them, leave the people out with --exclude, or pass --set input.missing=keep"
            raise CohortError(listed("features that are missing", holes, cure))
        return cohort.features.values, cohort.features.columns

    def mapped(people: int, voxels: int) -> np.ndarray:
        _take_room(scratch, 4 * people * voxels)
        return np.memmap(scratch, mode="r+", dtype=np.float32, shape=(people, voxels))

    files = cohort.files if cohort.files is not None else pd.Series(dtype=object)
    if cohort.input.kind == "shape":
        from medrep.cohort.shapes import fill_shapes, shape_grid

        grid = shape_grid(cohort.input)
        with console.track("measure distances", len(files)) as advance:
            return fill_shapes(files, cohort.input, mapped, advance), Columns((), grid.size, grid)
    from medrep.cohort.loaders import fill_matrix  # MONAI takes seconds to import and only volumes need it

    with console.track("read volumes", len(files)) as advance:
        rows, grid = fill_matrix(files, cohort.input, mapped, advance, workers, common=common, tell=console.notes)
    warning = uneven_brightness({str(key): mean_level(row) for key, row in zip(files.index, rows, strict=True)})
    if warning:
        console.warn(warning)
    return rows, Columns((), grid.size, grid)


def _take_room(scratch: IO[bytes], size: int) -> None:
    """Take disk space before it is mapped: writing to a mapped page on a full disk would kill the process."""
    try:
        if sys.platform == "linux":
            os.posix_fallocate(scratch.fileno(), 0, size)
        else:
            scratch.truncate(size)
    except OSError as error:
        raise CohortError(f"{size / 1e9:.2g} GB of scratch space are needed beside OUT: {error.strerror}") from None
