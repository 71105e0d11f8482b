"""What is left of differences between people: all of it after a proper removal, little after a gutting one."""

import numpy as np
import pytest

from medrep.audit.retention import variance_kept

PEOPLE = 80
WHO = np.arange(PEOPLE).astype(str)
SITE = np.array(["A", "B"] * (PEOPLE // 2), dtype=object)
ONE = np.ones((PEOPLE, 1))


def data(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(PEOPLE, 3)) @ rng.normal(size=(3, 12)) + rng.normal(size=(PEOPLE, 12))


def kept(raw: np.ndarray, exported: np.ndarray, **options: object):
    return variance_kept(raw, exported, ONE, WHO, 0, SITE, draws=200, **options)


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
