"""Repeated visits: generalised least squares, with every person's own level and slope.

Visits of one person are alike (`visit_design.py`): they tell less about everybody than as many people would, and more about what
a scanner does to one and the same person. A grid of ratios of variances needs sums over people that are taken once. Each column
takes the ratios of greatest restricted likelihood (Patterson and Thompson 1971), weighed by how often all columns have them: an
empirical-Bayes prior over the grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from medrep.cohort.dataset import Dataset
from medrep.models.linear.design import Design
from medrep.models.linear.least_squares import FLAT
from medrep.models.linear.random_effects import LEAST_VARIANCE, EffectErrors, RandomEffects
from medrep.models.linear.visit_cells import Cell
from medrep.models.linear.visit_design import Ratios, VisitDesign

_LEVELS = (0.0, *np.geomspace(0.05, 100, 11).tolist())
_SLOPES = (0.0, *np.geomspace(0.05, 20, 6).tolist())
_GROUPS = (0.0, *np.geomspace(0.1, 30, 6).tolist())
_FINE = tuple(np.exp(np.linspace(-far, far, count)) for far, count in ((0.4, 5), (0.6, 5), (0.55, 3)))
_ROUNDS, _EVENLY = 30, 0.02  # of expectation-maximisation, and the share of the prior that is spread evenly
_FILLS, _MOSTLY = 4, 0.5  # rounds of filling missing values in, of columns of which more than this is known
_SAMPLE, _RUN = 1024, 64  # columns that the prior is found from, and how many of them side by side


class VisitFit(NamedTuple):
    """Columns fitted with people's own levels and slopes; the first five as of `least_squares.solve`.

    Attributes:
        residual: Conditional residuals, without what is the person's own.
        level: Variance of people's levels over sd squared, that of their groups among it.
        slope: That of slopes, with time in units of its spread.
        group: That of levels of groups.
        errors: Standard errors of the contrasts asked for.
        cells: Which columns are fitted at which ratios.
    """

    coefficients: np.ndarray
    sd: np.ndarray
    total: np.ndarray
    ratio: np.ndarray
    residual: np.ndarray
    level: np.ndarray
    slope: np.ndarray
    group: np.ndarray
    errors: np.ndarray
    cells: "tuple[tuple[Cell, Int[np.ndarray, ' some']], ...]"

    def standard(self, visits: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some block"]:
        """Return residuals of some visits that have the residual variance, where some of it is left."""
        found = self.residual[visits]
        for cell, there in self.cells:
            found[:, there] /= np.sqrt(np.maximum(cell.left[visits], LEAST_VARIANCE))[:, None]
        return found


class _Sums(NamedTuple):
    """Sums over people of least-squares residuals R that ratios are told from.

    Attributes:
        squares: Of R.
        levels: (S X)' S R by number of visits, S summing over each person's visits.
        level_squares: Squares of S R by number of visits.
        slopes: T R, T summing over each person's visits times time.
        persons: S R, where people belong to groups.
    """

    squares: Float[np.ndarray, " block"]
    levels: Float[np.ndarray, "counts width block"]
    level_squares: Float[np.ndarray, "counts block"]
    slopes: Float[np.ndarray, "people block"]
    persons: Float[np.ndarray, "people block"]

    def of(self, columns: Int[np.ndarray, " some"]) -> "_Sums":
        return _Sums(*(part[..., columns] for part in self))


@dataclass(frozen=True, eq=False)
class Visits:
    """Visits of people, and how columns are fitted to them.

    Attributes:
        plan: The visits.
        prior: How often columns have each cell of the grid.
    """

    plan: VisitDesign
    prior: Float[np.ndarray, " cells"] = field(default_factory=lambda: np.ones(1))
    _cells: dict[Ratios, Cell] = field(default_factory=dict, repr=False)
    _designs: dict[float, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, dataset: Dataset, design: Design) -> "Visits | None":
        """Prepare for a cohort; None where nobody has several visits.

        Raises:
            CovariateError: A batch that cannot be told from time, since people change both at once.
        """
        plan = VisitDesign.planned(dataset.covariates, dataset.whose, design, dataset.groups)
        return None if plan is None else cls(plan, cls(plan)._found_prior(dataset.values))

    @cached_property
    def usual(self) -> Cell:
        """The cell of the ratios that most columns have."""
        return self.cell(self.coarse[int(np.argmax(self.prior))])

    def effects(
        self,
        coefficients: Float[np.ndarray, "rows columns"],
        level: Float[np.ndarray, " columns"],
        slope: Float[np.ndarray, " columns"],
        group: Float[np.ndarray, " columns"],
        errors: Float[np.ndarray, "told columns"],
    ) -> RandomEffects:
        """Return what is kept of people with several visits, from what `fit` found."""
        first = coefficients.shape[0] - self.plan.solver.levels.shape[1] - len(self.plan.changing)
        change, told = coefficients[first : first + len(self.plan.changing)], self.plan.contrasts @ coefficients
        return RandomEffects(
            self.plan.changing,
            self.plan.slope_time,
            self.plan.unit,
            change,
            level,
            slope,
            told,
            errors,
            along=self.plan.along,
            group=np.zeros(0, level.dtype) if self.plan.groups is None else group,
        )

    def history(self, people: RandomEffects) -> pd.DataFrame:
        """Return what part of the variance each level has, as `RandomEffects.history` of people who come again.

        Args:
            people: From `effects`.
        """
        if not (self.plan.unrelated or self.plan.runs):
            return people.history()
        whole, own = 1 + people.level, people.group
        shares = {"level": own, "session": people.level - own} if self.plan.runs else {"group": people.level}
        rows = [("person_share", name, float((part / whole).mean())) for name, part in shares.items()]
        return pd.DataFrame(rows, columns=["metric", "name", "value"])

    def of_people(self, people: RandomEffects) -> RandomEffects:
        """Return what is a person's own where scans of a session share a level: to a scan that is a part of its noise."""
        level = people.group / (1 + people.level - people.group)
        return replace(people, level=level, slope=np.zeros_like(level), group=np.zeros(0, level.dtype))

    def effect_errors(self, sd: np.ndarray, level: np.ndarray, slope: np.ndarray) -> EffectErrors:
        """Return how well coefficients are known, each column's at the pair of ratios of the grid that is nearest to its own.

        Args:
            sd: Residual deviation of each column.
            level: Its ratio of levels of people, without those of their groups.
            slope: Its ratio of slopes.
        """
        group = self.usual.ratios.group
        pairs = _nearest(_LEVELS, level) * len(_SLOPES) + _nearest(_SLOPES, slope)
        used, which = np.unique(pairs, return_inverse=True)
        cells = [
            self.cell(Ratios(_LEVELS[pair // len(_SLOPES)], _SLOPES[pair % len(_SLOPES)], group))
            for pair in used.tolist()
        ]
        covariance, variances = ([getattr(cell, name) for cell in cells] for name in ("covariance", "variances"))
        small = np.int16 if sd.dtype == np.float32 else np.int64
        return EffectErrors(np.array(covariance), np.array(variances), np.ravel(which).astype(small), np.array(sd))

    @cached_property
    def coarse(self) -> tuple[Ratios, ...]:
        """The grid of ratios."""
        none = (0.0,)
        parts = _LEVELS, _SLOPES if self.plan.slopes else none, none if self.plan.groups is None else _GROUPS
        return tuple(Ratios(*ratios) for ratios in product(*parts))

    def _found_prior(self, data: Float[np.ndarray, "visits columns"]) -> Float[np.ndarray, " cells"]:
        """Return how often columns have each cell of the grid, from a sample of them spread over all."""
        even = np.full(len(self.coarse), 1 / len(self.coarse))
        starts = np.linspace(0, data.shape[1], _SAMPLE // _RUN, endpoint=False).astype(int)
        whole = data.shape[1] <= _SAMPLE
        sample = np.array(data if whole else np.concatenate([data[:, k : k + _RUN] for k in starts], axis=1), float)
        known = np.isfinite(sample)
        sample = sample[:, known.mean(axis=0) > _MOSTLY]
        if not known.all() and sample.shape[1]:
            sample = np.where(np.isfinite(sample), sample, np.nan)
            sample = np.where(np.isnan(sample), np.nanmean(sample, axis=0), sample)
        rest = sample - self.plan.solver.full @ (self.plan.solver.solve @ sample)
        sums = self._sums(rest[:, np.sqrt((rest**2).mean(axis=0)) > FLAT * np.abs(sample).max(axis=0)])
        if not len(sums.squares):
            return even
        likelihood = self._likelihood(sums, self.coarse)
        likelihood = np.exp(likelihood - likelihood.max(axis=0))
        prior = even
        for _ in range(_ROUNDS):
            posterior = prior[:, None] * likelihood
            prior = (posterior / posterior.sum(axis=0)).mean(axis=1)
        return (1 - _EVENLY) * prior + _EVENLY * even

    def cell(self, ratios: Ratios) -> Cell:
        """Return what all columns with some ratios share."""
        if ratios not in self._cells:
            self._cells[ratios] = Cell.of(self.plan, ratios)
        return self._cells[ratios]

    def fit(
        self,
        chunk: Float[np.ndarray, "visits block"],
        known: "Bool[np.ndarray, 'visits block'] | None" = None,
    ) -> VisitFit:
        """Fit complete columns.

        Args:
            chunk: The columns.
            known: Which values are known, the others being filled in with what is expected; all by default.
        """
        coefficients = self.plan.solver.solve @ chunk
        rest = chunk - self.plan.solver.full @ coefficients
        width = chunk.shape[1]
        least = FLAT * np.maximum(chunk.max(axis=0), -chunk.min(axis=0))
        varies = np.flatnonzero(np.sqrt((rest**2).mean(axis=0)) > least)
        explained = (coefficients * (np.atleast_2d(np.cov(self.plan.solver.full.T, bias=True)) @ coefficients)).sum(
            axis=0
        )
        levels = self.plan.solver.levels
        total = explained + (rest**2).mean(axis=0)
        sd, level, slope, group = np.zeros((4, width))
        ratio, errors = np.ones((levels.shape[1], width)), np.zeros((len(self.plan.contrasts), width))
        change, used = np.zeros((self.plan.design.shape[1], width)), np.zeros((3, width))
        cells: list[tuple[Cell, np.ndarray]] = []
        sums = self._sums(rest[:, varies])
        best = np.argmax(self._likelihood(sums, self.coarse) + np.log(self.prior)[:, None], axis=0)
        for number in np.unique(best):
            own = np.flatnonzero(best == number)
            some, columns = sums.of(own), varies[own]
            fine = _around(self.coarse[number])
            likelihood = self._likelihood(some, fine)
            weights = np.exp(likelihood - likelihood.max(axis=0))
            weights /= weights.sum(axis=0)
            level[columns], slope[columns] = np.array([ratios[:2] for ratios in fine]).T @ weights
            if self.plan.groups is not None:
                group[columns] = np.array([ratios.group for ratios in fine]) @ weights
            chosen = np.argmax(likelihood, axis=0)
            for k in np.unique(chosen):
                cell, those = self.cell(fine[k]), np.flatnonzero(chosen == k)
                there = columns[those]
                half, variance = self._solved(cell, some.of(those))
                if known is not None:
                    variance *= cell.freedom / np.maximum(cell.freedom - (~known[:, there]).sum(axis=0), 1)
                change[:, there], sd[there] = cell.root.T @ half, np.sqrt(variance)
                used[:, there] = np.array(cell.ratios)[:, None]
                errors[:, there] = cell.errors[:, None] * sd[there]
                cells.append((cell, there))
        coefficients += self.plan.solver.contrasts @ change
        rest -= self.plan.design @ change
        residual = self.plan.within(rest, *used)
        residual[:, sd == 0] = 0
        squares = levels.T @ residual**2
        if known is not None:
            squares *= levels.sum(axis=0)[:, None] / np.maximum(levels.T @ known, 1)
        for cell, there in cells:
            ratio[:, there] = cell.level_ratios(squares[:, there] / sd[there] ** 2, self.plan.solver.parts)
        return VisitFit(coefficients, sd, total, ratio, residual, level + group, slope, group, errors, tuple(cells))

    def fill(
        self,
        chunk: Float[np.ndarray, "visits block"],
        known: Bool[np.ndarray, "visits block"],
        coefficients: Float[np.ndarray, "rows block"],
    ) -> VisitFit:
        """Fit columns with missing values, which are filled in with what is expected of the person, in turns.

        Args:
            chunk: The columns.
            known: Which values count.
            coefficients: To start with.
        """
        filled = np.where(known, chunk, self.plan.solver.full @ coefficients)
        fit = self.fit(filled, known)
        for _ in range(_FILLS):
            filled = np.where(known, chunk, filled - fit.residual)
            fit = self.fit(filled, known)
        return fit._replace(residual=fit.residual * known)

    def _sums(self, rest: Float[np.ndarray, "visits block"]) -> _Sums:
        kinds, which, summed, _ = self.plan.summed
        own = self.plan.member @ rest
        levels, squares = np.zeros((len(kinds), summed.shape[1], rest.shape[1])), np.zeros((len(kinds), rest.shape[1]))
        for kind in range(len(kinds)):
            people = which == kind
            levels[kind], squares[kind] = summed[people].T @ own[people], (own[people] ** 2).sum(axis=0)
        slopes = self.plan.timed @ rest if self.plan.slopes else np.zeros((0, rest.shape[1]))
        return _Sums((rest**2).sum(axis=0), levels, squares, slopes, own[:0] if self.plan.groups is None else own)

    def _of_slopes(self, slope: float, sums: _Sums) -> tuple[np.ndarray, np.ndarray]:
        """Return what slopes take from X' R and from the squares of R."""
        if not slope:
            return np.zeros(1), np.zeros(1)
        per_slope = slope / (1 + slope * self.plan.spans)
        return self.plan.summed[3].T @ (per_slope[:, None] * sums.slopes), per_slope @ sums.slopes**2

    def _of_groups(self, ratios: Ratios, sums: _Sums) -> tuple[np.ndarray, np.ndarray]:
        """Return what groups take from X' R and from the squares of R."""
        if self.plan.groups is None or not ratios.group:
            return np.zeros(1), np.zeros(1)
        own = self.plan.groups @ (self.plan.shares(ratios.level)[:, None] * sums.persons)
        per_group = self.plan.per_group(ratios)[:, None] * own
        return self._group_design(ratios.level).T @ per_group, (per_group * own).sum(axis=0)

    def _group_design(self, level: float) -> Float[np.ndarray, "groups width"]:
        if level not in self._designs:
            self._designs[level] = self.plan.groups @ (self.plan.shares(level)[:, None] * self.plan.summed[2])
        return self._designs[level]

    def _likelihood(self, sums: _Sums, cells: Sequence[Ratios]) -> Float[np.ndarray, "cells block"]:
        """Return the restricted log likelihood of every column at each pair of ratios, the residual variance profiled out."""
        found = np.empty((len(cells), len(sums.squares)))
        of_slopes = {slope: self._of_slopes(slope, sums) for slope in {ratios.slope for ratios in cells}}
        of_groups = {
            shared: self._of_groups(shared, sums) for shared in {ratios._replace(slope=0.0) for ratios in cells}
        }
        for row, ratios in enumerate(cells):
            cell = self.cell(ratios)
            parts = of_slopes[ratios.slope], of_groups[ratios._replace(slope=0.0)]
            _, variance = self._solved(cell, sums, parts)
            found[row] = -0.5 * (cell.freedom * np.log(np.maximum(variance, 1e-300)) + cell.determinant)
        return found

    def _solved(
        self, cell: Cell, sums: _Sums, parts: "Sequence[tuple[np.ndarray, np.ndarray]]" = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return half of what generalised least squares adds to ordinary coefficients, and the residual variance."""
        kinds = self.plan.summed[0]
        per_level = cell.ratios.level / (1 + cell.ratios.level * kinds)
        parts = parts or (self._of_slopes(cell.ratios.slope, sums), self._of_groups(cell.ratios, sums))
        (moments, squares), (of_groups, group_squares) = parts
        half = -np.tensordot(per_level, sums.levels, axes=1) - moments
        left = sums.squares - per_level @ sums.level_squares - squares
        if cell.ratios.group:
            half -= of_groups
            left -= group_squares
        half = cell.root @ half
        return half, np.maximum(left - (half**2).sum(axis=0), 0) / cell.freedom


def _nearest(grid: Sequence[float], ratios: Float[np.ndarray, " columns"]) -> Int[np.ndarray, " columns"]:
    """Return which value of an ascending grid is nearest, by logarithm."""
    steps = np.log(np.array(grid) + _LEVELS[1] / 2)
    found: np.ndarray = np.searchsorted((steps[1:] + steps[:-1]) / 2, np.log(ratios + _LEVELS[1] / 2))
    return found


def _around(ratios: Ratios) -> tuple[Ratios, ...]:
    """Return the ratios about a cell of the grid."""
    parts = (own * fine if own else np.zeros(1) for own, fine in zip(ratios, _FINE, strict=True))
    return tuple(Ratios(*map(float, one)) for one in product(*parts))
