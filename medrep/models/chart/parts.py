"""A part of a merged chart: what it says of its people's stand-ins, before shrinking, in the merged chart's powers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri

from medrep.cohort.support import Support
from medrep.models.chart.location import Location
from medrep.models.chart.model import GrowthChart
from medrep.models.chart.powers import Powers
from medrep.models.chart.shapes import Shapes
from medrep.models.chart.spread import LEVERAGE
from medrep.models.chart.stand_ins import NOBODY, Square, StandIns, inverse
from medrep.models.linear.design import Design

Some = Int[np.ndarray, " some"]

_MIDDLES = ndtri((np.arange(128) + 0.5) / 128)


@dataclass(frozen=True, eq=False)
class Part:
    """A chart to be merged.

    Attributes:
        name: For messages.
        chart: The chart.
        support: Where its people lie among the covariates (`SavedModel.support`).
        given: Covariate that the chart does not have -> what all of its people have.
    """

    name: str
    chart: GrowthChart
    support: Support
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def location(self) -> Location:
        """Of the chart."""
        return self.chart.location

    @cached_property
    def stand_ins(self) -> StandIns:
        """Its people's stand-ins."""
        return StandIns.of(self.location, self.chart.scales, self.support, self.given)

    @property
    def people(self) -> float:
        """How many people location was fitted to."""
        return float(self.stand_ins.products[0][0, 0])

    @cached_property
    def has(self) -> Bool[np.ndarray, " columns"]:
        """Columns that it models."""
        return np.asarray(self.location.line.sd > 0)

    @cached_property
    def means(self) -> Float[np.ndarray, "rows columns"]:
        """Coefficients of location, levels as they were before they were shrunk."""
        line = self.location.line
        if not self.location.levels:
            return line.coefficients
        kept = kept_levels(line.design, self.stand_ins.products[0], self.location.level_variance)
        return np.concatenate([line.coefficients, line.batches.location / kept])

    def mean_level(self, name: str) -> Float[np.ndarray, " columns"]:
        """Return the mean over people of the levels of a batch covariate, as they were before they were shrunk."""
        design, first = self.location.line.design, len(self.location.line.coefficients)
        if name in self.given:
            return np.zeros(self.means.shape[1])
        rows, counts = design.batch_slices()[name], np.asarray(design.level_counts(name), float)
        return np.asarray(counts @ self.means[first + rows.start : first + rows.stop] / counts.sum())

    @cached_property
    def log_scales(self) -> Float[np.ndarray, "scale_rows columns"]:
        """Coefficients of log scale, as they were before their prior."""
        scales = self.chart.scales
        prior, found = scales.prior, scales.coefficients
        information = 2 * prior.tempering * self.stand_ins.products[1]
        pull = prior.precision(len(found))[:, None] * (found - prior.centre(len(found))[:, None])
        return np.asarray(found + inverse(information) @ pull)

    @cached_property
    def taken(self) -> Float[np.ndarray, " points"]:
        """Share of the residual at each stand-in that location took."""
        return leverage(self.stand_ins.rows[0], self.location.covariance)

    def quantile(self, column: int, z: float) -> Float[np.ndarray, " points"]:
        """Return the value of z at each stand-in, in units of the data."""
        rows, some = self.stand_ins.rows, slice(column, column + 1)
        residual = self.chart.shapes.residuals(np.array([[z]]), some)
        scale = np.exp(rows[1] @ self.chart.scales.coefficients[:, some])
        return np.asarray(self.chart.powers.some(some).back(rows[0] @ self.means[:, some] + scale * residual)[:, 0])

    def told(self, columns: Some, powers: Powers) -> "Told":
        """Return what it says of its stand-ins, in the powers of the merged chart.

        Args:
            columns: Which.
            powers: Of these.
        """
        rows, scales = self.stand_ins.rows, self.chart.scales
        values, shrunk = rows[0] @ self.means[:, columns], rows[1] @ scales.coefficients[:, columns]
        logs, sd = rows[1] @ self.log_scales[:, columns], self.location.line.sd[columns].astype(np.float64)
        shapes, own = self.chart.shapes.parameters[:, columns].copy(), self.chart.powers.some(columns)
        same = (own.exponents == powers.exponents) & (own.units == powers.units) & (own.floors == powers.floors)
        share = self.stand_ins.weights / self.stand_ins.weights.sum()
        for k in np.flatnonzero(~same):
            one = slice(k, k + 1)
            quantiles = Shapes(shapes[:, one]).residuals(_MIDDLES[:, None])[:, 0]
            before = values[:, one] + np.exp(shrunk[:, one]) * quantiles
            after = powers.some(one).there(own.some(one).back(before.reshape(-1, 1))).reshape(before.shape)
            # Of a straight line these are its ends, whatever the quantiles.
            scale = after.std(axis=1) / quantiles.std()
            values[:, k] = after.mean(axis=1) - scale * quantiles.mean()
            change = np.log(scale) - shrunk[:, k]
            shrunk[:, k] += change
            logs[:, k] += change
            sd[k] *= np.exp(share @ change)
            if own.exponents[k] != powers.exponents[k] and self.chart.settings.shape != "gaussian":
                typical = share @ ((after - values[:, one]) / scale[:, None])
                shapes[:, one] = Shapes.fit(typical[:, None]).parameters
        return Told(values, logs, shrunk, sd, shapes)


@dataclass(frozen=True, eq=False)
class Told:
    """Mean, log scale before its prior and after, deviation and shape, of a part's stand-ins in some columns."""

    values: Float[np.ndarray, "points some"]
    logs: Float[np.ndarray, "points some"]
    shrunk: Float[np.ndarray, "points some"]
    sd: Float[np.ndarray, " some"]
    shapes: Float[np.ndarray, "four some"]


def kept_levels(design: Design, products: Square, variance: float) -> Float[np.ndarray, "levels 1"]:
    """Return the share of each level that shrinking keeps: its variance among levels over that of what people tell of it.

    Args:
        design: Of location.
        products: X'WX.
        variance: Among levels, in units of a column's deviation squared.
    """
    first = len(products) - sum(len(design.schema.levels(name)) for name in design.schema.batches)
    basis = design.contrasts(products.diagonal()[first:] > NOBODY)
    covariance = inverse(basis.T @ products @ basis)
    error = np.einsum("lb,bc,lc->l", basis[first:], covariance, basis[first:], optimize=True)
    return np.asarray(variance / (variance + error))[:, None]


def leverage(
    rows: Float[np.ndarray, "points rows"], covariance: Float[np.ndarray, "rows rows"]
) -> Float[np.ndarray, " points"]:
    """Return the share of a residual that the fit took, of a person with each row."""
    return np.asarray(np.einsum("nr,rs,ns->n", rows, covariance, rows, optimize=True).clip(0, LEVERAGE))
