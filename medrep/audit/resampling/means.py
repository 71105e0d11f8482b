"""A mean over participants as a finding: each counts once, and participants are what is resampled."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy.stats import beta

from medrep.audit.findings import Finding
from medrep.audit.resampling.intervals import LEVEL, bootstrap, percentile_interval


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
    """Return a mean over participants, with a percentile interval of resampled participants.

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
        share: Values lie in [0, 1]; where all are at one end, which resampling takes for certainty, the interval is the
            exact one of Clopper and Pearson (1934).
    """
    means = participant_means(values, participants)
    if len(means) < max(min_n, 2):
        few = f"{len(means)} participants, {min_n} are needed"
        return Finding(metric, group, len(means), status="insufficient", note="; ".join(filter(None, (few, note))))
    estimate = float(means.mean())
    low, high = percentile_interval(
        bootstrap(lambda rows: float(means[rows].mean()), len(means), draws, np.random.default_rng(seed))
    )
    if share and (np.all(means == 0) or np.all(means == 1)):
        low, high = exact_interval(round(estimate * len(means)), len(means))
    return Finding(metric, group, len(means), estimate, low, high, p, note=note)


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
