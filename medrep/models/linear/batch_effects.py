"""Location and scale of batches (site, scanner), shrunk by empirical Bayes.

An effect field (one batch level's location, one value a column) is an estimate plus noise. In an orthonormal basis the
coefficients are sorted into bands; in each band the share of energy that noise alone would have is removed (positive-part
James-Stein, in space an empirical Wiener filter):

    w_b = max(0, 1 - noise_b / energy_b),    field' = sum_b w_b * band_b(field)

The first band is the span of what a batch plausibly does; the rest of the field falls into further bands. For features the
span is the mean over columns and the rest is one band, which is ComBat's normal prior N(mean, variance) a level. For voxels the
span is what a scanner does, an offset and a gain that vary slowly over the field of view, and the rest falls into shells of
spatial frequency of the cosine transform, so that smooth effects keep their strength and voxel-wise noise does not. For columns
with neighbours (vertices of a mesh) the span is the mean, and the rest falls into what 1, 3, 10 and 32 steps of a random
walk on the mesh smooth away, one after the other, and what they leave: not orthogonal, but their sum is the field. How much
energy noise has in each band is measured on the training residuals, so correlation between columns is accounted for; on a mesh,
whose smoothest bands hold few independent values, its deviation over people is added.

In units of each column's residual deviation: residual = gamma_batch + delta_batch * noise, the ComBat family (Johnson 2007,
Fortin 2018). Location gamma and log scale log(delta) are fields over columns; `shrinkage` decides how much of each to believe.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, product
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.fft import dct, dctn, idct, idctn
from scipy.sparse import coo_array, csr_array, diags_array

from medrep.cohort.grid import Columns, Grid, Mesh
from medrep.models.linear.design import Design
from medrep.models.linear.fit import LARGE, Moments
from medrep.models.linear.scales import (
    Apart,
    log_scale_variance,
    log_scales,
    pooled_level,
    told_scales,
)

_SHELLS = 24
_ORDER = 2
_TOLD = 1e-6  # of the largest singular value
_WELL_TOLD = 1e-8  # of the largest square, where no triangles are needed
_STEPS = (1, 3, 10, 32)
_CALIBRATORS = 16  # people of whom noise is measured on a mesh, where a band takes many steps
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


_NO_VARIANCE = 1e-12


@dataclass(frozen=True)
class Borrowing:
    """How locations and log scales share strength over columns.

    Bands are made when they are asked for: those of whole heads take as much memory as twenty people, one after the other.
    """

    location: Callable[[], Bands]
    log_scale: Callable[[], Bands]


@dataclass(frozen=True)
class BatchEffects:
    """Shrunk location and log scale of every batch level, and what is needed to shrink a new one alike.

    Attributes:
        location: One row a level, in data units.
        log_scale: One row a level; natural logarithm of the ratio to the pooled deviation.
        location_noise: Energy in each band of a location estimate with unit variance in every column.
        log_scale_noise: The same for a log scale estimate of unit variance.
    """

    location: Float[np.ndarray, "levels columns"]
    log_scale: Float[np.ndarray, "levels columns"]
    location_noise: Float[np.ndarray, " bands"]
    log_scale_noise: Float[np.ndarray, " bands"]


def fit_batches(moments: Moments, borrowing: Borrowing, parts: Sequence[slice], *, scale: bool) -> BatchEffects:
    """Shrink the raw batch estimates.

    Args:
        moments: One pass over the training data.
        borrowing: How columns share strength.
        parts: Which levels belong to which batch covariate (`Design.batch_slices`).
        scale: Whether batches differ in scale at all.
    """
    levels, dtype = len(moments.freedom), moments.coefficients.dtype
    per_sd = np.divide(1, moments.sd, out=np.zeros_like(moments.sd), where=moments.sd > 0)
    raw_location = moments.coefficients[len(moments.coefficients) - levels :]
    location = raw_location * per_sd
    varies = moments.sd > 0
    raw = np.empty(moments.ratio.shape, dtype)
    for level in range(levels):
        raw[level] = log_scales(moments.ratio[level : level + 1], moments.freedom[level : level + 1])[0]
    bands = borrowing.log_scale()
    apart = Apart.none(levels, dtype)
    if scale and bands.columns is None:
        apart = Apart.of(raw, moments.freedom, told_scales(moments.ratio, moments.freedom), parts)
    # What all columns of a batch share is no noise: people are compared with their own batch.
    log_scale = np.zeros_like(location)
    shared = _first_band(raw - apart.taken, bands) + apart.taken if scale else log_scale
    within = _standard_residuals(moments, per_sd, shared, bands)
    square_noise = _mean_energy((varies * (row**2 - 1) / 2**0.5 for row in within), bands)
    if scale:
        log_scale = _shrunk_scales(raw, moments.freedom, square_noise, bands, apart)
    del raw, shared, within, bands
    bands = borrowing.location()
    noise = _mean_energy(_standard_residuals(moments, per_sd, log_scale, bands), bands)
    variance = moments.leverage * _mean_square(log_scale, varies * (1 - apart.share))
    if bands.columns is None:
        beyond = apart.share * (location - _typical(location, varies))
        shrunk = (shrink(location - beyond, _noise(variance, noise), bands)[0] + beyond) * moments.sd
    else:
        shrunk = shrink(location, _noise(variance, noise), bands)[0] * moments.sd
    # A column that is constant within batches has no noise: what differs between its batches is believed as it is.
    return BatchEffects(np.where(varies, shrunk, raw_location), np.where(varies, log_scale, 0), noise, square_noise)


def centre_scales(
    effects: BatchEffects, moments: Moments, parts: Sequence[slice]
) -> tuple[BatchEffects, Float[np.ndarray, " columns"]]:
    """Let the log scales of each batch covariate average to 0 over people, in every column.

    Returns:
        The effects, and what the pooled deviation of each column is to be multiplied by so that no level's own changes: its
        geometric mean over levels, in units of the root mean square.
    """
    freedom = np.maximum(moments.freedom, 0).astype(moments.ratio.dtype)
    weights = told_scales(moments.ratio, moments.freedom) * freedom[:, None]
    level = pooled_level(effects.log_scale, weights, parts)
    firsts = [part.start for part in parts if part.stop > part.start]
    # Of a level that nothing is known of, as a single person's, the scale stays the pooled one.
    centred = np.where(moments.freedom[:, None] > 0.5, effects.log_scale - level, effects.log_scale)
    return replace(effects, log_scale=centred), np.exp(level[firsts].sum(axis=0))


class NewLevel(NamedTuple):
    """The people of a level that training did not have.

    Attributes:
        people: How many they are.
        mean: Their mean standardised residual in each column.
        variance: Its variance (divisor n - 1), 1 where it cannot be told.
    """

    people: int
    mean: Float[np.ndarray, " columns"]
    variance: Float[np.ndarray, " columns"]


def shrink_new_level(
    effects: BatchEffects,
    borrowing: Borrowing,
    level: NewLevel,
    varies: Bool[np.ndarray, " columns"],
    *,
    scaled: Float[np.ndarray, " columns"],
    scale: bool,
) -> tuple[
    Float[np.ndarray, " columns"], Float[np.ndarray, " columns"], tuple[float, float | None], tuple[float, float]
]:
    """Estimate a level that training did not have, from its own people, with training's noise spread.

    Args:
        effects: Training's batch effects.
        borrowing: How columns share strength.
        level: Its people; the scale of a single person is taken as the pooled one.
        varies: Columns whose deviation is not 0.
        scaled: Mean covariate effect of these people, in units of sd, where the level's scale multiplies it; else 0.
            The mean residual was taken at scale 1, so it still holds (scale - 1) times this.
        scale: Whether batches differ in scale at all.

    Returns:
        Location in units of sd, log scale, their standard errors (None: a single person's scale is not known), and the
        shares of their raw energy that were kept.
    """
    people, mean, variance = level
    freedom = np.array([people - 1.0])
    log_variance = log_scale_variance(freedom)
    log_scale, log_kept, apart = np.zeros_like(mean)[None], 0.0, Apart.none(1, mean.dtype)
    log_se = float(np.sqrt(log_variance[0])) if people > 1 else None
    if scale and people > 1:
        ratio = np.where(varies & (variance > _NO_VARIANCE), variance, 1)[None]
        raw = log_scales(ratio, freedom)
        bands = borrowing.log_scale()
        if bands.columns is None:
            apart = Apart.of(raw, freedom, told_scales(ratio, freedom), ())
        log_scale = _shrunk_scales(raw, freedom, effects.log_scale_noise, bands, apart)
        log_kept = _kept(log_scale, raw)
    spread = _mean_square(log_scale, varies * (1 - apart.share)) / people
    mean = mean - (np.exp(log_scale[0]) - 1) * scaled
    beyond = apart.share * (mean - _typical(mean[None], varies))
    location = (
        shrink((mean - beyond).reshape(1, -1), _noise(spread, effects.location_noise), borrowing.location())[0] + beyond
    )
    return location[0], log_scale[0], (float(np.sqrt(spread[0])), log_se), (_kept(location, mean[None]), log_kept)


def _shrunk_scales(
    raw: Float[np.ndarray, "levels columns"],
    freedom: Float[np.ndarray, " levels"],
    noise: Float[np.ndarray, " bands"],
    bands: Bands,
    apart: Apart,
) -> Float[np.ndarray, "levels columns"]:
    shrunk = shrink(raw - apart.taken, _noise(log_scale_variance(freedom), noise), bands)[0]
    return shrunk + apart.taken


def _typical(fields: Float[np.ndarray, "levels columns"], varies: Bool[np.ndarray, " columns"]) -> np.ndarray:
    """Return the median over columns of each field, a column."""
    some = fields[:, varies]
    return np.median(some, axis=1, keepdims=True) if some.shape[1] else np.zeros((len(fields), 1))


def _first_band(fields: Float[np.ndarray, "levels columns"], bands: Bands) -> Float[np.ndarray, "levels columns"]:
    weights = np.zeros((len(fields), bands.count))
    weights[:, 0] = 1
    return bands.weigh(fields, weights)


def _noise(
    variance: Float[np.ndarray, " levels"], energy: Float[np.ndarray, " bands"]
) -> Float[np.ndarray, "levels bands"]:
    """Return the noise energy of each level in each band; infinite variance is noise in every band, empty ones too."""
    finite = np.isfinite(variance)
    return np.where(finite[:, None], np.outer(np.where(finite, variance, 0), energy), np.inf)


def _standard_residuals(
    moments: Moments,
    per_sd: Float[np.ndarray, " columns"],
    log_scale: Float[np.ndarray, "levels columns"],
    bands: Bands,
) -> Iterator[Float[np.ndarray, " columns"]]:
    """Yield the residuals of a few people in units of their own batch's deviation, one at a time to keep memory low."""
    step = 1 if bands.walk is None else max(1, -(-len(moments.residuals) // _CALIBRATORS))
    for residual, levels, freedom in zip(
        moments.residuals[::step], moments.residual_levels[::step], moments.residual_freedom[::step], strict=True
    ):
        own = residual * per_sd
        own *= np.exp(-levels.astype(log_scale.dtype) @ log_scale)
        own /= float(np.sqrt(freedom))
        yield own


def _mean_energy(rows: Iterator[Float[np.ndarray, " columns"]], bands: Bands) -> Float[np.ndarray, " bands"]:
    """Average the energy in each band over people; on a mesh, with its deviation over people beyond the span."""
    total, squares, people = np.zeros(bands.count), np.zeros(bands.count), 0
    for block in iter(lambda: list(islice(rows, 1 if bands.walk is None else _CALIBRATORS)), []):
        for own in bands.energy(block[0][None] if len(block) == 1 else np.stack(block)):
            total += own
            squares += own**2
        people += len(block)
    energy: np.ndarray = total / max(people, 1)
    if bands.walk is not None:
        energy[1:] += np.sqrt(np.maximum(squares / max(people, 1) - energy**2, 0))[1:]
    return energy


def _mean_square(
    log_scale: Float[np.ndarray, "levels columns"], weights: Float[np.ndarray, "levels columns"]
) -> Float[np.ndarray, " levels"]:
    total: np.ndarray = (weights * np.exp(2 * log_scale)).sum(axis=1)
    return total / np.maximum(weights.sum(axis=1), 1e-9)


def _kept(shrunk: np.ndarray, raw: np.ndarray) -> float:
    energy = float((raw**2).sum())
    return float((shrunk**2).sum()) / energy if energy > 0 else 0.0


def linear_history(design: Design, moments: Moments, batches: BatchEffects, frame: pd.DataFrame) -> pd.DataFrame:
    """Summarise a fit.

    Args:
        design: The design matrix.
        moments: One pass over the training data.
        batches: The shrunk batch effects.
        frame: The training people's covariates.

    Returns:
        Columns metric, name, value. ``variance_share``: how much of the columns' variance a covariate explains, mean over
        columns that vary; ``mean_scale``: a batch level's scale; ``columns``: how many are left as they are,
        and why, and how many are left so in part.
    """
    varies = moments.total > 0
    effects, memberships = design.effects(frame), design.batches(frame)

    def share(columns: np.ndarray, coefficients: np.ndarray) -> float:
        covariance = np.atleast_2d(np.cov(columns.T, bias=True))
        shares = [
            (coefficients[:, part] * (covariance @ coefficients[:, part])).sum(axis=0)[varies[part]]
            / moments.total[part][varies[part]]
            for part in (slice(start, start + _BLOCK) for start in range(0, len(varies), _BLOCK))
        ]
        return float(np.concatenate(shares).mean()) if varies.any() else 0.0

    rows: list[tuple[str, str, float]] = []
    start = 1
    for term in design.terms:
        part = slice(start, start + len(term.centre))
        rows.append(
            ("variance_share", " x ".join(term.covariates), share(effects[:, part], moments.coefficients[part]))
        )
        start = part.stop
    for name, part in design.batch_slices().items():
        rows.append(("variance_share", name, share(memberships[:, part], batches.location[part])))
        for level, log_scale in zip(design.schema.levels(name), batches.log_scale[part], strict=True):
            rows.append(("mean_scale", f"{name}={level}", float(np.exp(log_scale).mean())))
    left = len(moments.unfitted) + len(moments.atoms)
    rows.append(("columns", "constant", float(np.count_nonzero(moments.sd == 0) - left)))
    rows.append(("columns", "mostly one value", float(len(moments.atoms))))
    rows.append(("columns", "too few values", float(len(moments.unfitted))))
    rows.append(("columns", "point masses", float(len(moments.masses.columns()))))
    rows.append(("columns", "not measured in some level", float(len(moments.support.columns))))
    return pd.DataFrame(rows, columns=["metric", "name", "value"])
