"""Empirical-Bayes shrinkage of noisy effect fields that borrows strength over columns or over space.

An effect field (one batch level's location, one value a column) is an estimate plus noise. In an orthonormal basis the
coefficients are sorted into bands; in each band the share of energy that noise alone would have is removed (positive-part
James-Stein, in space an empirical Wiener filter):

    w_b = max(0, 1 - noise_b / energy_b),    field' = sum_b w_b * band_b(field)

For features the bands are the mean over columns and the rest, which is ComBat's normal prior N(mean, variance) a level. For
voxels they are shells of spatial frequency of the cosine transform, so smooth scanner effects keep their strength and
voxel-wise noise does not. How much energy noise has in each band is measured on the training residuals, so correlation
between columns is accounted for.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from scipy.fft import dctn, idctn

from medrep.cohort.grid import Grid

_SHELLS = 24


@dataclass(frozen=True)
class Bands:
    """An orthonormal basis over the columns, sorted into bands.

    Attributes:
        size: Number of columns.
        grid: The columns' voxel grid, or None where columns have no order.
    """

    size: int
    grid: Grid | None

    @property
    def count(self) -> int:
        """Number of bands; band 0 is the mean over all columns."""
        return 2 if self.grid is None else _SHELLS + 1

    def energy(self, fields: Float[np.ndarray, "fields columns"]) -> Float[np.ndarray, "fields bands"]:
        """Return the summed squares of each field in each band."""
        if self.grid is None:
            mean = self.size * fields.mean(axis=1) ** 2
            return np.stack([mean, np.maximum((fields**2).sum(axis=1) - mean, 0)], axis=1)
        shells = _shells(self.grid)
        return np.stack([np.bincount(shells, _cosine(field, self.grid) ** 2, self.count) for field in fields])

    def weigh(
        self, fields: Float[np.ndarray, "fields columns"], weights: Float[np.ndarray, "fields bands"]
    ) -> Float[np.ndarray, "fields columns"]:
        """Return each field with its bands multiplied by its weights."""
        if self.grid is None:
            mean = fields.mean(axis=1, keepdims=True)
            return weights[:, :1] * mean + weights[:, 1:] * (fields - mean)
        shells = _shells(self.grid)
        shape = self.grid.shape
        weighed = [_cosine(field, self.grid) * w[shells] for field, w in zip(fields, weights, strict=True)]
        return np.stack([idctn(coefficients.reshape(shape), norm="ortho").ravel() for coefficients in weighed])


def _cosine(field: Float[np.ndarray, " columns"], grid: Grid) -> Float[np.ndarray, " columns"]:
    coefficients: np.ndarray = dctn(field.reshape(grid.shape), norm="ortho").ravel()
    return coefficients


@lru_cache(maxsize=2)
def _shells(grid: Grid) -> Int[np.ndarray, " columns"]:
    """Return the band of each cosine coefficient: 0 for the mean, then equal steps of log frequency (1/mm)."""
    axes = [np.arange(n) / (2 * n * edge) for n, edge in zip(grid.shape, grid.spacing, strict=True)]
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij"))).ravel()
    inside = frequency > 0
    low, high = frequency[inside].min(initial=np.inf), frequency.max()
    steps = max(float(np.log(high / low)), 1e-12)
    shells = np.zeros(grid.size, dtype=np.int64)
    shells[inside] = 1 + np.minimum(_SHELLS - 1, (_SHELLS * np.log(frequency[inside] / low) / steps).astype(np.int64))
    return shells


def shrink(
    fields: Float[np.ndarray, "fields columns"], noise: Float[np.ndarray, "fields bands"], bands: Bands
) -> tuple[Float[np.ndarray, "fields columns"], Float[np.ndarray, "fields bands"]]:
    """Remove from each band the energy that noise alone would have.

    Args:
        fields: One effect estimate a row.
        noise: Expected energy of the estimation noise in each band, in the fields' squared units.
        bands: The basis.

    Returns:
        The shrunk fields and the weights w_b in [0, 1]; infinite noise gives weight 0.
    """
    energy = bands.energy(fields)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(energy > 0, noise / energy, np.inf)
    weights = np.clip(1 - share, 0, 1)
    return bands.weigh(fields, weights), weights
