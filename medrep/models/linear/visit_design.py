"""Visits of people, as a design: who comes when, with whom people belong, and what their covariance does to a matrix.

In units of a column's residual variance the visits of person i have the covariance

    V_i = I + level 1 1' + slope t t',    t = time less the mean of the person's own visits,

so that level and slope are orthogonal and V_i^-1 is closed. Where people belong to groups (families), all visits of a group share
a further level, and with c the sum over its people of 1'V_i^-1 1 and v = V_i^-1 1, the inverse of the whole is that of its people
less group / (1 + group c) v v' (Woodbury). Where nobody comes again, a person's level is noise, and the group's is told alone.
A covariate that changes within people enters twice, as it is and as its distance from the person's mean (Mundlak 1978), so that
differences between people are not taken for change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from scipy.sparse import csr_array

from medrep.cohort.grouping import are_sessions, count_groups
from medrep.models.linear.design import Design
from medrep.models.linear.least_squares import Solver
from medrep.models.linear.random_effects import (
    Persons,
    changing_covariates,
    distances,
    refuse_inseparable,
    time_of,
)

_FEWEST = 10  # people who came again, for change within people; or three times and more, for slopes of their own


class Ratios(NamedTuple):
    """Variances of levels of people, of slopes and of levels of groups over the residual variance.

    The slope's is with time in units of its spread.
    """

    level: float
    slope: float
    group: float = 0.0


@dataclass(frozen=True, eq=False)
class VisitDesign:
    """Visits of people, with the design of everybody's effects.

    Attributes:
        solver: Ordinary least squares of the same design.
        member: Person x visit: 1 where a visit is the person's.
        time: Time less the mean of the person's visits, in units of its spread over everybody; 0 without slopes.
        contrasts: Rows of coefficients whose standard errors are wanted.
        slopes: Whether people have slopes of their own.
        changing: As of `RandomEffects`; the design has their distances from people's means between effects and batches.
        unit: As of `RandomEffects`.
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
    along: str = ""
    groups: csr_array | None = None
    unrelated: bool = False
    runs: bool = False

    @classmethod
    def planned(
        cls,
        frame: pd.DataFrame,
        whose: Shaped[np.ndarray, " visits"],
        design: Design,
        groups: Sequence[str] | None = None,
    ) -> "VisitDesign | None":
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
    ) -> "VisitDesign | None":
        """Prepare for groups of people none of whom comes again: each group has a level."""
        solver = Solver.of(design, frame)
        if solver is None:
            return None
        persons = Persons.of(frame, groups, "", 1.0)
        return cls(
            solver, persons.member, persons.time, np.zeros((0, solver.full.shape[1])), slopes=False, unrelated=True
        )

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
    def summed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of visits that occur, which each person has, and the design summed over visits and over times."""
        kinds, which = np.unique(self.counts, return_inverse=True)
        return kinds, np.ravel(which), self.member @ self.design, self.timed @ self.design

    def shares(self, level: float) -> Float[np.ndarray, " people"]:
        """Return v, what is left of a visit of each person where their level is taken out."""
        return 1 / (1 + level * self.counts)

    def per_group(self, ratios: Ratios) -> Float[np.ndarray, " groups"]:
        """Return group / (1 + group c) of each group."""
        if self.groups is None:
            return np.zeros(0)
        return ratios.group / (1 + ratios.group * (self.groups @ (self.counts * self.shares(ratios.level))))

    def within(
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
