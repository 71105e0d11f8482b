"""Resampling people: percentile intervals that hold a participant's sessions together."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import norm, t

LEVEL = 0.95


def resampled_rows(
    people: int, draws: int, rng: np.random.Generator, groups: Shaped[np.ndarray, " people"] | None = None
) -> list[Int[np.ndarray, " rows"]]:
    """Return rows of bootstrap samples.

    Args:
        people: Number of rows.
        draws: Number of samples.
        rng: Of the draw.
        groups: Rows of one group (sessions of a participant) are drawn together; each row for itself by default.
    """
    if groups is None:
        return list(rng.integers(people, size=(draws, people)))
    _, codes = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(codes == code) for code in range(int(codes.max()) + 1)]
    drawn = rng.integers(len(members), size=(draws, len(members)))
    return [np.concatenate([members[code] for code in own]) for own in drawn]


def bootstrap(
    statistic: Callable[[Int[np.ndarray, " rows"]], float],
    people: int,
    draws: int,
    rng: np.random.Generator,
    groups: Shaped[np.ndarray, " people"] | None = None,
) -> Float[np.ndarray, " draws"]:
    """Return a statistic on resampled people; samples on which it is not defined (NaN) are left out."""
    values = np.array([statistic(rows) for rows in resampled_rows(people, draws, rng, groups)], dtype=float)
    return values[np.isfinite(values)]


def percentile_interval(values: Float[np.ndarray, " draws"], level: float = LEVEL) -> tuple[float, float]:
    """Return the interval that holds ``level`` of the draws; NaN where there are no draws."""
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def permutation_p(observed: float, null: Float[np.ndarray, " draws"]) -> float:
    """Return the share of a null at or above the observed value, the observed one counted in (never 0)."""
    return float((1 + np.count_nonzero(null >= observed - 1e-12)) / (1 + len(null)))


def random_halves(
    people: Shaped[np.ndarray, " people"], count: int, rng: np.random.Generator
) -> list[Int[np.ndarray, " rows"]]:
    """Return rows of random halves of participants, in order.

    The spread of a figure over them is its standard error on everybody (delete-half jackknife; Shao and Wu 1989), also where it
    is not smooth, or would take a person drawn twice for two.

    Args:
        people: Participant of each row.
        count: How many halves.
        rng: Of the draw.
    """
    _, codes = np.unique(people, return_inverse=True)
    size = int(codes.max(initial=-1)) + 1
    return [np.flatnonzero(rng.permutation(size)[codes] % 2 == 0) for _ in range(count)]


def jackknife_error(figures: Float[np.ndarray, " groups"], *, as_normal: bool = False) -> float:
    """Return the standard error of a figure by the delete-group jackknife; 0 where there is no second group.

    Args:
        figures: What it is without each of some groups of people of one size.
        as_normal: Larger, so that a normal interval is as long as that of Student's t with a degree of freedom fewer than groups.
    """
    groups = len(figures)
    if groups < 2:
        return 0.0
    tail = (1 + LEVEL) / 2
    longer = float(t.ppf(tail, groups - 1) / norm.ppf(tail)) if as_normal else 1.0
    return longer * float(np.sqrt((groups - 1) * np.var(figures)))
