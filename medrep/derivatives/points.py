"""Removal from points in correspondence, and their scores.

A file that is written is the one that was read, but for the coordinates of points that moved. People are moved where all lie
alike, and everybody goes back to where they lay.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.inputs import PointsInput
from medrep.cohort.kinds import InputKind
from medrep.cohort.kinds.points import PersonPoints, load_points
from medrep.derivatives.bids import Destination
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
