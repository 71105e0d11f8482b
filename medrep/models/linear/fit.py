"""Fitting the linear model a chunk of columns at a time.

Which columns are constant, mostly one value or have too few values is decided here and nowhere else, relative to their size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from medrep._files import release_pages
from medrep.cohort.grid import Columns
from medrep.cohort.image_quality import background, looked_at, spread, thinned
from medrep.models.chunks import map_chunks, read_chunk
from medrep.models.exceptions import (
    FEW,
    NEVER,
    Cell,
    ColumnSupport,
    PointMasses,
    effect_cells,
    find,
    in_cell,
    sample_of,
)
from medrep.models.linear.design import Design
from medrep.models.linear.least_squares import (
    FLAT,
    REWEIGHTINGS,
    ROUNDS,
    Solver,
    fit_incomplete,
    level_ratios,
    reweighted,
    solve,
)
from medrep.models.linear.mixed import Visits
from medrep.models.linear.scales import step_weights, weight_steps

_MOST_EQUAL = 0.5
_MOST_APART = 3  # steps of weights in columns that are solved by normal equations
_FEWEST = 3  # people of a level who have another value than a point mass
_MOSTLY = 0.5  # share of people with a value, of columns in which people's own levels are told
_SURPLUS = 10  # how many more people than coefficients a column with point masses needs


class Exceptions(NamedTuple):
    """Exceptions in a chunk of columns; columns count from the chunk's first until they are shifted.

    Attributes:
        start: First column of the block.
        unfitted: Columns with too few values.
        atoms: Columns left as they are for their one value.
        masses: Point masses of the block.
        lacking: Columns in which some cell of the design has no effect of its own.
        codes: Which, a row a cell.
    """

    start: int
    unfitted: Int[np.ndarray, " unfitted"]
    atoms: Int[np.ndarray, " atoms"]
    masses: PointMasses
    lacking: Int[np.ndarray, " lacking"]
    codes: Int[np.ndarray, "cells lacking"]

    def shifted(self, start: int) -> "Exceptions":
        """Return the same with columns counted from the first of all."""
        return self._replace(
            start=start, unfitted=self.unfitted + start, atoms=self.atoms + start, lacking=self.lacking + start
        )


class ChunkFit(NamedTuple):
    """A fitted block of columns, with the attributes of `Moments`; residuals of everybody."""

    coefficients: np.ndarray
    sd: np.ndarray
    total: np.ndarray
    ratio: np.ndarray
    residual: np.ndarray
    exceptions: Exceptions
    level: np.ndarray
    slope: np.ndarray
    group: np.ndarray
    errors: np.ndarray


@dataclass(frozen=True)
class ChunkFitter:
    """Solver that every chunk of columns is fitted with.

    Attributes:
        solver: For complete columns.
        design: The design.
        frame: Everybody's covariates.
        cells: Levels and combinations of levels that a column can lack, those of batches first.
        member: Who is in which.
        ground: The value of background, if there is one.
        calibrators: Positions of the people whose residuals are kept.
        visits: Whose the rows are, where some people have several.
    """

    solver: Solver
    design: Design
    frame: pd.DataFrame
    cells: tuple[Cell, ...]
    member: Bool[np.ndarray, "people cells"]
    ground: float | None
    calibrators: Int[np.ndarray, " some"]
    visits: Visits | None = None

    @classmethod
    def of(
        cls,
        solver: Solver,
        design: Design,
        frame: pd.DataFrame,
        ground: float | None,
        calibrators: Int[np.ndarray, " some"],
        visits: Visits | None = None,
    ) -> "ChunkFitter":
        """Prepare for people, and a value of background if there is one."""
        schema = design.schema
        batches = tuple(((name, str(level)),) for name in schema.batches for level in schema.levels(name))
        cells = (*batches, *effect_cells(schema, [term.covariates for term in design.terms], frame))
        member = (
            np.stack([in_cell(frame, cell) for cell in cells], axis=1) if cells else np.zeros((len(frame), 0), bool)
        )
        return cls(solver, design, frame, cells, member, ground, calibrators, visits)

    def fit(self, chunk: Float[np.ndarray, "people block"], sampled: Float[np.ndarray, "some block"]) -> ChunkFit:
        """Fit a block of columns; its sample is sorted in place."""
        width = chunk.shape[1]
        coefficients, residual = np.zeros((self.solver.full.shape[1], width)), np.zeros(chunk.shape)
        sd, total, ratio = np.zeros(width), np.zeros(width), np.ones((self.solver.levels.shape[1], width))
        visits = self.visits
        (level, slope, group), errors = (
            np.zeros((3, width)),
            np.zeros((0 if visits is None else len(visits.plan.contrasts), width)),
        )
        finite = np.isfinite(chunk)
        complete = finite.all(axis=0)
        if not complete.all():
            sampled[~np.isfinite(sampled)] = np.nan
        if self.ground is not None:
            sampled[sampled == self.ground] = np.nan
        sampled.sort(axis=0)
        if complete.any():
            inside = chunk if complete.all() else chunk[:, complete]
            if visits is None:
                found = reweighted(self.solver, inside, solve(self.solver, inside))
            else:
                fit = visits.fit(inside)
                level[complete], slope[complete], group[complete] = fit.level, fit.slope, fit.group
                errors[:, complete] = fit.errors
                found = (*fit[:4], fit.residual)
            coefficients[:, complete], sd[complete], total[complete], ratio[:, complete] = found[:4]
            residual[:, complete] = found[4]
            if visits is not None:
                residual[np.ix_(self.calibrators, complete)] = fit.standard(self.calibrators)
        values = chunk if complete.all() else np.where(finite, chunk, np.nan)
        low, high = _ends(values, complete)
        flat = high - low <= FLAT * np.maximum(np.abs(low), np.abs(high))
        masses = self._masses(values, sampled, flat)
        free = masses.within(chunk, slice(0, width))
        known = finite if free is None else finite & ~free
        few = np.zeros((self.member.shape[1], width), dtype=bool)
        if free is not None:
            left, lost = (self.member.T.astype(np.float32) @ own.astype(np.float32) for own in (known, free))
            few = (left > 0) & (left < _FEWEST) & (lost > 0)
            if few.any():
                known &= ~(self.member.astype(np.float32) @ few.astype(np.float32) > 0)
        ragged = np.flatnonzero(~known.all(axis=0) & ~flat)
        stuck = np.logical_and(~flat, sd > 0)
        massive = np.zeros(width, dtype=bool) if free is None else np.asarray(free.any(axis=0))
        never, unfitted = np.zeros(few.shape, dtype=bool), np.zeros(width, dtype=bool)
        if len(ragged):
            never[:, ragged] = self.member.T.astype(np.float32) @ known[:, ragged].astype(np.float32) == 0
            found = self._solve_ragged(values[:, ragged], known[:, ragged], massive[ragged])
            coefficients[:, ragged], sd[ragged], total[ragged], ratio[:, ragged] = found[:4]
            residual[:, ragged] = found[4]
            stuck[ragged] = (found[2] > 0) & ~massive[ragged]
            unfitted[ragged] = ~found[5]
            if visits is not None:
                mostly = ragged[found[5] & (known[:, ragged].mean(axis=0) > _MOSTLY) & ~massive[ragged]]
                fit = visits.fill(values[:, mostly], known[:, mostly], coefficients[:, mostly])
                coefficients[:, mostly], sd[mostly] = fit.coefficients, fit.sd
                ratio[:, mostly], residual[:, mostly] = fit.ratio, fit.residual
                residual[np.ix_(self.calibrators, mostly)] = fit.standard(self.calibrators)
                level[mostly], slope[mostly], group[mostly] = fit.level, fit.slope, fit.group
                errors[:, mostly] = fit.errors
                rest = np.setdiff1d(ragged, mostly)
                usual = visits.usual.ratios
                level[rest], slope[rest], group[rest] = usual.level + usual.group, usual.slope, usual.group
                sd[rest] /= np.sqrt(1 + usual.level + usual.group)
        stuck &= _atomic(values, sampled)
        stuck |= massive & (unfitted | (sd == 0)) & ~flat
        unfitted &= ~massive
        coefficients[1:, stuck], sd[stuck], ratio[:, stuck] = 0, 0, 1
        level[stuck | flat | unfitted], slope[stuck | flat | unfitted], group[stuck | flat | unfitted] = 0, 0, 0
        # Rounding noise of a constant column is no effect.
        coefficients[0, flat] = np.where(np.isfinite(low[flat]), low[flat], 0)
        coefficients[1:, flat], sd[flat], total[flat], ratio[:, flat], residual[:, flat] = 0, 0, 0, 1, 0
        left = flat | unfitted | stuck
        codes = np.where(left, 0, np.where(few, FEW, np.where(never, NEVER, 0))).astype(np.int8)
        lacking = np.flatnonzero(codes.any(axis=0))
        kept = PointMasses(np.where(left, np.nan, masses.values), np.where(left, 0, masses.shares))
        rank = self.solver.full.shape[1] - len(self.solver.parts)
        missing = np.flatnonzero(unfitted | (flat & ~complete & (finite.sum(axis=0) <= rank)))
        coefficients[:, missing] = 0
        exceptions = Exceptions(0, missing, np.flatnonzero(stuck), kept, lacking, codes[:, lacking])
        return ChunkFit(coefficients, sd, total, ratio, residual, exceptions, level, slope, group, errors)

    def _masses(self, values: np.ndarray, ordered: np.ndarray, flat: np.ndarray) -> PointMasses:
        within = values if self.ground is None else np.where(values == self.ground, np.nan, values)
        found = find(within, ordered, self.solver.levels)
        if self.ground is not None:
            found = np.concatenate([np.full((1, values.shape[1]), self.ground), found])
        found[:, flat] = np.nan
        found = found[~np.isnan(found).all(axis=1)]
        count = np.maximum(np.isfinite(values).sum(axis=0), 1) if len(found) else 1
        return PointMasses(found, np.array([(values == row).sum(axis=0) / count for row in found]).reshape(found.shape))

    def _solve_ragged(
        self, values: Float[np.ndarray, "people some"], known: Bool[np.ndarray, "people some"], massive: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Solve columns on people of their own; weighed where a batch level is clearly apart, as in `reweighted`."""
        surplus, parts = np.where(massive, _SURPLUS, 1), self.solver.parts
        found = self._solve_weighed(values, known, known.astype(np.float64), surplus)

        def steps(of: tuple[np.ndarray, ...], *, sure: bool) -> np.ndarray:
            freedom = self.solver.levels.T @ of[-1]
            return np.clip(weight_steps(of[3], freedom, parts, sure=sure), -_MOST_APART, _MOST_APART)

        tried = np.flatnonzero(steps(found, sure=False).any(axis=0) & (found[1] > 0))
        if not len(tried):
            return found[:-1]
        weighed = tuple(part[..., tried] for part in found)
        for _ in range(REWEIGHTINGS):
            weights = step_weights(steps(weighed, sure=False), self.solver.levels)
            weighed = self._solve_weighed(values[:, tried], known[:, tried], known[:, tried] * weights, surplus[tried])
        stay = steps(weighed, sure=True).any(axis=0) & weighed[5]
        for part, own in zip(found[:2] + found[3:], weighed[:2] + weighed[3:], strict=True):
            part[..., tried[stay]] = own[..., stay]
        return found[:-1]

    def _solve_weighed(
        self,
        values: Float[np.ndarray, "people some"],
        known: Bool[np.ndarray, "people some"],
        weights: Float[np.ndarray, "people some"],
        surplus: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        effects = self.member[:, self.solver.levels.shape[1] :]
        fit = fit_incomplete(values, weights, self.design, self.solver.full, effects, surplus)
        squares = fit.residual**2
        freedom = fit.freedom.sum(axis=0)
        sd = np.sqrt(np.divide(squares.sum(axis=0), freedom, out=np.zeros_like(freedom), where=freedom > 0))
        least = FLAT * np.where(known, np.abs(values), 0).max(axis=0)
        sd[sd <= least] = 0
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, values, 0).sum(axis=0) / count
        total = np.where(known, (values - mean) ** 2, 0).sum(axis=0) / count * fit.fitted
        freedoms = [self.solver.levels[:, part].T @ fit.freedom for part in self.solver.parts]
        ratio = level_ratios(self.solver.levels, self.solver.parts, freedoms, squares, sd, least, ROUNDS)
        return fit.coefficients, sd, total, ratio, fit.residual, fit.fitted, fit.freedom


def _ends(
    values: Float[np.ndarray, "people block"], complete: Bool[np.ndarray, " block"]
) -> tuple[Float[np.ndarray, " block"], Float[np.ndarray, " block"]]:
    """Return the lowest and highest value of each column, 0 for a column without values."""
    if complete.all():
        return values.min(axis=0), values.max(axis=0)
    low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    return np.where(np.isfinite(low), low, 0), np.where(np.isfinite(high), high, 0)


def _atomic(
    values: Float[np.ndarray, "people block"], few: Float[np.ndarray, "some block"]
) -> Bool[np.ndarray, " block"]:
    """Tell the columns where more than half of the people who have a value share one.

    In a sample such a value can fall short of half, but hardly of a quarter, and then it is one of the quartiles.

    Args:
        values: The columns; NaN is missing.
        few: The same columns of some people, sorted.
    """
    atomic = np.zeros(values.shape[1], dtype=bool)
    count = np.isfinite(few).sum(axis=0)
    if not len(few):
        return atomic
    for quarter in (1, 2, 3):
        candidate = np.take_along_axis(few, np.minimum(quarter * count // 4, len(few) - 1)[None], axis=0)[0]
        likely = np.flatnonzero(~atomic & ((few == candidate).sum(axis=0) > _MOST_EQUAL / 2 * count))
        own = values[:, likely]
        atomic[likely] = (own == candidate[likely]).sum(axis=0) > _MOST_EQUAL * np.isfinite(own).sum(axis=0)
    return atomic


_CALIBRATORS, _FEWEST_CALIBRATORS, _CALIBRATOR_CELLS = 48, 8, 2**24
LARGE = 2**18
"""Of more voxels than this all that is kept is float32: rounding is far below what people's own noise leaves unknown."""


@dataclass(frozen=True)
class Moments:
    """Moments of one pass over the data: everything else is computed from these.

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
        level: Variance of people's levels over sd squared, where people have several visits; else 0.
        slope: That of their slopes.
        group: The part of ``level`` that is their groups'.
        errors: Standard errors of `Visits.contrasts`.
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
    level: Float[np.ndarray, " columns"]
    slope: Float[np.ndarray, " columns"]
    group: Float[np.ndarray, " columns"]
    errors: Float[np.ndarray, "told columns"]


def fit_moments(
    data: Float[np.ndarray, "people columns"],
    design: Design,
    frame: pd.DataFrame,
    advance: Callable[[int], None] = lambda columns: None,
    *,
    columns: Columns | None = None,
    visits: Visits | None = None,
) -> Moments:
    """Fit mean effects and measure residual moments in one pass.

    Args:
        data: People x columns, in memory or memory-mapped; read once, a block of columns at a time.
        design: The design matrix.
        frame: The people's covariates.
        advance: Called with the number of columns done.
        columns: What the columns are: voxels can have a background; None: numbers that lie nowhere.
        visits: Whose the rows are, where some people have several; its own effects come between those of the design and the
            levels of batches.

    Returns:
        The moments.

    Raises:
        CovariateError: Aliased covariates, by name.
    """
    design.check_aliases(frame)
    solver = Solver.of(design, frame) if visits is None else visits.plan.solver
    if solver is None:
        raise AssertionError("check_aliases passes only solvable designs")
    people, width = data.shape
    rows, levels = solver.full.shape[1], solver.levels.shape[1]
    images = columns is not None and columns.grid is not None
    kept = np.float32 if images and width > LARGE else np.float64
    cell = None if visits is None else visits.usual
    freedom = solver.freedom if cell is None else cell.left
    chosen = _calibrators(frame.index, freedom, width)
    coefficients, ratio = np.zeros((rows, width), kept), np.ones((levels, width), kept)
    sd, total = np.zeros(width, kept), np.zeros(width, kept)
    residuals = np.zeros((len(chosen), width), dtype=np.float32)
    level, slope, group = np.zeros((3, width), kept)
    errors = np.zeros((0 if visits is None else len(visits.plan.contrasts), width), kept)
    fitter = ChunkFitter.of(solver, design, frame, _ground(data, frame.index, columns), chosen, visits)
    sample = sample_of(frame.index, width)
    lists: list[Exceptions] = []

    def fit_block(part: slice) -> None:
        chunk = read_chunk(data, part)
        # Sorting in the data's own type is three times as fast for float32.
        fit = fitter.fit(chunk, chunk[sample].astype(data.dtype))
        coefficients[:, part], sd[part], total[part], ratio[:, part] = fit.coefficients, fit.sd, fit.total, fit.ratio
        level[part], slope[part], group[part], errors[:, part] = fit.level, fit.slope, fit.group, fit.errors
        residuals[:, part] = fit.residual[chosen]
        masses = fit.exceptions.masses
        masses = PointMasses(masses.values.astype(kept, copy=False), masses.shares.astype(kept, copy=False))
        lists.append(fit.exceptions._replace(masses=masses).shifted(part.start))

    for part, _ in map_chunks(people, width, fit_block):
        advance(part.stop - part.start)
    lists.sort(key=lambda one: one.start)
    return Moments(
        coefficients,
        sd,
        total,
        ratio,
        solver.levels.T @ solver.freedom if cell is None else cell.freedoms(solver.parts),
        (solver.solve[rows - levels :] ** 2).sum(axis=1) if cell is None else cell.leverage,
        residuals,
        solver.levels[chosen],
        freedom[chosen] if cell is None else np.ones(len(chosen)),
        np.concatenate([np.zeros(0, dtype=np.int64), *(one.unfitted for one in lists)]),
        np.concatenate([np.zeros(0, dtype=np.int64), *(one.atoms for one in lists)]),
        _joined_masses(lists, width, kept),
        _joined_support(lists, fitter.cells),
        level,
        slope,
        group,
        errors,
    )


def _ground(data: np.ndarray, keys: pd.Index, columns: Columns | None) -> float | None:
    """Return the value of background; where there is a mask it was found on whole images."""
    if columns is None or columns.grid is None or not len(data):
        return None
    if columns.mask is not None:
        return columns.mask.background
    found = background([thinned(data[row]) for row in looked_at(keys)])
    release_pages(data)
    return found


def _joined_masses(lists: Sequence[Exceptions], width: int, kept: type[np.floating]) -> PointMasses:
    ranks = max((len(one.masses.values) for one in lists), default=0)
    values, shares = np.full((ranks, width), np.nan, kept), np.zeros((ranks, width), kept)
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


def _calibrators(keys: pd.Index, freedom: Float[np.ndarray, " people"], columns: int) -> Int[np.ndarray, " some"]:
    """Choose people spread evenly over the sorted keys, so that the order of rows does not matter; fewer of large images."""
    order = np.argsort(keys.to_numpy(str))
    return spread(order[freedom[order] > 0.2], calibrator_count(columns))


def calibrator_count(columns: int) -> int:
    """Return how many people's residuals are kept, at most."""
    return min(_CALIBRATORS, max(_FEWEST_CALIBRATORS, _CALIBRATOR_CELLS // max(columns, 1)))
