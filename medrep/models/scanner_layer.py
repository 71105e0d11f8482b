"""The scanner layer of a model, or none: between images as scanned and as the anchor's scanner would have made them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._persisted import stored
from medrep.cohort.dataset import Dataset
from medrep.models.base import Adaptation
from medrep.models.linear import LinearModel
from medrep.models.scanner import ScannerHarmoniser


@dataclass(frozen=True)
class ScannerLayer:
    """A fitted harmoniser, or None where columns are taken as they are."""

    harmoniser: ScannerHarmoniser | None = field(default=None, metadata=stored(""))

    @property
    def covariate(self) -> str:
        """The batch covariate it handles; empty without a layer."""
        return "" if self.harmoniser is None else self.harmoniser.covariate

    def handles(self, level: str) -> bool:
        """Return whether a level's scanner is known, so that the layers above have nothing to do with it."""
        if self.harmoniser is None:
            return False
        scanner = self.harmoniser.known.scanners.get(level)
        if level == self.harmoniser.anchor:
            return True
        return scanner is not None and not scanner.does_nothing

    def to_anchor(
        self, data: Float[np.ndarray, "people columns"], frame: pd.DataFrame
    ) -> Float[np.ndarray, "people columns"]:
        """Return the images that the anchor's scanner would have made."""
        if self.harmoniser is None:
            return data
        return self.harmoniser.restore_to_anchor(data, self._levels(frame))

    def back(
        self,
        data: Float[np.ndarray, "people columns"],
        own: Float[np.ndarray, "people columns"],
        there: Float[np.ndarray, "people columns"],
        frame: pd.DataFrame,
        moved: pd.DataFrame,
    ) -> Float[np.ndarray, "people columns"]:
        """Bring a change of anchored images back to the scanner of ``moved``.

        Args:
            data: As scanned.
            own: The same as the anchor would have made them.
            there: Those with covariates moved.
            frame: Covariates as they are.
            moved: Covariates moved to; one level of the batch for everybody if it is moved at all.
        """
        if self.harmoniser is None:
            return there
        before, after = self._levels(frame), self._levels(moved)
        if before != after:
            return self.harmoniser.move(data, before, after[0]) + (there - own)
        return data + self.harmoniser.render(there, before, data) - self.harmoniser.render(own, before, data)

    def render(
        self,
        anchored: Float[np.ndarray, "people columns"],
        frame: pd.DataFrame,
        like: "Float[np.ndarray, 'people columns'] | None" = None,
    ) -> Float[np.ndarray, "people columns"]:
        """Return anchored images as the scanner of each row would have made them, without its noise.

        Args:
            anchored: Images.
            frame: Whose batch says which scanner.
            like: The people's own images, for where their content lies; by default it fills the grid.
        """
        return anchored if self.harmoniser is None else self.harmoniser.render(anchored, self._levels(frame), like)

    def adapt(self, people: Sequence[Dataset], linear: LinearModel) -> tuple["ScannerLayer", tuple[Adaptation, ...]]:
        """Estimate unseen levels from their own people."""
        if self.harmoniser is None:
            return self, ()
        name, known = self.harmoniser.covariate, set(linear.schema.levels(self.harmoniser.covariate))
        unseen = sorted({str(level) for own in people for level in own.covariates[name]} - known)
        harmoniser, notes = self.harmoniser, []
        for level in unseen:
            theirs = [one.take(own) for one in people if (own := (one.covariates[name] == level).to_numpy()).any()]
            pairs = [(one.values, _effects(linear, one.covariates, name)) for one in theirs]
            harmoniser, note = harmoniser.adapt(level, pairs)
            notes.append(note)
        return ScannerLayer(harmoniser), tuple(notes)

    def _levels(self, frame: pd.DataFrame) -> list[str]:
        return [] if self.harmoniser is None else [str(level) for level in frame[self.harmoniser.covariate]]


def _effects(linear: LinearModel, frame: pd.DataFrame, batch: str) -> Float[np.ndarray, "people effects"]:
    """Return the effect columns without the intercept; the level of the batch, which may be unseen, does not matter to them."""
    neutral = frame.assign(**{batch: [linear.schema[batch].reference] * len(frame)})
    return linear.design.effects(neutral)[:, 1:]
