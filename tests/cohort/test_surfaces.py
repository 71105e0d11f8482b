from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medrep.cohort.nifti import LabelMap, read_labels
from medrep.cohort.surfaces import (
    Surface,
    extract_surface,
    organ_mask,
    sample_surface,
    signed_distance,
)
from medrep.errors import CohortError

PATH = Path("sub-1_dseg.nii.gz")
RADIUS = 10.0
VOLUME = 4 / 3 * np.pi * RADIUS**3


def scan(edges, turn=(0.0, 0.0, 0.0), mirrored=False, middle=(0.0, 0.0, 0.0), half=13.0):
    """The affine and the shape of a grid of voxels around a point."""
    shape = np.ceil(2 * half / np.asarray(edges)).astype(int)
    affine = np.eye(4)
    axes = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ np.diag([-1.0 if mirrored else 1.0, 1, 1])
    affine[:3, :3] = axes * edges
    affine[:3, 3] = middle - affine[:3, :3] @ ((shape - 1) / 2)
    return affine, tuple(shape)


def ball(affine, shape, middle=(0.0, 0.0, 0.0), radius=RADIUS):
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.linalg.norm(voxels @ affine[:3, :3].T + affine[:3, 3] - middle, axis=-1) < radius


def sphere(radius=RADIUS, detail=4):
    made = trimesh.creation.icosphere(detail, radius)
    return Surface(np.array(made.vertices), np.array(made.faces, dtype=np.int64))


def is_closed(surface):
    mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
    return mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0


def label_map(*blocks, shape=(20, 20, 20), label=1):
    data = np.zeros(shape, np.int32)
    for x, y, z in blocks:
        data[x, y, z] = label
    return LabelMap(data, np.eye(4))


BLOCK = (slice(5, 12), slice(5, 12), slice(5, 12))

middles = st.tuples(*[st.floats(-0.5, 0.5)] * 3)
turns = st.tuples(*[st.floats(-180, 180)] * 3)


def test_volume_area_and_centroid_are_those_of_the_solid():
    box = trimesh.creation.box((2.0, 3.0, 4.0))
    surface = Surface(np.array(box.vertices) + np.array([100.0, -50, 20]), np.array(box.faces, dtype=np.int64))
    assert surface.volume == pytest.approx(24)
    assert surface.area == pytest.approx(52)
    np.testing.assert_allclose(surface.centroid, [100, -50, 20])


@given(turns, st.booleans(), st.tuples(*[st.floats(0.5, 2)] * 3))
def test_moving_keeps_faces_outward_and_multiplies_the_volume(turn, mirrored, edges):
    affine, _ = scan(edges, turn, mirrored, (5.0, -7.0, 30.0))
    transformed = sphere(detail=2).transformed(affine)
    assert transformed.volume == pytest.approx(sphere(detail=2).volume * np.prod(edges))
    assert is_closed(transformed)


@given(st.tuples(*[st.floats(0.6, 1.2)] * 3), turns, st.booleans(), middles)
def test_a_ball_in_any_grid_becomes_a_sphere_of_its_volume_and_place(edges, turn, mirrored, middle):
    affine, shape = scan(edges, turn, mirrored)
    mask = ball(affine, shape, middle)
    surface = extract_surface(mask, affine)
    assert is_closed(surface)
    assert surface.volume == pytest.approx(np.count_nonzero(mask) * np.prod(edges), rel=1e-3)
    assert surface.volume == pytest.approx(VOLUME, rel=0.02)
    np.testing.assert_allclose(surface.centroid, middle, atol=0.05)


@given(st.tuples(*[st.floats(0.6, 4)] * 3), turns, st.booleans(), middles)
def test_the_surface_under_an_affine_is_the_affine_of_the_surface_in_voxels(edges, turn, mirrored, middle):
    affine, shape = scan(edges, turn, mirrored)
    mask = ball(affine, shape, middle)
    here, there = extract_surface(mask, affine, 0.0), extract_surface(mask, np.eye(4), 0.0).transformed(affine)
    np.testing.assert_allclose(here.vertices, there.vertices, atol=1e-9)
    np.testing.assert_array_equal(here.faces, there.faces)
    index = np.linalg.inv(affine)
    np.testing.assert_allclose(here.transformed(index).transformed(affine).vertices, here.vertices, atol=1e-9)


@given(turns, st.booleans(), st.floats(0.6, 2), middles)
def test_smoothing_follows_the_grid_into_the_world(turn, mirrored, edge, middle):
    affine, shape = scan((edge, edge, edge), turn, mirrored)
    mask = ball(affine, shape, middle)
    here, there = extract_surface(mask, affine), extract_surface(mask, np.eye(4)).transformed(affine)
    np.testing.assert_allclose(here.vertices, there.vertices, atol=1e-9)
    np.testing.assert_array_equal(here.faces, there.faces)


def test_distances_to_a_ball_in_thick_slices_are_right_to_a_third_of_a_millimetre():
    generator = np.random.default_rng(0)
    errors = []
    for middle in generator.uniform(-0.5, 0.5, (4, 3)) * [1, 1, 3]:
        affine, shape = scan((1, 1, 3))
        surface = extract_surface(ball(affine, shape, middle), affine)
        ways = generator.normal(size=(2000, 3))
        radii = generator.uniform(5, 14, 2000)
        points = middle + ways * (radii / np.linalg.norm(ways, axis=1))[:, None]
        errors.append(signed_distance(points, surface) - (radii - RADIUS))
    bias, mae = np.mean(errors), np.mean(np.abs(errors))
    print(f"signed distance, sphere of 10 mm, voxels 1 x 1 x 3 mm: bias {bias:.3f} mm, MAE {mae:.3f} mm")  # noqa: T201
    assert mae < 0.35
    assert abs(bias) < 0.1


def test_smoothing_brings_the_distances_nearer_to_the_truth():
    affine, shape = scan((1, 1, 1))
    points = np.random.default_rng(0).uniform(-12, 12, (2000, 3))
    truth = np.linalg.norm(points, axis=1) - RADIUS
    rough, smooth = (
        np.abs(signed_distance(points, extract_surface(ball(affine, shape), affine, width)) - truth).mean()
        for width in (0.0, 0.6)
    )
    assert smooth < 0.7 * rough


def test_distances_are_negative_inside_exact_and_one_a_point():
    surface = sphere(detail=5)
    points = np.array([[0.0, 0, 0], [0, 0, 9], [12, 0, 0], [0, -30, 0]])
    np.testing.assert_allclose(signed_distance(points, surface), [-10, -1, 2, 20], atol=0.005)
    np.testing.assert_array_equal(signed_distance(points.astype(np.float32), surface), signed_distance(points, surface))
    assert signed_distance(np.zeros((0, 3)), surface).shape == (0,)


@given(st.integers(0, 1000))
def test_distances_to_a_box_are_exact(seed):
    half = np.array([1.0, 2.0, 5.0])
    box = trimesh.creation.box(2 * half)
    points = np.random.default_rng(seed).uniform(-3 * half, 3 * half, (200, 3))
    beyond = np.abs(points) - half
    truth = np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0)
    surface = Surface(np.array(box.vertices), np.array(box.faces, dtype=np.int64))
    np.testing.assert_allclose(signed_distance(points, surface), truth, atol=1e-9)


@pytest.mark.parametrize("smoothing", [0.6, 1.5, 3.0])
def test_a_thread_between_two_balls_is_not_broken_by_smoothing(smoothing):
    mask = np.zeros((40, 14, 14), dtype=bool)
    for middle in (9, 30):
        mask |= ball(np.eye(4), mask.shape, (middle, 7, 7), 4.5)
    mask[9:30, 7, 7] = True
    surface = extract_surface(mask, np.eye(4), smoothing)
    assert len(trimesh.Trimesh(surface.vertices, surface.faces, process=False).split()) == 1
    assert is_closed(surface)
    assert surface.volume == pytest.approx(np.count_nonzero(mask), rel=1e-3)


@given(st.integers(0, 10_000), st.floats(0, 2))
def test_any_mask_becomes_a_closed_surface_of_its_volume(seed, smoothing):
    generator = np.random.default_rng(seed)
    mask = generator.random((6, 7, 5)) < generator.uniform(0.3, 0.9)
    surface = extract_surface(mask | (np.arange(210).reshape(6, 7, 5) == 100), np.diag([1.0, 2, -1, 1]), smoothing)
    assert surface.volume > 0
    assert np.isin(np.arange(len(surface.vertices)), surface.faces).all()


def test_an_empty_mask_has_no_surface():
    with pytest.raises(CohortError, match="the mask is empty, so it has no surface; check the labels"):
        extract_surface(np.zeros((4, 4, 4), dtype=bool), np.eye(4))


def test_points_on_the_surface_are_uniform_by_area():
    box = trimesh.creation.box((1.0, 2.0, 5.0))
    surface = Surface(np.array(box.vertices), np.array(box.faces, dtype=np.int64))
    points, normals = sample_surface(surface, 20_000, 0)
    np.testing.assert_allclose(signed_distance(points, surface), 0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    np.testing.assert_allclose(np.abs(normals).mean(axis=0), np.array([10, 5, 2]) / 17, atol=0.02)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.05)
    assert (signed_distance(points + 0.1 * normals, surface) > 0).all()


def test_draws_are_repeated_by_their_seed():
    draws = [sample_surface(sphere(detail=2), 50, seed)[0] for seed in (4, 4, 5)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_an_organ_is_the_wanted_labels_together():
    data = label_map(BLOCK).data
    data[8:12] *= 2
    whole = organ_mask(LabelMap(data, np.eye(4)), (), PATH)
    np.testing.assert_array_equal(whole.mask, data > 0)
    assert whole.notes == ()
    np.testing.assert_array_equal(organ_mask(LabelMap(data, np.eye(4)), (2,), PATH).mask, data == 2)
    both = organ_mask(LabelMap(data, np.eye(4)), (1, 2, 9), PATH)
    np.testing.assert_array_equal(both.mask, data > 0)
    assert both.notes == ("label 9 is absent",)


def test_specks_are_dropped_and_cavities_filled_with_a_note():
    labels = label_map(BLOCK, (slice(15, 18), 15, 15), (1, 1, 1))
    labels.data[8, 8, 7:9] = 0
    organ = organ_mask(labels, (), PATH)
    np.testing.assert_array_equal(organ.mask, label_map(BLOCK).data > 0)
    assert organ.notes == ("dropped 2 pieces of 3 and 1 voxels", "filled enclosed cavities of 2 voxels")


def test_a_speck_on_the_border_does_not_cut_the_organ():
    organ = organ_mask(label_map(BLOCK, (0, 0, 0)), (), PATH)
    assert organ.notes == ("dropped 1 piece of 1 voxel",)


SPAN = slice(5, 12)
REFUSED = {
    "the mask is empty, no voxel has a label above 0; segment the organ again": (label_map(), ()),
    r"none of the labels 3 and 4 is there; it has 1: choose among those": (label_map(BLOCK), (3, 4)),
    r"none of the labels 0 is there; it has 1": (label_map(BLOCK), (0,)),
    r"27 voxels are too few for a shape \(30 are needed\); check": (label_map((slice(5, 8),) * 3), ()),
    r"the organ touches the image border at the start of axis 0; crop the image wider": (
        label_map((slice(0, 7), SPAN, SPAN)),
        (),
    ),
    r"touches the image border at the start of axis 1, the end of axis 1, the end of axis 2; .* or pad it with 0": (
        label_map((SPAN, slice(None), slice(9, 20))),
        (),
    ),
    r"2 separate pieces of 343 and 18 voxels; one organ is needed: choose its label, or mend the map": (
        label_map(BLOCK, (slice(14, 17), slice(14, 17), slice(14, 16))),
        (),
    ),
    r"9 separate pieces of 27, 27, 27, 27, 27, 27, \.\.\. \(3 more\) voxels": (
        label_map(*[(slice(i, i + 3), slice(j, j + 3), slice(1, 4)) for i in (1, 5, 9) for j in (1, 5, 9)]),
        (),
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_organ_is_refused_in_one_line(message):
    with pytest.raises(CohortError, match=message) as refusal:
        organ_mask(*REFUSED[message], PATH)
    assert str(refusal.value).startswith(f"{PATH}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["hippocampus_001", "hippocampus_004", "hippocampus_156"])
def test_a_real_hippocampus_keeps_its_volume(shared_data, name):
    path = shared_data / "hippocampus" / "labels" / f"{name}.nii.gz"
    organ = organ_mask(read_labels(path), (), path)
    surface = extract_surface(organ.mask, organ.affine)
    voxel = abs(np.linalg.det(organ.affine[:3, :3]))
    assert surface.volume == pytest.approx(np.count_nonzero(organ.mask) * voxel, rel=1e-3)
    assert is_closed(surface)
