"""Adapter for medrep in a process of its own: fitted on a memory-mapped matrix, its output written a few people at a time."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import pandas as pd

import medrep
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.models.linear.model import LinearModel
from medrep.models.linear.settings import LinearSettings

VERSION = f"medrep {medrep.__version__}"
PEOPLE_AT_ONCE = 50
DECLARED = (
    Covariate("age", "continuous", unit="year"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", role="batch"),
)


class Peer:
    """The linear model.

    Args:
        grid: Shape in voxels of 2 mm where the columns are voxels, else None.
        settings: Of `LinearSettings`.
    """

    def __init__(self, grid: tuple[int, int, int] | None, settings: dict[str, Any]) -> None:
        self._grid = Grid((grid[0], grid[1], grid[2]), (2.0, 2.0, 2.0)) if grid else None
        self._settings = LinearSettings(**settings)

    def fit(self, features: np.ndarray, table: pd.DataFrame) -> None:
        """Fit on people x features and their age, sex and site."""
        schema = CovariateSchema.fit(table, DECLARED)
        columns = Columns((), features.shape[1], self._grid)
        self._model, _ = LinearModel.fit(Dataset(features, schema.transfer(table), schema, columns), self._settings)

    def apply(self, features: np.ndarray, table: pd.DataFrame, output: BinaryIO) -> None:
        """Write the features without site effects to ``output``, float32, a few people at a time."""
        schema = self._model.schema
        frame, target = schema.transfer(table), schema.references(("site",), None)
        for start in range(0, len(frame), PEOPLE_AT_ONCE):
            rows = slice(start, start + PEOPLE_AT_ONCE)
            output.write(self._model.remove(self._model.dataset(features[rows], frame.iloc[rows]), target).tobytes())
