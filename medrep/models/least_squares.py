"""Least squares of complete columns, weighed where a batch level is clearly noisier or quieter than the others."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.models.design import Design
from medrep.models.incomplete import level_ratios
from medrep.models.level_scales import step_weights, weight_steps

FLAT = 1e-7
"""What varies by less than this share of its size is constant: the rest is rounding."""
ROUNDS = 8
"""How often several batch covariates share the credit for a person's scale anew."""
REWEIGHTINGS = 3


@dataclass(frozen=True)
class Solver:
    """Least squares for everybody: the map from data to coefficients and what it costs."""

    solve: Float[np.ndarray, "rows people"]
    full: Float[np.ndarray, "people rows"]
    levels: Float[np.ndarray, "people levels"]
    freedom: Float[np.ndarray, " people"]
    parts: tuple[slice, ...]

    @classmethod
    def of(
        cls, design: Design, frame: pd.DataFrame, weights: "Float[np.ndarray, ' people'] | None" = None
    ) -> "Solver | None":
        """Factorise the design, people weighed; None where they are too few or alike."""
        full, levels = design.full(frame), design.batches(frame)
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


def solve(solver: Solver, block: Float[np.ndarray, "people block"]) -> tuple[np.ndarray, ...]:
    """Return coefficients, deviation, total variance, ratios of levels (as of `Moments`) and residuals of columns."""
    coefficients = solver.solve @ block
    residual = solver.full @ coefficients
    np.subtract(block, residual, out=residual)
    squares = residual**2
    sums = squares.sum(axis=0)
    sd = np.sqrt(sums / solver.freedom.sum())
    least = FLAT * np.maximum(block.max(axis=0), -block.min(axis=0))
    sd[sd <= least] = 0
    # Least squares splits the variance exactly, so the total needs no further pass over the block.
    explained = (coefficients * (np.atleast_2d(np.cov(solver.full.T, bias=True)) @ coefficients)).sum(axis=0)
    freedoms = [(solver.levels[:, part].T @ solver.freedom)[:, None] for part in solver.parts]
    ratio = level_ratios(solver.levels, solver.parts, freedoms, squares, sd, least, ROUNDS)
    return coefficients, sd, explained + sums / len(block), ratio, residual


def reweighted(
    solver: Solver,
    block: Float[np.ndarray, "people block"],
    found: tuple[np.ndarray, ...],
    design: Design,
    frame: pd.DataFrame,
) -> tuple[np.ndarray, ...]:
    """Solve again, with weights, the columns in which a batch level is clearly noisier or quieter than the others.

    Unweighted, the noise of one site is in everybody's effects: a site of 30 times the deviation leaves the others' residuals
    mostly made of it, and looks less apart than it is. So weights are tried early, and stay where levels are apart with them.
    """
    freedom = (solver.levels.T @ solver.freedom)[:, None]
    tried = np.flatnonzero(weight_steps(found[3], freedom, solver.parts, sure=False).any(axis=0) & (found[1] > 0))
    if not len(tried):
        return found
    weighed = tuple(part[..., tried] for part in found)
    for _ in range(REWEIGHTINGS):
        patterns, which = np.unique(
            weight_steps(weighed[3], freedom, solver.parts, sure=False), axis=1, return_inverse=True
        )
        for k, pattern in enumerate(patterns.T):
            columns = np.flatnonzero(np.ravel(which) == k)
            weighing = Solver.of(design, frame, step_weights(pattern, solver.levels)) if pattern.any() else solver
            if weighing is not None:
                for part, new in zip(weighed, solve(weighing, block[:, tried[columns]]), strict=True):
                    part[..., columns] = new
    stay = weight_steps(weighed[3], freedom, solver.parts, sure=True).any(axis=0)
    for part, new in zip(found[:2] + found[3:], weighed[:2] + weighed[3:], strict=True):
        part[..., tried[stay]] = new[..., stay]
    return found
