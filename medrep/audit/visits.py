"""Visits of people who came several times, and how much of their change an export keeps.

Everything here is of visits less the mean of their person's. A person's change is what goes with time,

    z = sum_j t_j x_j / sqrt(sum_j t_j^2),    t = age (or the order of visits) less its mean over the person's visits,

which has the noise of one visit however far apart visits lie, so that two visits within weeks are no wild slope. What removed
covariates tell within people may go, and is taken out of both sides first: to take a switch of scanners out of a change costs
nothing, to take the change with it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from medrep.audit.data import design_basis
from medrep.audit.finding import Finding
from medrep.audit.intervals import expanded_interval, participant_codes, sample_weights, studentised_interval
from medrep.audit.means import Sampling
from medrep.cohort.covariates import Continuous
from medrep.cohort.dataset import Dataset
from medrep.models.linear.random_effects import changing_covariates, time_of

FLAT = 1e-9
"""Of the size of a column: less than that is rounding."""
_AT_ONCE = 2000


@dataclass(frozen=True, eq=False)
class Visits:
    """Visits of people who have several, a person's in a row.

    Attributes:
        rows: Which rows of the dataset they are.
        starts: Where each person's visits begin.
        dataset: All people.
    """

    rows: Int[np.ndarray, " visits"]
    starts: Int[np.ndarray, " people"]
    dataset: Dataset

    @classmethod
    def of(cls, dataset: Dataset) -> "Visits | None":
        """Return them; None where nobody has several visits."""
        who = participant_codes(dataset.whose)
        order = np.argsort(who, kind="stable")
        rows = order[np.bincount(who)[who[order]] > 1]
        if not len(rows):
            return None
        return cls(rows, np.flatnonzero(np.diff(who[rows], prepend=-1)), dataset)

    @cached_property
    def counts(self) -> Int[np.ndarray, " people"]:
        """Visits of each person."""
        return np.diff(np.append(self.starts, len(self.rows)))

    @cached_property
    def person(self) -> Int[np.ndarray, " visits"]:
        """Position of each visit's person."""
        return np.repeat(np.arange(len(self.starts)), self.counts)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Covariates of the visits."""
        return self.dataset.covariates.iloc[self.rows].reset_index(drop=True)

    def added(self, table: Float[np.ndarray, "visits _"]) -> Float[np.ndarray, "people _"]:
        """Return sums over each person's visits."""
        return np.add.reduceat(table, self.starts, axis=0)

    def within(self, table: Float[np.ndarray, "visits _"]) -> Float[np.ndarray, "visits _"]:
        """Return a table of these visits less the mean of each person's."""
        return table - (self.added(table) / self.counts[:, None])[self.person]

    def centred(self, table: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "visits columns"]:
        """Return these visits of a table of everybody, less the mean of each person's; columns that are rounding are 0."""
        own = np.asarray(table[self.rows], float)
        left, size = self.within(own), np.abs(own).max(axis=0, initial=0.0)
        left[:, np.abs(left).max(axis=0, initial=0.0) <= FLAT * size] = 0.0
        return left

    @cached_property
    def time_name(self) -> str:
        """The covariate that is taken for time; empty where none changes within people."""
        whose = self.dataset.whose[self.rows]
        return time_of(changing_covariates(self.dataset.schema, self.frame, whose))

    @cached_property
    def time(self) -> Float[np.ndarray, " visits"]:
        """Age, or another number that changes, or else the order of visits; less its mean."""
        order = np.arange(len(self.rows)) - self.starts[self.person]
        values = self.frame[self.time_name].to_numpy(float) if self.time_name else order.astype(float)
        return self.within(values[:, None])[:, 0]

    def levels(self, name: str) -> tuple[Int[np.ndarray, " visits"], Float[np.ndarray, "visits levels"]]:
        """Return the number of each visit's level of a covariate, and levels as columns within people."""
        codes = np.unique(self.frame[name].astype(str), return_inverse=True)[1]
        return codes, self.within(np.eye(int(codes.max()) + 1)[codes])

    def told_by(self, names: Sequence[str]) -> Float[np.ndarray, "visits _"]:
        """Return columns that some covariates are within people: levels, numbers and their squares."""
        columns = [np.zeros((len(self.rows), 0))]
        for name in names:
            if isinstance(self.dataset.schema[name], Continuous):
                values = self.frame[name].to_numpy(float)
                values = (values - values.mean()) / max(float(values.std()), 1e-300)
                columns.append(self.within(np.stack([values, values**2], axis=1)))
            else:
                columns.append(self.levels(name)[1])
        return np.concatenate(columns, axis=1)


def change_kept(
    before: Float[np.ndarray, "visits columns"],
    after: Float[np.ndarray, "visits columns"],
    visits: Visits,
    removed: Sequence[str],
    sampling: Sampling,
) -> list[Finding]:
    """Return how far people's changes are kept, in the mean over columns: ``change_correlation`` and ``change_slope``.

    The correlation is over people; the slope is that of changes after on changes before, through the origin, so that 1 is
    every change as it was, 0 none, and a change that everybody had counts. A column that the export flattened counts 0 in both.
    The intervals are the wider of two of resampled people, expanded: percentiles, and the bootstrap-t.

    Args:
        before: Raw visits, less the mean of each person's.
        after: As exported.
        visits: Whose they are.
        removed: Removed covariates.
        sampling: How intervals are drawn.
    """
    basis = design_basis(visits.told_by(removed))
    time = visits.time
    spans = visits.added(time[:, None] ** 2)[:, 0]
    moves = spans > (FLAT * max(float(np.abs(time).max(initial=0.0)), 1e-300)) ** 2
    per_span = 1 / np.sqrt(spans[moves])
    x, y = (
        visits.added(time[:, None] * (table - basis @ (basis.T @ table)))[moves] * per_span[:, None]
        for table in (before, after)
    )
    whole, people = np.isfinite(x).all(axis=0) & np.isfinite(y).all(axis=0), len(x)
    size = np.abs(before).max(axis=0, initial=0.0)
    used = whole & (np.sqrt((x**2).mean(axis=0)) > FLAT * size) if people else whole
    names = ("change_correlation", "change_slope")
    if people < max(sampling.min_n, 3) or not used.any():
        few = f"{people} participants change over several visits, {sampling.min_n} are needed; {used.sum()} columns change"
        return [Finding(name, "exported", people, status="insufficient", note=few) for name in names]
    drawn = sample_weights(np.arange(people), sampling.draws, np.random.default_rng(sampling.seed))
    weights = np.concatenate([np.ones((1, people)), *drawn])
    own, means, errors = _agreement(x[:, used], y[:, used], weights)
    over = visits.time_name or "the order of visits"
    found = []
    for name, columns, draws, spread in zip(names, own, means, errors, strict=True):
        estimate, others = float(draws[0]), draws[1:]
        ends = studentised_interval(estimate, float(spread[0]), others - others.mean() + estimate, spread[1:], people)
        percentiles = expanded_interval(others, people)
        low, high = min(percentiles[0], ends[0]), max(percentiles[1], ends[1])
        note = (
            f"change over {over} before and after, {used.sum()} columns; in the middle column {np.median(columns):.2f}"
        )
        high = min(high, 1.0) if name == "change_correlation" else high
        found.append(Finding(name, "exported", people, estimate, low, high, note=note))
    return found


def _agreement(
    x: Float[np.ndarray, "people columns"],
    y: Float[np.ndarray, "people columns"],
    weights: Float[np.ndarray, "draws people"],
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Return correlation and slope: of each column in the first draw, and means over columns in every draw with their errors.

    Errors are those of the influence of each person on the mean over columns.
    """
    count, total = x.shape[1], weights.sum(axis=1, keepdims=True)
    own, means = [np.zeros(count), np.zeros(count)], [np.zeros(len(weights)), np.zeros(len(weights))]
    influence = [np.zeros(weights.shape), np.zeros(weights.shape)]
    for first in range(0, count, _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        a, b = x[:, some], y[:, some]
        mean_a, mean_b, aa, bb, ab = (weights @ part / total for part in (a, b, a**2, b**2, a * b))
        var_a, var_b = np.maximum(aa - mean_a**2, 0), np.maximum(bb - mean_b**2, 0)
        # Of a column that the export flattened rounding is left.
        there = (var_a > FLAT**2 * aa) & (var_b > FLAT**2 * aa)
        per_a, per_b, per_both = (
            np.divide(1, part, out=np.zeros_like(ab), where=there) for part in (var_a, var_b, np.sqrt(var_a * var_b))
        )
        correlation = (ab - mean_a * mean_b) * per_both
        per_square = np.divide(1, aa, out=np.zeros_like(ab), where=aa > 0)
        slope = ab * per_square
        for part, values in enumerate((correlation, slope)):
            own[part][some] = values[0]
            means[part] += values.sum(axis=1) / count
        half_a, half_b = correlation * per_a / 2, correlation * per_b / 2
        influence[0] += (
            per_both @ (a * b).T
            + (2 * half_a * mean_a - mean_b * per_both) @ a.T
            + (2 * half_b * mean_b - mean_a * per_both) @ b.T
            - half_a @ (a**2).T
            - half_b @ (b**2).T
            + (mean_a * mean_b * per_both - half_a * mean_a**2 - half_b * mean_b**2).sum(axis=1, keepdims=True)
        ) / count
        influence[1] += (per_square @ (a * b).T - (slope * per_square) @ (a**2).T) / count
    errors = [np.sqrt((weights * part**2).sum(axis=1)) / total[:, 0] for part in influence]
    return own, means, errors
