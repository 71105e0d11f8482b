"""Superimposition: poses come back, nobody is mirrored, and the consensus is where people are in the mean."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cohort.procrustes import consensus_of, superimposed
from medrep.errors import CohortError
from tests.point_cohorts import rotation, turned


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 3]), st.floats(0.2, 5.0))
def test_a_moved_turned_and_scaled_shape_comes_back(seed: int, dims: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    shape = rng.normal(size=(7, dims))
    moved = scale * shape @ rotation(rng, dims, 3.0) + rng.normal(size=dims) * 10
    pose = superimposed(moved, shape, "similarity")
    np.testing.assert_allclose(pose.apply(moved), shape, atol=1e-9)
    assert pose.scale == pytest.approx(1 / scale)
    assert np.linalg.det(pose.turn) == pytest.approx(1)
    change = rng.normal(size=shape.shape)
    np.testing.assert_allclose(pose.apply(moved + pose.back(change)), shape + change, atol=1e-9)
    np.testing.assert_array_equal(pose.back(np.zeros_like(shape)), 0)


def test_rigid_keeps_size_centre_keeps_turn_and_none_keeps_all() -> None:
    rng = np.random.default_rng(1)
    shape = rng.normal(size=(9, 3))
    moved = 2 * shape @ rotation(rng, 3, 1.0) + 5
    assert superimposed(moved, shape, "rigid").scale == 1.0
    middle = shape.mean(axis=0)
    np.testing.assert_allclose(
        superimposed(moved, shape, "rigid").apply(moved) - middle, 2 * (shape - middle), atol=1e-9
    )
    np.testing.assert_array_equal(superimposed(moved, shape, "centre").turn, np.eye(3))
    np.testing.assert_array_equal(superimposed(moved, shape, "none").apply(moved), moved)


def test_nobody_is_mirrored() -> None:
    rng = np.random.default_rng(2)
    shape = rng.normal(size=(8, 3))
    pose = superimposed(shape * [-1, 1, 1], shape, "similarity")
    assert np.linalg.det(pose.turn) == pytest.approx(1)
    assert np.abs(pose.apply(shape * [-1, 1, 1]) - shape).max() > 0.1


@pytest.mark.parametrize("how", ["centre", "rigid", "similarity"])
def test_the_consensus_is_the_shape_as_people_lie_and_are_large_in_the_mean(how: str) -> None:
    rng = np.random.default_rng(3)
    shape = rng.normal(size=(10, 3)) * 10
    shape -= shape.mean(axis=0)
    most = 0.0 if how == "centre" else 0.3
    people = [turned(shape + rng.normal(size=shape.shape) * 0.2, rng, most) for _ in range(80)]
    found = consensus_of(people, how)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-9)
    assert np.sqrt((found**2).sum() / (shape**2).sum()) == pytest.approx(1, abs=0.02)
    assert np.abs(found - shape).max() < 1.5  # turned as people are in the mean, not as the first of them


def test_a_missing_point_is_not_looked_at() -> None:
    rng = np.random.default_rng(4)
    shape = rng.normal(size=(8, 3))
    moved = turned(shape, rng)
    moved[2] = np.nan
    aligned = superimposed(moved, shape, "rigid").apply(moved)
    assert np.isnan(aligned[2]).all()
    np.testing.assert_allclose(np.delete(aligned, 2, 0), np.delete(shape, 2, 0), atol=1e-9)
    consensus = consensus_of([moved, *(turned(shape, rng) for _ in range(4))], "rigid")
    assert np.isfinite(consensus).all()


def test_what_cannot_be_superimposed_is_said() -> None:
    shape = np.random.default_rng(5).normal(size=(6, 3))
    with pytest.raises(CohortError, match="one place"):
        superimposed(np.ones((6, 3)), shape, "rigid")
    few = shape.copy()
    few[1:4] = np.nan
    with pytest.raises(CohortError, match="3 points are known"):
        superimposed(few, shape, "rigid")
    with pytest.raises(CohortError, match="nobody has all points"):
        consensus_of([few, few], "rigid")
