from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cohort.grid import grid_lattice
from medrep.cohort.inputs import ShapeInput
from medrep.cohort.nifti import LabelMap, write_label_map
from medrep.cohort.shapes import (
    EXACT,
    distances_on,
    fill_shapes,
    load_shapes,
    measure_shapes,
    place_shape,
    shape_columns,
    shape_grid,
)
from medrep.cohort.surfaces import Surface, find_organs
from medrep.errors import CohortError

RADII = np.array([8.0, 11.0, 6.0])


def ellipsoid(shape: tuple[int, int, int], affine: np.ndarray, shift: np.ndarray) -> LabelMap:
    index = np.indices(shape).reshape(3, -1).T
    world = index @ affine[:3, :3].T + affine[:3, 3] - shift
    inside = ((world / RADII) ** 2).sum(axis=1) < 1
    return LabelMap(inside.astype(np.int32).reshape(shape), affine)


def plain_affine(spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), shape: int = 36) -> np.ndarray:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -np.asarray(spacing) * (shape - 1) / 2
    return affine


@pytest.fixture
def files(tmp_path: Path) -> pd.Series:
    paths = []
    for number, shift in enumerate(np.array([[0, 0, 0], [1, -2, 0.5], [-1, 1, 0]], dtype=float)):
        path = tmp_path / f"sub-{number}_mask.nii.gz"
        write_label_map(path, ellipsoid((36, 36, 36), plain_affine(), shift))
        paths.append(path)
    return pd.Series(paths, index=["sub-0", "sub-1", "sub-2"])


def measured(files: pd.Series, **changes: object) -> ShapeInput:
    found = measure_shapes(files, replace(ShapeInput(suffix="mask"), **changes), lambda people: None)
    assert found.measured is not None
    assert found.problems == ()
    return found.measured


def test_the_grid_lies_around_everybody_and_its_size_is_the_organ_s(files: pd.Series) -> None:
    section = measured(files)
    points = grid_lattice(shape_grid(section)).nodes()
    assert 7.5 < section.size < 9.5
    assert (points.max(axis=0) > RADII + 4).all()
    np.testing.assert_allclose(points + points[::-1], 0, atol=1e-9)
    np.testing.assert_allclose(section.centre, [0, -0.5, 0.25], atol=0.6)


def test_rows_are_signed_distances_of_the_person_where_they_lie(files: pd.Series) -> None:
    section = measured(files)
    points = grid_lattice(shape_grid(section)).nodes() + np.asarray(section.centre)
    rows = fill_shapes(files, section, lambda people, count: np.zeros((people, count), np.float32), lambda people: None)
    assert rows.shape == (3, shape_grid(section).size)
    truth = np.linalg.norm((points - [1, -2, 0.5]) / RADII, axis=1) - 1
    near = np.abs(rows[1]) > 1.0
    np.testing.assert_array_equal(np.sign(rows[1][near]), np.sign(truth[near]))
    # The long axis pierces the surface at 11 mm.
    on_axis = np.argmin(np.linalg.norm(points - [1, 9, 0.5], axis=1))
    assert rows[1][on_axis] == pytest.approx(0.0, abs=0.7)


def test_distances_are_exact_near_the_surface_and_interpolated_beyond(files: pd.Series) -> None:
    section = measured(files)
    points = grid_lattice(shape_grid(section)).nodes()
    radius = 9.0
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    heights = np.linspace(-1, 1, 33)
    rings = [
        radius * np.stack([np.sqrt(1 - h * h) * np.cos(angles), np.sqrt(1 - h * h) * np.sin(angles), 0 * angles + h], 1)
        for h in heights
    ]
    vertices = np.concatenate(rings)
    faces = []
    for ring in range(len(heights) - 1):
        for k in range(64):
            a, b = ring * 64 + k, ring * 64 + (k + 1) % 64
            faces += [[a, b, a + 64], [b, b + 64, a + 64]]
    ball = Surface(vertices, np.asarray(faces))
    row = distances_on(ball, section, points)
    truth = np.linalg.norm(points, axis=1) - radius
    near = np.abs(truth) < EXACT * section.size
    assert np.abs(row - truth)[near].max() < 0.2  # the facets of the ball
    assert np.abs(row - truth).max() < 1.5
    assert (np.sign(row[~near]) == np.sign(truth[~near])).all()


@settings(max_examples=8, deadline=None)
@given(
    st.tuples(*[st.floats(0.8, 1.6)] * 3),
    st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    st.floats(-0.4, 0.4),
)
def test_voxel_world_and_grid_agree_for_any_affine(
    tmp_path_factory: pytest.TempPathFactory,
    spacing: tuple[float, float, float],
    flips: tuple[float, float, float],
    angle: float,
) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    scale = np.diag([*(np.asarray(spacing) * flips), 1.0])
    affine = turn @ scale
    affine[:3, 3] = -affine[:3, :3] @ np.full(3, 17.5)
    path = tmp_path_factory.mktemp("m") / "sub-0_mask.nii.gz"
    write_label_map(path, ellipsoid((36, 36, 36), affine, np.array([0.5, 0.0, 0.0])))
    section = measured(pd.Series([path], index=["sub-0"]), spacing=(1.0, 1.0, 1.0), align="centre")
    placed = place_shape(path, section, grid_lattice(shape_grid(section)).nodes())
    index = np.indices((36, 36, 36)).reshape(3, -1).T
    voxels = placed.voxels() + np.asarray(section.centre)
    back = (placed.alignment.back(voxels) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    np.testing.assert_allclose(back, index, atol=1e-4)


def test_labels_choose_the_organ(tmp_path: Path) -> None:
    both = ellipsoid((36, 36, 36), plain_affine(), np.zeros(3))
    front = np.where((both.data > 0) & (np.indices(both.data.shape)[1] > 17), 2, both.data)
    path = tmp_path / "sub-0_mask.nii.gz"
    write_label_map(path, LabelMap(front.astype(np.int32), both.affine))
    whole = measured(pd.Series([path], index=["a"]))
    part = measured(pd.Series([path], index=["a"]), labels=(2,))
    assert part.size < whole.size


def test_unusable_maps_are_all_named(files: pd.Series, tmp_path: Path) -> None:
    empty = tmp_path / "sub-3_mask.nii.gz"
    write_label_map(empty, LabelMap(np.zeros((10, 10, 10), np.int32), plain_affine()))
    everybody = pd.concat([files, pd.Series([empty, tmp_path / "gone.nii.gz"], index=["sub-3", "sub-4"])])
    found = measure_shapes(everybody, ShapeInput(suffix="mask"), lambda people: None)
    assert len(found.problems) == 2
    assert found.problems[0].startswith("sub-3: ")
    with pytest.raises(CohortError, match=r"(?s)sub-3: .*sub-4: "):
        fill_shapes(everybody, measured(files), lambda n, m: np.zeros((n, m), np.float32), lambda people: None)
    assert [loaded.error == "" for loaded in load_shapes(everybody, measured(files))] == [True] * 3 + [False] * 2


def test_an_organ_beyond_the_grid_is_refused_with_the_cure(files: pd.Series, tmp_path: Path) -> None:
    section = measured(files)
    affine = plain_affine()
    affine[:3, 3] += 30
    path = tmp_path / "sub-9_mask.nii.gz"
    write_label_map(path, ellipsoid((36, 36, 36), affine, np.full(3, 30.0)))
    with pytest.raises(CohortError, match=r"beyond the model's grid.*input\.align=centre"):
        place_shape(path, section, grid_lattice(shape_grid(section)).nodes())
    aligned = measured(files, align="centre")
    place_shape(path, aligned, grid_lattice(shape_grid(aligned)).nodes())


def test_a_section_that_was_not_measured_is_refused() -> None:
    with pytest.raises(CohortError, match="filled in by training"):
        shape_grid(ShapeInput())


def pair(folder: Path, name: str, turn: float = 0.0, left: int = 17) -> Path:
    """Write two ellipsoids 20 mm apart, turned about the middle between them."""
    axes = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    world = (np.indices((52, 52, 30)).reshape(3, -1).T - [25.5, 25.5, 14.5]) @ axes.T
    here, there = ((((world - [side, 0, 0]) / [6, 11, 5]) ** 2).sum(axis=1) < 1 for side in (-10, 10))
    data = np.where(here, left, np.where(there, 53, 0)).astype(np.int32).reshape(52, 52, 30)
    affine = np.eye(4)
    affine[:3, 3] = [-25.5, -25.5, -14.5]
    path = folder / f"{name}_mask.nii.gz"
    write_label_map(path, LabelMap(data, affine))
    return path


SIDES = {"left": (17,), "right": (53,)}


@pytest.mark.parametrize("align", ["none", "centre", "rigid", "similarity"])
def test_structures_are_aligned_by_one_motion_and_keep_their_place_to_each_other(tmp_path: Path, align: str) -> None:
    files = pd.Series([pair(tmp_path, f"sub-{k}", turn) for k, turn in enumerate((0.0, 0.3))], index=["a", "b"])
    section = measured(files, structures=SIDES, align=align)
    assert 6.5 < section.size < 9  # of a structure, not of both
    columns = shape_columns(section)
    assert columns.structures == ("left", "right")
    assert columns.count == 2 * shape_grid(section).size
    nodes = grid_lattice(shape_grid(section)).nodes()
    for loaded in load_shapes(files, section):
        assert loaded.placed is not None
        inside = loaded.placed.row.reshape(2, -1) < 0
        left, right = (nodes[own].mean(axis=0) for own in inside)
        assert np.linalg.norm(right - left) == pytest.approx(20 * loaded.placed.alignment.scale, abs=0.25)
        if align in {"rigid", "similarity"}:
            np.testing.assert_allclose((right - left)[1:], 0, atol=0.25)
        assert not inside.all(axis=0).any()


def test_one_named_structure_has_the_distances_of_its_labels(files: pd.Series) -> None:
    plain, named = measured(files, labels=(1,)), measured(files, structures={"organ": (1,)})
    assert replace(named, structures={}, labels=(1,)) == plain
    rows = [
        fill_shapes(files, one, lambda n, m: np.zeros((n, m), np.float32), lambda people: None)
        for one in (plain, named)
    ]
    np.testing.assert_array_equal(*rows)


def test_a_structure_that_somebody_lacks_is_named_and_those_who_have_each_are_counted(tmp_path: Path) -> None:
    paths = [pair(tmp_path, "sub-0"), pair(tmp_path, "sub-1", left=18)]
    found = measure_shapes(
        pd.Series(paths, index=["a", "b"]), ShapeInput(suffix="mask", structures=SIDES), lambda people: None
    )
    assert len(found.problems) == 1
    assert found.problems[0].startswith("b: ")
    assert "structure left: none of the labels 17 is there; it has 18 and 53" in found.problems[0]
    assert {name: people for name, (people, _) in found.having.items()} == {"left": 1, "right": 2}


def test_a_structure_that_is_small_beside_another_is_noted(tmp_path: Path) -> None:
    labels = ellipsoid((36, 36, 36), plain_affine(), np.zeros(3))
    index = np.indices(labels.data.shape).reshape(3, -1).T
    ball = (((index - [17, 17, 30]) ** 2).sum(axis=1) < 9).reshape(labels.data.shape)
    write_label_map(tmp_path / "m.nii.gz", LabelMap(np.where(ball, 2, labels.data).astype(np.int32), labels.affine))
    section = ShapeInput(suffix="mask", structures={"large": (1,), "small": (2,)})
    found = measure_shapes(pd.Series([tmp_path / "m.nii.gz"], index=["a"]), section, lambda people: None)
    assert any("structure small of" in note and "is small beside large of" in note for note in found.notes)


def test_a_structure_within_another_leaves_it_its_hollow(tmp_path: Path) -> None:
    outer = ellipsoid((36, 36, 36), plain_affine(), np.zeros(3))
    inner = np.zeros(outer.data.shape, bool)
    inner[15:20, 14:21, 16:20] = True
    labels = LabelMap(np.where(inner, 2, outer.data).astype(np.int32), outer.affine)
    organs = find_organs(labels, ShapeInput(structures={"outer": (1,), "inner": (2,)}), tmp_path / "x").all()
    assert not (organs[0].mask & organs[1].mask).any()
    np.testing.assert_array_equal(organs[1].mask, inner)
