import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medrep.simulate.geometry import capsule, ellipsoid, inside, paint


def at(x, y, z):
    return [np.full((1, 1, 1), value, dtype=np.float32) for value in (x, y, z)]


@given(x=st.floats(-50, 50), y=st.floats(-50, 50), z=st.floats(-50, 50))
def test_a_ball_is_an_ellipsoid_with_exact_distances(x, y, z):
    exact = np.linalg.norm([x - 1, y - 2, z - 3])
    assume(exact > 0.1)
    assert ellipsoid(at(x, y, z), (1, 2, 3), (9, 9, 9)).item() == pytest.approx(exact - 9, abs=1e-3)


def test_an_ellipsoid_is_zero_on_its_surface():
    assert ellipsoid(at(0, 7, 0), (0, 0, 0), (3, 7, 5)).item() == pytest.approx(0, abs=1e-5)


def test_a_capsule_measures_from_its_segment():
    assert capsule(at(5, 3, 0), (0, 0, 0), (10, 0, 0), 1.0).item() == pytest.approx(2)
    assert capsule(at(14, 3, 0), (0, 0, 0), (10, 0, 0), 1.0).item() == pytest.approx(4)


def test_half_a_voxel_lies_inside_at_the_surface():
    distance = np.array([[[-8.0, 0.0, 8.0]]], dtype=np.float32)
    np.testing.assert_allclose(inside(distance, 2.0), [[[1, 0.5, 0]]], atol=1e-6)
    np.testing.assert_allclose(paint(np.zeros_like(distance), inside(distance, 2.0), 80.0), [[[80, 40, 0]]], atol=1e-4)
