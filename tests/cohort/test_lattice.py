import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medrep._persisted import to_json
from medrep._structuring import from_json
from medrep.cohort.grid import Lattice
from medrep.models.shape.mean_shape import LevelFunction


@pytest.mark.parametrize("dims", [2, 3])
def test_a_lattice_holds_its_box_with_a_node_to_spare(dims: int) -> None:
    low, high = -np.arange(5.0, 5 + dims), np.arange(7.0, 7 + dims)
    lattice = Lattice.around(low, high, 2.0)
    nodes = lattice.nodes()
    assert len(nodes) == lattice.size
    assert (nodes.min(axis=0) <= low - 2).all()
    assert (nodes.max(axis=0) >= high + 2).all()
    assert from_json(Lattice, to_json(lattice)) == lattice


@settings(max_examples=30, deadline=None)
@given(arrays(float, (7, 3), elements=st.floats(-30, 30)))
def test_splines_sum_to_one_everywhere_and_their_slopes_to_zero(points: np.ndarray) -> None:
    lattice = Lattice.around(np.full(3, -6.0), np.array([6.0, 8.0, 9.0]), 2.5)
    _, weights = lattice.weights(points)
    _, same, slopes = lattice.slopes(points)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(weights, same)
    np.testing.assert_allclose(slopes.sum(axis=2), 0, atol=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_level_function_is_exact_at_nodes_and_for_planes(dims: int) -> None:
    lattice = Lattice(tuple(-np.arange(4.0, 4 + dims)), tuple(1.0 + 0.1 * np.arange(dims)), (12,) * dims)
    nodes = lattice.nodes()
    rng = np.random.default_rng(0)
    values = rng.standard_normal(len(nodes))
    rough = LevelFunction.through(lattice, values)
    inner = np.all((nodes > nodes.min(axis=0)) & (nodes < nodes.max(axis=0)), axis=1)
    np.testing.assert_allclose(rough.values(nodes[inner]), values[inner], atol=1e-9)
    normal = np.arange(1.0, 1 + dims)
    plane = LevelFunction.through(lattice, nodes @ normal)
    middle = nodes.mean(axis=0) + rng.uniform(-1, 1, (20, dims))
    level, slope = plane.slopes(middle)
    np.testing.assert_allclose(level, middle @ normal, atol=0.02)
    np.testing.assert_allclose(slope, np.tile(normal, (20, 1)), atol=0.05)
    # The gradient is that of the values, also of a rough function.
    step = 1e-5
    for axis in range(dims):
        shift = step * np.eye(dims)[axis]
        there = (rough.values(middle + shift) - rough.values(middle - shift)) / (2 * step)
        np.testing.assert_allclose(rough.slopes(middle)[1][:, axis], there, atol=1e-5)


def test_outside_the_lattice_a_field_goes_on_as_at_its_border() -> None:
    lattice = Lattice((0.0, 0.0), (1.0, 1.0), (8, 8))
    function = LevelFunction.through(lattice, np.random.default_rng(1).standard_normal(64))
    inside, outside = np.array([[3.3, 6.0]]), np.array([[3.3, 60.0]])
    np.testing.assert_allclose(function.values(inside), function.values(outside))
    assert function.slopes(outside)[1][0, 1] == 0
