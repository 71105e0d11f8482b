"""Visits moved along people's own trajectories, and forecasts, of a conditional VAE; `trajectories.py` has the mathematics."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.models.base import Forecast
from medrep.models.linear.trajectories import last_visits
from medrep.models.vae.network import VaeParts
from medrep.models.vae.trajectories import Trajectories

Data = Float[np.ndarray, "visits columns"]


@dataclass(frozen=True, eq=False)
class Following:
    """Visits of people, and what is known of their trajectories.

    Attributes:
        parts: The fitted parts.
        trajectories: Those of the parts.
        schema: Of training.
        dataset: The visits.
        z: Their latents.
        rest: What the decoder leaves of them.
    """

    parts: VaeParts
    trajectories: Trajectories
    schema: CovariateSchema
    dataset: Dataset
    z: Float[np.ndarray, "visits latents"]
    rest: Data

    @classmethod
    def of(
        cls, parts: VaeParts, schema: CovariateSchema, dataset: Dataset, z: Float[np.ndarray, "visits latents"]
    ) -> "Following":
        """Bring visits and parts that have trajectories together."""
        if parts.trajectories is None:
            raise TypeError("parts without trajectories")
        return cls(parts, parts.trajectories, schema, dataset, z, parts.left(schema, dataset, z))

    def forecast(self, to: pd.DataFrame, whose: Sequence[str]) -> Forecast:
        """Return what further measurements are expected to give; see `Model.forecast`."""
        own, dataset = self.trajectories, self.dataset
        latents = own.latents.forecast(own.of_latents(self.z, dataset), to, whose)
        left = own.rest.forecast(own.of_rest(self.rest, dataset), to, whose)
        like = dataset.values[self._last(whose)]
        drawn = self._drawn(latents.estimate, to, like)
        variance, errors = np.zeros(drawn.shape), np.zeros(drawn.shape)
        for k, sd in enumerate(latents.sd.T):
            moved = latents.estimate.copy()
            moved[:, k] += sd
            part = (self._drawn(moved, to, like) - drawn) ** 2
            variance += part
            errors += part**2 / latents.freedom[:, [k]]
        spread = variance + left.sd**2
        errors += left.sd**4 / left.freedom
        freedom = np.divide(spread**2, errors, out=np.full(drawn.shape, np.inf), where=errors > 0)
        found = Forecast(drawn + left.estimate, np.sqrt(spread), freedom)
        unknown = np.broadcast_to(self.parts.linear.sd == 0, drawn.shape) | ~np.isfinite(left.estimate)
        masses = self.parts.linear.masses.within(like, slice(0, like.shape[1]))
        unknown = unknown if masses is None else unknown | masses
        for array in (found.estimate, found.sd, found.freedom):
            array[unknown] = np.nan
        return found

    def follow(self, years: float) -> Data:
        """Move visits along people's own trajectories; see `Model.follow`."""
        data = np.array(self.dataset.values)
        if not years:
            return data
        own, linear, frame = self.trajectories, self.parts.linear, self.dataset.covariates
        name = own.latents.followed
        there = frame.assign(**{name: frame[name].astype(float) + years})
        moved = own.latents.follow(own.of_latents(self.z, self.dataset), years)
        change = self._drawn(moved, there, data) - self._drawn(self.z, frame, data)
        change += np.nan_to_num(own.rest.follow(own.of_rest(self.rest, self.dataset), years) - self.rest)
        change[:, linear.sd == 0] = 0
        settle, everything = linear.settling(frame, there), slice(0, data.shape[1])
        stays = settle.stays(data, everything)
        if stays is not None:
            change[stays] = 0
        return settle.without_unknown((data + change).astype(data.dtype), everything)

    def _drawn(self, z: Float[np.ndarray, "some latents"], frame: pd.DataFrame, like: Data) -> Data:
        return self.parts.decoded(self.schema, z, frame, like).astype(np.float64)

    def _last(self, whose: Sequence[str]) -> np.ndarray:
        """Return where the last visit of each person stands."""
        participants = self.dataset.whose.tolist()
        names = pd.Index(pd.unique(np.asarray(participants, object)))
        time = self.dataset.covariates[self.trajectories.latents.followed].to_numpy(float)
        return last_visits(time, participants)[names.get_indexer(pd.Index(np.asarray(whose, object)))]
