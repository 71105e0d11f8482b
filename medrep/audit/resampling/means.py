"""A mean over participants as a finding: each counts once, and participants are what is resampled."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy.stats import beta

from medrep.audit.findings import Finding
from medrep.audit.resampling.intervals import LEVEL
from medrep.audit.resampling.relabelling import sample_weights
from medrep.audit.resampling.small_samples import share_interval, studentised_interval


def participant_means(
    values: Float[np.ndarray, " people"], participants: Shaped[np.ndarray, " people"]
) -> Float[np.ndarray, " participants"]:
    """Return the mean over each participant's rows, NaN left out; participants without a value are left out."""
    return pd.Series(values).groupby(np.asarray(participants).astype(str)).mean().dropna().to_numpy(float)


def mean_finding(
    metric: str,
    group: str,
    values: Float[np.ndarray, " people"],
    participants: Shaped[np.ndarray, " people"],
    seed: int,
    *,
    min_n: int,
    draws: int,
    note: str = "",
    p: float = float("nan"),
    share: bool = False,
) -> Finding:
    """Return a mean over participants, with its interval (`mean_interval`).

    Args:
        metric: Of the finding.
        group: Of the finding.
        values: One a row; NaN rows do not count.
        participants: Whose each row is; the mean of a participant's rows counts once.
        seed: Of the draws.
        min_n: With fewer participants the finding is ``insufficient``.
        draws: Bootstrap samples.
        note: Of the finding.
        p: Of the finding.
        share: Values lie in [0, 1], and most of them at its ends: the interval is that of a proportion (`share_interval`).
    """
    means = participant_means(values, participants)
    if len(means) < max(min_n, 2):
        few = f"{len(means)} participants, {min_n} are needed"
        return Finding(metric, group, len(means), status="insufficient", note="; ".join(filter(None, (few, note))))
    estimate = float(means.mean())
    if share:
        # A mean of zeros and ones is one of them, whatever a sum in another order rounds to.
        estimate = float(np.clip(estimate, 0.0, 1.0))
        rows = int(np.count_nonzero(np.isfinite(values)))
        low, high = share_interval(estimate, float(means.std()) / math.sqrt(len(means)), len(means), rows)
    else:
        low, high = mean_interval(means, draws, np.random.default_rng(seed))
    return Finding(metric, group, len(means), estimate, low, high, p, note=note)


def mean_interval(
    values: Float[np.ndarray, " participants"], draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the bootstrap-t interval of a mean (`studentised_interval`); no width where all values are the same.

    Args:
        values: One a participant, all finite.
        draws: Bootstrap samples.
        rng: Of these.
    """
    people, centre = len(values), float(values.mean())
    apart = values - centre
    spread = float((apart**2).mean())
    if math.sqrt(spread) <= 1e-12 * abs(centre):
        return centre, centre
    drawn = [weights @ np.stack([apart, apart**2], axis=1) for weights in sample_weights(np.arange(people), draws, rng)]
    first, second = np.concatenate(drawn).T / people
    # Less than rounding leaves of a sample in which all values are the same.
    left = second - first**2
    errors = np.sqrt(np.where(left > 1e-12 * spread, left, 0.0) / people)
    return studentised_interval(centre, math.sqrt(spread / people), centre + first, errors, people)


def exact_interval(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of Clopper and Pearson (1934) for a share."""
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    return low, 1.0 if hits == n else float(beta.ppf(1 - tail, hits + 1, n - hits))


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
