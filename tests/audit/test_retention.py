"""What is left of differences between people: all of it after a proper removal, little after a gutting one."""

import numpy as np
import pytest

from medrep.audit.means import Sampling
from medrep.audit.retention import variance_kept

PEOPLE = 80
WHO = np.arange(PEOPLE).astype(str)
SITE = np.array(["A", "B"] * (PEOPLE // 2), dtype=object)
ONE = np.ones((PEOPLE, 1))


def data(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(PEOPLE, 3)) @ rng.normal(size=(3, 12)) + rng.normal(size=(PEOPLE, 12))


def kept(raw: np.ndarray, exported: np.ndarray, **options: object):
    return variance_kept(raw, exported, ONE, WHO, SITE, Sampling(0, **{"draws": 200, **options}))


def test_shifts_and_scales_of_batches_cost_nothing():
    raw = data()
    noisy = np.where((SITE == "B")[:, None], 30 * (raw - raw[SITE == "B"].mean(axis=0)), raw)
    found = kept(noisy, raw - raw[SITE == "B"].mean(axis=0))
    assert found.estimate > 0.95
    assert kept(raw, raw).estimate == pytest.approx(1)


@pytest.mark.parametrize("left", [1, 3, 12])
def test_what_is_left_of_a_few_directions_is_what_is_found(left):
    raw = data() - data().mean(axis=0)
    axes = np.linalg.svd(raw, full_matrices=False)[2][:left]
    gutted = raw @ axes.T @ axes
    share = float((gutted.var(axis=0) / raw.var(axis=0)).mean())
    found = kept(raw, gutted)
    assert found.estimate == pytest.approx(share, abs=0.05)
    assert found.ci_low <= found.estimate <= found.ci_high


def test_a_flattened_column_counts_as_lost_and_one_that_never_varied_does_not_count():
    raw = np.concatenate([data(), np.full((PEOPLE, 1), 7.0)], axis=1)
    exported = raw.copy()
    exported[:, :6] = 0.0
    assert kept(raw, exported).estimate == pytest.approx(0.5)


def test_few_people_say_nothing():
    assert kept(data(), data(), min_n=PEOPLE + 1).status == "insufficient"


@pytest.mark.parametrize("visits", [2, 3])
def test_visits_that_say_the_same_make_nothing_surer(visits):
    raw = data()
    exported = raw + 0.7 * np.random.default_rng(1).normal(size=raw.shape)
    once = kept(raw, exported)
    rows = np.repeat(np.arange(PEOPLE), visits)
    more = variance_kept(raw[rows], exported[rows], ONE[rows], WHO[rows], SITE[rows], Sampling(0, draws=200))
    assert (more.ci_low, more.estimate, more.ci_high) == pytest.approx((once.ci_low, once.estimate, once.ci_high))


def test_an_interval_is_as_wide_as_estimates_are_spread_where_tails_are_long():
    """Percentiles alone are as wide as 1.1 of their deviations, for two that are asked."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        raw = rng.lognormal(size=(20, 15))
        exported = 0.8 * raw + 0.6 * rng.lognormal(size=raw.shape)
        found.append(variance_kept(raw, exported, np.ones((20, 1)), np.arange(20), None, Sampling(seed, draws=200)))
    half = np.mean([(row.ci_high - row.ci_low) / 2 for row in found])
    assert half > 1.3 * np.std([row.estimate for row in found])
    assert all(0 <= row.ci_low <= row.estimate <= row.ci_high <= 1 for row in found)
