"""For whom each column was measured: levels that nobody, or hardly anybody, had a value to be fitted on.

A column that a whole site lacks says nothing of that site, so neither does the model: a person of that site who has it cannot be
moved, and what neighbouring columns say is not put there. The same holds for levels of effect covariates and for combinations of
levels that interact.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from medrep._persisted import stored
from medrep.cohort.covariates import Categorical, CovariateSchema

Cell: TypeAlias = tuple[tuple[str, str], ...]
"""A level, or levels that interact: (covariate, level) each."""

NEVER, FEW = 1, 2


@dataclass(frozen=True)
class ColumnSupport:
    """Which levels have no effect of their own in which columns.

    Attributes:
        cells: Levels, and combinations of levels that interact.
        columns: Columns in which some cell has none, in order.
        codes: A row a cell, a column each: 0 estimated; 1 nobody had a value; 2 all but one or two had a point mass.
    """

    cells: tuple[Cell, ...] = field(metadata=stored(""))
    columns: Int[np.ndarray, " some"]
    codes: Int[np.ndarray, "cells some"]

    @classmethod
    def full(cls) -> "ColumnSupport":
        """Return the support of data in which everything was measured."""
        return cls((), np.zeros(0, dtype=np.int64), np.zeros((0, 0), dtype=np.int8))

    def of(self, frame: pd.DataFrame, known: "Collection[str] | None" = None) -> Bool[np.ndarray, "people cells"]:
        """Return who is in which cell; cells of covariates that are not known count as nobody's."""
        member = np.zeros((len(frame), len(self.cells)), dtype=bool)
        for k, cell in enumerate(self.cells):
            if known is None or {name for name, _ in cell} <= set(known):
                member[:, k] = in_cell(frame, cell)
        return member

    def marked(
        self, member: Bool[np.ndarray, "people cells"], part: slice, code: int
    ) -> "Bool[np.ndarray, 'people block'] | None":
        """Return the cells of a block of columns that have a code; None where none has."""
        low, high = np.searchsorted(self.columns, [part.start, part.stop])
        if low == high:
            return None
        found = member.astype(np.float32) @ (self.codes[:, low:high] == code).astype(np.float32) > 0
        if not found.any():
            return None
        marked = np.zeros((len(member), part.stop - part.start), dtype=bool)
        marked[:, self.columns[low:high] - part.start] = found
        return marked

    def with_cell(self, cell: Cell, columns: Int[np.ndarray, " without"], code: int) -> "ColumnSupport":
        """Return the support with a further cell that lacks some columns."""
        if not len(columns):
            return self
        union = np.union1d(self.columns, columns)
        codes = np.zeros((len(self.cells) + 1, len(union)), dtype=np.int8)
        codes[:-1, np.searchsorted(union, self.columns)] = self.codes
        codes[-1, np.searchsorted(union, columns)] = code
        return replace(self, cells=(*self.cells, cell), columns=union, codes=codes)


FULL = ColumnSupport.full()
"""Everything was measured in everybody."""


def shown_cell(cell: Cell) -> str:
    """Return a cell as a person writes it: ``site=S3``, ``sex=M x diagnosis=AD``."""
    return " x ".join(f"{name}={level}" for name, level in cell)


def in_cell(frame: pd.DataFrame, cell: Cell) -> Bool[np.ndarray, " people"]:
    """Return who has all levels of a cell; nobody where the frame lacks a covariate."""
    if any(name not in frame for name, _ in cell):
        return np.zeros(len(frame), dtype=bool)
    member = np.ones(len(frame), dtype=bool)
    for name, level in cell:
        member &= (frame[name] == level).to_numpy(dtype=bool)
    return member


def effect_cells(schema: CovariateSchema, groups: Collection[tuple[str, ...]], frame: pd.DataFrame) -> tuple[Cell, ...]:
    """Return the levels of effect covariates, and the combinations of interacting levels, that somebody has."""
    names = [n for n in schema.names if n not in schema.batches and isinstance(schema[n], Categorical)]
    cells: list[Cell] = [((name, str(level)),) for name in names for level in schema.levels(name)]
    for group in groups:
        factors = [name for name in group if name in names]
        if len(factors) > 1:
            cells += [
                tuple(zip(factors, own, strict=True)) for own in product(*(map(str, schema.levels(n)) for n in factors))
            ]
    return tuple(cell for cell in cells if in_cell(frame, cell).any())
