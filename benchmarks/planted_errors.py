"""Errors with tails of several lengths, and what an interval should hold: shared by the benchmarks of coverage."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medrep.audit.finding import Finding

Errors = Callable[[np.random.Generator, "int | tuple[int, ...]"], np.ndarray]
ERRORS: dict[str, Errors] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "lognormal": lambda rng, size: (rng.lognormal(size=size) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e),
    "chi-square 1": lambda rng, size: (rng.chisquare(1, size) - 1) / math.sqrt(2),
    "chi-square 3": lambda rng, size: (rng.chisquare(3, size) - 3) / math.sqrt(6),
}
"""Mean 0 and sd 1; lognormal with sigma 1, chi-square with 1 and 3 degrees of freedom."""


@dataclass(frozen=True)
class Held:
    """One interval and what it should hold.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        truth: What was planted; NaN where no formula gives it: then it is the mean of estimates over seeds.
        estimate: What was found.
    """

    low: float
    high: float
    truth: float
    estimate: float = math.nan


def held(finding: Finding, truth: float = math.nan) -> Held:
    """Return the interval of a finding, and what it should hold."""
    return Held(finding.ci_low, finding.ci_high, truth, finding.estimate)


Draw = Callable[[np.random.Generator, int, Errors, int], list[tuple[str, Held]]]
"""Draws people (how many) with errors of a kind, with a seed for what is resampled, and returns intervals by name."""
