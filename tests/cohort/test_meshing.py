import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.grid import Lattice
from medrep.cohort.meshing import TILE, mesh_field
from medrep.cohort.surfaces import signed_distance
from medrep.errors import ModelError
from medrep.models.shape.mean_shape import LevelFunction

LOW, HIGH = np.array([-20.0, -20, -20]), np.array([20.0, 20, 20])


def sphere(radius=9.0, middle=(0.0, 0.0, 0.0), slope=1.0):
    return lambda points: slope * (np.linalg.norm(points - middle, axis=1) - radius)


def torus(points):
    ring = np.hypot(points[:, 0], points[:, 1]) - 11
    return np.hypot(ring, points[:, 2]) - 3.1


def plate(points):
    """The exact distance to a plate of 24 x 24 x 1 mm, its faces on points of a lattice with half millimetres."""
    beyond = np.abs(points) - [12, 12, 0.5]
    return np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0)


def two_balls(points):
    return np.minimum(sphere(4.0, (-9, 0, 0))(points), sphere(5.0, (8, 3, 0))(points))


def waves(points):
    """A ball with a wavy surface, gradient at most 1.5."""
    waving = 0.25 * np.sin(points[:, 0]) * np.sin(points[:, 1]) * np.sin(points[:, 2])
    return np.linalg.norm(points, axis=1) - 11 + 1.15 * waving


def hippocampus(points):
    """A capsule of 13 x 41 x 13 mm."""
    along = np.clip(points[:, 1], -14, 14)
    return np.linalg.norm(points - np.stack([0 * along, along, 0 * along], axis=1), axis=1) - 6.5


def corner_cell(points):
    """Three corners of the cell [0, 0.5]^3 are cut off one by one, in that kind of way in which the triangles depend on a
    corner that none of the sign changes touches; straight along each axis, so that nothing else needs the corner."""
    x, y, z = np.clip(points, -2.4, 2.4).T / 0.5
    values = np.array([0.6, -0.8, -0.5, 0.1, -0.3, 0.2, 0.4, 0.7]).reshape(2, 2, 2)
    weights = (np.stack([1 - share, share]) for share in (x, y, z))
    return np.maximum(sphere()(points), np.einsum("abc,an,bn,cn->n", values, *weights))


def tight(field, low, high):
    return field, np.array(low) - 6.0, np.array(high) + 6.0


def tight_capsule():
    return tight(hippocampus, (-6.5, -20.5, -6.5), (6.5, 20.5, 6.5))


def tight_organ():
    """A spline at 1 mm through the distance to a bent ellipsoid with bumps, as a model's template is."""

    def solid(points):
        x, y, z = points.T
        bumps = 0.05 * np.sin(0.9 * x + 1) * np.sin(0.5 * y) + 0.04 * np.cos(0.8 * z + 0.3 * y)
        bent = np.stack([x + 3 - 0.012 * y**2, y, z + 0.004 * y**2], axis=1)
        return 6 * (np.linalg.norm(bent / [6.5, 20.5, 6.0], axis=1) - 1 - bumps)

    surface = mesh_field(solid, 1.5 * LOW, 1.5 * HIGH, 80, dense=True).surface
    low, high = surface.vertices.min(axis=0), surface.vertices.max(axis=0)
    lattice = Lattice.around(low - 6, high + 6, 1.0)
    level = LevelFunction.through(lattice, signed_distance(lattice.nodes(), surface))
    return tight(level.values, low, high)


def check_equal(field, low=LOW, high=HIGH, cells=64, **options):
    fine, dense = mesh_field(field, low, high, cells, **options), mesh_field(field, low, high, cells, dense=True)
    assert fine.evaluations <= dense.evaluations
    np.testing.assert_allclose(fine.surface.vertices, dense.surface.vertices, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(fine.surface.faces, dense.surface.faces)
    mesh = trimesh.Trimesh(fine.surface.vertices, fine.surface.faces, process=False)
    assert mesh.is_watertight
    assert fine.surface.volume > 0
    return fine, dense


@pytest.mark.parametrize(
    ("field", "slope"),
    [
        (sphere(), 1.0),
        (torus, 1.0),
        (plate, 1.0),
        (two_balls, 1.0),
        (waves, 1.5),
        (sphere(slope=1.5), 1.5),
        (corner_cell, 250.0),
    ],
    ids=["sphere", "torus", "plate", "two balls", "waves", "steep", "corner cell"],
)
@pytest.mark.parametrize("cells", [64, 80])
def test_coarse_to_fine_gives_the_mesh_of_all_points(field, slope, cells):
    fine, dense = check_equal(field, cells=cells, slope=slope, coarse=8)
    assert dense.evaluations == (cells + 1) ** 3
    assert fine.evaluations < dense.evaluations / 3


@given(
    st.tuples(*[st.floats(-60, 60)] * 3),
    st.tuples(*[st.floats(1.05, 3)] * 6),
    st.integers(17, 60),
    st.sampled_from([3, 8, 32]),
    st.sampled_from([0.3, 1.0, 1.5]),
)
def test_boxes_off_centre_with_any_sides_and_any_start_give_the_same(middle, margins, cells, coarse, slope):
    low, high = middle - 5 * np.array(margins[:3]), middle + 5 * np.array(margins[3:])
    fine, _ = check_equal(sphere(4.0, middle, slope), low, high, cells, slope=slope, coarse=coarse)
    np.testing.assert_allclose(fine.surface.centroid, middle, atol=0.3)


def test_the_sphere_is_where_it_should_be():
    meshed = mesh_field(sphere(9.0, (1, 2, 3)), LOW, HIGH, 128)
    np.testing.assert_allclose(np.linalg.norm(meshed.surface.vertices - [1, 2, 3], axis=1), 9, atol=0.01)
    assert meshed.surface.volume == pytest.approx(4 / 3 * np.pi * 9**3, rel=2e-3)
    np.testing.assert_allclose(meshed.surface.centroid, [1, 2, 3], atol=1e-3)


def test_a_hippocampus_at_256_cells_takes_a_thirtieth_of_the_evaluations():
    meshed = mesh_field(hippocampus, np.full(3, -25.0), np.full(3, 25.0), 256)
    assert meshed.evaluations < 257**3 / 30
    assert meshed.surface.volume == pytest.approx(np.pi * 6.5**2 * (28 + 4 / 3 * 6.5), rel=1e-3)


@pytest.mark.parametrize("organ", [tight_capsule, tight_organ])
def test_in_a_tight_box_too_it_takes_a_thirtieth_of_the_evaluations(organ):
    fine, dense = check_equal(*organ(), 256, slope=1.5)
    assert fine.evaluations < dense.evaluations / 30


@given(
    st.sampled_from([8, 16]),
    st.floats(3, 13),
    st.floats(0, 1),
    st.tuples(*[st.floats(2.2, 10)] * 3),
    st.tuples(*[st.floats(0, 2 * np.pi)] * 3),
)
def test_wavy_balls_are_whole_when_their_waves_span_two_coarse_cells(coarse, radius, height, lengths, phases):
    rates = 2 * np.pi / (40 / coarse * np.array(lengths))

    def field(points):
        return sphere(radius)(points) + height * np.sin(points * rates + phases).prod(axis=1)

    check_equal(field, cells=64, slope=1 + height * rates.max(), coarse=coarse)


def test_no_point_is_asked_for_twice_and_no_tile_is_too_large():
    asked = []

    def field(points):
        asked.append(points)
        return sphere(slope=1.5)(points)

    for slope in (1.5, 0.2):
        asked.clear()
        meshed = mesh_field(field, LOW, HIGH, 96, slope=slope)
        every = np.concatenate(asked)
        assert max(map(len, asked)) <= TILE
        assert len(every) == meshed.evaluations == len(np.unique(every, axis=0))


@given(st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 0.75]) | st.floats(0, 1)] * 3))
def test_a_ball_as_small_as_a_fine_cell_is_found_wherever_it_lies_in_a_coarse_one(place):
    """Its distance is the largest field the slope allows, so that any tighter reach loses it in some place."""
    low, high, step = np.zeros(3), np.full(3, 32.0), 1.0
    check_equal(sphere(0.9 * step, 8 + 8 * np.array(place)), low, high, 32, coarse=4)


@pytest.mark.parametrize(("claimed", "everything"), [(3.0, False), (1.2, False), (0.1, True)])
def test_a_bound_that_is_too_low_widens_the_band_until_the_mesh_is_whole(claimed, everything):
    """The ball's pole bulges out of a refined cell into one all of whose corners look far enough away."""
    fine, dense = check_equal(sphere(10.3, (2.5, 2.5, 0), 3.0), slope=claimed, coarse=8)
    assert (fine.evaluations == dense.evaluations) == everything


def test_a_field_in_single_precision_is_meshed():
    meshed = mesh_field(lambda points: sphere()(points).astype(np.float32), LOW, HIGH, 40)
    assert meshed.surface.volume == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.02)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("field", "message"),
    [
        (sphere(-5.0), "no zero level, the field is positive everywhere; check the units, or move the box"),
        (sphere(100.0), "no zero level, the field is negative everywhere"),
        (sphere(9.0, (13, 0, 0)), r"touches the border \(high side of axis 0\); give a larger box"),
        (sphere(9.0, (0, -14, 15)), r"touches the border \(low side of axis 1, high side of axis 2\)"),
        (
            lambda points: np.full(len(points), np.nan),
            r"the field is nan at \(-20, -20, -20\) mm \(\d+ of \d+ points\)",
        ),
    ],
)
def test_what_gives_no_whole_surface_is_refused_in_one_line(field, message, dense):
    with pytest.raises(ModelError, match=message) as refusal:
        mesh_field(field, LOW, HIGH, 40, dense=dense)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("low", "high", "cells", "slope"),
    [
        (LOW, LOW, 64, 1.0),
        (HIGH, LOW, 64, 1.0),
        (LOW, HIGH, 0, 1.0),
        (LOW, HIGH, 64, 0.0),
        (LOW, HIGH * np.inf, 64, 1.0),
    ],
)
def test_a_box_without_volume_or_cells_is_refused(low, high, cells, slope):
    with pytest.raises(
        ModelError, match=r"nothing to mesh: box .* give a box with volume, at least one cell and a slope"
    ):
        mesh_field(sphere(), low, high, cells, slope=slope)
