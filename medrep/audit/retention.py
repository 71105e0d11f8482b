"""Retention of differences between participants in an export: profiles, distances, variance.

The deviations are those of the people who are audited, so that whoever is far out in a column makes everybody's distances
shorter: of 20 people with lognormal columns, the mean of distances errs by half as much again as their spread says (ours). So a
mean of distances comes with what each participant does to it by way of deviations (the infinitesimal jackknife).

The mean over people is no mean of independent values: everybody is measured in deviations of the raw columns, and residuals are
those of one regression. With long tails, one person moves a column's deviation for all: of 20 people with lognormal columns, the
figures' spread alone makes a standard error of .050 where it is .064 (ours). So the interval is of the influence of each
participant (the infinitesimal jackknife; Efron and Tibshirani 1993, ch. 22): their own figure, and what they do to everybody's by
way of regression and deviations.

`identity_kept` asks whether a person's profile is still theirs; this asks each column by itself. What a removal is allowed to
do, shifting batches and bringing them to one scale, costs nothing here; leaving directions out, or blurring, does.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from medrep.audit.data import design_basis, drawn_columns, residual
from medrep.audit.finding import Finding
from medrep.audit.intervals import expanded_interval, participant_codes, sample_weights, studentised_interval
from medrep.audit.means import Sampling, mean_interval

_INFLUENCES = 2000  # columns that influences are of, drawn from more
_PAIRINGS = 10


@dataclass(frozen=True, eq=False)
class Apart:
    """How far people are from each other.

    Attributes:
        mean: The mean distance; NaN of one participant.
        own: What each of these adds to it, times how many they are.
        pulls: What each row that the ruler was made of adds to it, times how many they are (`Ruler.pulls`).
    """

    mean: float
    own: Float[np.ndarray, " people"]
    pulls: Float[np.ndarray, " rows"]


@dataclass(frozen=True, eq=False)
class Ruler:
    """Units and centres that distances are measured with.

    Attributes:
        scale: Standard deviation of each column used; infinity where it does not vary, so that it does not count.
        seed: Of the columns drawn from a wide table.
        beyond: Squared deviations less 1 of the rows it was made of, in some of the columns used (`some`).
        some: Places of these among the columns used.
    """

    scale: Float[np.ndarray, " columns"]
    seed: int
    beyond: Float[np.ndarray, "rows some"]
    some: Int[np.ndarray, " some"]

    @classmethod
    def of(cls, data: Float[np.ndarray, "people columns"], seed: int) -> "Ruler":
        """Measure in the deviations of these people; cells that are not finite are left out."""
        columns = drawn_columns(data, seed)
        known = np.isfinite(columns)
        counts = np.maximum(known.sum(axis=0), 1)
        filled = np.where(known, columns, 0.0)
        sd = np.sqrt(np.where(known, (filled - filled.sum(axis=0) / counts) ** 2, 0.0).sum(axis=0) / counts)
        size = np.maximum(np.abs(filled).max(axis=0, initial=0.0), 1e-300)
        scale = np.where(sd > 1e-9 * size, sd, np.inf)
        used = np.flatnonzero(np.isfinite(scale))
        some = np.arange(len(used))
        if len(some) > _INFLUENCES:
            some = np.sort(np.random.default_rng(seed).choice(len(some), _INFLUENCES, replace=False))
        own = used[some]
        beyond = (filled[:, own] - filled[:, own].sum(axis=0) / counts[own]) / scale[own]
        return cls(scale, seed, np.where(known[:, own], beyond**2 - 1, 0.0), some)

    def between(
        self, first: Float[np.ndarray, "people columns"], second: Float[np.ndarray, "people columns"]
    ) -> Float[np.ndarray, " people"]:
        """Return the distance of each row of the one from the same row of the other, over the columns that both have."""
        used = np.isfinite(self.scale)
        apart = np.abs(drawn_columns(first, self.seed) - drawn_columns(second, self.seed))[:, used] / self.scale[used]
        known = np.isfinite(apart)
        return np.where(known, apart, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)

    def pulls(
        self,
        first: Float[np.ndarray, "people columns"],
        second: Float[np.ndarray, "people columns"],
        judged: Bool[np.ndarray, " people"],
    ) -> Float[np.ndarray, " rows"]:
        """Return what each row the ruler was made of adds to the mean distance of some people, times rows: by deviations.

        With z its deviations and d the mean distances by column, -mean_j (z_j^2 - 1) d_j / 2.
        """
        if not judged.any():
            return np.zeros(len(self.beyond))
        own = np.flatnonzero(np.isfinite(self.scale))[self.some]
        one, other = (drawn_columns(table, self.seed)[:, own][judged] for table in (first, second))
        by_column = np.nan_to_num(np.abs(one - other) / self.scale[own]).mean(axis=0)
        return -(self.beyond @ by_column) / (2 * max(len(by_column), 1))

    def between_people(
        self, data: Float[np.ndarray, "people columns"], participants: Shaped[np.ndarray, " people"]
    ) -> "Apart":
        """Return the mean distance of different participants, over ten random pairings."""
        rng = np.random.default_rng(self.seed)
        sums, counts, pulls = np.zeros(len(data)), np.zeros(len(data)), np.zeros(len(self.beyond))
        for _ in range(_PAIRINGS):
            order = rng.permutation(len(data))
            differ = participants != participants[order]
            apart = np.where(differ, self.between(data, data[order]), 0.0)
            for one in (np.arange(len(data)), order):
                sums[one] += apart
                counts[one] += differ
            if differ.any():
                pulls += self.pulls(data, data[order], differ) / _PAIRINGS
        if not counts.any():
            return Apart(float("nan"), sums, pulls)
        mean = float(sums.sum() / counts.sum())
        return Apart(mean, 2 * (sums - mean * counts) / counts.mean(), pulls)


_AT_ONCE = 2000  # columns
_SHORT = 1e-9


@dataclass(frozen=True, eq=False)
class KeptProfiles:
    """Profiles of each row before and after.

    Attributes:
        before: Of length 1, centred over columns; zeros where a row has no profile.
        after: The same.
        own: Correlation of the two.
        influence: One a participant: what adding them does to the mean of participants' correlations, times participants.
    """

    before: Float[np.ndarray, "people columns"]
    after: Float[np.ndarray, "people columns"]
    own: Float[np.ndarray, " people"]
    influence: Float[np.ndarray, " participants"]

    @classmethod
    def of(
        cls,
        before: Float[np.ndarray, "people columns"],
        after: Float[np.ndarray, "people columns"],
        sd: Float[np.ndarray, " columns"],
        design: Float[np.ndarray, "people width"],
        participants: Shaped[np.ndarray, " people"],
    ) -> "KeptProfiles":
        """Compare residuals.

        Args:
            before: Raw residuals of the regression on ``design``.
            after: Exported ones.
            sd: Deviations of ``before``.
            design: `covariate_design`.
            participants: Whose each row is.
        """
        (u, u_length), (v, v_length) = (profiles(part / sd) for part in (before, after))
        own = (u * v).sum(axis=1)
        _, who, rows_each = np.unique(np.asarray(participants).astype(str), return_inverse=True, return_counts=True)
        count = len(rows_each)
        means = np.bincount(who, own) / rows_each
        weight = (1 / (count * rows_each[who]))[:, None]
        basis = design_basis(design)
        transformed = np.zeros(len(own))
        for first in range(0, len(sd), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            s, x, y = sd[some], before[:, some], after[:, some]
            # What own correlations gain where the columns of a row are moved, each over its deviation.
            by_x = weight * (v[:, some] - own[:, None] * u[:, some]) / u_length / s
            by_y = weight * (u[:, some] - own[:, None] * v[:, some]) / v_length / s
            by_sd = -(by_x * x + by_y * y).sum(axis=0) / s
            transformed += ((x**2 - s**2) / (2 * s * len(own))) @ by_sd
            transformed -= ((basis @ (basis.T @ by_x)) * x + (basis @ (basis.T @ by_y)) * y).sum(axis=1)
        influence = means - means.mean() + count * np.bincount(who, transformed)
        return cls(u, v, own, influence - influence.mean())

    def interval(self, estimate: float, draws: int, rng: np.random.Generator) -> tuple[float, float]:
        """Return the bootstrap-t interval of influences around the mean of participants' correlations, 1 at most.

        Not widened for few people, as that of a mean is: what a row adds through deviations is too long a tail already
        (of 20 people with normal columns the error is .031 for .027).
        """
        low, high = mean_interval(estimate + self.influence, draws, rng, widened=False)
        return low, min(high, 1.0)


def profiles(
    rows: Float[np.ndarray, "people columns"],
) -> tuple[Float[np.ndarray, "people columns"], Float[np.ndarray, "people 1"]]:
    """Return rows centred and brought to length 1, and the lengths; a row without any has zeros, and an infinite length."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    lengths = np.where(lengths > _SHORT, lengths, np.inf)
    return centred / lengths, lengths


_FEWEST_ROWS = 5  # of a batch level that has a deviation of its own


def variance_kept(
    raw: Float[np.ndarray, "people columns"],
    exported: Float[np.ndarray, "people columns"],
    design: Float[np.ndarray, "people width"],
    participants: Shaped[np.ndarray, " people"],
    batches: "Shaped[np.ndarray, ' people'] | None",
    sampling: Sampling,
) -> Finding:
    """Return the share of the variance between people that can be had back from the export, in the mean over columns.

    Both sides are residuals of the same regression on the covariates, in deviations of each batch level, as batches may be
    brought to one scale. Of a column it is the squared correlation; one that the export flattened counts 0.

    The interval is the wider of two of resampled participants, as that of repeats (`agreement_interval`): percentiles, and the
    bootstrap-t of draws moved so that their mean is the estimate, both expanded. It is of what so many people show: where
    tails are long, squared correlations of few people are lower on average than of many.

    Args:
        raw: As it was.
        exported: As it is handed out.
        design: `covariate_design`.
        participants: Whose each row is.
        batches: The batch level of each row; None: one for all.
        sampling: How the interval is drawn; its seed also draws columns.
    """
    seed, min_n, draws = sampling.seed, sampling.min_n, sampling.draws
    before, after = (residual(drawn_columns(table, seed), design) for table in (raw, exported))
    whole = np.isfinite(before).all(axis=0) & np.isfinite(after).all(axis=0)
    size = np.abs(drawn_columns(raw, seed)[:, whole]).max(axis=0, initial=0.0)
    varies = before[:, whole].std(axis=0) > 1e-9 * np.maximum(size, 1e-300)
    who = participant_codes(participants)
    people = len(np.unique(who))
    if not varies.any() or people < max(min_n, 2):
        few = f"{people} participants, {min_n} are needed; {varies.sum()} columns vary"
        return Finding("variance_kept", "exported", people, status="insufficient", note=few)
    levels = np.zeros(len(who), dtype=int) if batches is None else np.unique(batches, return_inverse=True)[1]
    x, y = (_in_deviations(part[:, whole][:, varies], levels) for part in (before, after))
    weights = np.concatenate([np.ones((1, len(who))), *sample_weights(who, draws, np.random.default_rng(seed))])
    shares, means, errors = _shares(x, y, who, weights)
    low, high = _interval(means, errors, people)
    note = f"squared correlation before and after, {varies.sum()} columns; in the middle column {np.median(shares):.2f}"
    return Finding("variance_kept", "exported", people, float(means[0]), low, high, note=note)


def _shares(
    x: Float[np.ndarray, "people columns"],
    y: Float[np.ndarray, "people columns"],
    who: Int[np.ndarray, " people"],
    weights: Float[np.ndarray, "draws people"],
) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """Return each column's share in the first draw, and the mean over columns of each draw with its standard error.

    The error is that of the delta method: of r2 = xy^2 / (x2 y2), a row with the products p, q and s adds
    2 xy p / (x2 y2) - r2 (q / x2 + s / y2), and a participant the sum of their rows.
    """
    count, (draws, rows) = x.shape[1], weights.shape
    shares, means, added = np.zeros(count), np.zeros(draws), np.zeros((draws, rows))
    for first in range(0, count, _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        products = x[:, some] * y[:, some], x[:, some] ** 2, y[:, some] ** 2
        both, before, after = (weights @ part for part in products)
        bottom = np.maximum(before * after, 1e-300)
        own = both**2 / bottom
        shares[some] = own[0]
        means += own.sum(axis=1) / count
        slopes = 2 * both / bottom, -own / np.maximum(before, 1e-300), -own / np.maximum(after, 1e-300)
        added += sum(slope @ part.T for slope, part in zip(slopes, products, strict=True)) / count
    _, firsts = np.unique(who, return_index=True)
    order = np.argsort(who, kind="stable")
    starts = np.searchsorted(who[order], np.arange(len(firsts)))
    of_people = np.add.reduceat(added[:, order], starts, axis=1)
    errors = np.sqrt((weights[:, firsts] * of_people**2).sum(axis=1))
    return shares, means, errors


def _interval(
    means: Float[np.ndarray, " draws"], errors: Float[np.ndarray, " draws"], people: int
) -> tuple[float, float]:
    """Return the interval of the first draw, everybody, from the others."""
    estimate, drawn = float(means[0]), means[1:]
    low, high = expanded_interval(drawn, people)
    ends = studentised_interval(estimate, float(errors[0]), drawn - drawn.mean() + estimate, errors[1:], people)
    return max(min(low, ends[0]), 0.0), min(max(high, ends[1]), 1.0)


def _in_deviations(rows: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return columns over their deviation within each level; a level of fewer than `_FEWEST_ROWS` gets that of everybody."""
    everybody = np.sqrt((rows**2).mean(axis=0))
    sd = np.tile(everybody, (len(rows), 1))
    for level in np.unique(levels):
        own = levels == level
        if own.sum() >= _FEWEST_ROWS:
            sd[own] = np.sqrt((rows[own] ** 2).mean(axis=0))
    return np.divide(rows, sd, out=np.zeros_like(rows), where=sd > 1e-9 * np.maximum(everybody, 1e-300))
