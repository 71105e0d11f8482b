"""People's own trajectories: what their further visits will measure, and how unusual a change since the visit before is.

In units of a column's residual variance a person's visits have the covariance V = delta^2 + level 1 1' + slope t t', t the time
less the mean of the person's own visits. A further measurement at t* has with them the covariance k = level + slope t t*. With
r what the mean leaves of the visits, a mean + k' V^-1 r is expected, with the variance

    level + slope t*^2 - k' V^-1 k  +  delta*^2  +  d' (X'V^-1X)^-1 d,    d = x* - X' V^-1 k,

the last part being what is unknown of effects, changes within people and batches (Henderson 1975). That variance is itself known
with an error, by the information on the variances of noise, levels and slopes, so that intervals are Student's, with the degrees
of freedom of Satterthwaite (1946). The further measurement is one of the person's visits, as the last ones of training were:
times and distances are taken from the mean of all of them.

Where a batch's scale is a gain, it multiplies people and effects as it does noise: everything is told in units of the batch.

The gain of a visit is told from it and the one before alone, as if these were the person's two: z2 is what the one before leaves
of it, and r the correlation of the two at their distance in time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from medrep.models.base import root_mean_square
from medrep.models.chunks import map_chunks
from medrep.models.linear.design import Design
from medrep.models.linear.random_effects import Persons, RandomEffects


def forecast_refusal(people: RandomEffects) -> str:
    """Return why a model that knows this of people does not forecast; empty where it does."""
    if people.along:
        return ""
    lacking = "no number changes within them" if people else "nobody had several visits"
    cure = "train on a cohort in which people come again, with their age at each visit"
    return f"the model does not know people over time: {lacking}; {cure}"


class Rows(NamedTuple):
    """Rows of the design: effects, distances from people's means, batches; a column a coefficient."""

    effects: Float[np.ndarray, "rows effects"]
    away: Float[np.ndarray, "rows changing"]
    batches: Float[np.ndarray, "rows levels"]

    @property
    def whole(self) -> Float[np.ndarray, "rows fitted"]:
        """All columns side by side."""
        return np.concatenate(self, axis=1)


@dataclass(frozen=True, eq=False)
class Future:
    """Further measurements of people, each with all visits of its person.

    Attributes:
        people: What is known of people with several visits.
        rows: Positions of the visits, those of one measurement after those of another.
        persons: Which measurement each is for, and its time about the mean of all visits of that, the further one among them.
        visits: Rows of the visits.
        further: Rows of the measurements.
        time: Times of the measurements.
        last: Position of each person's last visit.
    """

    people: RandomEffects
    rows: Int[np.ndarray, " visits"]
    persons: Persons
    visits: Rows
    further: Rows
    time: Float[np.ndarray, " further"]
    last: Int[np.ndarray, " further"]

    @classmethod
    def of(
        cls,
        people: RandomEffects,
        design: Design,
        known: tuple[pd.DataFrame, Sequence[str]],
        to: pd.DataFrame,
        whose: Sequence[str],
    ) -> "Future":
        """Bring people's visits to their further measurements.

        Args:
            people: What is known of people with several visits.
            design: The design matrix.
            known: Covariates of the visits, and whose they are.
            to: Covariates of the measurements.
            whose: Person of each.
        """
        frame, participants = known
        numbers, names = pd.factorize(np.asarray(participants, object))
        person = pd.Index(names).get_indexer(pd.Index(np.asarray(whose, object)))
        order, counts = np.argsort(numbers, kind="stable"), np.bincount(numbers)
        starts = np.cumsum(counts) - counts
        rows = np.concatenate([np.zeros(0, int), *(order[starts[k] : starts[k] + counts[k]] for k in person)])
        numbers = np.repeat(np.arange(len(to)), counts[person])
        member = csr_array((np.ones(len(rows)), (numbers, np.arange(len(rows)))), (len(to), len(rows)))
        changing = [*people.changing, people.along]
        values, far = (np.stack([one[name].to_numpy(float) for name in changing], axis=1) for one in (frame, to))
        values = values[rows]
        mean = (member @ values + far) / (counts[person] + 1)[:, None]
        away, far = values - mean[numbers], far - mean
        time, ahead = (one[:, -1] / people.unit * bool(people.time) for one in (away, far))
        batches = design.batches(frame)[rows]
        return cls(
            people,
            rows,
            Persons(member, time),
            Rows(design.effects(frame)[rows], away[:, :-1], batches),
            Rows(design.effects(to), far[:, :-1], design.batches(to)),
            ahead,
            last_visits(frame[people.along].to_numpy(float), participants)[person],
        )

    def expected(
        self,
        residual: Float[np.ndarray, "visits block"],
        scale: Float[np.ndarray, "visits block"],
        noise: Float[np.ndarray, "further block"],
        sd: Float[np.ndarray, " block"],
        part: slice,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what is each person's own of the measurements, their deviation, and its degrees of freedom.

        Args:
            residual: Data of the visits less their means; NaN tells nothing.
            scale: delta of each.
            noise: delta of each measurement.
            sd: Residual deviation of each column.
            part: Which columns.
        """
        own, known = self.people.told(residual, scale, self.persons, part), self.people.known
        time, expected, (level, both, slope), (total, timed, squares) = (
            self.time[:, None],
            own.level,
            own.left,
            own.told,
        )
        if own.slope is not None:
            expected = expected + time * own.slope
        level, slope = level + time * both, both + time * slope
        variance = (level + time * slope + noise**2) * sd**2
        if not known:
            return expected, np.sqrt(variance), np.full(variance.shape, np.inf)
        counted = level**2 * total + 2 * level * slope * timed + slope**2 * squares + noise**2
        left = 1 - level * total - slope * timed, time - level * timed - slope * squares
        freedom = known.freedom(np.stack([counted, left[0] ** 2, left[1] ** 2]), variance, part)
        weight = np.where(np.isfinite(residual), 1 / scale**2, 0)
        variance = variance + known.variance(self._unknown(weight, level, slope), part)
        return expected, np.sqrt(variance), freedom

    def _unknown(
        self, weight: np.ndarray, level: np.ndarray, slope: np.ndarray
    ) -> Float[np.ndarray, "fitted further block"]:
        """Return d: what each coefficient counts in what is expected, the visits' own share taken off."""
        member, time, visits, further = self.persons.member, self.persons.time, self.visits.whole, self.further.whole
        found = np.empty((visits.shape[1], *level.shape))
        for k in range(len(found)):
            counted = visits[:, k, None] * weight
            found[k] = further[:, k, None] - level * (member @ counted)
            if self.people.time:
                found[k] -= slope * (member @ (time[:, None] * counted))
        return found


def last_visits(time: Float[np.ndarray, " visits"], whose: Sequence[str]) -> Int[np.ndarray, " people"]:
    """Return the position of each person's last visit; of several at the same time the one that stands last.

    People come in the order in which they are first met.
    """
    person = pd.factorize(np.asarray(whose, object))[0]
    order = np.lexsort((np.arange(len(time)), time, person))
    return order[np.flatnonzero(np.diff(person[order], append=-1))]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Visits and the ones before them, of the same people.

    Attributes:
        before: Positions of the visits before.
        after: Positions of the visits.
        half: Half of how far covariates that change within people changed between them.
        time: Half of the time between them, in units of its spread in training.
    """

    before: Int[np.ndarray, " pairs"]
    after: Int[np.ndarray, " pairs"]
    half: Float[np.ndarray, "pairs changing"]
    time: Float[np.ndarray, " pairs"]

    @classmethod
    def of(cls, people: RandomEffects, frame: pd.DataFrame, whose: Sequence[str]) -> "Pairs":
        """Pair each visit with the person's one before, in time; of several at the same time in the order of rows."""
        person = pd.factorize(np.asarray(whose, object))[0]
        time = frame[people.along].to_numpy(float) if people.along else np.zeros(len(frame))
        order = np.lexsort((np.arange(len(time)), time, person))
        same = np.flatnonzero(np.diff(person[order]) == 0)
        before, after = order[same], order[same + 1]
        values = frame[list(people.changing)].to_numpy(float)
        half = (values[after] - values[before]) / 2
        return cls(before, after, half, (time[after] - time[before]) / 2 / people.unit * bool(people.time))

    def gains(
        self,
        people: RandomEffects,
        residual: Float[np.ndarray, "visits block"],
        scale: Float[np.ndarray, "visits block"],
        sd: Float[np.ndarray, " block"],
        part: slice,
    ) -> Float[np.ndarray, "pairs block"]:
        """Return z_gain = (z2 - r z1) / sqrt(1 - r^2); NaN where one of the two tells nothing.

        Args:
            people: What is known of people with several visits.
            residual: Data less what effects and batches are expected to give; NaN tells nothing.
            scale: delta of each.
            sd: Residual deviation of each column.
            part: Which columns.
        """
        change, level = np.zeros((len(self.time), residual.shape[1])), people.level[part]
        for half, per_unit in zip(
            self.half.T, people.change[:, part], strict=True
        ):  # a product would round by its shape
            change += half[:, None] * per_unit
        apart = people.slope[part] * self.time[:, None] ** 2
        first, second = (np.sqrt(level + apart + scale[rows] ** 2) for rows in (self.before, self.after))
        with np.errstate(invalid="ignore", divide="ignore"):
            z1, z2 = (residual[self.before] + change) / (sd * first), (residual[self.after] - change) / (sd * second)
            r = (level - apart) / (first * second)
            found: np.ndarray = (z2 - r * z1) / np.sqrt(1 - r**2)
        return found

    def unusual(
        self,
        people: RandomEffects,
        residual: Callable[[slice], tuple[np.ndarray, np.ndarray]],
        sd: Float[np.ndarray, " columns"],
        visits: int,
    ) -> Float[np.ndarray, " visits"]:
        """Return how unusual each change since the visit before is: the root mean square of gains over columns.

        Args:
            people: What is known of people with several visits.
            residual: Returns, of a block of columns, what `gains` takes as ``residual`` and ``scale``.
            sd: Residual deviation of each column.
            visits: How many there are.
        """
        squares, counts = np.zeros(visits), np.zeros(visits)

        def square(part: slice) -> tuple[np.ndarray, np.ndarray]:
            gains = self.gains(people, *residual(part), sd[part], part)
            known = np.isfinite(gains)
            return (np.where(known, gains, 0) ** 2).sum(axis=1), known.sum(axis=1)

        for _, (found, count) in map_chunks(visits, len(sd), square):
            squares[self.after] += found
            counts[self.after] += count
        return root_mean_square(squares, counts)
