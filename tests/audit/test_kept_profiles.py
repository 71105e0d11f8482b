"""Influences of participants on kept profiles: the derivative they are, and what they make of the interval."""

import numpy as np
import pytest
from jaxtyping import Float

from medrep.audit.data import residual
from medrep.audit.identity import identity_kept
from medrep.audit.retention import KeptProfiles, profiles

WHO = np.array([f"s{k:02d}" for k in np.repeat(np.arange(16), [2] * 8 + [1] * 8)])


def _mean(
    weights: Float[np.ndarray, " participants"],
    raw: Float[np.ndarray, "rows columns"],
    exported: Float[np.ndarray, "rows columns"],
    design: Float[np.ndarray, "rows width"],
) -> float:
    codes = np.unique(WHO, return_inverse=True)[1]
    rows = weights[codes][:, None]
    left = [t - design @ np.linalg.lstsq(rows**0.5 * design, rows**0.5 * t, rcond=None)[0] for t in (raw, exported)]
    sd = np.sqrt((rows * left[0] ** 2).sum(axis=0) / rows.sum())
    own = (profiles(left[0] / sd)[0] * profiles(left[1] / sd)[0]).sum(axis=1)
    return float(weights @ (np.bincount(codes, own) / np.bincount(codes)) / weights.sum())


@pytest.mark.parametrize("noise", [0.1, 1.0, 10.0])
def test_an_influence_is_the_derivative_by_the_participants_weight(noise: float) -> None:
    """Of participants with one row and with two, and of a design with an aliased column."""
    rng, codes = np.random.default_rng(3), np.unique(WHO, return_inverse=True)[1]
    raw = rng.normal(size=(24, 7))
    exported = raw + noise * rng.normal(size=raw.shape)
    design = np.column_stack([np.ones(24), rng.normal(size=24), codes % 2, 1 - codes % 2]).astype(float)
    before, after = residual(raw, design), residual(exported, design)
    found = KeptProfiles.of(before, after, before.std(axis=0), design, WHO).influence
    step, ones = 1e-4, np.ones(16)
    numeric = [
        (_mean(ones + step * own, raw, exported, design) - _mean(ones - step * own, raw, exported, design)) / step * 8
        for own in np.eye(16)
    ]
    assert found == pytest.approx(numeric, abs=1e-5)


def test_an_error_counts_deviations_that_a_long_tail_moves() -> None:
    """A person far out in every column moves everybody: the interval is wider than that of their correlations alone."""
    rng = np.random.default_rng(4)
    raw = rng.lognormal(size=(20, 15))
    exported = 0.8 * raw + 1.2 * rng.lognormal(size=raw.shape)
    before, after = (table - table.mean(axis=0) for table in (raw, exported))
    found = KeptProfiles.of(before, after, before.std(axis=0), np.ones((20, 1)), np.arange(20))
    assert found.influence.std() > 1.1 * found.own.std()
    row = identity_kept(raw, exported, np.ones((20, 1)), np.arange(20), 0, min_n=10, draws=200)
    assert row.ci_low < row.estimate < row.ci_high <= 1


def test_a_row_without_a_profile_has_a_finite_influence() -> None:
    """A person whose columns are all at the mean, before or after."""
    rng = np.random.default_rng(5)
    raw = rng.normal(size=(12, 5))
    raw[0] = raw[1:].mean(axis=0)
    raw[1] = -raw[2:].sum(axis=0) + 11 * raw[0]
    before = raw - raw.mean(axis=0)
    after = before.copy()
    after[3] = 0
    found = KeptProfiles.of(before, after, before.std(axis=0), np.ones((12, 1)), np.arange(12))
    assert np.isfinite(found.influence).all()
    assert found.own[3] == 0
