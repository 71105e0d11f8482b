"""Curves of a growth chart: centiles as it was fitted, and how well each is known.

The centile of z at covariates c is T^-1(m), m = mu(c) + s(c) q(z) (`model.py`). The variance of m is told by the delta method:

    sd^2 x'Cx + (s q)^2 g'Sg + s^2 e(z) + sd s q k v

with C the covariance of the location's coefficients and x the row of its design, S and g those of log scale, and e(z) what not
knowing the shape adds to what the intercepts of both have of it (`Shapes.unknown`). Of skewed residuals mean and scale err
together: with skewness k, mean and log deviation of n of them have the covariance k / 2n. v is what x'Cx, or g'Sg in its unit, is
beyond the intercept's, the smaller of both; the intercept's is in e(z). Ends of m's interval go through T^-1.

A pooled batch stands for the levels of training: its location is the mean over their people, its log scale that over levels, so
that the rows x and g have these shares, and not that of a level drawn anew, which is known less.

Values that many people share are a part of the distribution (`atoms.py`): a centile may be one of them, and then has no width.
Their shares are taken as known.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import ndtri

from medrep.cohort.covariates import POOLED
from medrep.models.base import Curves
from medrep.models.chart.atoms import Atoms
from medrep.models.chart.location import Location
from medrep.models.chart.powers import Powers
from medrep.models.chart.shapes import Shapes
from medrep.models.chart.spread import Scales
from medrep.models.exceptions import NEVER
from medrep.models.linear.design import Design

Block = Float[np.ndarray, "people columns"]
Rows = Float[np.ndarray, "people rows"]

_HALF = float(ndtri(0.975))


def centile_curves(
    location: Location,
    scales: Scales,
    shapes: Shapes | None,
    powers: Powers,
    frame: pd.DataFrame,
    probabilities: Float[np.ndarray, " levels"],
) -> Curves:
    """Return centiles at some covariates, with intervals.

    Args:
        location: Of the chart.
        scales: Of the chart.
        shapes: Of the chart; None where they were not fitted.
        powers: Of the chart.
        frame: Covariates (`CovariateSchema.transfer`).
        probabilities: Between 0 and 1.
    """
    line, whole = location.line, slice(0, len(location.line.sd))
    mean, scale = location.means(frame)(whole), np.exp(scales.logs(scales.design.full(frame)))
    own = _variance(_rows(line.design, frame), location.covariance)
    log = _variance(_rows(scales.design, frame, equal=True), scales.covariance)
    first = _variance(_middle(line.design), location.covariance), _variance(_middle(scales.design), scales.covariance)
    people = 1 / float(first[0][0, 0])
    silent = np.broadcast_to(line.sd == 0, mean.shape).copy()
    never = line.support.marked(line.support.of(frame), whole, NEVER)
    if never is not None:
        silent |= never
    most = 2 * np.sqrt(first[1] / first[0])  # beyond it no correlation could be
    skewness = 0.0 if shapes is None else shapes.skewness().clip(-most[0], most[0])
    shared = np.maximum(np.minimum(own, log * first[0] / first[1]) - first[0], 0)
    atoms = Atoms.of(line.masses, whole)

    def chart(values: Block) -> Block:
        residual = (values - mean) / scale
        return residual if shapes is None else shapes.z(residual)

    found = []
    for probability in np.asarray(probabilities, float).tolist():
        z, atom = atoms.quantile(probability, chart, mean.shape)
        z = np.where(np.isnan(atom), z, 0)
        residual = z if shapes is None else shapes.residuals(z)
        spread = line.sd**2 * own + (scale * residual) ** 2 * log
        if shapes is not None:
            known = line.sd**2 * first[0] + (scale * residual) ** 2 * first[1]
            spread = spread + np.maximum(scale**2 * shapes.unknown(z, people) - known, 0)
            spread = spread + line.sd * scale * residual * skewness * shared
        half = np.where(np.isnan(atom), _HALF * np.sqrt(spread), 0)
        middle = np.where(np.isnan(atom), mean + scale * residual, atom)
        ends = [np.where(silent, np.nan, powers.back(middle + side * half)) for side in (0, -1, 1)]
        found.append(ends)
    value, low, high = (np.stack([one[k] for one in found]) for k in range(3))
    return Curves(value, low, high)


def _variance(rows: Rows, covariance: Float[np.ndarray, "rows rows"]) -> Float[np.ndarray, "people _"]:
    return np.asarray(np.einsum("nr,rs,ns->n", rows, covariance, rows, optimize=True))[:, None]


def _rows(design: Design, frame: pd.DataFrame, *, equal: bool = False) -> Rows:
    """Return rows of a design in which a pooled batch has the shares of its people, or the same for all levels."""
    batches = design.batches(frame)
    for name, part in design.batch_slices().items():
        counts = np.asarray(design.level_counts(name), float)
        shares = (counts > 0).astype(float) if equal else counts
        pooled = np.array([str(level) == POOLED for level in frame[name].tolist()])
        batches[pooled, part] = shares / shares.sum()
    return np.concatenate([design.effects(frame), batches], axis=1)


def _middle(design: Design) -> Rows:
    """Return the mean row of the people of training."""
    width = 1 + sum(len(term.centre) for term in design.terms)
    counts = [np.asarray(design.level_counts(name), float) for name in design.schema.batches]
    return np.concatenate([np.eye(1, width), *(own[None] / own.sum() for own in counts)], axis=1)
