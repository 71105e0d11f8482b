"""Bands in which fields over columns are shrunk: a span of expected effects, and the rest by spatial scale.

An effect field (one batch level's location, one value a column) is an estimate plus noise. In an orthonormal basis the
coefficients are sorted into bands; in each band the share of energy that noise alone would have is removed (positive-part
James-Stein, in space an empirical Wiener filter):

    w_b = max(0, 1 - noise_b / energy_b),    field' = sum_b w_b * band_b(field)

The first band is the span of what a batch plausibly does; the rest of the field falls into further bands. For features the
span is the mean over columns and the rest is one band, which is ComBat's normal prior N(mean, variance) a level. For voxels the
span is what a scanner does, an offset and a gain that vary slowly over the field of view, and the rest falls into shells of
spatial frequency of the cosine transform, so that smooth effects keep their strength and voxel-wise noise does not. For columns
with neighbours (vertices of a mesh) the span is the mean, and the rest falls into what 1, 3, 10 and 32 steps of a random
walk on the mesh smooth away, one after the other, and what they leave: not orthogonal, but their sum is the field.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.fft import dct, dctn, idct, idctn
from scipy.sparse import coo_array, csr_array, diags_array

from medrep.cohort.grid import Columns, Grid, Mesh
from medrep.models.linear.fit import LARGE

_SHELLS = 24
_ORDER = 2
_TOLD = 1e-6  # of the largest singular value
_WELL_TOLD = 1e-8  # of the largest square, where no triangles are needed
_STEPS = (1, 3, 10, 32)
_BLOCK, _AT_ONCE = 2**18, 2**16  # columns whose slow fields, and coefficients whose energies, are computed at a time


@dataclass(frozen=True)
class Bands:
    """A span of expected effects, and bands for the rest.

    Attributes:
        span: Orthonormal columns; band 0.
        columns: Voxels of a grid, where fields are 0 outside of a mask: the rest falls into shells of spatial frequency. None:
            the rest is one band, or several on a mesh.
        walk: One step of smoothing over neighbours, columns x columns; None of columns without neighbours.
    """

    span: Float[np.ndarray, "columns span"]
    columns: Columns | None
    walk: csr_array | None = None

    @property
    def grid(self) -> Grid | None:
        """The voxels' grid; None of columns that lie nowhere."""
        return None if self.columns is None else self.columns.grid

    @property
    def count(self) -> int:
        """Number of bands."""
        if self.grid is not None:
            return _SHELLS + 2
        return 2 if self.walk is None else len(_STEPS) + 2

    def energy(self, fields: Float[np.ndarray, "fields columns"]) -> Float[np.ndarray, "fields bands"]:
        """Return the summed squares of each field in each band."""
        if self.columns is None:
            coefficients = fields @ self.span
            rest = self._smoothed(fields - coefficients @ self.span.T)
            return np.stack([(band**2).sum(axis=1) for band in (coefficients, *rest)], axis=1)
        return np.array([self._split(field)[0] for field in fields]).reshape(len(fields), self.count)

    def weigh(
        self, fields: Float[np.ndarray, "fields columns"], weights: Float[np.ndarray, "fields bands"]
    ) -> Float[np.ndarray, "fields columns"]:
        """Return each field with its bands multiplied by its weights."""
        if self.columns is None:
            inside = fields @ self.span @ self.span.T
            kept = weights[:, :1] * inside
            if not weights[:, 1:].any():
                return kept
            for own, band in zip(weights.T[1:], self._smoothed(fields - inside), strict=True):
                kept = kept + own[:, None] * band
            return kept
        kept = np.empty_like(fields)
        for row, field, own in zip(kept, fields, weights, strict=True):
            self._weighed(self._spanned(field), None if (own[1:] == 0).all() else self._split(field)[1], own, row)
        return kept

    def shrunk(
        self,
        field: Float[np.ndarray, " columns"],
        noise: Float[np.ndarray, " bands"],
        out: Float[np.ndarray, " columns"],
    ) -> Float[np.ndarray, " bands"]:
        """Write a field of a grid without the energy that noise alone would have, and return the weights of its bands."""
        energy, rest = self._split(field)
        weights = noiseless(energy, noise)
        self._weighed(self._spanned(field), rest if weights[1:].any() else None, weights, out)
        return weights

    def _smoothed(self, rest: Float[np.ndarray, "fields columns"]) -> Iterator[Float[np.ndarray, "fields columns"]]:
        """Yield what is not in the span, a band after the other; their sum is the whole."""
        if self.walk is None:
            yield rest
            return
        done, left = 0, np.ascontiguousarray(rest.T)
        for steps in _STEPS:
            smooth = left
            for _ in range(steps - done):
                smooth = self.walk @ smooth
            yield (left - smooth).T
            left, done = smooth, steps
        yield left.T

    def _spanned(self, field: Float[np.ndarray, " columns"]) -> Float[np.ndarray, " span"]:
        """Return the coefficients of a field in the span, summed in float64 whatever it is."""
        total = np.zeros(self.span.shape[1])
        for start in range(0, len(field), _BLOCK):
            total += field[start : start + _BLOCK] @ self.span[start : start + _BLOCK]
        return total

    def _split(self, field: Float[np.ndarray, " columns"]) -> tuple[np.ndarray, Float[np.ndarray, "x y z"]]:
        """Return the energy in each band, and the cosine transform of what is not in the span."""
        columns = self.columns
        if columns is None:
            raise ValueError("the columns have no grid")
        coefficients = self._spanned(field)
        rest = field - self.span @ coefficients.astype(self.span.dtype)
        cosine = _cosine(rest, columns)
        outside = _shell_sums(cosine.ravel(), columns, self.count - 1)
        return np.concatenate([[(coefficients**2).sum()], outside]), cosine

    def _weighed(
        self,
        coefficients: Float[np.ndarray, " span"],
        rest: "Float[np.ndarray, 'x y z'] | None",
        weights: Float[np.ndarray, " bands"],
        out: Float[np.ndarray, " columns"],
    ) -> None:
        out[:] = self.span @ (weights[0] * coefficients).astype(self.span.dtype)
        if rest is not None and self.columns is not None:
            rest *= _shell_values(weights[1:].astype(rest.dtype), self.columns).reshape(rest.shape)
            out += _inverse_cosine(rest, self.columns)


def _cosine(row: Float[np.ndarray, " columns"], columns: Columns) -> Float[np.ndarray, "x y z"]:
    """Return the cosine transform of a row on the grid; of many columns lines that a mask leaves empty are not looked at."""
    box = columns.box(row)
    if columns.mask is None or columns.count <= LARGE:
        return np.asarray(dctn(box, norm="ortho", overwrite_x=columns.mask is not None))
    x, _, z = columns.reach
    box[x, :, z] = dct(box[x, :, z], axis=1, norm="ortho", overwrite_x=True)
    box[x] = dct(box[x], axis=2, norm="ortho", overwrite_x=True)
    return np.asarray(dct(box, axis=0, norm="ortho", overwrite_x=True))


def _inverse_cosine(box: Float[np.ndarray, "x y z"], columns: Columns) -> Float[np.ndarray, " columns"]:
    """Return the columns of an inverse cosine transform, whose box is written over."""
    if columns.mask is None or columns.count <= LARGE:
        return columns.inside(idctn(box, norm="ortho", overwrite_x=True))
    x, _, z = columns.reach
    box = idct(box, axis=0, norm="ortho", overwrite_x=True)
    box[x] = idct(box[x], axis=2, norm="ortho", overwrite_x=True)
    box[x, :, z] = idct(box[x, :, z], axis=1, norm="ortho", overwrite_x=True)
    return columns.inside(box)


def _shell_sums(flat: Float[np.ndarray, " voxels"], columns: Columns, count: int) -> Float[np.ndarray, " shells"]:
    """Return the summed squares of cosine coefficients in each shell."""
    if columns.count > LARGE:
        starts, shells, _ = _runs(_grid_of(columns))
        return np.bincount(shells, np.add.reduceat(np.square(flat), starts).astype(np.float64), count)
    sums, shells = np.zeros(count), _shells(_grid_of(columns))
    for start in range(0, len(flat), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        sums += np.bincount(shells[part], np.square(flat[part]), count)
    return sums


def _shell_values(values: Float[np.ndarray, " shells"], columns: Columns) -> Float[np.ndarray, " voxels"]:
    """Return each cosine coefficient's value of its shell."""
    if columns.count > LARGE:
        _, shells, lengths = _runs(_grid_of(columns))
        return np.repeat(values[shells], lengths)
    return values[_shells(_grid_of(columns))]


def _grid_of(columns: Columns) -> Grid:
    if columns.grid is None:
        raise ValueError("the columns have no grid")
    return columns.grid


def noiseless(energy: Float[np.ndarray, "*fields bands"], noise: Float[np.ndarray, "*fields bands"]) -> np.ndarray:
    """Return the share of the energy in each band that is not noise; infinite noise gives 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(energy > 0, noise / energy, np.inf)
    return np.clip(1 - share, 0, 1)


def column_bands(varies: Bool[np.ndarray, " columns"]) -> Bands:
    """Return the bands of columns without order: the mean over those that vary, and the rest."""
    return Bands(varies[:, None] / max(int(varies.sum()), 1) ** 0.5, None)


def mesh_bands(varies: Bool[np.ndarray, " columns"], mesh: Mesh) -> Bands:
    """Return the bands of columns with neighbours: the mean over those that vary, and scales of smoothing for the rest.

    A step of smoothing gives each column half of its own value and half of the mean of its neighbours that vary.
    """
    low, high = mesh.edges[varies[mesh.edges].all(axis=1)].T
    count = len(varies)
    near = coo_array(
        (np.ones(2 * len(low)), (np.concatenate([low, high]), np.concatenate([high, low]))), (count, count)
    )
    neighbours = np.asarray(near.sum(axis=1)).ravel()
    shared = np.where(neighbours > 0, 1 / np.maximum(neighbours, 1), 0)
    walk = csr_array(diags_array(np.where(neighbours > 0, 0.0, 1.0)) + diags_array(shared) @ near)
    return replace(column_bands(varies), walk=walk)


def scanner_bands(columns: Columns, mean: Float[np.ndarray, " columns"], unit: Float[np.ndarray, " columns"]) -> Bands:
    """Return the bands of voxels: slowly varying offset and gain, and shells of spatial frequency for the rest.

    Args:
        columns: Voxels of a grid.
        mean: The pooled mean image; a gain moves a voxel in proportion to it.
        unit: What one unit of the field is in data units at each voxel: the residual deviation for locations, which are
            shrunk in its units, 1 for log scales; 0 leaves the voxel out of the span.
    """
    grid = _grid_of(columns)
    axes = [np.stack([np.cos(np.pi * k * (np.arange(n) + 0.5) / n) for k in range(_ORDER + 1)]) for n in grid.shape]
    orders = [orders for orders in product(range(_ORDER + 1), repeat=3) if sum(orders) <= _ORDER]
    largest = max(float(np.abs(mean).max(initial=0)), 1e-300)

    def block(part: slice) -> Float[np.ndarray, "block fields"]:
        places = np.arange(part.start, part.stop) if columns.mask is None else columns.mask.places[part]
        along = [axis[:, index] for axis, index in zip(axes, np.unravel_index(places, grid.shape), strict=True)]
        own = unit[part].astype(np.float64)
        per_unit = np.divide(1, own, out=np.zeros_like(own), where=own > 0)
        level = mean[part] / largest
        fields = np.empty((2 * len(orders), len(own)))
        for number, (a, b, c) in enumerate(orders):
            slow = along[0][a] * along[1][b] * along[2][c]
            np.multiply(slow, per_unit, out=fields[2 * number])
            np.multiply(level, slow, out=slow)
            np.multiply(slow, per_unit, out=fields[2 * number + 1])
        return fields.T

    parts = [slice(start, min(start + _BLOCK, columns.count)) for start in range(0, columns.count, _BLOCK)]
    values, turn = _singular(block, parts)
    told = values > _TOLD * values.max(initial=0)
    turn = turn[told].T / values[told]
    span = np.empty((columns.count, turn.shape[1]), mean.dtype)
    for part in parts:
        span[part] = block(part) @ turn
    return Bands(span, columns)


def _singular(
    block: Callable[[slice], Float[np.ndarray, "block fields"]], parts: Sequence[slice]
) -> tuple[Float[np.ndarray, " singular"], Float[np.ndarray, "singular fields"]]:
    """Return the singular values and right singular vectors of a matrix given in blocks of rows."""
    if len(parts) > 1:
        products = sum(own.T @ own for own in map(block, parts))
        squares, vectors = np.linalg.eigh(products)
        if squares[0] > _WELL_TOLD * squares[-1]:  # else rounding of squares is felt
            return np.sqrt(squares[::-1]), vectors[:, ::-1].T
    # The triangles of all blocks have the singular values of the whole (Golub and Van Loan, 5.2).
    triangles = np.concatenate([np.linalg.qr(block(part), mode="r") for part in parts])
    _, values, turn = np.linalg.svd(triangles, full_matrices=False)
    return values, turn


@lru_cache(maxsize=2)
def _runs(grid: Grid) -> tuple[Int[np.ndarray, " runs"], Int[np.ndarray, " runs"], Int[np.ndarray, " runs"]]:
    """Return where runs of one shell begin among the coefficients, their shells and their lengths: some 50 voxels each."""
    shells = _shells(grid)
    starts = np.flatnonzero(np.diff(shells, prepend=-1))
    return starts, shells[starts], np.diff(starts, append=len(shells))


@lru_cache(maxsize=2)
def _shells(grid: Grid) -> Int[np.ndarray, " voxels"]:
    """Return the band of each cosine coefficient: 0 for the mean, then equal steps of log frequency (1/mm)."""
    axes = [np.arange(n) / (2 * n * edge) for n, edge in zip(grid.shape, grid.spacing, strict=True)]
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij"))).ravel()
    inside = frequency > 0
    shells = np.zeros(grid.size, dtype=np.int8)
    if not inside.any():
        return shells
    low, high = frequency[inside].min(), frequency.max()
    steps = max(float(np.log(high / low)), 1e-12)
    shells[inside] = 1 + np.minimum(_SHELLS - 1, (_SHELLS * np.log(frequency[inside] / low) / steps).astype(np.int8))
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
    if bands.columns is None:
        weights = noiseless(bands.energy(fields), noise)
        return bands.weigh(fields, weights), weights
    kept = np.empty_like(fields)
    found = [bands.shrunk(field, own, out) for field, own, out in zip(fields, noise, kept, strict=True)]
    return kept, np.array(found).reshape(noise.shape)
