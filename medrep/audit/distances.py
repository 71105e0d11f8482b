"""How far people are from each other, or from themselves: mean over columns of absolute differences in deviations."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from medrep.audit.profiles import drawn_columns


@dataclass(frozen=True, eq=False)
class Ruler:
    """What distances are measured with.

    Attributes:
        scale: Standard deviation of each column used; infinity where it does not vary, so that it does not count.
        seed: Of the columns drawn from a wide table.
    """

    scale: Float[np.ndarray, " columns"]
    seed: int

    @classmethod
    def of(cls, data: Float[np.ndarray, "people columns"], seed: int) -> "Ruler":
        """Measure in the deviations of these people; cells that are not finite are left out."""
        columns = drawn_columns(data, seed)
        known = np.isfinite(columns)
        counts = np.maximum(known.sum(axis=0), 1)
        filled = np.where(known, columns, 0.0)
        sd = np.sqrt(np.where(known, (filled - filled.sum(axis=0) / counts) ** 2, 0.0).sum(axis=0) / counts)
        size = np.maximum(np.abs(filled).max(axis=0, initial=0.0), 1e-300)
        return cls(np.where(sd > 1e-9 * size, sd, np.inf), seed)

    def between(
        self, first: Float[np.ndarray, "people columns"], second: Float[np.ndarray, "people columns"]
    ) -> Float[np.ndarray, " people"]:
        """Return the distance of each row of the one from the same row of the other, over the columns that both have."""
        used = np.isfinite(self.scale)
        apart = np.abs(drawn_columns(first, self.seed) - drawn_columns(second, self.seed))[:, used] / self.scale[used]
        known = np.isfinite(apart)
        return np.where(known, apart, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)

    def between_people(
        self, data: Float[np.ndarray, "people columns"], participants: Shaped[np.ndarray, " people"]
    ) -> float:
        """Return the mean distance of different participants, over ten random pairings."""
        rng, apart = np.random.default_rng(self.seed), []
        for _ in range(10):
            order = rng.permutation(len(data))
            apart.append(self.between(data, data[order])[participants != participants[order]])
        together = np.concatenate(apart)
        return float(together.mean()) if len(together) else float("nan")
