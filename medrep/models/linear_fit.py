"""Least squares and batch moments, a block of columns at a time; NaN cells are left out column by column."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from medrep.models.blocks import map_blocks, read_block
from medrep.models.design import Design
from medrep.models.level_scales import step_weights, weight_steps

_CALIBRATORS = 48
_FLAT = 1e-7
_MOST_EQUAL = 0.5
_SAMPLE = 101
_ROUNDS = 8
_REWEIGHTINGS = 3


@dataclass(frozen=True)
class Moments:
    """What one pass over the data leaves: everything else is computed from these.

    Attributes:
        coefficients: Intercept and effects, then one row a batch level, in data units.
        sd: Residual standard deviation of each column within batches; 0 where a column is constant or cannot be fitted.
        total: Variance of each column over people.
        ratio: Mean squared residual of each level over sd squared, that of other batch covariates taken out; 1 where it
            cannot be estimated.
        freedom: Residual degrees of freedom of each level.
        leverage: Variance of each level's location estimate over sd squared.
        residuals: Residuals of a few people, in data units, to measure how noise is spread over columns.
        residual_levels: Batch memberships of those people.
        residual_freedom: 1 - leverage of those people.
        unfitted: Columns with NaN in which some effect cannot be estimated; they have no coefficients and sd 0.
        atoms: Columns where more than half of the people share one value (a zero-inflated measure, background): location
            and scale would turn that one value into a different one for every batch, age and sex, which writes labels
            into the data, so they are left as they are: no coefficients, sd 0.
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


@dataclass(frozen=True)
class _Solver:
    """Least squares for one set of people: the map from data to coefficients and what it costs."""

    solve: Float[np.ndarray, "rows people"]
    full: Float[np.ndarray, "people rows"]
    levels: Float[np.ndarray, "people levels"]
    freedom: Float[np.ndarray, " people"]
    parts: tuple[slice, ...]

    @classmethod
    def of(
        cls, design: Design, frame: pd.DataFrame, weights: "Float[np.ndarray, ' people'] | None" = None
    ) -> "_Solver | None":
        full, levels = design.full(frame), design.batches(frame)
        # A column can be missing in a whole site: its other sites are fitted all the same.
        contrasts = design.contrasts(levels.sum(axis=0) > 0)
        reduced = full @ contrasts
        if len(frame) <= reduced.shape[1]:
            return None
        roots = None if weights is None else np.sqrt(weights)[:, None]
        q, r = np.linalg.qr(reduced if roots is None else roots * reduced)
        diagonal = np.abs(np.diag(r))
        if diagonal.min() < 1e-8 * diagonal.max():
            return None
        freedom = np.maximum(1 - (q**2).sum(axis=1), 0)
        solve = contrasts @ np.linalg.solve(r, q.T if roots is None else q.T * roots.T)
        return cls(solve, full, levels, freedom, tuple(design.batch_slices().values()))


def fit_moments(
    data: Float[np.ndarray, "people columns"],
    design: Design,
    frame: pd.DataFrame,
    advance: Callable[[int], None] = lambda columns: None,
) -> Moments:
    """Fit mean effects and measure residual moments in one pass.

    Args:
        data: People x columns, in memory or memory-mapped; read once, a block of columns at a time.
        design: The design matrix.
        frame: The people's covariates.
        advance: Called with the number of columns done.

    Returns:
        The moments.

    Raises:
        CovariateError: Aliased covariates, by name.
    """
    design.check_aliases(frame)
    solver = _Solver.of(design, frame)
    if solver is None:
        raise AssertionError("check_aliases passes only solvable designs")
    people, width = data.shape
    rows, levels = solver.full.shape[1], solver.levels.shape[1]
    chosen = _calibrators(frame.index, solver.freedom)
    coefficients, ratio = np.zeros((rows, width)), np.ones((levels, width))
    sd, total = np.zeros(width), np.zeros(width)
    residuals = np.zeros((len(chosen), width), dtype=np.float32)
    unfitted: list[int] = []
    atoms: list[int] = []
    sample = _sample(frame.index)

    def fit_block(part: slice) -> None:
        block = read_block(data, part)
        for columns, known in _patterns(block):
            own = solver if known is None else _Solver.of(design, frame[known])
            where = part.start + columns
            if own is None:
                unfitted.extend(where.tolist())
                continue
            whole = known is None and len(columns) == block.shape[1]
            inside = block if whole else block[:, columns] if known is None else block[np.ix_(known, columns)]
            found = _reweighted(own, inside, _solve(own, inside), design, frame if known is None else frame[known])
            coefficients[:, where], sd[where], total[where], ratio[:, where], residual = found
            few = sample if known is None else _sample(frame.index[known])
            stuck = where[_atomic(inside, few) & (sd[where] > 0)]
            coefficients[1:, stuck], sd[stuck], ratio[:, stuck] = 0, 0, 1
            atoms.extend(stuck.tolist())
            if known is not None:
                kept = np.zeros((people, len(columns)))
                kept[known] = residual
                residual = kept
            residuals[:, where] = residual[chosen]

    for part, _ in map_blocks(people, width, fit_block):
        advance(part.stop - part.start)
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
        np.asarray(sorted(unfitted), dtype=np.int64),
        np.asarray(sorted(atoms), dtype=np.int64),
    )


def _solve(solver: _Solver, block: Float[np.ndarray, "people block"]) -> tuple[np.ndarray, ...]:
    coefficients = solver.solve @ block
    residual = solver.full @ coefficients
    np.subtract(block, residual, out=residual)
    squares = residual**2
    sums = squares.sum(axis=0)
    sd = np.sqrt(sums / solver.freedom.sum())
    least = _FLAT * np.maximum(block.max(axis=0), -block.min(axis=0))
    sd[sd <= least] = 0
    # Least squares splits the variance exactly, so the total needs no further pass over the block.
    explained = (coefficients * (np.atleast_2d(np.cov(solver.full.T, bias=True)) @ coefficients)).sum(axis=0)
    return coefficients, sd, explained + sums / len(block), _ratios(solver, squares, sd, least), residual


def _reweighted(
    solver: _Solver,
    block: Float[np.ndarray, "people block"],
    found: tuple[np.ndarray, ...],
    design: Design,
    frame: pd.DataFrame,
) -> tuple[np.ndarray, ...]:
    """Solve again, with weights, the columns in which a batch level is clearly noisier or quieter than the others.

    Unweighted, the noise of one site is in everybody's effects: a site of 30 times the deviation leaves the others' residuals
    mostly made of it, and looks less apart than it is. So weights are tried early, and stay where levels are apart with them.
    """
    freedom = solver.levels.T @ solver.freedom
    tried = np.flatnonzero(weight_steps(found[3], freedom, solver.parts, sure=False).any(axis=0) & (found[1] > 0))
    if not len(tried):
        return found
    weighed = tuple(part[..., tried] for part in found)
    for _ in range(_REWEIGHTINGS):
        patterns, which = np.unique(
            weight_steps(weighed[3], freedom, solver.parts, sure=False), axis=1, return_inverse=True
        )
        for k, pattern in enumerate(patterns.T):
            columns = np.flatnonzero(np.ravel(which) == k)
            weighing = _Solver.of(design, frame, step_weights(pattern, solver.levels)) if pattern.any() else solver
            if weighing is not None:
                for part, new in zip(weighed, _solve(weighing, block[:, tried[columns]]), strict=True):
                    part[..., columns] = new
    stay = weight_steps(weighed[3], freedom, solver.parts, sure=True).any(axis=0)
    for part, new in zip(found[:2] + found[3:], weighed[:2] + weighed[3:], strict=True):
        part[..., tried[stay]] = new[..., stay]
    return found


def _ratios(
    solver: _Solver,
    squares: Float[np.ndarray, "people block"],
    sd: Float[np.ndarray, " block"],
    least: Float[np.ndarray, " block"],
) -> Float[np.ndarray, "levels block"]:
    """Return each level's mean square over sd squared; 1 where it cannot be told, or is no more than rounding.

    Several batch covariates share the credit: each is estimated with the others' ratios divided out, in turn, since the
    scale of a person is their product.
    """
    ratio = np.ones((solver.levels.shape[1], squares.shape[1]))
    for _ in range(_ROUNDS if len(solver.parts) > 1 else 1):
        for part in solver.parts:
            own, others = solver.levels[:, part], ratio.copy()
            others[part] = 1
            left = squares / np.exp(solver.levels @ np.log(others)) if len(solver.parts) > 1 else squares
            freedom = (own.T @ solver.freedom)[:, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                found = own.T @ left / freedom / sd**2
                estimable = (freedom > 0.5) & (sd > 0) & (found > (least / sd) ** 2)
            found = np.where(estimable, found, 1.0)
            if len(solver.parts) > 1:
                found = np.where(estimable, found / ((freedom * found).sum(axis=0) / freedom.sum()), 1.0)
            ratio[part] = found
    return ratio


def _patterns(
    block: Float[np.ndarray, "people block"],
) -> list[tuple[np.ndarray, "Bool[np.ndarray, ' people'] | None"]]:
    """Group columns by who has a value: the complete ones first (None), then one group a pattern of missing people."""
    finite = np.isfinite(block)
    complete = finite.all(axis=0)
    groups: list[tuple[np.ndarray, np.ndarray | None]] = []
    if complete.any():
        groups.append((np.flatnonzero(complete), None))
    holes = np.flatnonzero(~complete)
    if len(holes):
        patterns, which = np.unique(finite[:, holes], axis=1, return_inverse=True)
        groups += [(holes[np.ravel(which) == k], patterns[:, k]) for k in range(patterns.shape[1])]
    return groups


def _atomic(block: Float[np.ndarray, "people block"], sample: Int[np.ndarray, " some"]) -> Bool[np.ndarray, " block"]:
    """Tell the columns where more than half of the people share one value.

    In a sample such a value can fall short of half, but hardly of a quarter, and then it is one of the quartiles.
    """
    few = np.sort(block[sample], axis=0)
    atomic = np.zeros(block.shape[1], dtype=bool)
    for quarter in (1, 2, 3):
        candidate = few[quarter * len(sample) // 4]
        likely = np.flatnonzero(~atomic & ((few == candidate).mean(axis=0) > _MOST_EQUAL / 2))
        atomic[likely] = (block[:, likely] == candidate[likely]).mean(axis=0) > _MOST_EQUAL
    return atomic


def _sample(keys: pd.Index) -> Int[np.ndarray, " some"]:
    return _spread(np.argsort(keys.to_numpy(str)), _SAMPLE)


def _calibrators(keys: pd.Index, freedom: Float[np.ndarray, " people"]) -> Int[np.ndarray, " some"]:
    """Choose people spread evenly over the sorted keys, so that the order of rows does not matter."""
    order = np.argsort(keys.to_numpy(str))
    return _spread(order[freedom[order] > 0.2], _CALIBRATORS)


def _spread(positions: Int[np.ndarray, " people"], most: int) -> Int[np.ndarray, " some"]:
    picks = np.unique(np.linspace(0, len(positions) - 1, min(most, len(positions))).round().astype(int))
    return positions[picks]
