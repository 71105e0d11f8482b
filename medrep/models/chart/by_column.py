"""Powers, point masses, unsupported levels and components of columns that several charts model."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from medrep.cohort.covariates import Categorical, CovariateSchema
from medrep.models.chart.parts import Part
from medrep.models.chart.powers import CHOICES, Powers
from medrep.models.exceptions import FEW, NEVER, Cell, ColumnSupport, PointMasses

_LOW = -2.0  # z at which a column has to be positive to have a power
_SAME = 1e-9  # of a point mass's size


def pooled_powers(parts: Sequence[Part]) -> Powers:
    """Return the power of each column that parts of most people have, in their mean unit, from the lowest of their floors on.

    A column that is not positive in a part is left as it is.
    """
    people = np.stack([one.people * one.has for one in parts])
    own = np.stack([one.chart.powers.exponents for one in parts])
    votes = np.stack([(people * (own == power)).sum(axis=0) for power in CHOICES])
    exponents = np.asarray(CHOICES)[votes.argmax(axis=0)]
    for one, powers in zip(parts, own, strict=True):
        for k in np.flatnonzero((exponents != 1) & (powers == 1) & one.has).tolist():
            if one.quantile(k, _LOW).min() <= 0:
                exponents[k] = 1
    with_unit = people * (own != 1)
    units, floors = (np.stack([getattr(one.chart.powers, name) for one in parts]) for name in ("units", "floors"))
    total = with_unit.sum(axis=0)
    mean = (with_unit * units).sum(axis=0) / np.where(total > 0, total, 1)
    # One part's unit is its own to the last bit.
    alike = np.where(with_unit > 0, units, np.nan)
    with np.errstate(all="ignore"):
        low, high = np.fmin.reduce(alike, axis=0), np.fmax.reduce(alike, axis=0)
    ones = exponents == 1
    lowest = np.where(with_unit > 0, floors, np.inf).min(axis=0)
    return Powers(exponents, np.where(ones, 1, np.where(low == high, low, mean)), np.where(ones, 1, lowest))


def pooled_masses(parts: Sequence[Part], powers: Powers) -> PointMasses:
    """Return the point masses of all parts, in the merged powers, with their shares among all people."""
    width = len(powers.exponents)
    people = np.stack([one.people * one.has for one in parts])
    people = people / np.maximum(people.sum(axis=0), 1e-12)
    found: list[dict[float, float]] = [{} for _ in range(width)]
    for one, share in zip(parts, people, strict=True):
        masses = one.location.line.masses
        if not len(masses.values):
            continue
        values = powers.there(one.chart.powers.back(masses.values))
        for rank, column in zip(*np.nonzero(np.isfinite(values) & one.has), strict=True):
            value, own = float(values[rank, column]), found[column]
            near = next((known for known in own if abs(known - value) <= _SAME * abs(known)), value)
            own[near] = own.get(near, 0.0) + float(share[column] * masses.shares[rank, column])
    ranks = max((len(own) for own in found), default=0)
    kept = parts[0].location.line.masses.values.dtype
    values, shares = np.full((ranks, width), np.nan, kept), np.zeros((ranks, width), kept)
    for column, own in enumerate(found):
        values[: len(own), column], shares[: len(own), column] = list(own), list(own.values())
    return PointMasses(values, shares)


def pooled_support(parts: Sequence[Part], schema: CovariateSchema) -> ColumnSupport:
    """Return which levels have no effect of their own in which columns: those that no part with a level has one of."""
    found, modelled = ColumnSupport.full(), np.stack([one.has for one in parts]).any(axis=0)
    for cell in _cells(parts, schema):
        codes = np.stack([_codes(one, cell) for one in parts if _has(one, cell)])
        without = (codes > 0).all(axis=0) & modelled
        few = without & (codes == FEW).any(axis=0)
        found = found.with_cell(cell, np.flatnonzero(few), FEW)
        found = found.with_cell(cell, np.flatnonzero(without & ~few), NEVER)
    return found


def _cells(parts: Sequence[Part], schema: CovariateSchema) -> Iterator[Cell]:
    for covariate in schema.fitted:
        if isinstance(covariate, Categorical):
            yield from (((covariate.declared.name, level),) for level in covariate.levels)
    crossed = {cell for one in parts for cell in one.location.line.support.cells if len(cell) > 1}
    yield from sorted(crossed)


def _has(part: Part, cell: Cell) -> bool:
    return all(
        part.given[name] == level if name in part.given else level in part.chart.schema.levels(name)
        for name, level in cell
    )


def _codes(part: Part, cell: Cell) -> np.ndarray:
    """Return whether a level has no effect of its own in each column: 0, NEVER or FEW."""
    support = part.location.line.support
    found = np.where(part.has, 0, NEVER)
    own = tuple((name, level) for name, level in cell if name not in part.given)
    for known, codes in zip(support.cells, support.codes, strict=True):
        if known == own:
            found[support.columns] = np.maximum(found[support.columns], codes)
    return found


def pooled_components(parts: Sequence[Part]) -> Float[np.ndarray, "components columns"]:
    """Return directions that the components of all parts share.

    How much each explains is not kept: the r-th of a part counts as 1 / r of the first, and parts count by their people.
    """
    count = max(len(one.chart.components) for one in parts)
    weighed = [
        np.sqrt(one.people) / (np.arange(len(one.chart.components)) + 1)[:, None] * one.chart.components
        for one in parts
    ]
    stacked = np.concatenate(weighed)
    if not stacked.size:
        return stacked
    found = np.linalg.svd(stacked, full_matrices=False)[2][:count]
    largest = found[np.arange(len(found)), np.abs(found).argmax(axis=1)]
    return np.asarray(found * np.sign(largest)[:, None])
