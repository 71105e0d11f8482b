"""Change within people who came several times: how much of it an export keeps, and whether a change of scanner still shows.

Everything here is of visits less the mean of their person's. A person's change is what goes with time,

    z = sum_j t_j x_j / sqrt(sum_j t_j^2),    t = age (or the order of visits) less its mean over the person's visits,

which has the noise of one visit however far apart visits lie, so that two visits within weeks are no wild slope. What removed
covariates tell within people may go, and is taken out of both sides first: to take a switch of scanners out of a change costs
nothing, to take the change with it does.

A switch is measured with what goes with age (or another covariate that changes) held fixed. Its test turns the sign of everything
within a person, at random for each (of two visits, that exchanges their scanners): exact where a person's deviations are as
often up as down, but for what holding age fixed costs. That people have slopes of their own does not hurt it, as it does an
exchange of labels among three visits or more, since who switches does so late.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold

from medrep.audit.data import design_basis, drawn_columns
from medrep.audit.finding import Finding
from medrep.audit.intervals import (
    expanded_interval,
    participant_codes,
    permutation_p,
    random_halves,
    sample_weights,
    studentised_interval,
)
from medrep.audit.means import Sampling, mean_finding, participant_means
from medrep.cohort.covariates import Continuous
from medrep.cohort.dataset import Dataset
from medrep.models.linear.random_effects import changing_covariates, time_of

PERMUTATIONS = 999
_MOST = 2000  # columns that a switch is measured in
_AT_ONCE = 2000
_FLAT = 1e-9
_FOLDS, _HALVES = 5, 8
_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
_ALIASED = 0.05  # of the change of batches is not told by time: less tells nothing of them


def audit_within_people(
    tables: Mapping[str, Float[np.ndarray, "rows _"]], dataset: Dataset, removed: Sequence[str], sampling: Sampling
) -> list[Finding]:
    """Return findings on change within people; none where nobody has several visits.

    Args:
        tables: ``raw`` and ``exported``.
        dataset: The people; a participant's rows stand in the order of their visits.
        removed: Removed covariates.
        sampling: How intervals are drawn; its seed also draws columns and signs.
    """
    visits = Visits.of(dataset)
    if visits is None:
        return []
    own = {name: visits.centred(drawn_columns(tables[name], sampling.seed)) for name in ("raw", "exported")}
    found = change_kept(own["raw"], own["exported"], visits, removed, sampling)
    for batch in dataset.schema.batches:
        for name, table in own.items():
            found += within_switch(Finding("within_switch", f"{name}/{batch}", 0), table, visits, batch, sampling)
    return found


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
        left[:, np.abs(left).max(axis=0, initial=0.0) <= _FLAT * size] = 0.0
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
    moves = spans > (_FLAT * max(float(np.abs(time).max(initial=0.0)), 1e-300)) ** 2
    per_span = 1 / np.sqrt(spans[moves])
    x, y = (
        visits.added(time[:, None] * (table - basis @ (basis.T @ table)))[moves] * per_span[:, None]
        for table in (before, after)
    )
    whole, people = np.isfinite(x).all(axis=0) & np.isfinite(y).all(axis=0), len(x)
    size = np.abs(before).max(axis=0, initial=0.0)
    used = whole & (np.sqrt((x**2).mean(axis=0)) > _FLAT * size) if people else whole
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
        there = (var_a > _FLAT**2 * aa) & (var_b > _FLAT**2 * aa)
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


def within_switch(
    about: Finding, table: Float[np.ndarray, "visits columns"], visits: Visits, batch: str, sampling: Sampling
) -> list[Finding]:
    """Return how far a change of batch shows within people: ``within_switch`` and ``within_switch_auc``.

    The first is the mean within-person difference between two batches in within-person deviations: by least squares over
    everybody, time and other batches held fixed, root mean square over columns and over pairs of batches (weighed by how many
    people were seen in both), less what noise makes of it. The second is the probability that a reader, taught by other people,
    tells from their difference which of a person's visits was in which batch; chance is 0.5.

    Args:
        about: The group.
        table: Visits, less the mean of each person's.
        visits: Whose they are.
        batch: The covariate.
        sampling: How intervals are drawn.
    """
    switch = Switch.of(table, visits, batch)
    people = len(switch.changed)
    if people < max(sampling.min_n, 3) or not switch.table.shape[1]:
        few = f"{people} participants changed {batch}, {sampling.min_n} are needed"
        if people >= max(sampling.min_n, 3):
            few = f"nothing changes within people, or {batch} changes as {visits.time_name or 'time'} does"
        return [
            Finding(name, about.group, people, status="insufficient", note=few)
            for name in ("within_switch", "within_switch_auc")
        ]
    held = ", ".join(filter(None, (visits.time_name, *switch.others)))
    kept = f"; {held} held fixed" if held else ""
    about = replace(about, n=people, note=f"{people} participants changed {batch}{kept}")
    return [switch_size(about, switch, sampling), _told_apart(about, switch, sampling)]


@dataclass(frozen=True, eq=False)
class Switch:
    """Visits with time and other batches held fixed, and effects of the levels of a batch.

    Attributes:
        visits: Whose they are.
        codes: The level of each visit.
        levels: Levels as columns, with the same held fixed.
        table: Visits in within-person deviations, of columns that have one; no columns where levels cannot be told.
        solve: Gives effects of levels by least squares.
        freedom: Degrees of freedom within people, over those that effects leave.
        lost: Share of each person's variance that is lost as time and other batches are held fixed, at most.
        others: Other batches.
    """

    visits: Visits
    codes: Int[np.ndarray, " visits"]
    levels: Float[np.ndarray, "visits levels"]
    table: Float[np.ndarray, "visits varying"]
    solve: Float[np.ndarray, "levels visits"]
    freedom: float
    lost: Float[np.ndarray, " people"]
    others: tuple[str, ...]

    @classmethod
    def of(cls, table: Float[np.ndarray, "visits columns"], visits: Visits, batch: str) -> "Switch":
        """Fit the effects of a batch's levels to visits less the mean of each person's."""
        codes, whole = visits.levels(batch)
        others = tuple(name for name in visits.dataset.schema.batches if name != batch)
        time = visits.time[:, None] if visits.time_name else np.zeros((len(visits.rows), 0))
        basis = design_basis(np.concatenate([visits.told_by(others), time], axis=1))
        levels, left = (part - basis @ (basis.T @ part) for part in (whole, table))
        total = len(visits.rows) - len(visits.starts)
        free = total - basis.shape[1] - int(np.linalg.matrix_rank(levels, 1e-6))
        solve = np.linalg.pinv(levels, rcond=1e-6)
        told = free > 0 and float((levels**2).sum()) > _ALIASED * float((whole**2).sum())
        sd = np.sqrt(((left - levels @ (solve @ left)) ** 2).sum(axis=0) / max(free, 1))
        used = np.isfinite(sd) & (sd > _FLAT * np.sqrt((left**2).mean(axis=0))) & told
        lost = visits.added((basis**2).sum(axis=1, keepdims=True))[:, 0]
        return cls(visits, codes, levels, left[:, used] / sd[used], solve, total / max(free, 1), lost, others)

    @cached_property
    def seen(self) -> Bool[np.ndarray, "people levels"]:
        """Return which levels each person was seen in."""
        return self.visits.added(np.eye(self.levels.shape[1])[self.codes]) > 0

    @cached_property
    def changed(self) -> Int[np.ndarray, " some"]:
        """People who were seen in several levels."""
        return np.flatnonzero(self.seen.sum(axis=1) > 1)

    @cached_property
    def contrasts(self) -> Float[np.ndarray, "levels levels"]:
        """Give a root of the form in effects that is the mean square difference of two levels, over people seen in both."""
        own = self.seen[self.changed].astype(float)
        both = own.T @ own
        np.fill_diagonal(both, 0.0)
        squares = (np.diag(both.sum(axis=1)) - both) * 2 / both.sum()
        values, vectors = np.linalg.eigh(squares)
        return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T


def switch_size(about: Finding, switch: Switch, sampling: Sampling) -> Finding:
    """Return how large the differences between batches are; the interval is of people's influences on effects, resampled."""
    rng = np.random.default_rng(sampling.seed)
    table = switch.table[:, np.sort(rng.permutation(switch.table.shape[1])[:_MOST])]
    columns, people = table.shape[1], len(switch.visits.starts)
    contrasts = switch.contrasts @ switch.solve
    effects = switch.solve @ table
    left, apart = table - switch.levels @ effects, switch.contrasts @ effects
    products, errors, pulls = np.zeros((people, people)), np.zeros((people, people)), np.zeros(people)
    for row, difference in zip(contrasts, apart, strict=True):
        if np.abs(row).max(initial=0.0) > 0:
            own, influence = (switch.visits.added(row[:, None] * part) for part in (table, left))
            products += own @ own.T / columns
            errors += influence @ influence.T / columns
            pulls += influence @ difference / columns
    # Who is far out within makes deviations longer, and so everybody's differences smaller.
    own = switch.visits.added(left**2)
    pulls -= (own / own.sum(axis=0) - 1 / people) @ (apart**2).sum(axis=0) / (2 * columns)
    square = float(products.sum())
    # What is held fixed took a part of those whose signs turn, and none of what is observed.
    signs = rng.choice([-1.0, 1.0], (PERMUTATIONS, people)) / np.sqrt(np.maximum(1 - switch.lost, 0.5))
    p = permutation_p(square, ((signs @ products) * signs).sum(axis=1))
    noise = float(np.trace(errors)) * switch.freedom
    drawn = []
    for weights in sample_weights(np.arange(people), sampling.draws, rng):
        more = weights - 1
        drawn.append(square + 2 * more @ pulls + ((more @ errors) * more).sum(axis=1) - 2 * noise)
    low, high = expanded_interval(np.sqrt(np.maximum(np.concatenate(drawn), 0.0)), len(switch.changed))
    said = f"within-person deviations, {columns} columns, less what noise makes ({np.sqrt(noise):.2f}); {about.note}"
    return replace(about, estimate=float(np.sqrt(max(square - noise, 0.0))), ci_low=low, ci_high=high, p=p, note=said)


def _told_apart(about: Finding, switch: Switch, sampling: Sampling) -> Finding:
    """Return how often differences of a person's visits tell their batches apart, by a ridge regression of other people's."""
    pairs = np.array(
        [
            (one, other)
            for person in switch.changed
            for one, other in combinations(np.flatnonzero(switch.visits.person == person), 2)
            if switch.codes[one] != switch.codes[other]
        ]
    )
    differences = (switch.table[pairs[:, 1]] - switch.table[pairs[:, 0]]) / switch.table.shape[1] ** 0.5
    if differences.shape[1] > len(differences):
        values, vectors = np.linalg.eigh(differences @ differences.T)
        differences = vectors * np.sqrt(np.maximum(values, 0.0))
    which = np.eye(switch.levels.shape[1])
    aim = which[switch.codes[pairs[:, 1]]] - which[switch.codes[pairs[:, 0]]]
    who = switch.visits.person[pairs[:, 0]]
    hits = _hits(differences, aim, who, sampling.seed)
    halves = random_halves(who, _HALVES, np.random.default_rng(sampling.seed))
    spread = np.std(
        [participant_means(_hits(differences[h], aim[h], who[h], sampling.seed), who[h]).mean() for h in halves]
    )
    own = participant_means(hits, who)
    taught = float(np.sqrt(max(spread**2 - own.var() / len(own), 0.0)))
    found = replace(about, metric="within_switch_auc", note=f"chance 0.5; {about.note}")
    return mean_finding(found, hits, who, sampling, values_are="shares", beside=taught)


def _hits(
    differences: Float[np.ndarray, "pairs columns"],
    aim: Float[np.ndarray, "pairs levels"],
    who: Int[np.ndarray, " pairs"],
    seed: int,
) -> Float[np.ndarray, " pairs"]:
    """Return 1 where a reader taught by other people tells a pair rightly, 0 where wrongly, and 0.5 where it does not know."""
    hits = np.empty(len(who))
    folds = GroupKFold(min(_FOLDS, len(np.unique(who))), shuffle=True, random_state=seed)
    for train, test in folds.split(differences, groups=who):
        # A difference may be taken either way: without a constant both say the same.
        reader = RidgeCV(_PENALTIES, fit_intercept=False).fit(differences[train], aim[train])
        hits[test] = (np.sign((reader.predict(differences[test]) * aim[test]).sum(axis=1)) + 1) / 2
    return hits
