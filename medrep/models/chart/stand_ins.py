"""Stand-ins: a few weighed covariate rows that a chart takes for its people.

What a chart's uncertainty keeps of its people are sums of products of their rows, X'WX of location and of scale; its model folder
also counts people in cells of their covariates, a fortieth of each range wide. Rows at both ends and in the middle of each cell,
with the cell's count dealt out as by Simpson's rule, have nearly these sums; their weights are changed as little as possible,
relative to what they are, until they have them. Regressions on stand-ins are those on people, in the chart's own design exactly,
in another one nearly. No stand-in is anybody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.linalg import pinvh

from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.cohort.parsing import parse_number
from medrep.cohort.support import Support
from medrep.models.chart.location import Location
from medrep.models.chart.spread import Scales

Rows = Float[np.ndarray, "points rows"]
Square = Float[np.ndarray, "rows rows"]

_PLACES, _SHARES = (0.0, 0.5, 1.0), np.array([1.0, 4.0, 1.0]) / 6
_ALIKE = 1e-11  # eigenvalues below it, over the largest, are none
NOBODY = 1e-6  # people
_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class StandIns:
    """Weighed rows in the place of a chart's people.

    Attributes:
        frame: Covariates of each, those that are given for all people among them.
        weights: How many people each stands for; a few may be a little below 0.
        rows: Of the designs of location and scale.
        products: X'WX of both.
        missed: Largest share by which a sum of products differs from the chart's.
    """

    frame: pd.DataFrame
    weights: Float[np.ndarray, " points"]
    rows: tuple[Rows, Rows]
    products: tuple[Square, Square]
    missed: float

    @classmethod
    def of(cls, location: Location, scales: Scales, support: Support, given: Mapping[str, str]) -> "StandIns":
        """Find rows and weights.

        Args:
            location: Of the chart.
            scales: Of the chart.
            support: Where its people lie among the covariates.
            given: Covariate that the chart does not have -> what all of its people have.
        """
        schema = location.line.design.schema
        frame = support.frame(schema, _PLACES)
        counts = np.asarray(support.counts, float)
        for _ in (one for one in schema.fitted if isinstance(one, Continuous)):
            counts = np.outer(counts, _SHARES).ravel()
        rows = location.line.design.full(frame), scales.design.full(frame)
        products = location.products, scales.prior.products(scales.covariance)
        weights = _corrected(rows, products, counts)
        found = [own.T @ (weights[:, None] * own) for own in rows]
        missed = max(
            float((np.abs(a - b) / np.sqrt(np.outer(b.diagonal(), b.diagonal()))).max())
            for a, b in zip(found, products, strict=True)
        )
        return cls(frame.assign(**given), weights, rows, products, missed)


def in_schema(frame: pd.DataFrame, schema: CovariateSchema) -> pd.DataFrame:
    """Return covariates, given ones among them as they were typed, in the form of a schema."""
    numbers = {
        one.declared.name: [parse_number(str(value)).value for value in frame[one.declared.name]]
        for one in schema.fitted
        if isinstance(one, Continuous) and frame[one.declared.name].dtype.kind != "f"
    }
    return frame.assign(**numbers)[list(schema.names)]


def inverse(products: Square) -> Square:
    """Return the inverse of products of rows, of those directions that they have."""
    unit = 1 / np.sqrt(np.maximum(products.diagonal(), 1e-300))
    unit[products.diagonal() <= 0] = 0
    return np.asarray(pinvh(products * unit * unit[:, None], rtol=_ALIKE) * unit * unit[:, None])


def _corrected(
    rows: Sequence[Rows], products: Sequence[Square], counts: Float[np.ndarray, " points"]
) -> Float[np.ndarray, " points"]:
    """Return the weights nearest to counts, relative to these, with which rows have the products."""
    equations, wanted = [], []
    for own, product in zip(rows, products, strict=True):
        used = (own != 0).astype(float)
        one, two = np.nonzero(np.triu(used.T @ used))
        equations.append((own[:, one] * own[:, two]).T)
        wanted.append(product[one, two])
    sums, goal = np.concatenate(equations), np.concatenate(wanted)
    unit = np.sqrt(sums**2 @ counts)
    sums, goal = sums / unit[:, None], goal / unit
    known, weights = pinvh((sums * counts) @ sums.T, rtol=_ALIKE), counts
    for _ in range(_ROUNDS):
        weights = weights + counts * (sums.T @ (known @ (goal - sums @ weights)))
    return np.asarray(weights)
