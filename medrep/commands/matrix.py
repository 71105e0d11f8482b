"""A cohort as one matrix, people x columns: what models are fitted on and audits look at."""

import os
import sys
from typing import IO

import numpy as np

from medrep.cohort.cohort import Cohort
from medrep.cohort.grid import Columns
from medrep.console import Console
from medrep.errors import CohortError


def cohort_matrix(
    cohort: Cohort, console: Console, scratch: IO[bytes], workers: int, like: Columns | None = None
) -> tuple[np.ndarray, Columns]:
    """Return the people x columns matrix: a table as it is, what comes from files in a memory-mapped scratch file.

    Args:
        cohort: The people; with what training measured in its ``input``.
        console: Where to speak.
        scratch: An open file without a name, for what comes from files.
        workers: Processes that read files ahead.
        like: Columns of the model that the data are for; None: as they come.

    Raises:
        CohortError: Features that are missing, files that cannot be read, or no room for the scratch file.
    """

    def mapped(people: int, columns: int) -> np.ndarray:
        _take_room(scratch, 4 * people * columns)
        return np.memmap(scratch, mode="r+", dtype=np.float32, shape=(people, columns))

    return cohort.input.matrix(cohort.source, mapped, console, like=like, workers=workers)


def _take_room(scratch: IO[bytes], size: int) -> None:
    """Take disk space before it is mapped: writing to a mapped page on a full disk would kill the process."""
    try:
        if sys.platform == "linux":
            os.posix_fallocate(scratch.fileno(), 0, size)
        else:
            scratch.truncate(size)
    except OSError as error:
        raise CohortError(f"{size / 1e9:.2g} GB of scratch space are needed beside OUT: {error.strerror}") from None
