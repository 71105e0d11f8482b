"""Least squares of complete columns, and of columns with missing values.

Normal equations in a basis in which the complete design is orthonormal, for all such columns at once: one factorisation of the
design serves every pattern of missing cells, however many there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.linalg import block_diag

from medrep.models.linear.design import Design
from medrep.models.linear.scales import step_weights, weight_steps

_DEPENDENT = 1e-8
_SINGULAR = 1e7
_RIDGE = 1e-14  # keeps a singular matrix from stopping the others; what it makes of it is refused


@dataclass(frozen=True)
class IncompleteFit:
    """Coefficients and residuals of columns with people of their own.

    Attributes:
        coefficients: As of `Moments`; 0 for levels that a column lacks.
        residual: 0 where a person is not known.
        freedom: 1 - leverage of every cell, 0 where a person is not known.
        fitted: Columns whose effects can be told apart; the others hold zeros.
    """

    coefficients: Float[np.ndarray, "rows columns"]
    residual: Float[np.ndarray, "people columns"]
    freedom: Float[np.ndarray, "people columns"]
    fitted: Bool[np.ndarray, " columns"]


def fit_incomplete(
    chunk: Float[np.ndarray, "people columns"],
    weights: Float[np.ndarray, "people columns"],
    design: Design,
    full: Float[np.ndarray, "people rows"],
    cells: Bool[np.ndarray, "people cells"],
    surplus: Int[np.ndarray, " columns"],
) -> IncompleteFit:
    """Fit columns on their own people.

    Args:
        chunk: The columns.
        weights: How much each value counts; 0 for one that does not.
        design: The design.
        full: Its matrix.
        cells: Who is in which level of an effect covariate, or in which combination of interacting levels.
        surplus: How many people more than coefficients a column needs.
    """
    width = chunk.shape[1]
    fit = IncompleteFit(
        np.zeros((full.shape[1], width)), np.zeros(chunk.shape), np.zeros(chunk.shape), np.zeros(width, dtype=bool)
    )
    known = (weights > 0).astype(np.float64)
    values = np.where(weights > 0, chunk, 0.0)
    used = cells.any(axis=0).reshape(-1, 1)
    absent = np.logical_and(cells.T.astype(np.float64) @ known == 0, used)
    patterns, which = np.zeros((len(absent), 1), dtype=bool), np.zeros(width, dtype=np.int64)
    if absent.any():
        patterns, which = np.unique(absent, axis=1, return_inverse=True)
    for k, lacking in enumerate(patterns.T):
        basis = _Basis.of(design, full, np.asarray(~cells[:, lacking].any(axis=1)))
        columns = np.flatnonzero(np.ravel(which) == k)
        needed = basis.rank(known[:, columns]) + surplus[columns]
        columns = columns[known[:, columns].sum(axis=0) >= needed]
        if len(columns):
            coefficients, freedom, fine = basis.solve(weights[:, columns], values[:, columns])
            fit.coefficients[:, columns] = coefficients
            fit.freedom[:, columns] = freedom
            fit.fitted[columns] = fine
    fit.residual[:] = (values - full @ fit.coefficients) * known * fit.fitted
    return fit


@dataclass(frozen=True)
class _Basis:
    """Coefficients that people of some cells can tell, in a basis that makes their design orthonormal.

    Attributes:
        turn: From the basis to all coefficients; 0 for effects that cannot be told.
        rows: The design in the basis.
        levels: Batch memberships.
        counts: Training people of each batch level; their weighted sum of locations is 0.
        parts: Levels of each batch covariate.
        effects: How many effects can be told, the intercept among them.
    """

    turn: Float[np.ndarray, "all basis"]
    rows: Float[np.ndarray, "people basis"]
    levels: Float[np.ndarray, "people levels"]
    counts: Float[np.ndarray, " levels"]
    parts: tuple[slice, ...]
    effects: int

    @classmethod
    def of(
        cls, design: Design, full: Float[np.ndarray, "people rows"], people: Bool[np.ndarray, " people"]
    ) -> "_Basis":
        parts = design.batch_slices()
        levels = max((part.stop for part in parts.values()), default=0)
        effects = full.shape[1] - levels
        told = _independent(full[people, :effects])
        used = np.concatenate([told, np.arange(effects, full.shape[1])])
        counts = np.array([float(c) for name in parts for c in design.level_counts(name)])
        gauge = np.zeros((len(parts), len(used)))
        for row, part in enumerate(parts.values()):
            gauge[row, len(told) + part.start : len(told) + part.stop] = counts[part] / np.linalg.norm(counts[part])
        empty = np.zeros((levels, len(used)))
        empty[:, len(told) :] = np.diag(full[people, effects:].sum(axis=0) == 0)
        r = np.linalg.qr(np.concatenate([full[people][:, used], len(full) ** 0.5 * gauge, empty]), mode="r")
        inverse = np.linalg.pinv(r, rcond=_DEPENDENT)
        turn = np.zeros((full.shape[1], len(used)))
        turn[used] = inverse
        return cls(turn, full @ turn, full[:, effects:], counts, tuple(parts.values()), len(told))

    def rank(self, weights: Float[np.ndarray, "people columns"]) -> Int[np.ndarray, " columns"]:
        """Return how many coefficients each column has."""
        present = self.levels.T @ weights > 0
        rank = np.full(weights.shape[1], self.effects)
        for part in self.parts:
            rank += np.maximum(present[part].sum(axis=0) - 1, 0)
        return rank

    def solve(
        self, weights: Float[np.ndarray, "people columns"], values: Float[np.ndarray, "people columns"]
    ) -> tuple[Float[np.ndarray, "all columns"], Float[np.ndarray, "people columns"], Bool[np.ndarray, " columns"]]:
        """Return coefficients, 1 - leverage of every cell, and which columns could be solved."""
        size, width = self.rows.shape[1], weights.shape[1]
        products = (self.rows[:, :, None] * self.rows[:, None, :]).reshape(len(self.rows), -1)
        gram = (weights.T @ products).reshape(width, size, size)
        present = (self.levels.T @ weights > 0).T
        location = self.turn[len(self.turn) - self.levels.shape[1] :]
        # Locations are only told up to a constant: what pins it changes no fitted value, and none of levels without people.
        for part in self.parts:
            pinned = np.where(present[:, part], self.counts[part], 0) @ location[part]
            pinned /= np.maximum(np.linalg.norm(pinned, axis=1), 1e-300)[:, None]
            gram += pinned[:, :, None] * pinned[:, None, :]
        length = np.maximum((location**2).sum(axis=1), 1e-300)[:, None, None]
        alone = (location[:, :, None] * location[:, None, :] / length).reshape(len(location), size**2)
        gram += (~present @ alone).reshape(gram.shape) + _RIDGE * np.eye(size)
        inverse = np.linalg.inv(gram)
        fine = np.linalg.norm(inverse.reshape(width, -1), axis=1) < _SINGULAR
        solution = np.einsum("kij,jk->ik", inverse, self.rows.T @ (weights * values)) * fine
        coefficients = self.turn @ solution
        coefficients[len(coefficients) - self.levels.shape[1] :] *= present.T
        leverage = products @ inverse.reshape(width, -1).T
        return coefficients, np.clip(1 - weights * leverage, 0, 1) * (weights > 0) * fine, fine


def _independent(columns: Float[np.ndarray, "people columns"]) -> Int[np.ndarray, " some"]:
    """Return the columns that the earlier ones do not explain."""
    kept = list(range(columns.shape[1]))
    length = np.linalg.norm(columns, axis=0)
    while True:
        diagonal = np.abs(np.diag(np.linalg.qr(columns[:, kept], mode="r"))) if len(columns) else np.zeros(1)
        few = len(columns) < len(kept)
        weak = np.flatnonzero(diagonal <= _DEPENDENT * np.maximum(length[kept[: len(diagonal)]], 1e-300))
        if few and not len(weak):
            return np.asarray(kept[: len(columns)], dtype=np.int64)
        if not len(weak):
            return np.asarray(kept, dtype=np.int64)
        kept.pop(int(weak[0]))
        if not kept:
            return np.zeros(0, dtype=np.int64)


def level_ratios(
    levels: Float[np.ndarray, "people levels"],
    parts: Sequence[slice],
    freedoms: Sequence[Float[np.ndarray, "_ _"]],
    squares: Float[np.ndarray, "people block"],
    sd: Float[np.ndarray, " block"],
    least: Float[np.ndarray, " block"],
    rounds: int,
) -> Float[np.ndarray, "levels block"]:
    """Return each level's mean square over sd squared; 1 where it cannot be told, or is no more than rounding.

    Several batch covariates share the credit: each is estimated with the others' ratios divided out, in turn, since the
    scale of a person is their product.

    Args:
        levels: Batch memberships.
        parts: Levels of each batch covariate.
        freedoms: Degrees of freedom of each batch covariate's levels: one column, or one for each of the block.
        squares: Squared residuals.
        sd: Residual deviation.
        least: Deviation that is no more than rounding.
        rounds: How often credit is shared anew.
    """
    ratio = np.ones((levels.shape[1], squares.shape[1]))
    for _ in range(rounds if len(parts) > 1 else 1):
        for part, freedom in zip(parts, freedoms, strict=True):
            own, others = levels[:, part], ratio.copy()
            others[part] = 1
            left = squares / np.exp(levels @ np.log(others)) if len(parts) > 1 else squares
            with np.errstate(divide="ignore", invalid="ignore"):
                found = own.T @ left / freedom / sd**2
                estimable = (freedom > 0.5) & (sd > 0) & (found > (least / sd) ** 2)
            found = np.where(estimable, found, 1.0)
            if len(parts) > 1:
                found = np.where(estimable, found / ((freedom * found).sum(axis=0) / freedom.sum(axis=0)), 1.0)
            ratio[part] = found
    return ratio


FLAT = 1e-7
"""What varies by less than this share of its size is constant: the rest is rounding."""
ROUNDS = 8
"""How often several batch covariates share the credit for a person's scale anew."""
REWEIGHTINGS = 3
_KNOWN_BYTES = 2**25  # of solvers of patterns of weights that are kept


@dataclass(frozen=True)
class Solver:
    """Least squares for everybody: the map from data to coefficients and what it costs."""

    solve: Float[np.ndarray, "rows people"]
    full: Float[np.ndarray, "people rows"]
    levels: Float[np.ndarray, "people levels"]
    contrasts: Float[np.ndarray, "rows free"]
    freedom: Float[np.ndarray, " people"]
    parts: tuple[slice, ...]
    known: "dict[bytes, Solver | None]" = field(default_factory=dict, repr=False)

    @cached_property
    def covariance(self) -> Float[np.ndarray, "rows rows"]:
        """Covariance of the design's columns over people."""
        return np.atleast_2d(np.cov(self.full.T, bias=True))

    @classmethod
    def of(
        cls, design: Design, frame: pd.DataFrame, further: "Float[np.ndarray, 'people further'] | None" = None
    ) -> "Solver | None":
        """Factorise the design, with further columns between effects and batches; None where people are too few or alike."""
        full, levels = design.full(frame), design.batches(frame)
        contrasts = design.contrasts(levels.sum(axis=0) > 0)
        if further is not None and further.shape[1]:
            effects, count = full.shape[1] - levels.shape[1], further.shape[1]
            full = np.concatenate([full[:, :effects], further, full[:, effects:]], axis=1)
            contrasts = block_diag(contrasts[:effects, :effects], np.eye(count), contrasts[effects:, effects:])
        return cls._factorised(full, levels, contrasts, tuple(design.batch_slices().values()), None)

    def weighed(self, pattern: Int[np.ndarray, " levels"]) -> "Solver | None":
        """Return the solver of people who are weighed by steps of their levels (`step_weights`), made once for each pattern."""
        if not pattern.any():
            return self
        key = pattern.tobytes()
        try:
            return self.known[key]
        except KeyError:
            made = self._factorised(
                self.full, self.levels, self.contrasts, self.parts, step_weights(pattern, self.levels)
            )
        if len(self.known) * self.solve.nbytes > _KNOWN_BYTES:
            self.known.clear()
        self.known[key] = made
        return made

    @classmethod
    def _factorised(
        cls,
        full: Float[np.ndarray, "people rows"],
        levels: Float[np.ndarray, "people levels"],
        contrasts: Float[np.ndarray, "rows free"],
        parts: tuple[slice, ...],
        weights: "Float[np.ndarray, ' people'] | None",
    ) -> "Solver | None":
        reduced = full @ contrasts
        if len(full) <= reduced.shape[1]:
            return None
        roots = None if weights is None else np.sqrt(weights)[:, None]
        q, r = np.linalg.qr(reduced if roots is None else roots * reduced)
        diagonal = np.abs(np.diag(r))
        if diagonal.min() < 1e-8 * diagonal.max():
            return None
        freedom = np.maximum(1 - (q**2).sum(axis=1), 0)
        solve = contrasts @ np.linalg.solve(r, q.T if roots is None else q.T * roots.T)
        return cls(solve, full, levels, contrasts, freedom, parts)


def _alike(steps: Int[np.ndarray, "levels columns"]) -> list[Int[np.ndarray, " some"]]:
    """Return the columns that have the same steps, ascending."""
    order = np.lexsort(steps)
    changes = np.flatnonzero((np.diff(steps[:, order], axis=1) != 0).any(axis=0)) + 1
    return np.split(order, changes)


def solve(solver: Solver, chunk: Float[np.ndarray, "people block"]) -> tuple[np.ndarray, ...]:
    """Return coefficients, deviation, total variance, ratios of levels (as of `Moments`) and residuals of columns."""
    coefficients = solver.solve @ chunk
    residual = solver.full @ coefficients
    np.subtract(chunk, residual, out=residual)
    squares = residual**2
    sums = squares.sum(axis=0)
    sd = np.sqrt(sums / solver.freedom.sum())
    least = FLAT * np.maximum(chunk.max(axis=0), -chunk.min(axis=0))
    sd[sd <= least] = 0
    # Least squares splits the variance exactly, so the total needs no further pass over the block.
    explained = (coefficients * (solver.covariance @ coefficients)).sum(axis=0)
    freedoms = [(solver.levels[:, part].T @ solver.freedom)[:, None] for part in solver.parts]
    ratio = level_ratios(solver.levels, solver.parts, freedoms, squares, sd, least, ROUNDS)
    return coefficients, sd, explained + sums / len(chunk), ratio, residual


def reweighted(
    solver: Solver,
    chunk: Float[np.ndarray, "people block"],
    found: tuple[np.ndarray, ...],
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
        steps = weight_steps(weighed[3], freedom, solver.parts, sure=False)
        for columns in _alike(steps):
            weighing = solver.weighed(steps[:, columns[0]])
            if weighing is not None:
                for part, new in zip(weighed, solve(weighing, chunk[:, tried[columns]]), strict=True):
                    part[..., columns] = new
    stay = weight_steps(weighed[3], freedom, solver.parts, sure=True).any(axis=0)
    for part, new in zip(found[:2] + found[3:], weighed[:2] + weighed[3:], strict=True):
        part[..., tried[stay]] = new[..., stay]
    return found
