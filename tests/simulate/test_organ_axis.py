import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.nifti import LabelMap
from medrep.simulate.shape_effects import OrganAxis, organ_axis, scale_front, unscale_front

LINE = np.array([[1.0, -2.0], [0.5, 3.0], [4.0, 5.0]])
AXIS = OrganAxis(np.array([4.0, 1.0, 5.0]), 2.0, 10.0, LINE)


@given(st.floats(0.42, 1.3), st.floats(0.9, 1.1))
def test_unscaling_undoes_scaling(factor, larger):
    points = np.random.default_rng(0).uniform(-25, 25, (200, 3))
    transformed = scale_front(AXIS, factor, larger, points)
    np.testing.assert_allclose(unscale_front(AXIS, factor, larger, transformed), points, atol=1e-8)
    np.testing.assert_allclose(scale_front(AXIS, factor, larger, unscale_front(AXIS, factor, larger, points)), points)


def test_scaling_is_its_formula():
    t = np.array([-0.5, 0.5, 1.0, 1.5])
    k = 1 - 0.2 * np.array([0, 0.5, 1, 1])
    line, moved_line = (np.stack([place**2, place, 1 + 0 * place], axis=1) @ LINE for place in (t, k * t))
    points = np.stack([line[:, 0] + 3, 2 + 10 * t, line[:, 1] - 1], axis=1)
    expected = np.stack([moved_line[:, 0] + 3 * k, 2 + 10 * k * t, moved_line[:, 1] - k], axis=1)
    np.testing.assert_allclose(scale_front(AXIS, 0.8, 1.0, points), expected)
    centre = AXIS.centroid
    np.testing.assert_allclose(scale_front(AXIS, 0.8, 1.04, points), centre + 1.04 * (expected - centre))


def test_the_axis_of_a_bent_rod_is_found():
    data = np.zeros((30, 41, 30), np.int32)
    y = np.arange(41)
    x, z = np.rint(10 + (y - 20) ** 2 / 50).astype(int), np.rint(15 - (y - 20) / 5).astype(int)
    for dx in (-1, 0, 1):
        for dz in (-1, 0, 1):
            data[x + dx, y, z + dz] = 1
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    axis = organ_axis(LabelMap(data, affine))
    assert (axis.middle, axis.length) == (40.0, 40.0)
    np.testing.assert_allclose(axis.line, [[16, 0], [0, -8], [20, 30]], atol=0.7)
    assert axis.centroid[1] == pytest.approx(40.0)
