"""Repeated visits: every person's own level and slope, and generalised least squares.

Visits of one person are alike: they tell less about everybody than as many people would, and more about what a scanner does to
one and the same person. In units of a column's residual variance the visits of person i have the covariance

    V_i = I + level 1 1' + slope t t',    t = time less the mean of the person's own visits,

so that level and slope are orthogonal, V_i^-1 is closed, and a grid of ratios needs sums over people that are taken once. Where
people belong to groups (families), all visits of a group share a further level, and with c the sum over its people of
1'V_i^-1 1 and v = V_i^-1 1, the inverse of the whole is that of its people less group / (1 + group c) v v' (Woodbury). Where
nobody comes again, a person's level is noise, and the group's is told alone. Each
column takes the ratios of greatest restricted likelihood (Patterson and Thompson 1971), weighed by how often all columns have
them: an empirical-Bayes prior over the grid. A covariate that changes within people enters twice, as it is and as its distance
from the person's mean (Mundlak 1978), so that differences between people are not taken for change.

Squares of conditional residuals e = P x hold more than their own level's variance: with M_ab the sum over visits j of a and k of
b of P_jk^2, their sums expect to differ from those of equal levels by M (delta^2 - 1), which is solved for delta^2 (MINQUE, Rao
1971).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from scipy.linalg import solve_triangular
from scipy.sparse import csr_array

from medrep.cohort.dataset import Dataset
from medrep.cohort.grouping import are_sessions, count_groups
from medrep.models.linear.design import Design
from medrep.models.linear.least_squares import FLAT, Solver
from medrep.models.linear.random_effects import (
    LEAST_VARIANCE,
    EffectErrors,
    Persons,
    RandomEffects,
    changing_covariates,
    distances,
    refuse_inseparable,
    time_of,
)

_LEVELS = (0.0, *np.geomspace(0.05, 100, 11).tolist())
_SLOPES = (0.0, *np.geomspace(0.05, 20, 6).tolist())
_GROUPS = (0.0, *np.geomspace(0.1, 30, 6).tolist())
_FINE = tuple(np.exp(np.linspace(-far, far, count)) for far, count in ((0.4, 5), (0.6, 5), (0.55, 3)))
_ROUNDS, _EVENLY = 30, 0.02  # of expectation-maximisation, and the share of the prior that is spread evenly
_FEWEST = 10  # people who came again, for change within people; or three times and more, for slopes of their own
_FILLS, _MOSTLY = 4, 0.5  # rounds of filling missing values in, of columns of which more than this is known
_SAMPLE, _RUN = 1024, 64  # columns that the prior is found from, and how many of them side by side


class Ratios(NamedTuple):
    """Variances of levels of people, of slopes and of levels of groups over the residual variance.

    The slope's is with time in units of its spread.
    """

    level: float
    slope: float
    group: float = 0.0


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
    cells: "tuple[tuple[_Cell, Int[np.ndarray, ' some']], ...]"

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
        solver: Ordinary least squares of the same design.
        member: Person x visit: 1 where a visit is the person's.
        time: Time less the mean of the person's visits, in units of its spread over everybody; 0 without slopes.
        contrasts: Rows of coefficients whose standard errors are wanted.
        slopes: Whether people have slopes of their own.
        changing: As of `RandomEffects`; the design has their distances from people's means between effects and batches.
        unit: As of `RandomEffects`.
        prior: How often columns have each cell of the grid.
        along: As of `RandomEffects`.
        groups: Group x person: 1 where a person belongs to it; None where people are unrelated.
        unrelated: Whether nobody comes again, so that what are called people here are groups of them.
        runs: Whether what are called people here are sessions, of several scans each, and what are called groups people.
    """

    solver: Solver
    member: csr_array
    time: Float[np.ndarray, " visits"]
    contrasts: Float[np.ndarray, "contrasts rows"]
    slopes: bool
    changing: tuple[str, ...] = ()
    unit: float = 1.0
    prior: Float[np.ndarray, " cells"] = field(default_factory=lambda: np.ones(1))
    along: str = ""
    groups: csr_array | None = None
    unrelated: bool = False
    runs: bool = False
    _cells: dict[Ratios, "_Cell"] = field(default_factory=dict, repr=False)
    _designs: dict[float, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, dataset: Dataset, design: Design) -> "Visits | None":
        """Prepare for a cohort; None where nobody has several visits.

        Raises:
            CovariateError: A batch that cannot be told from time, since people change both at once.
        """
        visits = cls.planned(dataset.covariates, dataset.whose, design, dataset.groups)
        return None if visits is None else replace(visits, prior=visits._found_prior(dataset.values))

    @classmethod
    def planned(
        cls,
        frame: pd.DataFrame,
        whose: Shaped[np.ndarray, " visits"],
        design: Design,
        groups: Sequence[str] | None = None,
    ) -> "Visits | None":
        """Prepare for people of whom no data are known; see `of`.

        Args:
            frame: Covariates of the visits.
            whose: Person of each.
            design: The design.
            groups: Whom each belongs with; groups of which fewer than ten hold several people tell nothing.
        """
        sessions = None
        if groups is not None and are_sessions(groups, whose.tolist()):
            sessions, groups = np.array(groups, object), None
        elif groups is not None and int((count_groups(groups, whose.tolist()) > 1).sum()) < _FEWEST:
            groups = None
        if len(set(whose)) == len(frame):
            return None if groups is None else cls._of_unrelated(frame, np.array(groups, object), design)
        changing = changing_covariates(design.schema, frame, whose)
        time = time_of(changing)
        if int((pd.Series(whose).value_counts() > 1).sum()) < _FEWEST:
            changing = ()  # few people do not tell how everybody changes, which is taken for how people differ
        else:
            refuse_inseparable(design, frame, whose, time)
        away = distances(frame, changing, whose)
        solver = Solver.of(design, frame, away)
        while solver is None and changing:  # what changes within people is told by something else: one is left out
            changing, away = changing[:-1], away[:, :-1]
            solver = Solver.of(design, frame, away)
        if solver is None:
            return None
        unit = float(np.sqrt((distances(frame, [time], whose) ** 2).mean())) if time else 1.0
        persons = Persons.of(frame, whose, time, unit)
        slopes = bool(time) and int((persons.member.sum(axis=1) > 2).sum()) >= _FEWEST
        contrasts = _slopes_between_and_within(design, frame, changing, solver.full.shape[1])
        member = persons.member
        if sessions is not None and _tell_sessions(sessions, whose):
            inner = Persons.of(frame, sessions, "", 1.0)
            of_people = _grouped(inner.member, whose.tolist())
            return cls(
                solver,
                inner.member,
                inner.time,
                contrasts,
                slopes=False,
                changing=changing,
                unit=unit,
                along=time,
                groups=of_people,
                runs=True,
            )
        return cls(
            solver,
            member,
            persons.time * slopes,
            contrasts,
            slopes,
            changing,
            unit,
            along=time,
            groups=None if groups is None else _grouped(member, groups),
        )

    @classmethod
    def _of_unrelated(
        cls, frame: pd.DataFrame, groups: Shaped[np.ndarray, " people"], design: Design
    ) -> "Visits | None":
        """Prepare for groups of people none of whom comes again: each group has a level."""
        solver = Solver.of(design, frame)
        if solver is None:
            return None
        persons = Persons.of(frame, groups, "", 1.0)
        return cls(
            solver, persons.member, persons.time, np.zeros((0, solver.full.shape[1])), slopes=False, unrelated=True
        )

    @cached_property
    def usual(self) -> "_Cell":
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
        first = coefficients.shape[0] - self.solver.levels.shape[1] - len(self.changing)
        change, told = coefficients[first : first + len(self.changing)], self.contrasts @ coefficients
        return RandomEffects(
            self.changing,
            self.slope_time,
            self.unit,
            change,
            level,
            slope,
            told,
            errors,
            along=self.along,
            group=np.zeros(0, level.dtype) if self.groups is None else group,
        )

    def history(self, people: RandomEffects) -> pd.DataFrame:
        """Return what part of the variance each level has, as `RandomEffects.history` of people who come again.

        Args:
            people: From `effects`.
        """
        if not (self.unrelated or self.runs):
            return people.history()
        whole, own = 1 + people.level, people.group
        shares = {"level": own, "session": people.level - own} if self.runs else {"group": people.level}
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
        covariance, variances = ([getattr(cell, name) for cell in cells] for name in ("_covariance", "variances"))
        small = np.int16 if sd.dtype == np.float32 else np.int64
        return EffectErrors(np.array(covariance), np.array(variances), np.ravel(which).astype(small), np.array(sd))

    @property
    def slope_time(self) -> str:
        """The covariate that people's slopes are of; empty if they have none."""
        return self.along if self.slopes else ""

    @cached_property
    def counts(self) -> Float[np.ndarray, " people"]:
        """Visits of each person."""
        return np.asarray(self.member.sum(axis=1), float)

    @cached_property
    def spans(self) -> Float[np.ndarray, " people"]:
        """Sum of squared times of each person."""
        return np.asarray(self.member @ self.time**2, float)

    @cached_property
    def timed(self) -> csr_array:
        """Person x visit: the visit's time where it is the person's."""
        return csr_array(self.member.multiply(self.time[None]))

    @cached_property
    def design(self) -> Float[np.ndarray, "visits width"]:
        """The design without what is redundant."""
        return self.solver.full @ self.solver.contrasts

    @cached_property
    def _summed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of visits that occur, which each person has, and the design summed over visits and over times."""
        kinds, which = np.unique(self.counts, return_inverse=True)
        return kinds, np.ravel(which), self.member @ self.design, self.timed @ self.design

    @cached_property
    def coarse(self) -> tuple[Ratios, ...]:
        """The grid of ratios."""
        none = (0.0,)
        parts = _LEVELS, _SLOPES if self.slopes else none, none if self.groups is None else _GROUPS
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
        rest = sample - self.solver.full @ (self.solver.solve @ sample)
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

    def cell(self, ratios: Ratios) -> "_Cell":
        """Return what all columns with some ratios share."""
        if ratios not in self._cells:
            self._cells[ratios] = _Cell.of(self, ratios)
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
        coefficients = self.solver.solve @ chunk
        rest = chunk - self.solver.full @ coefficients
        width = chunk.shape[1]
        least = FLAT * np.maximum(chunk.max(axis=0), -chunk.min(axis=0))
        varies = np.flatnonzero(np.sqrt((rest**2).mean(axis=0)) > least)
        explained = (coefficients * (np.atleast_2d(np.cov(self.solver.full.T, bias=True)) @ coefficients)).sum(axis=0)
        levels = self.solver.levels
        total = explained + (rest**2).mean(axis=0)
        sd, level, slope, group = np.zeros((4, width))
        ratio, errors = np.ones((levels.shape[1], width)), np.zeros((len(self.contrasts), width))
        change, used = np.zeros((self.design.shape[1], width)), np.zeros((3, width))
        cells: list[tuple[_Cell, np.ndarray]] = []
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
            if self.groups is not None:
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
        coefficients += self.solver.contrasts @ change
        rest -= self.design @ change
        residual = self._within(rest, *used)
        residual[:, sd == 0] = 0
        squares = levels.T @ residual**2
        if known is not None:
            squares *= levels.sum(axis=0)[:, None] / np.maximum(levels.T @ known, 1)
        for cell, there in cells:
            ratio[:, there] = cell.level_ratios(squares[:, there] / sd[there] ** 2, self.solver.parts)
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
        filled = np.where(known, chunk, self.solver.full @ coefficients)
        fit = self.fit(filled, known)
        for _ in range(_FILLS):
            filled = np.where(known, chunk, filled - fit.residual)
            fit = self.fit(filled, known)
        return fit._replace(residual=fit.residual * known)

    def _sums(self, rest: Float[np.ndarray, "visits block"]) -> _Sums:
        kinds, which, summed, _ = self._summed
        own = self.member @ rest
        levels, squares = np.zeros((len(kinds), summed.shape[1], rest.shape[1])), np.zeros((len(kinds), rest.shape[1]))
        for kind in range(len(kinds)):
            people = which == kind
            levels[kind], squares[kind] = summed[people].T @ own[people], (own[people] ** 2).sum(axis=0)
        slopes = self.timed @ rest if self.slopes else np.zeros((0, rest.shape[1]))
        return _Sums((rest**2).sum(axis=0), levels, squares, slopes, own[:0] if self.groups is None else own)

    def _of_slopes(self, slope: float, sums: _Sums) -> tuple[np.ndarray, np.ndarray]:
        """Return what slopes take from X' R and from the squares of R."""
        if not slope:
            return np.zeros(1), np.zeros(1)
        per_slope = slope / (1 + slope * self.spans)
        return self._summed[3].T @ (per_slope[:, None] * sums.slopes), per_slope @ sums.slopes**2

    def _of_groups(self, ratios: Ratios, sums: _Sums) -> tuple[np.ndarray, np.ndarray]:
        """Return what groups take from X' R and from the squares of R."""
        if self.groups is None or not ratios.group:
            return np.zeros(1), np.zeros(1)
        own = self.groups @ (self.shares(ratios.level)[:, None] * sums.persons)
        per_group = self.per_group(ratios)[:, None] * own
        return self._group_design(ratios.level).T @ per_group, (per_group * own).sum(axis=0)

    def shares(self, level: float) -> Float[np.ndarray, " people"]:
        """Return v, what is left of a visit of each person where their level is taken out."""
        return 1 / (1 + level * self.counts)

    def per_group(self, ratios: Ratios) -> Float[np.ndarray, " groups"]:
        """Return group / (1 + group c) of each group."""
        if self.groups is None:
            return np.zeros(0)
        return ratios.group / (1 + ratios.group * (self.groups @ (self.counts * self.shares(ratios.level))))

    def _group_design(self, level: float) -> Float[np.ndarray, "groups width"]:
        if level not in self._designs:
            self._designs[level] = self.groups @ (self.shares(level)[:, None] * self._summed[2])
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
        self, cell: "_Cell", sums: _Sums, parts: "Sequence[tuple[np.ndarray, np.ndarray]]" = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return half of what generalised least squares adds to ordinary coefficients, and the residual variance."""
        kinds = self._summed[0]
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

    def _within(
        self,
        rest: Float[np.ndarray, "visits _"],
        level: float | np.ndarray,
        slope: float | np.ndarray,
        group: float | np.ndarray = 0.0,
    ) -> Float[np.ndarray, "visits _"]:
        """Return V^-1 times a matrix: residuals without what is expected of the person; ratios of all columns, or of each."""
        per_level = level / (1 + np.multiply.outer(self.counts, np.atleast_1d(level)))
        left: np.ndarray = rest - self.member.T @ (per_level * (self.member @ rest))
        if np.any(slope):
            per_slope = slope / (1 + np.multiply.outer(self.spans, np.atleast_1d(slope)))
            left -= self.timed.T @ (per_slope * (self.timed @ rest))
        if self.groups is not None and np.any(group):
            share = 1 / (1 + np.multiply.outer(self.counts, np.atleast_1d(level)))
            per_group = group / (1 + group * (self.groups @ (self.counts[:, None] * share)))
            own = self.groups @ (share * (self.member @ rest))
            left -= self.member.T @ (share * (self.groups.T @ (per_group * own)))
        return left


@dataclass(frozen=True, eq=False)
class _Cell:
    """Parts of the solution that columns with the same ratios share.

    Attributes:
        ratios: The ratios.
        root: L^-1, where L L' = X' V^-1 X.
        freedom: Visits less coefficients.
        determinant: log |V| + log |X' V^-1 X|.
        left: P_jj of each visit, P the residual maker V^-1 - V^-1 X (X' V^-1 X)^-1 X' V^-1.
        shared: M of the module's text, all levels side by side.
        expected: Sum of P_jj over the visits of each level.
        leverage: Variance of each level's location over the residual variance.
        errors: Standard errors of the contrasts over sd.
    """

    ratios: Ratios
    root: Float[np.ndarray, "width width"]
    freedom: float
    determinant: float
    visits: Visits = field(repr=False)

    @classmethod
    def of(cls, visits: Visits, ratios: Ratios) -> "_Cell":
        design = visits.design
        gram = design.T @ visits._within(design, *ratios)
        lower = np.linalg.cholesky((gram + gram.T) / 2)
        root = solve_triangular(lower, np.eye(len(lower)), lower=True)
        determinant = np.log1p(ratios.level * visits.counts).sum() + np.log1p(ratios.slope * visits.spans).sum()
        determinant += 2 * np.log(np.diag(lower)).sum()
        if visits.groups is not None and ratios.group:
            inside = visits.groups @ (visits.counts * visits.shares(ratios.level))
            determinant += np.log1p(ratios.group * inside).sum()
        return cls(ratios, root, float(len(design) - design.shape[1]), float(determinant), visits)

    @cached_property
    def _covariance(self) -> Float[np.ndarray, "rows rows"]:
        half = self.visits.solver.contrasts @ self.root.T
        return half @ half.T

    @cached_property
    def leverage(self) -> Float[np.ndarray, " levels"]:
        return np.diag(self._covariance)[len(self._covariance) - self.visits.solver.levels.shape[1] :].copy()

    @cached_property
    def errors(self) -> Float[np.ndarray, " contrasts"]:
        wanted = self.visits.contrasts
        return np.sqrt(np.einsum("ij,jk,ik->i", wanted, self._covariance, wanted))

    @property
    def variances(self) -> Float[np.ndarray, "3 3"]:
        """Covariance of the variances of noise, levels and slopes, with sd 1: 2 over sums of squared traces, person by person."""
        counts, spans = self.visits.counts, self.visits.spans
        level = self.ratios.level + self.ratios.group  # as of people of whom no relatives are here
        unit = 1.0
        if self.visits.runs and self.visits.groups is not None:  # as of scans whose session is a part of their noise
            counts, spans = self.visits.groups @ counts, np.zeros(self.visits.groups.shape[0])
            unit = 1 + self.ratios.level
            level = self.ratios.group / unit
        levels, slopes = 1 / (1 + level * counts) ** 2, 1 / (1 + self.ratios.slope * spans) ** 2
        information = np.diag([(counts - 1 - (spans > 0) + levels + slopes * (spans > 0)).sum(), 0.0, 0.0])
        for k, (sizes, own) in enumerate(((counts, levels), (spans, slopes)), 1):
            information[0, k] = information[k, 0] = (sizes * own).sum()
            information[k, k] = (sizes**2 * own).sum()
        known: np.ndarray = np.linalg.pinv(information, rcond=1e-12) * len(self.visits.time) / self.freedom
        return 2 * known * unit**2

    def effects(self, count: int) -> Float[np.ndarray, "effects effects"]:
        """Return the covariance of the first coefficients over the residual variance."""
        return self._covariance[:count, :count]

    @cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        visits, levels = self.visits, self.visits.solver.levels
        level = self.ratios.level / (1 + self.ratios.level * visits.counts)
        slope = self.ratios.slope / (1 + self.ratios.slope * visits.spans)
        projected = visits._within(visits.design, *self.ratios) @ self.root.T
        own = visits.member.T @ level + visits.time**2 * (visits.member.T @ slope)
        sizes = (projected**2).sum(axis=1)
        left = 1 - own - sizes
        count, time = visits.member @ levels, visits.timed @ levels
        time_squares = visits.member @ (visits.time[:, None] ** 2 * levels)
        inverse = count.T @ (level[:, None] ** 2 * count) + 2 * time.T @ ((level * slope)[:, None] * time)
        inverse += time_squares.T @ (slope[:, None] ** 2 * time_squares) + np.diag(levels.T @ (1 - 2 * own))
        both = np.diag(levels.T @ sizes)
        grams = np.zeros((levels.shape[1], projected.shape[1] ** 2))
        sums = [np.zeros((len(level), levels.shape[1], projected.shape[1])) for _ in range(2)]
        for k, member in enumerate(levels.T):
            masked = member[:, None] * projected
            grams[k] = (projected.T @ masked).ravel()
            sums[0][:, k], sums[1][:, k] = visits.member @ masked, visits.timed @ masked
        both = both - np.einsum("iap,i,ibp->ab", sums[0], level, sums[0], optimize=True)
        both -= np.einsum("iap,i,ibp->ab", sums[1], slope, sums[1], optimize=True)
        if visits.groups is not None and self.ratios.group:
            share, per_group = visits.shares(self.ratios.level), visits.per_group(self.ratios)
            of_person = visits.groups.T @ per_group * share**2
            own_group = visits.member.T @ of_person
            left -= own_group
            inverse += 2 * (
                count.T @ ((level * of_person)[:, None] * count) + time.T @ ((slope * of_person)[:, None] * time)
            )
            inverse -= 2 * np.diag(levels.T @ own_group)
            held = visits.groups @ (share[:, None] ** 2 * count)
            inverse += held.T @ (per_group[:, None] ** 2 * held)
            in_groups = np.tensordot(visits.groups.toarray() * share, sums[0], axes=1)
            both -= np.einsum("gap,g,gbp->ab", in_groups, per_group, in_groups, optimize=True)
        shared = inverse - 2 * both + grams @ grams.T
        return left, shared, levels.T @ left

    @property
    def left(self) -> Float[np.ndarray, " visits"]:
        return self._parts[0]

    def freedoms(self, parts: Sequence[slice]) -> Float[np.ndarray, " levels"]:
        """Return the degrees of freedom that each level's variance is told with: 2 over its relative variance."""
        _, shared, _ = self._parts
        found = np.zeros(len(shared))
        for part in parts:
            inverse = np.linalg.pinv(shared[part, part], rcond=1e-8)
            found[part] = np.divide(1, np.diag(inverse), out=np.zeros(len(inverse)), where=np.diag(inverse) > 1e-12)
        return found

    def level_ratios(self, squares: Float[np.ndarray, "levels block"], parts: Sequence[slice]) -> np.ndarray:
        """Return each level's variance over the residual variance; 1 where it cannot be told.

        Args:
            squares: Sums of squared conditional residuals over the residual variance.
            parts: Levels of each batch covariate.
        """
        _, shared, expected = self._parts
        ratio = np.ones_like(squares)
        told = self.freedoms(parts) > 0.5
        for part in parts:
            beyond = np.linalg.pinv(shared[part, part], rcond=1e-8) @ (squares - expected[:, None])[part]
            ratio[part] = np.where(told[part][:, None], np.maximum(1 + beyond, LEAST_VARIANCE), 1.0)
        return ratio


def _nearest(grid: Sequence[float], ratios: Float[np.ndarray, " columns"]) -> Int[np.ndarray, " columns"]:
    """Return which value of an ascending grid is nearest, by logarithm."""
    steps = np.log(np.array(grid) + _LEVELS[1] / 2)
    found: np.ndarray = np.searchsorted((steps[1:] + steps[:-1]) / 2, np.log(ratios + _LEVELS[1] / 2))
    return found


def _around(ratios: Ratios) -> tuple[Ratios, ...]:
    """Return the ratios about a cell of the grid."""
    parts = (own * fine if own else np.zeros(1) for own, fine in zip(ratios, _FINE, strict=True))
    return tuple(Ratios(*map(float, one)) for one in product(*parts))


def _tell_sessions(sessions: Shaped[np.ndarray, " scans"], whose: Shaped[np.ndarray, " scans"]) -> bool:
    """Return whether levels of sessions are told from noise, and people's from them."""
    several = int((pd.Series(sessions).value_counts() > 1).sum())
    again = int((pd.Series(sessions).groupby(np.asarray(whose, str)).nunique() > 1).sum())
    return several >= _FEWEST and again >= _FEWEST


def _grouped(member: csr_array, groups: Sequence[str]) -> csr_array:
    """Return group x person from the group of each visit."""
    numbers = pd.factorize(np.array(groups, object))[0]
    of_person = numbers[member.tocsr().indices[member.indptr[:-1]]]
    people = np.arange(member.shape[0])
    return csr_array((np.ones(len(people)), (of_person, people)), (int(numbers.max()) + 1, len(people)))


def _slopes_between_and_within(
    design: Design, frame: pd.DataFrame, changing: Sequence[str], rows: int
) -> Float[np.ndarray, "told rows"]:
    """Return for each covariate the rows of coefficients that give its mean slope between people, and within them."""
    contrasts = np.zeros((2 * len(changing), rows))
    effects = design.effects(frame).shape[1]
    for k, name in enumerate(changing):
        step = 0.01 * float(frame[name].std())
        ends = [design.effects(frame.assign(**{name: frame[name] + side * step})).mean(axis=0) for side in (-1, 1)]
        contrasts[2 * k : 2 * k + 2, :effects] = (ends[1] - ends[0]) / (2 * step)
        contrasts[2 * k + 1, effects + k] = 1
    return contrasts
