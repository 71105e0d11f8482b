"""Statistics over many seeds: tests take a fifth of the seeds, ``python -m benchmarks --only many_seeds`` takes all."""

import os

from scipy.stats import binom

ALL = "MEDREP_ALL_SEEDS"
"""Set to anything to take all."""


def seeds(count: int) -> range:
    """Return the seeds 0, 1, ... that a statistic is taken over."""
    return range(count if os.environ.get(ALL) else max(count // 5, 8))


def at_most(count: int, share: float, level: float = 0.999) -> float:
    """How many of a count that each have a chance there will be at most, at a level."""
    return float(binom.ppf(level, count, share))
