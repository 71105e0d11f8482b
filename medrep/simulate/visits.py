"""Visits of people who come again: when and where, who stays away, and what is a person's own.

Planned first, and drawn for everybody; then those who stay away are left out, which what was seen of them at the visit before
decides (missing at random), so that the same seed gives the same visits with and without dropout.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.optimize import brentq
from scipy.special import expit

from medrep.errors import CohortError, listed
from medrep.simulate.participants import stream

YEARS, JITTER = 2.0, 0.5
"""Between visits, and by how much each comes earlier or later at most."""
WEEKS = (1.0, 3.0)
"""Between the visits of a travelling person."""
CHANGES = 0.5
"""Share of people who change site at a later visit."""
_WEEKS_A_YEAR = 365.25 / 7
_STEEPNESS = 1.5  # of the log odds of staying away, a standard deviation


@dataclass(frozen=True)
class FollowUp:
    """Design of visits.

    Attributes:
        visits: How often everybody is to come.
        travellers: How many of the people are scanned at every site within weeks instead.
        dropout: Probability of staying away from each further visit, and all later ones, on average over people.
        dropout_by: Decides who stays away: chance, age at the visit before (the older), or the mean of standardised values
            then (the lower).
        slope: Deviation of people's own slopes a year, in residual deviations; of follow-ups of real people.
        noise: That of a visit's measurement noise, likewise.
    """

    visits: int = 1
    travellers: int = 0
    dropout: float = 0.0
    dropout_by: Literal["chance", "age", "value"] = "chance"
    slope: float = 0.1
    noise: float = 0.3

    def check(self, people: int, sites: int) -> None:
        """Refuse a design that cannot be.

        Args:
            people: How many there are.
            sites: At how many sites.

        Raises:
            CohortError: All that is wrong, in the words of the command line.
        """
        wrong = []
        if self.visits < 1:
            wrong.append(f"--visits {self.visits}: give 1 or more")
        if not 0 <= self.travellers <= people:
            wrong.append(f"--travellers {self.travellers}: give 0 to {people}, of whom there are so many")
        if self.travellers and sites < 2:
            wrong.append(f"--travellers {self.travellers}: there are no two sites to travel between")
        if not 0 <= self.dropout < 1:
            wrong.append(f"--dropout {self.dropout:g}: give a share of people from 0 to below 1")
        if self.dropout and self.visits < 2:
            wrong.append(f"--dropout {self.dropout:g}: nobody is to come again; give --visits 2 or more")
        if self.dropout_by != "chance" and not self.dropout:
            wrong.append(f"--dropout-by {self.dropout_by}: nobody stays away; give --dropout")
        if wrong:
            raise CohortError(listed("visits that cannot be planned", wrong))


@dataclass(frozen=True, eq=False)
class Schedule:
    """Visits, a person's in a row and in time.

    Attributes:
        table: participant_id, session_id (``ses-1`` on), and the people's other columns, with the visit's age (years) and site.
        person: Position of each visit's person among the people.
        years: Since the person's first visit.
        travels: True of visits of people who travel; these never stay away.
    """

    table: pd.DataFrame
    person: Int[np.ndarray, " visits"]
    years: Float[np.ndarray, " visits"]
    travels: Bool[np.ndarray, " visits"]

    def take(self, kept: Bool[np.ndarray, " visits"]) -> "Schedule":
        """Return some of the visits."""
        return replace(
            self,
            table=self.table[kept].reset_index(drop=True),
            person=self.person[kept],
            years=self.years[kept],
            travels=self.travels[kept],
        )

    @property
    def index(self) -> pd.MultiIndex:
        """Participant and session of each visit."""
        return pd.MultiIndex.from_frame(self.table[["participant_id", "session_id"]])


def plan_visits(people: pd.DataFrame, follow_up: FollowUp, *, seed: int) -> Schedule:
    """Plan visits: some two years apart, half of the people changing to another site at one of the later ones.

    Travelling people, drawn among all, are scanned at their own site and then at every other, weeks apart and in an order of
    their own.

    Args:
        people: A row a person, as they come first: participant_id, age (years), site, and whatever else.
        follow_up: The design.
        seed: Any integer from 0.

    Raises:
        CohortError: A design that cannot be, or people with more than one row.
    """
    sites = sorted({str(site) for site in people["site"]})
    follow_up.check(len(people), len(sites))
    twice = people.loc[people["participant_id"].duplicated(), "participant_id"].unique()
    if len(twice):
        raise CohortError(
            listed("participants with several rows", [str(who) for who in twice], "plan visits for one row a person")
        )
    rng = stream(seed, "visits")
    travels = np.isin(np.arange(len(people)), rng.permutation(len(people))[: follow_up.travellers])
    changes = np.isin(np.arange(len(people)), rng.permutation(len(people))[: round(CHANGES * len(people))])
    person, years, site = list[int](), list[float](), list[str]()
    for place, (who, home) in enumerate(zip(people["participant_id"], people["site"].astype(str), strict=True)):
        own = stream(seed, "visits", str(who))
        others = [str(other) for other in own.permutation([other for other in sites if other != home])]
        if travels[place]:
            where = [home, *others]
            when = np.cumsum([0.0, *own.uniform(*WEEKS, len(others))]) / _WEEKS_A_YEAR
        else:
            count = follow_up.visits
            when = YEARS * np.arange(count) + np.r_[0.0, own.uniform(-JITTER, JITTER, count - 1)]
            last = int(own.integers(1, count)) if changes[place] and others and count > 1 else count
            where = [home] * last + others[:1] * (count - last)
        person += [place] * len(when)
        years += np.round(when, 2).tolist()
        site += where
    table = people.iloc[person].reset_index(drop=True)
    number = table.groupby("participant_id", sort=False).cumcount() + 1
    table["age"] = np.round(table["age"].astype(float) + years, 2)
    table["site"] = site
    table.insert(1, "session_id", [f"ses-{count}" for count in number])
    return Schedule(table, np.array(person), np.array(years), travels[person])


def attended(
    schedule: Schedule, values: "Float[np.ndarray, 'visits columns'] | None", follow_up: FollowUp, *, seed: int
) -> Bool[np.ndarray, " visits"]:
    """Return the visits that people come to: everybody to the first, and who stays away once does not come again.

    Args:
        schedule: The plan.
        values: As seen at each visit; needed for a dropout by value.
        follow_up: The design.
        seed: Any integer from 0.
    """
    there = np.ones(len(schedule.person), dtype=bool)
    if not follow_up.dropout:
        return there
    driver = np.zeros(len(there))
    if follow_up.dropout_by == "age":
        driver = schedule.table["age"].to_numpy(float)
    elif follow_up.dropout_by == "value" and values is not None:
        known = np.where(np.isfinite(values), values, np.nan)
        driver = -np.nan_to_num(np.nanmean((known - np.nanmean(known, axis=0)) / _deviation(known), axis=1))
    drawn = np.array(
        [
            float(stream(seed, "dropout", str(row.participant_id), str(row.session_id)).random())
            for row in schedule.table.itertuples()
        ]
    )
    number = schedule.table.groupby("participant_id", sort=False).cumcount().to_numpy()
    for visit in range(1, int(number.max(initial=0)) + 1):
        # A visit lies one row after the one before.
        due = np.flatnonzero((number == visit) & there & ~schedule.travels)
        if len(due):
            away = drawn[due] < _probabilities(driver[due - 1], follow_up.dropout)
            gone = (number >= visit) & np.isin(schedule.person, schedule.person[due[away]])
            there &= ~gone
    return there


def _deviation(values: np.ndarray) -> np.ndarray:
    sd = np.nanstd(values, axis=0)
    return np.where(sd > 0, sd, np.inf)


def _probabilities(driver: Float[np.ndarray, " people"], mean: float) -> Float[np.ndarray, " people"]:
    """Return logistic probabilities in the standardised driver whose mean is as asked."""
    sd = float(driver.std())
    odds = _STEEPNESS * (driver - driver.mean()) / sd if sd > 0 else np.zeros(len(driver))
    offset = brentq(lambda at: float(expit(odds + at).mean()) - mean, -60.0, 60.0)
    return np.asarray(expit(odds + offset))


def draw_own(
    schedule: Schedule, columns: int, *, seed: int
) -> tuple[Float[np.ndarray, "people columns"], Float[np.ndarray, "visits columns"]]:
    """Draw people's own slopes and visits' noise, both of deviation 1 in every column.

    Half of the variance of slopes is shared by all columns: who changes fast in one does so in others. They depend on the seed,
    the id and the session alone.
    """
    ids = schedule.table["participant_id"].astype(str)
    slopes = []
    for who in ids[~ids.duplicated()]:
        rng = stream(seed, "slope", who)
        slopes.append(np.sqrt(0.5) * (rng.standard_normal() + rng.standard_normal(columns)))
    sessions = schedule.table["session_id"].astype(str)
    noise = [
        stream(seed, "visit", who, session).standard_normal(columns) for who, session in zip(ids, sessions, strict=True)
    ]
    return np.array(slopes).reshape(-1, columns), np.array(noise).reshape(-1, columns)
