"""Adapter for the growth chart in a process of its own: fitted on a memory-mapped matrix, z written a few people at a time."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from benchmarks.peers.with_medrep import DECLARED, PEOPLE_AT_ONCE, VERSION
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models.chart.model import GrowthChart
from medrep.models.chart.settings import ChartSettings

__all__ = ["VERSION", "Peer"]


class Peer:
    """The growth chart.

    Args:
        settings: Of `ChartSettings`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = ChartSettings(**settings)

    def fit(self, features: np.ndarray, table: pd.DataFrame) -> None:
        """Fit on people x features and their age, sex and site."""
        schema = CovariateSchema.fit(table, DECLARED)
        columns = Columns((), features.shape[1], None)
        self._model, _ = GrowthChart.fit(Dataset(features, schema.transfer(table), schema, columns), self._settings)

    def apply(self, features: np.ndarray, table: pd.DataFrame, output: BinaryIO) -> None:
        """Write z to ``output``, float32, a few people at a time."""
        frame = self._model.schema.transfer(table)
        for start in range(0, len(frame), PEOPLE_AT_ONCE):
            rows = slice(start, start + PEOPLE_AT_ONCE)
            z = np.empty((len(frame.iloc[rows]), features.shape[1]), np.float32)
            for part, block in self._model.deviations(self._model.dataset(features[rows], frame.iloc[rows])).map(
                lambda _, own: own
            ):
                z[:, part] = block
            output.write(z.tobytes())
