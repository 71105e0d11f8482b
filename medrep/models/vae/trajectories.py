"""People's own trajectories in a conditional VAE: mixed models of latents, and of what the decoder leaves.

With D(z, c) the decoder, the layers below it and the scanner, every visit is x = D(z, c) + r exactly. Latents z and remainders r
have each person's own level and slope, as columns of the linear model have (`mixed.py`, `trajectories.py`), and so

    a forecast is        x* = D(E z*, c*) + E r*,    var x* = sum_k (D(E z* + sd_k e_k, c*) - D(E z*, c*))^2 + var r*
    a visit moved by t   x' = x + D(z moved, c*) - D(z, c) + (r moved - r)

where z and r are moved along the person's own trajectory of each. Of r a person's level is told voxel by voxel, so that detail
that the decoder does not draw stays as it is. **Limitations**: latents are taken to be forecast independently of each other and
of r; the network's own uncertainty is in no interval.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from medrep._files import release_pages
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models.chunks import row_blocks_of
from medrep.models.linear.model import LinearModel
from medrep.models.linear.settings import LinearSettings

Latents = Float[np.ndarray, "people latents"]
Data = Float[np.ndarray, "people columns"]


@dataclass(frozen=True)
class Trajectories:
    """Levels and slopes of people who came again.

    Attributes:
        latents: The linear model of z.
        rest: That of r.
    """

    latents: LinearModel
    rest: LinearModel

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        z: Latents,
        left: Callable[[Dataset, Latents], Data],
        settings: LinearSettings,
        told: Float[np.ndarray, " latents"],
    ) -> "Trajectories | None":
        """Learn from training people; None where nobody was followed over time.

        Args:
            dataset: Their visits, as scanned.
            z: Latents of each.
            left: Returns what the decoder leaves of some of them.
            settings: Of the linear layer.
            told: Share of each latent that data tell: 1 less its variance for one person.
        """
        own = replace(settings, gain="no", components=0, covariance=False)
        names = tuple(f"z{k + 1}" for k in range(z.shape[1]))
        of_latents = Dataset(
            z, dataset.covariates, dataset.schema, Columns(names, len(names), None), dataset.participants
        )
        latents, _ = LinearModel.fit(of_latents, replace(own, borrow="columns"))
        if "forecast" not in latents.capabilities:
            return None
        with tempfile.TemporaryFile() as scratch:
            rest = np.memmap(scratch, np.float32, mode="w+", shape=dataset.values.shape)
            for rows in row_blocks_of(len(dataset), dataset.columns.count):
                some = dataset.take(rows)
                rest[rows] = left(some, z[rows])
                release_pages(rest)
            of_rest, _ = LinearModel.fit(dataset.with_values(rest), own)
        of_rest = _widened(of_rest, len(dataset), float(told.sum()))
        return cls(latents, of_rest) if "forecast" in of_rest.capabilities else None

    def of_latents(self, z: Latents, dataset: Dataset) -> Dataset:
        """Return latents of people as the mixed model takes them."""
        return self.latents.dataset(z, dataset.covariates, dataset.participants)

    def of_rest(self, rest: Data, dataset: Dataset) -> Dataset:
        """Return remainders of people as the mixed model takes them."""
        return self.rest.dataset(rest, dataset.covariates, dataset.participants)

    def adapt(self, people: Sequence[tuple[Dataset, Latents, Data]]) -> "Trajectories":
        """Estimate unseen batch levels; see `Model.adapt`.

        Args:
            people: A few people at a time: their visits, latents, and what the decoder leaves.
        """
        latents, _ = self.latents.adapt([self.of_latents(z, own) for own, z, _ in people])
        rest, _ = self.rest.adapt([self.of_rest(left, own) for own, _, left in people])
        return Trajectories(latents, rest)


def _widened(rest: LinearModel, visits: int, latents: float) -> LinearModel:
    """Return the model of remainders with deviations of new people: training's lack what columns gave to their loadings.

    Of as many parameters as there are loadings a column, turns of the latents are none.
    """
    freedom = visits - len(rest.coefficients) - len(rest.batches.location)
    taken = latents - latents * max(latents - 1, 0) / (2 * max(rest.columns.count, 1))
    factor = float(np.sqrt(max(freedom, 1) / max(freedom - taken, freedom / 2, 1)))
    known = replace(rest.people.known, sd=rest.people.known.sd * factor)
    return replace(rest, sd=rest.sd * factor, people=replace(rest.people, known=known))
