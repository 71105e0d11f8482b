"""Location and scale of batches (site, scanner), shrunk by empirical Bayes.

In units of each column's residual deviation: residual = gamma_batch + delta_batch * noise, the ComBat family (Johnson 2007,
Fortin 2018). Location gamma and log scale log(delta) are fields over columns; `medrep.models.linear.bands.shrink` decides how
much of each to believe. How much energy noise has in each band is measured on the training residuals, so correlation between
columns is accounted for; on a mesh, whose smoothest bands hold few independent values, its deviation over people is added.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from medrep.models.exceptions import ColumnSupport
from medrep.models.linear.bands import Bands, shrink
from medrep.models.linear.design import Design
from medrep.models.linear.fit import Moments
from medrep.models.linear.scales import (
    Apart,
    log_scale_variance,
    log_scales,
    pooled_level,
    told_scales,
)

_CALIBRATORS = 16  # people of whom noise is measured on a mesh, where a band takes many steps
_BLOCK = 2**18  # columns whose variance is computed at a time
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

    def with_level(
        self, row: int, location: Float[np.ndarray, " columns"], log_scale: Float[np.ndarray, " columns"]
    ) -> "BatchEffects":
        """Return the same with a further level at a row."""
        return replace(
            self,
            location=np.insert(self.location, row, location, axis=0),
            log_scale=np.insert(self.log_scale, row, log_scale, axis=0),
        )

    def without_unsupported(self, support: ColumnSupport, design: Design) -> "BatchEffects":
        """Return the same without what neighbouring columns say of levels that have no effect of their own in a column."""
        location, log_scale = self.location.copy(), self.log_scale.copy()
        for cell, codes in zip(support.cells, support.codes, strict=True):
            name, level = cell[0]
            if name in design.schema.batches:
                row = design.batch_slices()[name].start + design.schema.levels(name).index(level)
                location[row, support.columns[codes > 0]] = 0
                log_scale[row, support.columns[codes > 0]] = 0
        return replace(self, location=location, log_scale=log_scale)


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
