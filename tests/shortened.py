"""Tests that `make test` shortens, by seeds or epochs; ``python -m benchmarks --only whole_tests`` runs them whole."""

import os

from scipy.stats import binom

WHOLE = "MEDREP_WHOLE_TESTS"
"""Set to anything to shorten nothing."""


def whole() -> bool:
    """Whether nothing is to be shortened."""
    return bool(os.environ.get(WHOLE))


def seeds(count: int) -> range:
    """Return the seeds 0, 1, ... that a statistic is taken over: a fifth of them where it is shortened."""
    return range(count if whole() else max(count // 5, 8))


def at_most(count: int, share: float, level: float = 0.999) -> float:
    """How many of a count that each have a chance there will be at most, at a level."""
    return float(binom.ppf(level, count, share))
