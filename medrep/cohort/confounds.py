"""Confounds of a time series: the table beside the image -> one regressor a column."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from medrep.cohort.participants import read_tsv
from medrep.cohort.values import parse_number
from medrep.errors import CohortError


def find_confounds(image: Path, ending: str) -> Path:
    """Find the table of an image: in its folder, the given ending, and no entity in its name that the image's has not.

    Args:
        image: ``sub-01_task-rest_space-MNI_desc-preproc_bold.nii.gz``, for instance.
        ending: ``desc-confounds_timeseries.tsv`` finds ``sub-01_task-rest_desc-confounds_timeseries.tsv`` for it.

    Raises:
        CohortError: No such table, or several; one line.
    """
    own = set(image.name.split("_"))
    found = sorted(
        path
        for path in image.parent.iterdir()
        if path.name.endswith(f"_{ending}") and set(path.name.removesuffix(f"_{ending}").split("_")) <= own
    )
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found) or "none"
    raise CohortError(f"{image}: one table *_{ending} is needed beside it, there: {names}; set input.confounds_file")


def read_confounds(path: Path, columns: Sequence[str], volumes: int) -> Float[np.ndarray, "volumes columns"]:
    """Read columns of a confounds table.

    A first cell ``n/a`` takes the second's value, as in nilearn: fMRIPrep leaves it empty where the column is a
    difference between volumes.

    Args:
        path: The table.
        columns: Which.
        volumes: How many volumes the image has; one row each is needed.

    Raises:
        CohortError: Missing columns, cells that are no number, or another number of rows; one line.
    """
    header, rows, _ = read_tsv(path)
    absent = [column for column in columns if column not in header]
    if absent:
        raise CohortError(f"{path}: no column {', '.join(absent)}; columns: {', '.join(header[:12])}")
    if len(rows) != volumes:
        raise CohortError(f"{path}: {len(rows)} rows for {volumes} volumes; one row a volume is needed")
    positions = [header.index(column) for column in columns]
    cells = [[parse_number(row[position]) for position in positions] for row in rows]
    values = np.array([[cell.value if cell.reading == "exact" else np.nan for cell in row] for row in cells])
    differences = [position for position, cell in enumerate(cells[0]) if cell.reading == "missing"]
    values[0, differences] = values[min(1, volumes - 1), differences]
    bad = [f"{columns[j]} in row {i + 1}" for i, j in zip(*np.nonzero(np.isnan(values)), strict=True)]
    if bad:
        more = f" and {len(bad) - 4} more" if len(bad) > 4 else ""
        raise CohortError(f"{path}: no number: {', '.join(bad[:4])}{more}; mend the table, or leave the column out")
    return values
