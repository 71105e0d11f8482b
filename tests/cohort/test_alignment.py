import json

import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medrep._persisted import to_json
from medrep._structuring import from_json
from medrep.cohort.shapes import Alignment, align_surface, second_moments
from medrep.cohort.surfaces import Surface, sample_surface
from medrep.errors import CohortError

HOWS = ("none", "centre", "rigid", "similarity")


def organ():
    """An egg, bent and thicker at one end, with its principal axes near those of the world."""
    points = np.array(trimesh.creation.icosphere(3).vertices)
    points *= np.array([4.0, 12.0, 7.0]) * (1 + 0.2 * points[:, [1]])
    points[:, 2] += 0.02 * points[:, 1] ** 2
    return Surface(points, np.array(trimesh.creation.icosphere(3).faces, dtype=np.int64))


def placed(turn=(0.0, 0.0, 0.0), shift=(0.0, 0.0, 0.0), scale=1.0):
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_rotvec(turn, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return organ().transformed(matrix)


@st.composite
def rotations(draw):
    """Rotation vectors in degrees, below 40 from where the organ's axes are those of the world."""
    axis = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda way: np.linalg.norm(way) > 0.1)))
    return tuple(axis / np.linalg.norm(axis) * draw(st.floats(0, 39)))


shifts = st.tuples(*[st.floats(-200, 200)] * 3)


def straight():
    """The organ, turned so that its axes are exactly those of the world."""
    return organ().transformed(align_surface(organ(), "rigid").matrix)


def aligned(surface, how, **options):
    return align_surface(surface, how, **options).apply(surface.vertices)


@given(rotations(), shifts, st.floats(0.5, 2))
def test_aligning_undoes_any_rotation_translation_and_scale_it_is_to_undo(turn, shift, scale):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.from_rotvec(turn, degrees=True).as_matrix(), shift
    transformed = straight().transformed(matrix)
    np.testing.assert_allclose(aligned(transformed, "rigid"), straight().vertices, atol=1e-8)
    matrix[:3, :3] *= scale
    transformed = straight().transformed(matrix)
    np.testing.assert_allclose(
        aligned(transformed, "similarity", size=7.0), aligned(straight(), "similarity", size=7.0), atol=1e-8
    )


@given(shifts)
def test_centring_undoes_a_translation_and_nothing_else(shift):
    np.testing.assert_allclose(aligned(placed(shift=shift), "centre"), aligned(placed(), "centre"), atol=1e-9)
    turned = aligned(placed(turn=(20.0, 0, 0)), "centre")
    assert np.abs(turned - aligned(placed(), "centre")).max() > 1


@given(st.sampled_from(HOWS), rotations(), shifts)
def test_back_is_the_inverse_and_json_keeps_it(how, turn, shift):
    surface = placed(turn, shift)
    alignment = align_surface(surface, how, np.array([1.0, 2, 3]), 11.0)
    np.testing.assert_allclose(alignment.back(alignment.apply(surface.vertices)), surface.vertices, atol=1e-9)
    again = from_json(Alignment, json.loads(json.dumps(to_json(alignment))))
    np.testing.assert_array_equal(again.matrix, alignment.matrix)
    np.testing.assert_allclose(surface.transformed(alignment.matrix).vertices, alignment.apply(surface.vertices))


@given(rotations(), shifts)
def test_what_is_aligned_lies_as_asked(turn, shift):
    surface = placed(turn, shift)
    assert np.array_equal(align_surface(surface, "none").matrix, np.eye(4))
    goal = np.array([1.0, -2.0, 3.0])
    alignment = align_surface(surface, "similarity", goal, 20.0)
    transformed = surface.transformed(alignment.matrix)
    np.testing.assert_allclose(transformed.centroid, goal, atol=1e-8)
    moments = second_moments(transformed)
    np.testing.assert_allclose(moments, np.diag(np.diag(moments)), atol=1e-8)
    assert np.sqrt(np.trace(moments)) == pytest.approx(20)
    assert np.linalg.det(alignment.matrix[:3, :3]) == pytest.approx(alignment.scale**3)


def test_nobody_is_flipped_or_mirrored():
    for turn in ((0.0, 0, 0), (30.0, 0, 0), (0, -30.0, 0), (0, 0, 30.0)):
        rotation = align_surface(placed(turn), "rigid").matrix[:3, :3]
        assert np.linalg.det(rotation) == pytest.approx(1)
        assert np.degrees(Rotation.from_matrix(rotation).magnitude()) < 45


def test_second_moments_are_those_of_points_drawn_from_the_surface():
    points, _ = sample_surface(organ(), 200_000, 0)
    np.testing.assert_allclose(second_moments(organ()), np.cov(points.T), atol=0.4)
    sphere = trimesh.creation.icosphere(4, 3.0)
    surface = Surface(np.array(sphere.vertices), np.array(sphere.faces, dtype=np.int64))
    np.testing.assert_allclose(second_moments(surface), 3 * np.eye(3), atol=0.03)


@pytest.mark.parametrize("size", [None, 0.0, -1.0, np.nan, np.inf])
def test_a_similarity_needs_a_size(size):
    with pytest.raises(CohortError, match=r"alignment similarity: size .* is no length in mm; give the cohort's mean"):
        align_surface(organ(), "similarity", size=size)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), r"matrix has the shape \(3, 3\), not \(4, 4\)"),
        (np.full((4, 4), np.nan), "not 4 x 4 finite numbers"),
        (np.ones((4, 4)), "not 4 x 4 finite numbers that end in 0, 0, 0, 1"),
        (np.diag([1.0, 2, 1, 1]), "not a rotation times a positive scale"),
        (np.diag([-1.0, 1, 1, 1]), "not a rotation times a positive scale"),
        (np.diag([0.0, 0, 0, 1]), "not a rotation times a positive scale"),
    ],
)
def test_a_matrix_that_is_no_alignment_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        from_json(Alignment, {"matrix": matrix.tolist()})
