"""One person, or one visit of a person, as work is handed round: who, which file, which covariates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class Visit:
    """One row of a cohort.

    Attributes:
        key: ``sub-01`` or ``sub-01_ses-2``.
        place: Position in the cohort, from 0.
        path: The image; None for a row of a table, or where there is no usable file.
        covariates: In the form of the model's schema (`CovariateSchema.transfer`); empty where nobody looks at them.
        problem: Why there is no usable file; empty if there is one.
        mark: Fingerprint of the row, where the data are a table.
        row: The row, where the data are a table.
    """

    key: str
    place: int
    path: Path | None
    covariates: Mapping[str, str | float]
    problem: str = ""
    mark: str = ""
    row: Float[np.ndarray, " columns"] | None = field(default=None, compare=False, repr=False)


def visit_frame(some: Sequence[Visit]) -> pd.DataFrame:
    """Return the covariates of visits as a frame, index: key."""
    return pd.DataFrame([dict(one.covariates) for one in some], index=pd.Index([one.key for one in some], name="key"))


def visit_rows(some: Sequence[Visit]) -> Float[np.ndarray, "visits columns"]:
    """Return the rows of visits of a table."""
    return np.stack([one.row for one in some if one.row is not None])


def visit_files(some: Sequence[Visit]) -> pd.Series:
    """Return the paths of visits, index: key."""
    return pd.Series([one.path for one in some], index=[one.key for one in some], dtype=object)
