"""Removal from surfaces and their scores: a file that is written is the one that was read, but for the values that moved."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.kinds import InputKind
from medrep.cohort.kinds.surface import PersonSurface, SurfaceInput, load_surfaces
from medrep.cohort.surface_files import rewritten
from medrep.derivatives.bids import Destination
from medrep.derivatives.person_files import Loaded, ScoreFiles, TransformFiles
from medrep.derivatives.scores import Scorer
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
        found = []
        for run in person.runs or (person,):
            ends = np.cumsum([len(file.names) for file in run.files])
            own = zip(run.files, run.maps, np.split(change, ends[:-1]), strict=True)
            found.append([(file.path, rewritten(file, part, maps)) for file, maps, part in own])
        return found


class ScoreSurfaces(ScoreFiles):
    """Scores surfaces.

    Args:
        scorer: What is asked.
        kind: Surfaces, as in training.
        names: None.
    """

    def __init__(self, scorer: Scorer, kind: InputKind[SurfaceInput], names: Sequence[str]) -> None:
        del names
        super().__init__(scorer)
        self._wanted = kind.section

    def load(self, files: pd.Series, names: tuple[str, ...]) -> Loaded[PersonSurface]:
        """Read people's surfaces."""
        return load_surfaces(files, self._wanted, names)
