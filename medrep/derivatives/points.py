"""Removal from points in correspondence, and their scores.

A file that is written is the one that was read, but for the coordinates of points that moved. People are moved where all lie
alike, and everybody goes back to where they lay.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._files import atomic_file
from medrep.cohort.bids import POINT_ENDINGS, form_of
from medrep.cohort.inputs import PointsInput
from medrep.cohort.kinds import InputKind
from medrep.cohort.kinds.points import PersonPoints, load_points
from medrep.derivatives.bids import Destination, write_tsv
from medrep.derivatives.forecasts import SD, ImageForecaster, Written
from medrep.derivatives.person_files import Loaded, ScoreFiles, TransformFiles
from medrep.derivatives.scores import Scorer
from medrep.derivatives.transform import Transform


class TransformPoints(TransformFiles):
    """Writes a person's files, each with a sidecar: both hemispheres or neither.

    Args:
        transform: The model and what to do with it.
        kind: Points, as in training.
        to: Where to write.
    """

    def __init__(self, transform: Transform, kind: InputKind[PointsInput], to: Destination) -> None:
        super().__init__(transform, to, kind.section.missing)
        self._wanted = kind.section

    def load(self, files: pd.Series, names: tuple[str, ...]) -> Loaded[PersonPoints]:
        """Read people's points."""
        return load_points(files, self._wanted, names)

    def copies(self, person: PersonPoints, change: Float[np.ndarray, " columns"]) -> list[list[tuple[Path, bytes]]]:
        """Return the person's files with points moved by what the change is where the person lies."""
        own = zip(person.files, person.own_change(change), strict=True)
        return [[(file.path, file.moved(part)) for file, part in own]]


class ForecastPoints(ImageForecaster[PointsInput, PersonPoints]):
    """Writes the points that are expected, where the person lay at the last visit, and a table of their standard deviations."""

    def read(self, files: pd.Series) -> Iterator[tuple[str, PersonPoints | None, str]]:
        """Read points; see `ImageForecaster.read`."""
        return load_points(files, self.wanted, self.model.columns.names)

    def row(self, visit: PersonPoints) -> Float[np.ndarray, " columns"]:
        """Return the aligned coordinates."""
        return np.asarray(visit.row, np.float64)

    def write(
        self,
        last: PersonPoints,
        estimate: Float[np.ndarray, " columns"],
        sd: Float[np.ndarray, " columns"],
        years: float,
    ) -> Written:
        """Write two files a hemisphere; see `ImageForecaster.write`."""
        change = np.nan_to_num(estimate - self.row(last), nan=0.0)
        expected, files = last.own_change(change), list[str]()
        for file, moved in zip(last.files, expected, strict=True):
            place = self.name(file.path, years)
            with atomic_file(self.to.folder / place) as partial:
                partial.write_bytes(file.moved(moved))
            files += [str(place), self.describe(place, file.path, years)]
        ends = np.cumsum([len(file.points) for file in last.files])[:-1]
        spread = np.split(sd.reshape(last.points.shape), ends)
        for file, own in zip(last.files, spread, strict=True):
            named = self.name(file.path, years, "sd")
            place = named.with_name(named.name.removesuffix(form_of(named.name, POINT_ENDINGS)) + ".tsv")
            labels = file.labels or tuple(str(number) for number in range(len(own)))
            table = pd.DataFrame(own, columns=list("xyz"[: own.shape[1]]))
            table.insert(0, "name", labels)
            write_tsv(self.to.folder / place, table)
            files += [
                str(place),
                self.describe(place, file.path, years, Description=f"{SD} Along the axes of aligned points."),
            ]
        return Written(tuple(files), files[0], files[len(files) // 2])


class ScorePoints(ScoreFiles):
    """Scores points.

    Args:
        scorer: What is asked.
        kind: Points, as in training.
        names: None.
    """

    def __init__(self, scorer: Scorer, kind: InputKind[PointsInput], names: Sequence[str]) -> None:
        del names
        super().__init__(scorer)
        self._wanted = kind.section

    def load(self, files: pd.Series, names: tuple[str, ...]) -> Loaded[PersonPoints]:
        """Read people's points."""
        return load_points(files, self._wanted, names)
