"""Layers between data and residuals: the linear layer and the scanner layer.

With S the covariates that count as known, b the batches among them and f their effects (`linear.py` has the symbols):

    h = (x - alpha - sum_{k in S} f_k(c_k) - sigma gamma_b) / (sigma delta_b)

What is not in S stays in h, as a part of the person: whoever removes S alone never looks at the labels of the others. An
interaction of some in S with others is the one exception: how far an effect of S goes depends on the others' own values. It
is taken out as f(c_S, c) - f(mean of S, c), so that what stays in h is the others' effect at the mean of S
(`Design.transformed_effects`); the others' own effects are never touched.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._files import release_pages
from medrep._persisted import stored
from medrep.cohort.dataset import Dataset
from medrep.models.base import Adaptation
from medrep.models.chunks import map_chunks, read_chunk
from medrep.models.linear.model import LinearModel
from medrep.models.scanner import ScannerHarmonizer

Data = Float[np.ndarray, "people columns"]


def standardise(
    linear: LinearModel, data: Data, frame: pd.DataFrame, known: Collection[str], out: Data | None = None
) -> Data:
    """Return h; 0 where a cell is NaN, a point mass or of a level without an effect there, and in columns left as they are.

    What is outside ``known``, and interacts with nothing in it, is not looked at. By default h is a new float32 matrix.
    """
    h = np.empty(data.shape, np.float32) if out is None else out
    effects, levels = _designs(linear, frame, known)
    members = linear.support.of(frame, known)

    def work(part: slice) -> None:
        mean, scale = _moments(linear, effects, levels, part)
        sd = linear.sd[part]
        own = read_chunk(data, part)
        chunk = (own - mean) / scale * np.divide(1, sd, out=np.zeros_like(sd), where=sd > 0)
        exempt = linear.exempt(own, members, part)
        if exempt is not None:
            chunk[exempt] = 0
        h[:, part] = np.nan_to_num(chunk, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        release_pages(h)

    for _ in map_chunks(len(frame), linear.columns.count, work):
        pass
    return h


def unstandardise(
    linear: LinearModel,
    h: Data,
    frame: pd.DataFrame,
    known: Collection[str],
    data: Data,
    out: Data,
    *,
    drawn: bool = False,
) -> Data:
    """Return the data that have the residual h under ``frame``: the inverse of `standardise`.

    Columns without a fit, NaN cells and point masses are taken from ``data``, which may also be ``out``. If ``drawn``, nobody
    has these data, so that cells of fitted columns mean nothing.
    """
    effects, levels = _designs(linear, frame, known)

    def work(part: slice) -> None:
        mean, scale = _moments(linear, effects, levels, part)
        own = read_chunk(data, part)
        transformed = np.where(linear.sd[part] > 0, mean + linear.sd[part] * scale * h[:, part], own)
        masses = None if drawn else linear.masses.within(own, part)
        if masses is not None:
            transformed[masses] = own[masses]
        out[:, part] = np.where(np.isfinite(own), transformed, own)
        release_pages(out)

    for _ in map_chunks(len(frame), linear.columns.count, work):
        pass
    return out


def batch_scale(linear: LinearModel, frame: pd.DataFrame, known: Collection[str]) -> Data:
    """Return delta_b of everybody in every column; 1 for batches that do not count as known."""
    _, levels = _designs(linear, frame, known)
    return linear.scale(levels, linear.batches.log_scale)


def _designs(linear: LinearModel, frame: pd.DataFrame, known: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
    seen = linear.design.looked_at(known)
    hidden = {name: linear.schema[name].reference for name in linear.schema.names if name not in seen}
    neutral = frame.assign(**{name: [value] * len(frame) for name, value in hidden.items()})
    effects, levels = linear.design.transformed_effects(neutral, known), linear.design.batches(neutral)
    for name, part in linear.design.batch_slices().items():
        levels[:, part] *= name in known
    return effects, levels


def _moments(
    linear: LinearModel, effects: np.ndarray, levels: np.ndarray, part: slice
) -> tuple[Float[np.ndarray, "people block"], Float[np.ndarray, "people block"]]:
    scale = linear.scale(levels, linear.batches.log_scale[:, part])
    return linear.mean(effects, levels, scale, part), scale


@dataclass(frozen=True)
class ScannerLayer:
    """A fitted harmoniser, or None where columns are taken as they are."""

    harmoniser: ScannerHarmonizer | None = field(default=None, metadata=stored(""))

    @property
    def covariate(self) -> str:
        """The batch covariate it handles; empty without a layer."""
        return "" if self.harmoniser is None else self.harmoniser.covariate

    def handles(self, level: str) -> bool:
        """Return whether a level's scanner is known, so that the layers above have nothing to do with it."""
        if self.harmoniser is None:
            return False
        scanner = self.harmoniser.known.scanners.get(level)
        if level == self.harmoniser.reference:
            return True
        return scanner is not None and not scanner.does_nothing

    def to_reference(self, data: Data, frame: pd.DataFrame) -> Data:
        """Return the images that the anchor's scanner would have made."""
        if self.harmoniser is None:
            return data
        return self.harmoniser.restore_to_reference(data, self._levels(frame))

    def back(self, data: Data, own: Data, there: Data, frame: pd.DataFrame, transformed: pd.DataFrame) -> Data:
        """Bring a change of anchored images back to the scanner of ``transformed``.

        ``data`` are as scanned, ``own`` as the anchor would have made them, and ``there`` those with covariates moved; if the
        batch is moved at all, it is to one level for everybody.
        """
        if self.harmoniser is None:
            return there
        before, after = self._levels(frame), self._levels(transformed)
        if before != after:
            return self.harmoniser.transform(data, before, after[0]) + (there - own)
        return data + self.harmoniser.render(there, before, data) - self.harmoniser.render(own, before, data)

    def render(
        self, anchored: Data, frame: pd.DataFrame, like: "Float[np.ndarray, 'people columns'] | None" = None
    ) -> Data:
        """Return anchored images as the scanner of each row would have made them, without its noise.

        ``like`` are the people's own images, for where their content lies; by default it fills the grid.
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
