"""Least squares and batch moments, a block of columns at a time; missing cells and point masses are left out column by column."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from medrep.models.block_fit import BlockFitter, Exceptions
from medrep.models.blocks import map_blocks, read_block
from medrep.models.column_support import Cell, ColumnSupport
from medrep.models.design import Design
from medrep.models.least_squares import Solver
from medrep.models.point_masses import PointMasses, background, sample_of, spread

_CALIBRATORS = 48


@dataclass(frozen=True)
class Moments:
    """What one pass over the data leaves: everything else is computed from these.

    Attributes:
        coefficients: Intercept and effects, then one row a batch level, in data units.
        sd: Residual standard deviation of each column within batches; 0 where a column is constant or cannot be fitted.
        total: Variance of each column over the people it is fitted on; 0 where it is constant.
        ratio: Mean squared residual of each level over sd squared, that of other batch covariates taken out; 1 where it
            cannot be estimated.
        freedom: Residual degrees of freedom of each level.
        leverage: Variance of each level's location estimate over sd squared.
        residuals: Residuals of a few people, in data units, to measure how noise is spread over columns.
        residual_levels: Batch memberships of those people.
        residual_freedom: 1 - leverage of those people.
        unfitted: Columns with missing values in which some effect cannot be estimated; no coefficients, sd 0.
        atoms: Columns where more than half of the people share one value, or where too few have another than a point mass:
            they are left as they are, no coefficients, sd 0.
        masses: Values that stay what they are in columns that are fitted on the others.
        support: Levels that have no effect of their own in some columns.
    """

    coefficients: Float[np.ndarray, "rows columns"]
    sd: Float[np.ndarray, " columns"]
    total: Float[np.ndarray, " columns"]
    ratio: Float[np.ndarray, "levels columns"]
    freedom: Float[np.ndarray, " levels"]
    leverage: Float[np.ndarray, " levels"]
    residuals: Float[np.ndarray, "some columns"]
    residual_levels: Float[np.ndarray, "some levels"]
    residual_freedom: Float[np.ndarray, " some"]
    unfitted: Int[np.ndarray, " unfitted"]
    atoms: Int[np.ndarray, " atoms"]
    masses: PointMasses
    support: ColumnSupport


def fit_moments(
    data: Float[np.ndarray, "people columns"],
    design: Design,
    frame: pd.DataFrame,
    advance: Callable[[int], None] = lambda columns: None,
    *,
    images: bool = False,
) -> Moments:
    """Fit mean effects and measure residual moments in one pass.

    Args:
        data: People x columns, in memory or memory-mapped; read once, a block of columns at a time.
        design: The design matrix.
        frame: The people's covariates.
        advance: Called with the number of columns done.
        images: Whether columns are voxels, which can have a background.

    Returns:
        The moments.

    Raises:
        CovariateError: Aliased covariates, by name.
    """
    design.check_aliases(frame)
    solver = Solver.of(design, frame)
    if solver is None:
        raise AssertionError("check_aliases passes only solvable designs")
    people, width = data.shape
    rows, levels = solver.full.shape[1], solver.levels.shape[1]
    chosen = _calibrators(frame.index, solver.freedom)
    coefficients, ratio = np.zeros((rows, width)), np.ones((levels, width))
    sd, total = np.zeros(width), np.zeros(width)
    residuals = np.zeros((len(chosen), width), dtype=np.float32)
    fitter = BlockFitter.of(solver, design, frame, background(data, frame.index) if images and people else None)
    sample = sample_of(frame.index, width)
    lists: list[Exceptions] = []

    def fit_block(part: slice) -> None:
        block = read_block(data, part)
        # Sorting in the data's own type is three times as fast for float32.
        fit = fitter.fit(block, block[sample].astype(data.dtype))
        coefficients[:, part], sd[part], total[part], ratio[:, part] = fit.coefficients, fit.sd, fit.total, fit.ratio
        residuals[:, part] = fit.residual[chosen]
        lists.append(fit.exceptions.shifted(part.start))

    for part, _ in map_blocks(people, width, fit_block):
        advance(part.stop - part.start)
    lists.sort(key=lambda one: one.start)
    return Moments(
        coefficients,
        sd,
        total,
        ratio,
        solver.levels.T @ solver.freedom,
        (solver.solve[rows - levels :] ** 2).sum(axis=1),
        residuals,
        solver.levels[chosen],
        solver.freedom[chosen],
        np.concatenate([np.zeros(0, dtype=np.int64), *(one.unfitted for one in lists)]),
        np.concatenate([np.zeros(0, dtype=np.int64), *(one.atoms for one in lists)]),
        _joined_masses(lists, width),
        _joined_support(lists, fitter.cells),
    )


def _joined_masses(lists: Sequence[Exceptions], width: int) -> PointMasses:
    ranks = max((len(one.masses.values) for one in lists), default=0)
    values, shares = np.full((ranks, width), np.nan), np.zeros((ranks, width))
    for one in lists:
        own, columns = one.masses.values.shape
        values[:own, one.start : one.start + columns] = one.masses.values
        shares[:own, one.start : one.start + columns] = one.masses.shares
    used = ~np.isnan(values).all(axis=1)
    return PointMasses(values[used], shares[used])


def _joined_support(lists: Sequence[Exceptions], cells: tuple[Cell, ...]) -> ColumnSupport:
    columns = np.concatenate([np.zeros(0, dtype=np.int64), *(one.lacking for one in lists)])
    if not len(columns):
        return ColumnSupport.full()
    codes = np.concatenate([one.codes for one in lists], axis=1)
    used = np.asarray(codes.any(axis=1))
    return ColumnSupport(tuple(cell for cell, own in zip(cells, used, strict=True) if own), columns, codes[used])


def _calibrators(keys: pd.Index, freedom: Float[np.ndarray, " people"]) -> Int[np.ndarray, " some"]:
    """Choose people spread evenly over the sorted keys, so that the order of rows does not matter."""
    order = np.argsort(keys.to_numpy(str))
    return spread(order[freedom[order] > 0.2], _CALIBRATORS)
