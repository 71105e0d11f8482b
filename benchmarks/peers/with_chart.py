"""Adapter for a chart in a process of its own: fitted on some columns at a time, z of a few people at a time are written."""

from __future__ import annotations

from importlib import import_module
from typing import BinaryIO

import numpy as np
import pandas as pd

VERSION = "chart"
COLUMNS_AT_ONCE, PEOPLE_AT_ONCE = 4000, 50


class Peer:
    """A chart fitted on COLUMNS_AT_ONCE columns after another.

    Args:
        module: For instance ``benchmarks.simple_charts``.
        chart: Name of the class in it, with the methods of `benchmarks.chart_methods.Chart`.
    """

    def __init__(self, module: str, chart: str) -> None:
        self._make = getattr(import_module(module), chart)

    def fit(self, features: np.ndarray, table: pd.DataFrame) -> None:
        """Fit on people x features and their age, sex and site."""
        self._charts = []
        for start in range(0, features.shape[1], COLUMNS_AT_ONCE):
            chart = self._make()
            chart.fit(np.asarray(features[:, start : start + COLUMNS_AT_ONCE], dtype=np.float64), table)
            self._charts.append(chart)

    def apply(self, features: np.ndarray, table: pd.DataFrame, output: BinaryIO) -> None:
        """Write z to ``output``, float32, a few people at a time."""
        for start in range(0, len(features), PEOPLE_AT_ONCE):
            rows = slice(start, start + PEOPLE_AT_ONCE)
            people = np.asarray(features[rows], dtype=np.float64)
            blocks = np.array_split(people, range(COLUMNS_AT_ONCE, people.shape[1], COLUMNS_AT_ONCE), axis=1)
            parts = [chart.z(block, table.iloc[rows]) for chart, block in zip(self._charts, blocks, strict=True)]
            output.write(np.concatenate(parts, axis=1).astype(np.float32).tobytes())
