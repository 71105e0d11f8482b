import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from medrep.cohort.grid import Grid, world_rows
from medrep.cohort.transforms import least_shared, resampled


def box(shape, affine):
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return Grid(shape, (float(x), float(y), float(z)), world_rows(affine))


@st.composite
def affines(draw):
    turn = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 99))).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(draw(st.tuples(*[st.sampled_from([0.8, 1.0, 2.0])] * 3)))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-2, 2)] * 3))
    return affine


@given(affines(), affines())
def test_a_voxel_is_looked_up_where_it_lies_in_the_world(one, other):
    data = np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32)
    source, target = box((5, 6, 4), one), box((3, 4, 5), other)
    found = resampled(data[None], source, target, outside="border")[0]
    points = np.indices(target.shape).reshape(3, -1)
    turn = np.linalg.inv(one) @ other
    expected = map_coordinates(data, turn[:3, :3] @ points + turn[:3, 3:], order=1, mode="nearest")
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)


@given(st.tuples(*[st.integers(-3, 3)] * 3))
def test_a_shift_by_whole_voxels_mixes_nothing(steps):
    data = np.random.default_rng(0).normal(size=(6, 6, 6)).astype(np.float32)
    data[2, 3, 4] = np.nan
    shifted = np.diag([2.0, 1.0, 1.5, 1.0])
    home = shifted.copy()
    shifted[:3, 3] = np.asarray(steps) * [2.0, 1.0, 1.5]
    found = resampled(data[None], box((6, 6, 6), home), box((6, 6, 6), shifted), outside="zero")[0]
    for index in np.ndindex(6, 6, 6):
        there = np.add(index, steps)
        inside = ((there >= 0) & (there < 6)).all()
        np.testing.assert_equal(found[index].item(), data[tuple(there)].item() if inside else 0.0)


@pytest.mark.parametrize(
    ("shift", "edge", "shared"), [(0, 1.0, 1.0), (5, 1.0, 0.5), (20, 1.0, 0.0), (0, 3.0, 1.0), (-40, 3.0, 0.0)]
)
def test_what_two_boxes_share_is_a_part_of_the_smaller(shift, edge, shared):
    other = np.diag([edge, edge, edge, 1.0])
    other[0, 3] = shift
    one, two = box((10, 10, 10), np.eye(4)), box((10, 10, 10), other)
    assert least_shared(one, two) == pytest.approx(shared, abs=0.05)
    assert least_shared(two, one) == pytest.approx(shared, abs=0.08)
