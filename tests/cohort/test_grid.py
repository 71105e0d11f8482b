import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep._persisted import to_json
from medrep._structuring import from_json
from medrep.cohort.grid import SAME_PLACE, Grid, corner_distance, grid_problem, world_rows

SHAPE, EDGES = (10, 12, 9), (2.0, 2.0, 3.0)
HOME = np.diag([*EDGES, 1.0])


def grid(affine=HOME, shape=SHAPE):
    return Grid(shape, EDGES, world_rows(affine))


def transformed(shift=(0, 0, 0), degrees=0.0):
    turn, angle = np.eye(4), np.radians(degrees)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = shift
    return turn @ HOME


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3), st.floats(-30, 30))
def test_what_was_written_is_read_again_and_is_in_the_same_place(shift, degrees):
    own = grid(transformed(shift, degrees))
    again = from_json(Grid, to_json(own))
    assert again == own
    assert grid_problem(again, own) == ""
    np.testing.assert_array_equal(again.affine(), transformed(shift, degrees))


def test_a_grid_without_a_place_is_written_as_ever_and_compared_by_its_voxels_alone():
    old = Grid(SHAPE, EDGES)
    assert to_json(old) == {"shape": [10, 12, 9], "spacing": [2.0, 2.0, 3.0]}
    assert from_json(Grid, {"shape": [10, 12, 9], "spacing": [2, 2, 3]}) == old
    assert grid_problem(grid(transformed((500, 0, 0))), old) == "" == grid_problem(old, grid())
    np.testing.assert_allclose(old.affine() @ [4.5, 5.5, 4, 1], [0, 0, 0, 1])
    np.testing.assert_allclose(grid().affine((1.0, 2.0, 3.0)) @ [4.5, 5.5, 4, 1], [1, 2, 3, 1])


@pytest.mark.parametrize(
    ("affine", "told"),
    [
        (
            transformed((10, 0, 0)),
            r"by up to 10 mm in the world \(its middle 10 mm away, its axes turned by 0 degrees\)",
        ),
        (transformed((0, -0.6, 0)), "by up to 0.6 mm"),
        (transformed(degrees=25), r"its axes turned by 25 degrees\)"),
        (transformed((0, 0, 1000), 3), r"its middle 1e\+03 mm away, its axes turned by 3 degrees"),
    ],
)
def test_grids_apart_are_told_with_how(affine, told):
    problem = grid_problem(grid(affine), grid())
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(problem)
    assert problem.startswith("lies apart from the common grid")


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.floats(-3, 3))
def test_no_voxel_lies_further_apart_than_the_corners(shift, degrees):
    other = transformed(shift, degrees)
    index = np.array([*np.ndindex(*SHAPE)])
    far = np.linalg.norm(index @ (other - HOME)[:3, :3].T + (other - HOME)[:3, 3], axis=1).max()
    assert corner_distance(other, HOME, SHAPE) == pytest.approx(far)
    assert bool(grid_problem(grid(other), grid())) == (corner_distance(other, HOME, SHAPE) > SAME_PLACE * 2.0)


@pytest.mark.parametrize("world", [[[1, 0], [0, 1]], np.zeros((4, 4)).tolist(), np.full((4, 4), np.nan).tolist()])
def test_a_place_that_is_none_is_refused(world):
    with pytest.raises(ValueError, match="is not an affine of 4 x 4 numbers"):
        from_json(Grid, {"shape": [1, 1, 1], "spacing": [1, 1, 1], "world": world})
