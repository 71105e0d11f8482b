"""What people do to everybody's distances is the derivative of the mean distance by how much a person weighs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.audit.retention import Ruler


def mean_distance(data: np.ndarray, other: np.ndarray, weights: np.ndarray, judged: np.ndarray) -> float:
    """Return the mean distance where the deviations are those of weighted people."""
    share = weights / weights.sum()
    sd = np.sqrt(share @ (data - share @ data) ** 2)
    return float((np.abs(other - data) / sd)[judged].mean())


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_a_pull_is_the_derivative_by_a_persons_weight(seed):
    rng = np.random.default_rng(seed)
    data = rng.lognormal(size=(30, 4))
    other, judged = data + rng.normal(size=data.shape), np.arange(30) < 12
    pulls = Ruler.of(data, 0).pulls(other, data, judged)
    for row in range(3):
        heavier, lighter = np.ones(30), np.ones(30)
        heavier[row] += 1e-5
        lighter[row] -= 1e-5
        by_weight = mean_distance(data, other, heavier, judged) - mean_distance(data, other, lighter, judged)
        assert pulls[row] / 30 == pytest.approx(by_weight / 2e-5, rel=1e-4, abs=1e-8)
    assert pulls.sum() == pytest.approx(0, abs=1e-9)


def test_nobody_judged_and_nobody_apart():
    data = np.random.default_rng(0).normal(size=(6, 3))
    ruler = Ruler.of(data, 0)
    assert not ruler.pulls(data, data, np.zeros(6, dtype=bool)).any()
    alone = ruler.between_people(data, np.zeros(6))
    assert np.isnan(alone.mean)
    assert not alone.own.any()


def test_the_far_are_further_from_others():
    data = np.random.default_rng(1).normal(size=(60, 5))
    data[0] = 9.0
    apart = Ruler.of(data, 0).between_people(data, np.arange(60))
    assert apart.own.argmax() == 0
    assert apart.own.sum() == pytest.approx(0, abs=1e-9)
