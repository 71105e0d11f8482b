"""A mean over participants as a finding: each counts once, and participants are what is resampled."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from medrep.audit.finding import Finding
from medrep.audit.intervals import Z, change_interval, sample_weights, share_interval, studentised_interval

_FARTHEST = 1.5  # on the scale of a logarithm


def participant_means(
    values: Float[np.ndarray, " people"], participants: Shaped[np.ndarray, " people"]
) -> Float[np.ndarray, " participants"]:
    """Return the mean over each participant's rows, NaN left out; participants without a value are left out."""
    return pd.Series(values).groupby(np.asarray(participants).astype(str)).mean().dropna().to_numpy(float)


@dataclass(frozen=True)
class Sampling:
    """How a figure of participants gets its interval.

    Attributes:
        seed: Of the draws.
        min_n: With fewer participants the finding is ``insufficient``.
        draws: Bootstrap samples.
    """

    seed: int = 0
    min_n: int = 20
    draws: int = 1000


def mean_finding(
    about: Finding,
    values: Float[np.ndarray, " people"],
    participants: Shaped[np.ndarray, " people"],
    sampling: Sampling,
    *,
    values_are: Literal["numbers", "shares", "changes"] = "numbers",
    beside: float = 0.0,
) -> Finding:
    """Return a mean over participants, with its interval (`mean_interval`).

    Args:
        about: Metric, group, p and note of the finding; the rest of it is filled in.
        values: One a row; NaN rows do not count.
        participants: Whose each row is; the mean of a participant's rows counts once.
        sampling: How the interval is drawn.
        values_are: What the interval is for: numbers have that of a mean (`mean_interval`); shares, in [0, 1] and mostly at
            its ends, that of a proportion (`share_interval`); changes of such shares that of a paired difference
            (`change_interval`).
        beside: A standard error that comes on top, of a number or a share: of what all values have in common.
    """
    means = participant_means(values, participants)
    if len(means) < max(sampling.min_n, 2):
        few = f"{len(means)} participants, {sampling.min_n} are needed"
        note = "; ".join(filter(None, (few, about.note)))
        return Finding(about.metric, about.group, len(means), status="insufficient", note=note)
    estimate = float(means.mean())
    if values_are == "shares":
        low, high = share_of(means, int(np.count_nonzero(np.isfinite(values))), beside)
    elif values_are == "changes":
        low, high = change_interval(estimate, float((means**2).mean()), len(means))
    else:
        low, high = mean_interval(
            means,
            sampling.draws,
            np.random.default_rng(sampling.seed),
            beside=beside,
            positive=bool((means >= 0).all()),
        )
    return replace(about, n=len(means), estimate=estimate, ci_low=low, ci_high=high)


def mean_interval(
    values: Float[np.ndarray, " participants"],
    draws: int,
    rng: np.random.Generator,
    *,
    widened: bool = True,
    beside: float = 0.0,
    positive: bool = False,
) -> tuple[float, float]:
    """Return the bootstrap-t interval of a mean (`studentised_interval`); no width where all values are the same.

    Args:
        values: One a participant, all finite.
        draws: Bootstrap samples.
        rng: Of these.
        widened: For few people.
        beside: A standard error that comes on top.
        positive: No value is ever below 0.
    """
    alone = np.column_stack([values, np.full(len(values), np.nan)])
    return difference_interval(alone, draws, rng, widened=widened, beside=beside, positive=positive)


def difference_interval(
    values: Float[np.ndarray, "participants 2"],
    draws: int,
    rng: np.random.Generator,
    *,
    widened: bool = True,
    beside: float = 0.0,
    positive: bool = False,
) -> tuple[float, float]:
    """Return the bootstrap-t interval of a difference of means, of the first column less the second.

    Args:
        values: One a participant and column, NaN where there is none: columns may share participants or not. A column without
            any value counts as 0.
        draws: Bootstrap samples of participants.
        rng: Of these.
        widened: For few people.
        beside: A standard error that comes on top: on each side, its end is joined by the root of squares.
        positive: The difference is that of something never below 0, whose ``beside`` is one on the scale of its logarithm.
    """
    people, known = len(values), np.isfinite(values)
    counts = known.sum(axis=0)
    centre = np.divide(np.where(known, values, 0.0).sum(axis=0), counts, out=np.zeros(2), where=counts > 0)
    apart, there = np.where(known, values - centre, 0.0), known.astype(float)
    scale = np.divide(1.0, counts, out=np.zeros(2), where=counts > 0)
    estimate, error = (
        float(centre[0] - centre[1]),
        float(np.sqrt(((apart * scale) @ [1.0, -1.0]) ** 2 @ np.ones(people))),
    )
    below, above = _ends_beside(estimate, beside, positive=positive)
    if error <= 1e-12 * float(np.abs(centre).max()):
        return below, above
    means, errors = [], []
    both = there.prod(axis=1)
    parts = np.column_stack([there, apart, apart**2, apart.prod(axis=1), both, apart * both[:, None]])
    for weights in sample_weights(np.arange(people), draws, rng):
        n, first, second, cross, shared, first_shared = np.split(weights @ parts, [2, 4, 6, 7, 8], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(counts > 0, first / n, 0.0)
            own = np.where(counts > 0, (second - mean**2 * n) / n**2, 0.0)
            # Of participants in both columns: what these share is no error of the difference.
            common = cross[:, 0] - (mean[:, ::-1] * first_shared).sum(axis=1) + mean.prod(axis=1) * shared[:, 0]
            variance = own.sum(axis=1) - np.where(shared[:, 0] > 0, 2 * common / n.prod(axis=1), 0.0)
        means.append(mean @ [1.0, -1.0])
        # Less than rounding leaves of a sample in which all values are the same.
        errors.append(np.sqrt(np.where(variance > 1e-12 * error**2, variance, 0.0)))
    drawn, spread = np.concatenate(means), np.concatenate(errors)
    defined = np.isfinite(drawn)
    smaller = int(counts[counts > 0].min())
    low, high = studentised_interval(
        estimate, error, estimate + drawn[defined], spread[defined], smaller, widened=widened
    )
    if not beside > 0:
        return low, high
    low, high = (
        estimate - math.hypot(estimate - low, estimate - below),
        estimate + math.hypot(high - estimate, above - estimate),
    )
    return max(low, 0.0) if positive else low, high


def _ends_beside(estimate: float, error: float, *, positive: bool) -> tuple[float, float]:
    """Return the normal interval, joined with that of the logarithm, whose upper end is kept from running away."""
    low, high = estimate - Z * error, estimate + Z * error
    if not (positive and estimate > 0):
        return low, high
    return max(low, 0.0), max(high, estimate * math.exp(min(Z * error / estimate, _FARTHEST)))


def share_of(means: Float[np.ndarray, " participants"], rows: int, beside: float = 0.0) -> tuple[float, float]:
    """Return the interval of a share (`share_interval`) that is the mean of participants' shares.

    Args:
        means: One a participant, in [0, 1].
        rows: Of all participants.
        beside: A standard error that comes on top.
    """
    # A mean of zeros and ones is one of them, whatever a sum in another order rounds to.
    share, people = float(np.clip(means.mean(), 0.0, 1.0)), float(len(means))
    error = math.hypot(float(means.std()) / math.sqrt(people), beside)
    if share in (0.0, 1.0):
        # As many people as have this error a little off the end: two people more (Agresti and Coull 1998), and the error itself.
        off = min(2 / (people + 4) + beside, 0.5)
        people /= 1 + people * beside**2 / (off * (1 - off))
    return share_interval(share, error, people, rows)


def shuffled_participants(
    participants: Shaped[np.ndarray, " people"], count: int, rng: np.random.Generator
) -> Iterator[Int[np.ndarray, " people"]]:
    """Give row orders that exchange participants: all rows of one take the place of all rows of another.

    Participants with as many rows as each other are exchanged, their rows in order; one whose number of rows nobody shares
    stays where they are.

    Args:
        participants: Whose each row is.
        count: How many orders.
        rng: Of the draw.
    """
    _, codes, sizes = np.unique(np.asarray(participants).astype(str), return_inverse=True, return_counts=True)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    blocks = [np.stack([members[k] for k in np.flatnonzero(sizes == size)]) for size in np.unique(sizes)]
    for _ in range(count):
        order = np.empty(len(codes), dtype=np.int64)
        for block in blocks:
            order[block] = block[rng.permutation(len(block))]
        yield order
