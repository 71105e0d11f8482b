"""People with several visits: levels and slopes of their own, and how well batches are told from time."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy.sparse import csr_array

from medrep._persisted import stored
from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.cohort.dictionary import meaning
from medrep.errors import CovariateError
from medrep.models.linear.design import Design

LEAST_VARIANCE = 0.05
"""Of a batch over the residual variance: less is an estimate below what can be."""
_NORMAL_95 = 1.959964
_CHANGE = 0.01  # of a covariate's standard deviation: less change within people is none
_INSEPARABLE = 0.95  # share of the change in time that goes with changes of a batch


@dataclass(frozen=True)
class EffectErrors:
    """How well effects are known, of columns by how alike visits of one person are in them.

    Attributes:
        covariance: (X'V^-1X)^-1 for a few pairs of ratios, a row a coefficient: effects, changes within people, batches.
        variances: Covariance of the variances of noise, levels and slopes for these, with sd 1.
        which: The pair of each column.
        sd: Residual deviation of each column that it is in units of.
    """

    covariance: Float[np.ndarray, "pairs fitted fitted"] = field(default_factory=lambda: np.zeros((0, 0, 0)))
    variances: Float[np.ndarray, "pairs parts parts"] = field(default_factory=lambda: np.zeros((0, 3, 3)))
    which: Int[np.ndarray, " columns"] = field(default_factory=lambda: np.zeros(0, np.int64))
    sd: Float[np.ndarray, " columns"] = field(default_factory=lambda: np.zeros(0))

    def __bool__(self) -> bool:
        return bool(len(self.covariance))

    def with_row(self, at: int) -> "EffectErrors":
        """Return the same with a further coefficient, of which nothing is said."""
        wider = np.insert(np.insert(self.covariance, at, 0.0, axis=1), at, 0.0, axis=2)
        return replace(self, covariance=wider) if self else self

    def variance(self, rows: Float[np.ndarray, "fitted some block"], part: slice) -> Float[np.ndarray, "some block"]:
        """Return the variance of some sums of coefficients, in data units squared.

        Args:
            rows: What each coefficient counts in each of them, column by column.
            part: Which columns.
        """
        return self._forms(self.covariance, rows, part) * self.sd[part] ** 2

    def freedom(
        self, shares: Float[np.ndarray, "3 some block"], variance: Float[np.ndarray, "some block"], part: slice
    ) -> Float[np.ndarray, "some block"]:
        """Return the degrees of freedom that variances are known with: 2 over the squared relative error (Satterthwaite 1946).

        Args:
            shares: How often each variance counts the variances of noise, levels and slopes.
            variance: The variances, in data units squared.
            part: Which columns.
        """
        squares = self._forms(self.variances, shares, part) * self.sd[part] ** 4
        return np.divide(2 * variance**2, squares, out=np.full(variance.shape, np.inf), where=squares > 0)

    def _forms(self, matrices: np.ndarray, rows: np.ndarray, part: slice) -> Float[np.ndarray, "some block"]:
        found, which = np.zeros(rows.shape[1:]), self.which[part]
        for pair in np.unique(which):
            own = which == pair
            some = rows[:, :, own]
            found[:, own] = (some * np.tensordot(matrices[pair], some, axes=1)).sum(axis=0)
        return np.maximum(found, 0)


class OwnEffects(NamedTuple):
    """Levels and slopes of people, as far as their visits tell.

    Attributes:
        level: Expected levels, in data units.
        slope: Expected slopes, for a change by ``unit``; None where people have none.
        left: Variances of level and slope that are left, and their covariance between them, over sd squared.
        told: Sums of each person's weights (1 / delta^2), of these times time, and times its square.
    """

    level: Float[np.ndarray, "people block"]
    slope: "Float[np.ndarray, 'people block'] | None"
    left: Float[np.ndarray, "3 people block"]
    told: Float[np.ndarray, "3 people block"]


@dataclass(frozen=True)
class RandomEffects:
    """Levels and slopes of people with several visits.

    Attributes:
        changing: Continuous covariates that change within people.
        time: The one that slopes are of, ``along`` or nothing; empty if people have none.
        unit: Its spread within people.
        change: What a unit of each adds, in data units, to a visit that lies that far from the mean of the person's visits:
            how much more people change than differ.
        level: Variance of people's levels over sd squared.
        slope: That of their slopes, for a change by ``unit``.
        effects: What a unit of each adds between people and within them, in data units.
        errors: Standard errors of these.
        known: How well coefficients are known; models saved before it was kept do not say.
        along: The covariate that people were followed over (`time_of`); empty if none changes. Where everybody came at the same
            ages it is none of ``changing``: what it does within people is what it does between them.
        group: The part of ``level`` that people of a group (`tied_rows`) share; empty where people are strangers.
    """

    changing: tuple[str, ...] = ()
    time: str = ""
    unit: float = 1.0
    change: Float[np.ndarray, "changing columns"] = field(default_factory=lambda: np.zeros((0, 0)))
    level: Float[np.ndarray, " columns"] = field(default_factory=lambda: np.zeros(0))
    slope: Float[np.ndarray, " columns"] = field(default_factory=lambda: np.zeros(0))
    effects: Float[np.ndarray, "told columns"] = field(default_factory=lambda: np.zeros((0, 0)))
    errors: Float[np.ndarray, "told columns"] = field(default_factory=lambda: np.zeros((0, 0)))
    known: EffectErrors = field(
        default_factory=EffectErrors,
        metadata=stored(omitted=lambda people: not people.known, sizes={"columns": "columns"}),
    )
    along: str = field(default="", metadata=stored(omitted=lambda people: not people.along))
    group: Float[np.ndarray, " grouped"] = field(
        default_factory=lambda: np.zeros(0), metadata=stored(omitted=lambda people: not len(people.group))
    )

    def __bool__(self) -> bool:
        return bool(len(self.level))

    def scaled(self, factor: Float[np.ndarray, " columns"]) -> "RandomEffects":
        """Return the same where ``sd`` is multiplied by a factor, and nobody's own variance changes."""
        if not self:
            return self
        group = self.group / factor**2 if len(self.group) else self.group
        return replace(self, level=self.level / factor**2, slope=self.slope / factor**2, group=group)

    def within_scale(self, log_scale: Float[np.ndarray, " columns"]) -> Float[np.ndarray, " columns"]:
        """Return the log scale within people of a batch in which visits of different people have another one."""
        scale: np.ndarray = np.exp(2 * log_scale) * (1 + self.level) - self.level
        return np.log(np.maximum(scale, LEAST_VARIANCE)) / 2

    def distances(
        self, frame: pd.DataFrame, whose: Shaped[np.ndarray, " visits"]
    ) -> Float[np.ndarray, "visits changing"]:
        """Return how far each visit lies from the mean of the person's visits that are here."""
        return distances(frame, self.changing, whose)

    def history(self) -> pd.DataFrame:
        """Return what is said of it beside the shares of covariates: metric, name, value."""
        shares = {"level": self.level, **({"slope": self.slope} if self.time else {})}
        rows = [("person_share", name, float((own / (1 + own)).mean())) for name, own in shares.items()]
        if len(self.group):
            rows.append(("person_share", "group", float((self.group / (1 + self.level)).mean())))
        return pd.DataFrame(rows, columns=["metric", "name", "value"])

    def table(self, names: Sequence[str]) -> pd.DataFrame:
        """Return what a unit of each covariate that changes within people goes with, between people and within them.

        Args:
            names: Of the columns.

        Returns:
            A row a covariate and column: covariate, feature, and for each of between and within the estimate, and the ends of
            its 95 % interval.
        """
        rows = []
        for k, covariate in enumerate(self.changing):
            between, within = self.effects[2 * k], self.effects[2 * k + 1]
            table = {"covariate": covariate, "feature": list(names)}
            for name, estimate, error in zip(
                ("between", "within"), (between, within), self.errors[2 * k : 2 * k + 2], strict=True
            ):
                table |= {
                    name: estimate,
                    f"{name}_low": estimate - _NORMAL_95 * error,
                    f"{name}_high": estimate + _NORMAL_95 * error,
                }
            rows.append(pd.DataFrame(table))
        return pd.concat(rows, ignore_index=True)

    def told(
        self,
        residual: Float[np.ndarray, "visits block"],
        scale: Float[np.ndarray, "visits block"],
        persons: "Persons",
        part: slice,
    ) -> OwnEffects:
        """Return what is expected of each person's level and slope, of all visits that are here, and what is left unknown.

        Args:
            residual: Data less what covariates and batches are expected to give; NaN tells nothing.
            scale: delta of each.
            persons: Whose the visits are.
            part: Which columns.
        """
        told = np.isfinite(residual)
        weight = np.where(told, 1 / scale**2, 0)
        weighed = weight * np.where(told, residual, 0)
        member, time = persons.member, persons.time[:, None]
        level = self.level[part]
        total, sums = member @ weight, member @ weighed
        if not self.time:
            none = np.zeros_like(total)
            left = np.stack([level / (1 + level * total), none, none])
            return OwnEffects(level * sums / (1 + level * total), None, left, np.stack([total, none, none]))
        slope = self.slope[part]
        timed, squares, products = member @ (time * weight), member @ (time**2 * weight), member @ (time * weighed)
        own, other = 1 + level * total, 1 + slope * squares
        both = own * other - level * slope * timed**2
        return OwnEffects(
            level * (sums * other - slope * timed * products) / both,
            slope * (products * own - level * timed * sums) / both,
            np.stack([level * other, -level * slope * timed, slope * own]) / both,
            np.stack([total, timed, squares]),
        )

    def drift(
        self, years: float, own: OwnEffects, persons: "Persons", part: slice
    ) -> Float[np.ndarray, "visits block"]:
        """Return how much more visits change over some years than people of other ages differ: on average, and of each person.

        Args:
            years: How far ``along`` goes.
            own: What is told of each person (`told`).
            persons: Whose the visits are.
            part: Which columns.
        """
        found = np.zeros((len(persons.time), len(self.level[part])))
        if self.along in self.changing:
            found += years * self.change[self.changing.index(self.along), part]
        if own.slope is not None:
            found += years / self.unit * (persons.member.T @ own.slope)
        return found

    def moved(
        self,
        residual: Float[np.ndarray, "visits block"],
        scale: Float[np.ndarray, "visits block"],
        to: Float[np.ndarray, "visits block"],
        persons: "Persons",
        part: slice,
    ) -> Float[np.ndarray, "visits block"]:
        """Return what is added to visits where the scale of their noise changes and people stay as they are.

        Noise, what is left of a residual without what is expected of the person's level and slope, is multiplied by the ratio
        of scales. Expectations hold some noise and noise some of the person: each is multiplied, by a factor near 1, so that
        sums over a person's visits have the variance they would have at the other scale, exactly where the visits have one.

        Args:
            residual: Data less what covariates and batches are expected to give; NaN tells nothing.
            scale: delta of each.
            to: The other.
            persons: Whose the visits are.
            part: Which columns.
        """
        own = self.told(residual, scale, persons, part)
        total, _, squares = own.told
        other = np.where(np.isfinite(residual), 1 / to**2, 0)
        member, time, level = persons.member, persons.time[:, None], self.level[part]
        further = member.T @ (_matching(level * total, level * (member @ other)) * own.level)
        if own.slope is not None:
            slope = self.slope[part]
            turn = _matching(slope * squares, slope * (member @ (time**2 * other)))
            further = further + time * (member.T @ (turn * own.slope))
        added: np.ndarray = (to / scale - 1) * (residual - persons.at_visits(own)) + further
        return added


def _matching(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the factor, less 1, of an expectation by which a sum gets the variance that it has at another scale.

    Args:
        before: Variance of the person over that of noise, in the sum.
        after: The same at the other scale.
    """
    # A sum s of variance p + n expects p / (p + n) s of the person; in units of n before, n after is before / after.
    with np.errstate(divide="ignore", invalid="ignore"):
        noise = before / after
        wanted = np.sqrt((before + noise) * (before + 1)) - np.sqrt(noise)
        factor = wanted / before - 1
    usable = (before > 0) & (after > 0) & (before != after) & np.isfinite(factor)
    return np.where(usable, factor, 0.0)


class Persons(NamedTuple):
    """People, by their visits.

    Attributes:
        member: Person x visit: 1 where a visit is the person's.
        time: Time less the mean of the person's visits, in units of its spread in training.
    """

    member: csr_array
    time: Float[np.ndarray, " visits"]

    @classmethod
    def of(cls, frame: pd.DataFrame, whose: Shaped[np.ndarray, " visits"], time: str, unit: float) -> "Persons":
        """Tell people apart; without a time, or where nothing changes, times are 0."""
        numbers, people = pd.factorize(np.asarray(whose, object))
        member = csr_array((np.ones(len(frame)), (numbers, np.arange(len(frame)))), (len(people), len(frame)))
        times = distances(frame, [time], whose)[:, 0] / unit if time else np.zeros(len(frame))
        return cls(member, times)

    def at_visits(self, own: OwnEffects) -> Float[np.ndarray, "visits block"]:
        """Return level and slope of each visit's person, at its time."""
        found: np.ndarray = self.member.T @ own.level
        if own.slope is not None:
            found += self.time[:, None] * (self.member.T @ own.slope)
        return found


def distances(frame: pd.DataFrame, names: Sequence[str], whose: Shaped[np.ndarray, " visits"]) -> np.ndarray:
    """Return how far each visit lies from the mean of the person's visits in some continuous covariates."""
    if not names:
        return np.zeros((len(frame), 0))
    values = frame[list(names)].astype(float)
    found: np.ndarray = (values - values.groupby(np.asarray(whose, str)).transform("mean")).to_numpy()
    return found


def changing_covariates(
    schema: CovariateSchema, frame: pd.DataFrame, whose: Shaped[np.ndarray, " visits"]
) -> tuple[str, ...]:
    """Return the continuous covariates of effects that change within people."""
    names = [one.declared.name for one in schema.fitted if isinstance(one, Continuous)]
    spreads = np.sqrt((distances(frame, names, whose) ** 2).mean(axis=0))
    return tuple(name for name, own in zip(names, spreads, strict=True) if own > _CHANGE * float(frame[name].std()))


def time_of(changing: Sequence[str]) -> str:
    """Return which of the covariates that change within people is the time: age, or else the first; empty if there is none."""
    return next((name for name in changing if meaning(name) == "age"), changing[0] if changing else "")


class Separation(NamedTuple):
    """How well a batch covariate can be told from time within people.

    Attributes:
        batch: The batch covariate.
        changed: How many people changed it.
        several: How many have several visits.
        share: Share of the change in time that goes with changes of the batch.
    """

    batch: str
    changed: int
    several: int
    share: float


def separations(
    design: Design, frame: pd.DataFrame, whose: Shaped[np.ndarray, " visits"], time: str
) -> list[Separation]:
    """Return how well each batch covariate that people change can be told from time."""
    names = np.asarray(whose, str)
    several = int((pd.Series(names).value_counts() > 1).sum())
    found = []
    for name, part in design.batch_slices().items():
        changed = int((frame[name].astype(str).groupby(names).nunique() > 1).sum())
        if not changed:
            continue
        member = pd.DataFrame(design.batches(frame)[:, part])
        within = (member - member.groupby(names).transform("mean")).to_numpy()
        own = distances(frame, [time], whose)[:, 0] if time else np.zeros(len(frame))
        total = float(own @ own)
        left = own - within @ np.linalg.lstsq(within, own, rcond=1e-10)[0]
        found.append(Separation(name, changed, several, 1 - float(left @ left) / total if total > 0 else 0.0))
    return found


def refuse_inseparable(design: Design, frame: pd.DataFrame, whose: Shaped[np.ndarray, " visits"], time: str) -> None:
    """Refuse batches that people change exactly as time goes by.

    Raises:
        CovariateError: The covariates by name, how many people, and what to do.
    """
    lost = [
        f"{one.batch} and {time}: {one.changed} of {one.several} people with several visits changed {one.batch}, and"
        f" {100 * one.share:.0f} % of how {time} changes within people goes with that"
        for one in separations(design, frame, whose, time)
        if one.share > _INSEPARABLE
    ]
    if lost:
        cure = (
            "add people who stay, or who change soon or at another time; or take one visit a person (--session-label); or let"
            " visits count as people with --set settings.visits=independent (of a network settings.linear.visits)"
        )
        raise CovariateError(f"cannot be told apart within people: {'; '.join(lost)}; {cure}")
