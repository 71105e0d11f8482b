"""Empirical-Bayes shrinkage of noisy effect fields that borrows strength over columns or over space.

An effect field (one batch level's location, one value a column) is an estimate plus noise. In an orthonormal basis the
coefficients are sorted into bands; in each band the share of energy that noise alone would have is removed (positive-part
James-Stein, in space an empirical Wiener filter):

    w_b = max(0, 1 - noise_b / energy_b),    field' = sum_b w_b * band_b(field)

The first band is the span of what a batch plausibly does; the rest of the field falls into further bands. For features the
span is the mean over columns and the rest is one band, which is ComBat's normal prior N(mean, variance) a level. For voxels the
span is what a scanner does, an offset and a gain that vary slowly over the field of view, and the rest falls into shells of
spatial frequency of the cosine transform, so that smooth effects keep their strength and voxel-wise noise does not. How much
energy noise has in each band is measured on the training residuals, so correlation between columns is accounted for.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.fft import dctn, idctn

from medrep.cohort.grid import Grid

_SHELLS = 24
_ORDER = 2


@dataclass(frozen=True)
class Bands:
    """A span of expected effects, and bands for the rest.

    Attributes:
        span: Orthonormal columns; band 0.
        grid: The columns' voxel grid; the rest falls into shells of spatial frequency. None: the rest is one band.
    """

    span: Float[np.ndarray, "columns span"]
    grid: Grid | None

    @property
    def count(self) -> int:
        """Number of bands."""
        return 2 if self.grid is None else _SHELLS + 2

    def energy(self, fields: Float[np.ndarray, "fields columns"]) -> Float[np.ndarray, "fields bands"]:
        """Return the summed squares of each field in each band."""
        coefficients = fields @ self.span
        rest = fields - coefficients @ self.span.T
        if self.grid is None:
            outside = (rest**2).sum(axis=1, keepdims=True)
        else:
            shells = _shells(self.grid)
            outside = np.zeros((len(rest), self.count - 1))
            for k, row in enumerate(rest):
                outside[k] = np.bincount(shells, _cosine(row, self.grid) ** 2, self.count - 1)
        return np.concatenate([(coefficients**2).sum(axis=1, keepdims=True), outside], axis=1)

    def weigh(
        self, fields: Float[np.ndarray, "fields columns"], weights: Float[np.ndarray, "fields bands"]
    ) -> Float[np.ndarray, "fields columns"]:
        """Return each field with its bands multiplied by its weights."""
        inside = fields @ self.span @ self.span.T
        rest = fields - inside
        if self.grid is None:
            return weights[:, :1] * inside + weights[:, 1:] * rest
        shells, shape = _shells(self.grid), self.grid.shape
        kept = np.empty_like(rest)
        for k, row in enumerate(rest):
            weighed = _cosine(row, self.grid) * weights[k, 1:][shells]
            kept[k] = idctn(weighed.reshape(shape), norm="ortho").ravel()
        return weights[:, :1] * inside + kept


def column_bands(varies: Bool[np.ndarray, " columns"]) -> Bands:
    """Return the bands of columns without order: the mean over those that vary, and the rest."""
    return Bands(varies[:, None] / max(int(varies.sum()), 1) ** 0.5, None)


def scanner_bands(grid: Grid, mean: Float[np.ndarray, " columns"], unit: Float[np.ndarray, " columns"]) -> Bands:
    """Return the bands of voxels: slowly varying offset and gain, and shells of spatial frequency for the rest.

    Args:
        grid: Where the columns lie.
        mean: The pooled mean image; a gain moves a voxel in proportion to it.
        unit: What one unit of the field is in data units at each voxel: the residual deviation for locations, which are
            shrunk in its units, 1 for log scales; 0 leaves the voxel out of the span.
    """
    axes = [[np.cos(np.pi * k * (np.arange(n) + 0.5) / n) for k in range(_ORDER + 1)] for n in grid.shape]
    slow = [
        np.einsum("i,j,k->ijk", axes[0][a], axes[1][b], axes[2][c]).ravel()
        for a, b, c in product(range(_ORDER + 1), repeat=3)
        if a + b + c <= _ORDER
    ]
    per_unit = np.divide(1, unit, out=np.zeros_like(unit), where=unit > 0)
    level = mean / max(float(np.abs(mean).max(initial=0)), 1e-300)
    left, values, _ = np.linalg.svd(
        np.stack([w * f * per_unit for f in slow for w in (1, level)], axis=1), full_matrices=False
    )
    return Bands(left[:, values > 1e-6 * values.max(initial=0)], grid)


def _cosine(field: Float[np.ndarray, " columns"], grid: Grid) -> Float[np.ndarray, " columns"]:
    coefficients: np.ndarray = dctn(field.reshape(grid.shape), norm="ortho").ravel()
    return coefficients


@lru_cache(maxsize=2)
def _shells(grid: Grid) -> Int[np.ndarray, " columns"]:
    """Return the band of each cosine coefficient: 0 for the mean, then equal steps of log frequency (1/mm)."""
    axes = [np.arange(n) / (2 * n * edge) for n, edge in zip(grid.shape, grid.spacing, strict=True)]
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij"))).ravel()
    inside = frequency > 0
    shells = np.zeros(grid.size, dtype=np.int64)
    if not inside.any():
        return shells
    low, high = frequency[inside].min(), frequency.max()
    steps = max(float(np.log(high / low)), 1e-12)
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
