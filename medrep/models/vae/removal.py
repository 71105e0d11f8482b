"""One removal by a conditional VAE, prepared for any number of people; `model.py` has the mathematics."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import CovariateSchema
from medrep.erasure import Guard
from medrep.models.vae.latents import Discriminants
from medrep.models.vae.network import VaeParts
from medrep.models.vae.objective import condition_vector
from medrep.models.vae.residuals import batch_scale, standardise, unstandardise

Data = Float[np.ndarray, "people columns"]


@dataclass(frozen=True)
class Removal:
    """One removal of conditions, for people who are not at the target.

    Attributes:
        parts: The fitted parts.
        schema: Of training.
        removed: Conditions that are moved.
        kept: Covariates that stay.
        carry: See `VaeSettings`.
        pooled: Whether nobody is at the target, so that latents are guarded and only the `count` worthiest directions handed
            out.
        guard: That guard.
        count: Of directions.
    """

    parts: VaeParts
    schema: CovariateSchema
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    carry: float
    pooled: bool
    guard: Guard | None
    count: int

    @cached_property
    def readout(self) -> Discriminants:
        """Discriminants of the kept covariates; on many voxels costlier than the rest of a removal that needs none."""
        return Discriminants.of(self.parts.linear, self.parts.factors, self.parts.effect_covariance, self.kept)

    def apply(self, data: Data, frame: pd.DataFrame, there: pd.DataFrame) -> Data:
        """Move people from ``frame`` to ``there``; of what is kept only labels that interact with what moves are looked at."""
        parts, removed, schema = self.parts, self.removed, self.schema
        own = parts.scanner.to_reference(data, frame)
        if not removed:
            return parts.scanner.back(data, own, own, frame, there)
        h = standardise(parts.linear, own, frame, removed)
        # A batch's scale is that of the residual: the kept effects, read from h, are not to be scaled with it.
        unscaled = not parts.linear.gain and any(name in schema.batches for name in removed)
        before, after = (batch_scale(parts.linear, own_frame, removed) for own_frame in (frame, there))
        effect = self.readout.effect(h * before) if unscaled else np.zeros_like(h)
        h = h + (1 - 1 / before) * effect
        here, away = (condition_vector(schema, own_frame, removed) for own_frame in (frame, there))
        z = parts.network.encode(h, here)
        settled = parts.latents.transform(z, frame, there, removed)
        if self.pooled:
            settled = parts.latents.clean(settled, self.guard, self.count)
        mean, log_scale = parts.network.decode(z, here)
        new_mean, new_log_scale = parts.network.decode(settled, away)
        left = np.exp(new_log_scale - log_scale) * (h - mean)
        carry = self.carry if self.kept else 0.0
        h = self.readout.restore(new_mean + carry * left, h) if self.pooled else new_mean + left
        h = h + (1 / after - 1) * effect
        transformed = unstandardise(
            parts.linear, h, there, removed, self._unmodelled(own), np.empty(own.shape, own.dtype)
        )
        return parts.scanner.back(data, own, transformed, frame, there)

    def _unmodelled(self, own: Data) -> Data:
        """Return the values of columns without a fit: as they are, or the usual one where everything is removed."""
        if not self.pooled or self.kept:
            return own
        usual = self.parts.marginals.usual().astype(own.dtype)
        return np.where(self.parts.linear.sd > 0, own, np.where(np.isfinite(own), usual, own))
