"""Where training people lie among the covariates, as counts in cells, so that a model can say how near they were."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.errors import CovariateError, listed

_BINS = 40
_NEAR_SD = 0.5


@dataclass(frozen=True)
class Support:
    """Counts of training people in cells of all covariates; no person's own row.

    Attributes:
        names: Covariates, in the order of a cell's entries.
        cells: One entry a cell: a level each, or the number of a bin of equal width between the lowest and highest value.
        counts: People in each cell.
    """

    names: tuple[str, ...]
    cells: tuple[tuple[str | int, ...], ...]
    counts: tuple[int, ...]

    @classmethod
    def fit(cls, schema: CovariateSchema, frame: pd.DataFrame, participants: Sequence[str] | None = None) -> "Support":
        """Count training people.

        Args:
            schema: The covariates.
            frame: Of each row.
            participants: Whose each row is; by default each is a person. A person counts once in each cell.
        """
        columns: list[list[str | int]] = []
        for covariate in schema.fitted:
            values = frame[covariate.declared.name]
            if isinstance(covariate, Continuous):
                width = (covariate.high - covariate.low) / _BINS
                bins = np.clip(((values.to_numpy(float) - covariate.low) / width).astype(int), 0, _BINS - 1)
                columns.append([int(b) for b in bins])
            else:
                columns.append([str(level) for level in values])
        found: dict[tuple[str | int, ...], set[str | int]] = {}
        whose: Sequence[str | int] = range(len(frame)) if participants is None else participants
        for who, cell in zip(whose, zip(*columns, strict=True), strict=bool(columns)):
            found.setdefault(cell, set()).add(who)
        cells = sorted(found, key=str)
        return cls(schema.names, tuple(cells), tuple(len(found[cell]) for cell in cells))

    def near(self, schema: CovariateSchema, target: Mapping[str, str | float]) -> int:
        """Count training people near a target: the same levels, and numbers within half a standard deviation."""
        return sum(
            count
            for cell, count in zip(self.cells, self.counts, strict=True)
            if all(_close(schema, name, cell[self.names.index(name)], value) for name, value in target.items())
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON content; `from_json` is the inverse."""
        return {
            "names": list(self.names),
            "cells": [[*cell, count] for cell, count in zip(self.cells, self.counts, strict=True)],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Support":
        """Rebuild from the content of `to_json`."""
        return cls(
            tuple(content["names"]),
            tuple(tuple(entry[:-1]) for entry in content["cells"]),
            tuple(int(entry[-1]) for entry in content["cells"]),
        )


def refuse_extrapolation(schema: CovariateSchema, target: Mapping[str, str | float]) -> None:
    """Refuse numbers outside the range of training.

    Raises:
        CovariateError: All of them, with the range and the switch that allows it.
    """
    outside = []
    for name, value in target.items():
        covariate = schema[name]
        if isinstance(covariate, Continuous) and not covariate.low <= float(value) <= covariate.high:
            unit = f" {covariate.declared.unit}" if covariate.declared.unit else ""
            outside.append(f"{name}={value:g}: training people had {covariate.low:g} to {covariate.high:g}{unit}")
    if outside:
        cure = "choose a value inside, or pass --extrapolate to be told what the model guesses"
        raise CovariateError(listed("values beyond the people of training", outside, cure))


def _close(schema: CovariateSchema, name: str, place: str | int, value: str | float) -> bool:
    covariate = schema[name]
    if not isinstance(covariate, Continuous):
        return place == value
    middle = covariate.low + (float(place) + 0.5) * (covariate.high - covariate.low) / _BINS
    return abs(middle - float(value)) <= _NEAR_SD * covariate.sd
