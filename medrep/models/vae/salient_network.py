"""Salient latents behind a trained network: people moved, and given the salient part of others.

With r the reading of u (`salient_prior.py`), s = q^1/2 r, m the decoder's mean, and s' of the transport of `salient.py`:

    h' = h + m(z, q^-1/2 s', c) - m(z, r, c)

which at the start is the closed form. A network does not find s' exactly in h', so the way from controls to a level is not
computed so, but solved for: it is the h that the way to controls brings to where people are. There and back is nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.models.linear.model import LinearModel
from medrep.models.vae.bodies import Autoencoder
from medrep.models.vae.latents import Discriminants
from medrep.models.vae.objective import condition_vector
from medrep.models.vae.residuals import batch_scale, standardise
from medrep.models.vae.salient import SalientLayer

Rows = Float[np.ndarray, "people columns"]
_ROUNDS, _SETTLED, _GAINS = 60, 1e-6, 0.9


@dataclass(frozen=True)
class SalientNetwork:
    """A trained network and the closed form that it began at.

    Attributes:
        layer: The closed form: levels, and the transport between them.
        linear: The layer below.
        network: Trained.
        schema: Of training.
    """

    layer: SalientLayer
    linear: LinearModel
    network: Autoencoder
    schema: CovariateSchema

    def moved(
        self, readout: Discriminants, data: Rows, frame: pd.DataFrame, there: pd.DataFrame, known: Sequence[str]
    ) -> Rows:
        """Return data of people moved from their level to that of ``there``; see `SalientLayer.moved`."""
        moved = np.array(data)
        for (one, other), some in self.layer.moves(frame, there).items():
            own, rows = frame[some], data[some]
            h = standardise(self.linear, rows, own, known).astype(np.float64)
            context = condition_vector(self.schema, own, known)
            if self.layer.forth(one, other):
                change = self._change(readout, h, context, (one, other))
            else:
                change = self._back(readout, h, context, (other, one)) - h
            moved[some] = rows + change * self.linear.sd * batch_scale(self.linear, own, known)
        return moved

    def swapped(self, data: Rows, frame: pd.DataFrame, donors: Dataset, conditions: Sequence[str]) -> Rows:
        """Return people with the salient part of others in place of theirs; see `SalientLayer.swapped`."""
        linear = self.linear
        h = standardise(linear, data, frame, conditions)
        context = condition_vector(self.schema, frame, conditions)
        z, own = self._parts(h, context)
        _, other = self._parts(
            standardise(linear, donors.values, donors.covariates, conditions),
            condition_vector(self.schema, donors.covariates, conditions),
        )
        change = self._decoded(z, other, context) - self._decoded(z, own, context)
        return data + change * linear.sd * batch_scale(linear, frame, conditions)

    def _change(self, readout: Discriminants, h: Rows, context: np.ndarray, levels: tuple[int, int]) -> Rows:
        z, own = self._parts(h, context)
        rest = h - (self._decoded(z, own, context) - self._decoded(z, np.zeros_like(own), context))
        z, own = self._parts(h - readout.effect(rest), context)
        there = self.layer.transported(own, *levels)
        return self._decoded(z, there, context) - self._decoded(z, own, context)

    def _back(self, readout: Discriminants, h: Rows, context: np.ndarray, levels: tuple[int, int]) -> Rows:
        """Return the people whom the way between levels brings to ``h``, by steps that are exact in closed form."""
        contrast, back = self.layer.contrast, levels[::-1]

        def step(left: Rows) -> Rows:
            read = left @ contrast.readings()
            return left + (self.layer.turned(read, *back) - read) @ contrast.salient

        z, own = self._parts(h, context)
        found = h + self._decoded(z, self.layer.transported(own, *back), context) - self._decoded(z, own, context)
        return _solved(lambda start: start + self._change(readout, start, context, levels) - h, step, found)

    def _parts(self, h: Rows, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return z and s of the readings."""
        latents, second = self.network.encode(h, context), self.layer.contrast.second
        return latents[:, : self.layer.latents], latents[:, self.layer.latents :] * (second + 1) / np.sqrt(second)

    def _decoded(self, z: np.ndarray, s: np.ndarray, context: np.ndarray) -> Rows:
        u = s / np.sqrt(self.layer.contrast.second)
        return self.network.decode(np.concatenate([z, u], axis=1), context)[0].astype(np.float64)


def _solved(missed: Callable[[Rows], Rows], step: Callable[[Rows], Rows], found: Rows) -> Rows:
    """Return where nothing is missed; of each person the best that was found, if steps lead nowhere."""
    best, least = found, np.full(len(found), np.inf)
    for _ in range(_ROUNDS):
        before, left = float(least.sum()), missed(found)
        size = np.abs(left).max(axis=1, initial=0)
        best = np.where((size < least)[:, None], found, best)
        least = np.minimum(size, least)
        if least.max(initial=0) < _SETTLED or least.sum() > _GAINS * before:
            break
        found = found - step(left)
    return best
