"""Where training people lie among the covariates: who is near a value, and who lies outside of where anybody was.

A model's answer outside the range of its training is a guess. What is asked for in so many words (a counterfactual's value) has
to lie inside. What a person is may lie a little outside, by at most a fifth of the range's width at either end. Of two random
halves of 100 people the second has somebody beyond a tenth of the first one's range in 38 of 100 draws from a normal distribution
(28 of the ages of a public cohort), beyond a fifth in 11 (6). Beyond that they are far outside, and refused by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from medrep._persisted import Read, persisted_as
from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.errors import CovariateError, listed

_BINS = 40
_NEAR_SD = 0.5
_FAR = 0.2
"""Share of the width of training's range by which a person may lie outside of it."""


@dataclass(frozen=True)
class _Counted:
    """A `Support` as it is written: each cell with its count at its end."""

    names: tuple[str, ...]
    cells: tuple[tuple[str | int, ...], ...]

    @classmethod
    def of(cls, support: "Support") -> "_Counted":
        return cls(support.names, tuple((*own, n) for own, n in zip(support.cells, support.counts, strict=True)))

    def support(self, _read: Read) -> "Support":
        wrong = [cell for cell in self.cells if len(cell) != len(self.names) + 1 or not isinstance(cell[-1], int)]
        if wrong:
            raise ValueError(f"{wrong[0]} is no cell of {', '.join(self.names)} with a count")
        return Support(self.names, tuple(cell[:-1] for cell in self.cells), tuple(int(cell[-1]) for cell in self.cells))


@persisted_as(_Counted, _Counted.support)
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
        found: dict[tuple[str | int, ...], set[str | int]] = {}
        whose: Sequence[str | int] = range(len(frame)) if participants is None else participants
        for who, cell in zip(whose, _cells(schema, frame), strict=bool(schema.fitted)):
            found.setdefault(cell, set()).add(who)
        cells = sorted(found, key=str)
        return cls(schema.names, tuple(cells), tuple(len(found[cell]) for cell in cells))

    @classmethod
    def counted(cls, schema: CovariateSchema, frame: pd.DataFrame, people: Sequence[int]) -> "Support":
        """Count people at some covariates, a row each."""
        found: dict[tuple[str | int, ...], int] = {}
        for cell, count in zip(_cells(schema, frame), people, strict=True):
            found[cell] = found.get(cell, 0) + count
        cells = sorted(found, key=str)
        return cls(schema.names, tuple(cells), tuple(found[cell] for cell in cells))

    def frame(self, schema: CovariateSchema, at: Sequence[float] = (0.5,)) -> pd.DataFrame:
        """Return covariates of each cell, in the schema's columns.

        Args:
            schema: That they were counted by.
            at: Places in a bin, from 0 to 1; with several a cell has as many rows of each continuous covariate, side by side.
        """
        columns: dict[str, list[str | float]] = {name: [] for name in self.names}
        for cell in self.cells:
            places = [
                [one.low + (float(own) + share) * (one.high - one.low) / _BINS for share in at]
                if isinstance(one := schema[name], Continuous)
                else [own]
                for name, own in zip(self.names, cell, strict=True)
            ]
            for row in product(*places):
                for name, value in zip(self.names, row, strict=True):
                    columns[name].append(value)
        return pd.DataFrame(columns)

    def near(self, schema: CovariateSchema, target: Mapping[str, str | float]) -> int:
        """Count training people near a target: the same levels, and numbers within half a standard deviation."""
        return sum(
            count
            for cell, count in zip(self.cells, self.counts, strict=True)
            if all(_close(schema, name, cell[self.names.index(name)], value) for name, value in target.items())
        )


def _cells(schema: CovariateSchema, frame: pd.DataFrame) -> Iterator[tuple[str | int, ...]]:
    """Yield the cell of each row."""
    columns: list[list[str | int]] = []
    for covariate in schema.fitted:
        values = frame[covariate.declared.name]
        if isinstance(covariate, Continuous):
            width = (covariate.high - covariate.low) / _BINS
            bins = np.clip(((values.to_numpy(float) - covariate.low) / width).astype(int), 0, _BINS - 1)
            columns.append([int(b) for b in bins])
        else:
            columns.append([str(level) for level in values])
    return zip(*columns, strict=True)


def refuse_extrapolation(schema: CovariateSchema, target: Mapping[str, str | float], cure: str = "") -> None:
    """Refuse numbers outside the range of training.

    Args:
        schema: Of the model.
        target: Covariate -> value.
        cure: What to do; by default with the switch of the command line.

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
        cure = cure or "choose a value inside, or pass --extrapolate to be told what the model guesses"
        raise CovariateError(listed("values beyond the people of training", outside, cure))


@dataclass(frozen=True)
class Outside:
    """One person's number that nobody of training had.

    Attributes:
        key: The person (and session).
        covariate: Of the number.
        value: The number.
        low: Lowest of training.
        high: Highest of training.
        sd: Standard deviation of training.
        unit: Of all of them.
    """

    key: str
    covariate: str
    value: float
    low: float
    high: float
    sd: float
    unit: str

    @property
    def distance(self) -> float:
        """How far beyond the nearer end of training's range, in the covariate's unit."""
        return max(self.low - self.value, self.value - self.high)

    @property
    def far(self) -> bool:
        """True if that is more than a fifth of the range's width."""
        return self.distance > _FAR * (self.high - self.low)

    @property
    def said(self) -> str:
        """Person, covariate, value and range, in words."""
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.key}: {self.covariate}={self.value:g}: training people had {self.low:g} to {self.high:g}{unit}"

    def to_json(self) -> dict[str, float]:
        """Return what a sidecar says; the distance is in standard deviations of training."""
        return {
            "Value": self.value,
            "TrainingLow": self.low,
            "TrainingHigh": self.high,
            "DistanceSd": round(self.distance / self.sd, 3),
        }


def outside_training(schema: CovariateSchema, frame: pd.DataFrame) -> list[Outside]:
    """Return everybody who lies outside the range of training, by however little, in the order of the frame.

    Args:
        schema: Of the model.
        frame: Covariates; those that are no columns are not looked at.
    """
    found: list[tuple[int, Outside]] = []
    for covariate in schema.fitted:
        name = covariate.declared.name
        if not isinstance(covariate, Continuous) or name not in frame:
            continue
        values = frame[name].to_numpy(float)
        for row in np.flatnonzero((values < covariate.low) | (values > covariate.high)):
            one = Outside(
                str(frame.index[row]),
                name,
                float(values[row]),
                covariate.low,
                covariate.high,
                covariate.sd,
                covariate.declared.unit,
            )
            found.append((int(row), one))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def refuse_far(found: Sequence[Outside], cure: str = "") -> None:
    """Refuse people who are far outside the range of training.

    Args:
        found: See `outside_training`.
        cure: What allows it; by default the switch of the command line.

    Raises:
        CovariateError: All of them: person, covariate, value and range.
    """
    far = [one.said for one in found if one.far]
    if far:
        cure = cure or "pass --extrapolate to be told what the model guesses"
        raise CovariateError(
            listed(
                "people far outside those of training",
                far,
                f"mend the value or its unit, leave them out with --exclude, or {cure}",
            )
        )


def outside_json(found: Sequence[Outside]) -> dict[str, dict[str, dict[str, float]]]:
    """Return person -> covariate -> what a sidecar says."""
    content: dict[str, dict[str, dict[str, float]]] = {}
    for one in found:
        content.setdefault(one.key, {})[one.covariate] = one.to_json()
    return content


def ranges_outside(schema: CovariateSchema, frame: pd.DataFrame) -> tuple[str, ...]:
    """Say in which continuous covariates people leave the range of training: ``age 65 to 80 year, training had 20 to 60``."""
    found = []
    for covariate in schema.fitted:
        name = covariate.declared.name
        if isinstance(covariate, Continuous) and len(frame):
            low, high = float(frame[name].min()), float(frame[name].max())
            if low < covariate.low or high > covariate.high:
                unit = f" {covariate.declared.unit}" if covariate.declared.unit else ""
                theirs, known = f"{low:g} to {high:g}{unit}", f"{covariate.low:g} to {covariate.high:g}"
                found.append(f"{name} {theirs}, training had {known}")
    return tuple(found)


def _close(schema: CovariateSchema, name: str, place: str | int, value: str | float) -> bool:
    covariate = schema[name]
    if not isinstance(covariate, Continuous):
        return place == value
    middle = covariate.low + (float(place) + 0.5) * (covariate.high - covariate.low) / _BINS
    return abs(middle - float(value)) <= _NEAR_SD * covariate.sd
