"""Forecasts of images: of each person and number of years what is expected, and how well that is known, as files.

What is expected is the last visit with its change added, so that what a model does not look at stays as it was.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._files import write_json
from medrep.cohort.kinds import InputKind, imported
from medrep.derivatives.bids import MeshFormat, described_name, sidecar
from medrep.errors import CohortError, listed
from medrep.models import Model

VisitT = TypeVar("VisitT")
SectionT = TypeVar("SectionT")


@dataclass(frozen=True)
class ForecastTo:
    """Where forecasts of images go, and what is said of them.

    Attributes:
        folder: Where to; the cohort's own layout is kept below it.
        root: The cohort's folder.
        years: How long after a person's last visit.
        said: What sidecars say of all.
        mesh: What meshes are written as.
    """

    folder: Path
    root: Path
    years: tuple[float, ...]
    said: Mapping[str, Any]
    mesh: MeshFormat = "gifti"


class Written(NamedTuple):
    """Files of one person and number of years, relative to the folder: all, and which holds estimate and deviation."""

    files: tuple[str, ...]
    estimate: str
    sd: str


class ImageForecaster(ABC, Generic[SectionT, VisitT]):
    """Writes what a further visit of a person is expected to be.

    Args:
        model: A model that has ``forecast``.
        kind: As in training.
        to: Where to.
    """

    def __init__(self, model: Model, kind: InputKind[SectionT], to: ForecastTo) -> None:
        self.model, self.wanted, self.to = model, kind.section, to

    @abstractmethod
    def read(self, files: pd.Series) -> Iterator[tuple[str, "VisitT | None", str]]:
        """Yield key, visit and an empty text, or key, None and what is wrong, of each file."""

    @abstractmethod
    def row(self, visit: VisitT) -> Float[np.ndarray, " columns"]:
        """Return a visit in the columns of the model."""

    def fitting(self, last: VisitT) -> Model:  # noqa: ARG002
        """Return the model for the grid that a person's visits are on."""
        return self.model

    @abstractmethod
    def write(
        self, last: VisitT, estimate: Float[np.ndarray, " columns"], sd: Float[np.ndarray, " columns"], years: float
    ) -> Written:
        """Write the files of one number of years.

        Args:
            last: The person's last visit.
            estimate: In the columns of the model; where the model says nothing, the last visit's.
            sd: The same; 0 where the model says nothing.
            years: How long after it.

        Raises:
            CohortError: What cannot be written.
            ModelError: What is no image any more.
        """

    def work(self, files: pd.Series, frame: pd.DataFrame, last: str, further: pd.DataFrame) -> list[Written]:
        """Forecast one person.

        Args:
            files: Of all visits, index: key.
            frame: Their covariates.
            last: Key of the last visit.
            further: Covariates of the further visits, a row a number of years.

        Raises:
            MedrepError: Visits that cannot be read, or what is expected of them that cannot be written.
        """
        visits, wrong = dict[str, VisitT](), list[str]()
        for key, visit, error in self.read(files):
            if visit is None:
                wrong.append(f"{key}: {error}")
            else:
                visits[key] = visit
        if wrong:
            raise CohortError(listed("visits that cannot be read", wrong, "mend the files, or leave the visits out"))
        rows = np.stack([self.row(visits[str(key)]) for key in frame.index])
        whose = ["own"] * len(frame)
        model = self.fitting(visits[last])
        found = model.forecast(model.dataset(rows, frame, whose), further, whose[:1] * len(further))
        own = rows[[str(key) for key in frame.index].index(last)]
        told = []
        for years, estimate, sd in zip(self.to.years, found.estimate, found.sd, strict=True):
            unknown = ~np.isfinite(estimate)
            told.append(self.write(visits[last], np.where(unknown, own, estimate), np.where(unknown, 0.0, sd), years))
        return told

    def name(self, source: Path, years: float, more: str = "") -> Path:
        """Return where the forecast of a file goes, relative to the folder."""
        relative = source.relative_to(self.to.root).as_posix()
        return Path(described_name(relative, f"forecast{years:g}{more}".replace(".", "p")))

    def describe(self, place: Path, source: Path, years: float, **facts: object) -> str:
        """Write the sidecar of a file; return its name."""
        beside = sidecar(place)
        sources = [source.relative_to(self.to.root).as_posix()]
        write_json(self.to.folder / beside, {**self.to.said, "Years": years, **facts, "Sources": sources})
        return str(beside)


SD = "Standard deviation of what is expected: the person, the noise of a visit, and what is unknown of effects."


def image_forecaster(model: Model, kind: InputKind[Any], to: ForecastTo) -> "ImageForecaster[Any, Any]":
    """Return what forecasts a kind of images."""
    found: ImageForecaster[Any, Any] = imported(kind.forecaster)(model, kind, to)
    return found
