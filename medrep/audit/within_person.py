"""Change within people who came several times: how much of it an export keeps, and whether a change of scanner still shows.

How much of a change is kept is said by `visits`, and everything here is, as there, of visits less the mean of their person's.

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
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold

from medrep.audit.data import design_basis, drawn_columns
from medrep.audit.finding import Finding
from medrep.audit.intervals import (
    expanded_interval,
    permutation_p,
    random_halves,
    sample_weights,
    studentised_interval,
)
from medrep.audit.means import Sampling, mean_finding, participant_means
from medrep.audit.visits import FLAT, Visits, change_kept
from medrep.cohort.dataset import Dataset

PERMUTATIONS = 999
_MOST = 2000  # columns that a switch is measured in
_DRAWS_AT_ONCE = 100
_FOLDS, _HALVES = 5, 8
_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
_LEAST_KEPT = 0.1  # of a person's variance that is brought back to the whole
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
        held: Orthonormal columns of time and other batches, which are held fixed.
        others: Other batches.
    """

    visits: Visits
    codes: Int[np.ndarray, " visits"]
    levels: Float[np.ndarray, "visits levels"]
    table: Float[np.ndarray, "visits varying"]
    solve: Float[np.ndarray, "levels visits"]
    freedom: float
    held: Float[np.ndarray, "visits _"]
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
        used = np.isfinite(sd) & (sd > FLAT * np.sqrt((left**2).mean(axis=0))) & told
        return cls(visits, codes, levels, left[:, used] / sd[used], solve, total / max(free, 1), basis, others)

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
    """Return how large the differences between batches are, in deviations that few people with a long tail do not make.

    A deviation is the mean length of a person's visits about their mean, over what that is of normal noise of deviation 1:
    squares, of noise with long tails, are known too badly for a unit. The interval is, of two of resampled people, the wider:
    expanded percentiles, and the bootstrap-t of the mean square. Effects are resampled by people's influences on them.
    """
    rng = np.random.default_rng(sampling.seed)
    table = switch.table[:, np.sort(rng.permutation(switch.table.shape[1])[:_MOST])]
    people = len(switch.visits.starts)
    p = _switch_p(switch, table, rng)
    resampled = _Resampled.of(switch, table)
    square, noise, error = (float(part[0]) for part in resampled.drawn(np.ones((1, people))))
    drawn = [
        resampled.drawn(some)
        for weights in sample_weights(np.arange(people), sampling.draws, rng)
        for some in np.array_split(weights, -(-len(weights) // _DRAWS_AT_ONCE))
    ]
    squares, noises, errors = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    changed, estimate = len(switch.changed), square - noise
    # Of a sample the people drawn from are the truth, their noise and all.
    ends = studentised_interval(square, error, squares - noises, errors, changed)
    percentiles = expanded_interval(np.sqrt(np.maximum(squares - noises - noise, 0.0)), changed)
    low, high = (float(np.sqrt(max(end - noise, 0.0))) for end in ends)
    said = f"within-person deviations, {table.shape[1]} columns, less what noise makes ({np.sqrt(noise):.2f}); {about.note}"
    return replace(
        about,
        estimate=float(np.sqrt(max(estimate, 0.0))),
        ci_low=min(low, percentiles[0]),
        ci_high=max(high, percentiles[1]),
        p=p,
        note=said,
    )


def _switch_p(switch: Switch, table: Float[np.ndarray, "visits columns"], rng: np.random.Generator) -> float:
    """Return the p of differences of this size, where signs turn within people.

    Each column counts in units of all that is left of it, levels in: signs leave that as it is, and not what levels leave.
    """
    columns = table / np.sqrt((table**2).sum(axis=0))
    products = np.zeros((len(switch.visits.starts),) * 2)
    square, whole = 0.0, _unheld(switch, columns)
    for row in switch.contrasts @ switch.solve:
        own = switch.visits.added(row[:, None] * whole)
        products += own @ own.T
        square += float(((row @ columns) ** 2).sum())
    signs = rng.choice([-1.0, 1.0], (PERMUTATIONS, len(products)))
    return permutation_p(square, ((signs @ products) * signs).sum(axis=1))


def _unheld(switch: Switch, table: Float[np.ndarray, "visits columns"]) -> Float[np.ndarray, "visits columns"]:
    """Return visits with the variance that holding time and other batches fixed took of each person (Bell and McCaffrey 2002).

    It took a part of those whose signs turn, and none of what differences are.
    """
    whole = np.empty_like(table)
    for start, count in zip(switch.visits.starts, switch.visits.counts, strict=True):
        own = slice(start, start + count)
        kept, directions = np.linalg.eigh(np.eye(count) - switch.held[own] @ switch.held[own].T)
        whole[own] = (directions / np.sqrt(np.maximum(kept, _LEAST_KEPT))) @ (directions.T @ table[own])
    return whole


@dataclass(frozen=True, eq=False)
class _Resampled:
    """Differences of batches on resampled people, linear in how often each is drawn; the unit is taken anew.

    Attributes:
        apart: On the people themselves; contrasts and columns in a row.
        influence: Of each person on these.
        lengths: Of each person's residual.
        expected: That of normal noise of deviation 1.
    """

    apart: Float[np.ndarray, " cells"]
    influence: Float[np.ndarray, "people cells"]
    lengths: Float[np.ndarray, "people columns"]
    expected: Float[np.ndarray, " people"]

    @classmethod
    def of(cls, switch: Switch, table: Float[np.ndarray, "visits columns"]) -> "_Resampled":
        """Take influences on the differences from the residuals of levels."""
        roots = switch.contrasts[np.abs(switch.contrasts).max(axis=1) > 0]
        effects, contrasts = switch.solve @ table, roots @ switch.solve
        left = (table - switch.levels @ effects) * np.sqrt(switch.freedom)
        own = [switch.visits.added(row[:, None] * left) for row in contrasts]
        freedom = switch.visits.counts - 1
        expected = np.sqrt(2) * np.exp(gammaln((freedom + 1) / 2) - gammaln(freedom / 2))
        lengths = np.sqrt(switch.visits.added(left**2))
        return cls((roots @ effects).ravel(), np.concatenate(own, axis=1), lengths, expected)

    def drawn(
        self, weights: Float[np.ndarray, "draws people"]
    ) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
        """Return mean squares over columns, what noise makes of them, and their standard errors."""
        columns = self.lengths.shape[1]
        total, expected = weights @ self.lengths, weights @ self.expected
        known = total > 0
        per_square = np.divide(expected[:, None], total, out=np.zeros_like(total), where=known) ** 2 / columns
        apart = self.apart + (weights - 1) @ self.influence
        per_cell = np.tile(per_square, len(self.apart) // columns)
        scaled = apart * per_cell
        own = (apart * scaled).reshape(len(weights), -1, columns).sum(axis=1)
        squares = own.sum(axis=1)
        noise = ((weights @ self.influence**2) * per_cell).sum(axis=1)
        pulls = scaled @ self.influence.T
        pulls -= (pulls * weights).sum(axis=1, keepdims=True) / weights.sum(axis=1, keepdims=True)
        # Who is far out within makes deviations longer, and so everybody's differences smaller.
        pulls -= np.divide(own, total, out=np.zeros_like(total), where=known) @ self.lengths.T
        pulls += squares[:, None] * self.expected / expected[:, None]
        return squares, noise, 2 * np.sqrt((weights * pulls**2).sum(axis=1))


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
