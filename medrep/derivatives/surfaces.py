"""Removal from surfaces and their scores: a file that is written is the one that was read, but for the values that moved."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._files import atomic_file
from medrep.cohort.kinds import InputKind
from medrep.cohort.kinds.surface import PersonSurface, SurfaceInput, load_surfaces
from medrep.cohort.surface_files import refilled, rewritten
from medrep.derivatives.bids import Destination
from medrep.derivatives.deviations import CHANGES, DEVIATIONS
from medrep.derivatives.forecasts import SD, ImageForecaster, Written
from medrep.derivatives.person_files import Loaded, ScoreFiles, TransformFiles
from medrep.derivatives.scores import Scorer
from medrep.derivatives.tasks import Result
from medrep.derivatives.transform import Transform


class TransformSurfaces(TransformFiles):
    """Writes a person's files, each with a sidecar: both hemispheres or neither, byte for byte but for the map that moved.

    Of a mean all maps, and all runs, move alike.

    Args:
        transform: The model and what to do with it.
        kind: Surfaces, as in training.
        to: Where to write.
    """

    def __init__(self, transform: Transform, kind: InputKind[SurfaceInput], to: Destination) -> None:
        super().__init__(transform, to, kind.section.missing)
        self._wanted = kind.section

    def load(self, files: pd.Series, names: tuple[str, ...]) -> Loaded[PersonSurface]:
        """Read people's surfaces."""
        return load_surfaces(files, self._wanted, names)

    def copies(self, person: PersonSurface, change: Float[np.ndarray, " columns"]) -> list[list[tuple[Path, bytes]]]:
        """Return the files of each run with the change added to their values."""
        return [_copies(run, change) for run in person.runs or (person,)]


def _copies(own: PersonSurface, change: Float[np.ndarray, " columns"]) -> list[tuple[Path, bytes]]:
    ends = np.cumsum([len(file.names) for file in own.files])
    parts = zip(own.files, own.maps, np.split(change, ends[:-1]), strict=True)
    return [(file.path, rewritten(file, part, maps)) for file, maps, part in parts]


class ForecastSurfaces(ImageForecaster[SurfaceInput, PersonSurface]):
    """Writes a file of what is expected, and one of its standard deviation, for each that a person has."""

    def read(self, files: pd.Series) -> Iterator[tuple[str, PersonSurface | None, str]]:
        """Read surfaces; see `ImageForecaster.read`."""
        return load_surfaces(files, self.wanted, self.model.columns.names)

    def row(self, visit: PersonSurface) -> Float[np.ndarray, " columns"]:
        """Return the values, hemisphere by hemisphere."""
        return np.asarray(visit.row, np.float64)

    def write(
        self,
        last: PersonSurface,
        estimate: Float[np.ndarray, " columns"],
        sd: Float[np.ndarray, " columns"],
        years: float,
    ) -> Written:
        """Write two files a hemisphere; see `ImageForecaster.write`."""
        own, files = (last.runs or (last,))[0], list[str]()
        for more, values, about in (("", estimate, {}), ("sd", sd, {"Description": SD})):
            with np.errstate(invalid="ignore"):
                change = np.nan_to_num(values - np.asarray(own.row, np.float64), nan=0.0)
            for path, content in _copies(own, change):
                place = self.name(path, years, more)
                with atomic_file(self.to.folder / place) as partial:
                    partial.write_bytes(content)
                files += [str(place), self.describe(place, path, years, **about)]
        return Written(tuple(files), files[0], files[len(files) // 2])


class ScoreSurfaces(ScoreFiles):
    """Scores surfaces, and writes maps of deviations where they are asked for, a person at a time: a file may be large.

    Args:
        scorer: What is asked.
        kind: Surfaces, as in training.
        names: None.
    """

    def __init__(self, scorer: Scorer, kind: InputKind[SurfaceInput], names: Sequence[str]) -> None:
        del names
        super().__init__(scorer if scorer.to is None else replace(scorer, most=1))
        self._wanted = kind.section

    def load(self, files: pd.Series, names: tuple[str, ...]) -> Loaded[PersonSurface]:
        """Read people's surfaces."""
        return load_surfaces(files, self._wanted, names)

    def mapped(self, one: Result, person: PersonSurface) -> Result:
        """Write files like the person's, with z as values of every map; NaN where nothing is said."""
        to, arrays, files = self._scorer.to, dict(one.arrays), list[str]()
        own = (person.runs or (person,))[0].files
        for name in (DEVIATIONS, CHANGES):
            row = arrays.pop(name, None)
            if to is None or row is None or not np.isfinite(row).any():
                continue
            parts = np.split(row, np.cumsum([len(file.names) for file in own])[:-1])
            for file, part in zip(own, parts, strict=True):
                place = to.place(file.path, name)
                with atomic_file(to.folder / place) as partial:
                    partial.write_bytes(refilled(file, part))
                files += [str(place), to.describe(place, file.path, name)]
        return replace(one, arrays=arrays, files=(*one.files, *files))
