"""Masks: found, read, refused; and rows of the voxels inside."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep.cohort.grid import Columns, Grid, Mask
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.loaders import fill_matrix, load_alike, load_volumes
from medrep.cohort.masks import own_mask
from medrep.cohort.nifti import LabelMap, Volume, write_image, write_label_map
from medrep.errors import CohortError

SHAPE, AFFINE = (6, 7, 8), np.diag([2.0, 2.0, 2.0, 1.0])
GRID = Grid(SHAPE, (2.0, 2.0, 2.0), tuple(map(tuple, AFFINE.tolist())))


def ball(radius):
    axes = np.meshgrid(*[np.arange(length) - (length - 1) / 2 for length in SHAPE], indexing="ij")
    return sum(axis**2 for axis in axes) <= radius**2


def heads(folder, count=6, *, background=0.0, radius=3.0):
    """Write images that are background outside a ball, and a mask of a ball of their own each."""
    files = {}
    for number in range(count):
        rng, key = np.random.default_rng(number), f"sub-{number}"
        data = np.where(ball(radius), rng.normal(100, 10, SHAPE), background).astype(np.float32)
        files[key] = folder / f"{key}_desc-preproc_T1w.nii.gz"
        write_image(files[key], Volume(data, AFFINE))
        mask = ball(2.0 + 0.5 * (number % 3)).astype(np.int32)
        write_label_map(folder / f"{key}_desc-brain_mask.nii.gz", LabelMap(mask, AFFINE))
    return pd.Series(files, dtype=object)


def filled(files, wanted, like=None):
    said = []
    room = lambda n, m: np.zeros((n, m), np.float32)  # noqa: E731
    return fill_matrix(files, wanted, room, lambda n: None, like=like, tell=said.extend), said


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=24, max_size=24).filter(any), st.sampled_from([None, 0.0, -1024.0]))
def test_a_mask_packs_its_voxels_and_is_stored_whole(bits, background):
    inside = np.array(bits).reshape(2, 3, 4)
    columns = Columns.of_grid(Grid(inside.shape, (1.0, 1.0, 1.0)), Mask.of(inside, background))
    assert columns.count == inside.sum()
    box = np.random.default_rng(0).normal(size=inside.shape)
    row = columns.inside(box)
    np.testing.assert_array_equal(columns.box(row, np.inf), np.where(inside, box, np.inf))
    np.testing.assert_array_equal(columns.inside(columns.box(row)), row)
    assert from_state(Columns, *to_state(columns)) == columns
    assert columns != Columns.of_grid(columns.grid)


@pytest.mark.parametrize("bits", [np.zeros(3, np.uint8), np.full(4, 255, np.uint8), np.full(3, 1, np.uint8)])
def test_a_mask_of_another_grid_is_damage(bits):
    grid = Grid((2, 3, 3), (1.0, 1.0, 1.0))
    content, _ = to_state(Columns.of_grid(grid, Mask.of(np.ones(18, bool))))
    with pytest.raises(ValueError, match="the mask"):
        from_state(Columns, content, {"mask.bits": bits})


@pytest.mark.parametrize("background", [0.0, -1024.0, 7.5])
def test_auto_takes_what_is_not_background_in_most(tmp_path, background):
    files = heads(tmp_path, background=background)
    found, said = filled(files, VolumeInput(mask="auto"))
    np.testing.assert_array_equal(found.columns.box(np.ones(found.columns.count)) > 0, ball(3.0))
    assert found.columns.mask.background == background
    assert said == [
        f"mask: {ball(3.0).sum()} of 336 voxels ({ball(3.0).sum() / 336:.0%}) are fitted and changed, those that are not"
        " background in at least half of the people"
    ]
    whole, _ = filled(files, VolumeInput())
    np.testing.assert_array_equal(found.rows, whole.rows[:, ball(3.0).ravel()])
    again, _ = filled(files.iloc[[4, 1]], VolumeInput(mask="auto"), like=found.columns)
    np.testing.assert_array_equal(again.rows, found.rows[[4, 1]])


def test_more_people_than_are_sampled_keep_their_rows(tmp_path, monkeypatch):
    files = heads(tmp_path)
    whole, _ = filled(files, VolumeInput(mask="auto"))
    monkeypatch.setattr("medrep.cohort.loaders.SAMPLED", 3)
    some, _ = filled(files, VolumeInput(mask="auto"))
    np.testing.assert_array_equal(some.rows, whole.rows)


def test_own_masks_are_counted_voxel_by_voxel_and_who_lacks_one_has_no_value_there(tmp_path):
    files = heads(tmp_path)
    found, _ = filled(files, VolumeInput(desc="preproc", mask="bids"))
    inside = ball(2.5)  # four of six have it
    np.testing.assert_array_equal(found.columns.box(np.ones(found.columns.count)) > 0, inside)
    for number, row in enumerate(found.rows):
        own = ball(2.0 + 0.5 * (number % 3))[inside]
        np.testing.assert_array_equal(np.isnan(row), ~own)
    for one, alone in zip(
        load_alike(files, VolumeInput(mask="bids"), found.columns.grid),
        load_volumes(files, VolumeInput(mask="bids"), common=found.columns.grid),
        strict=True,
    ):
        np.testing.assert_array_equal(one.row(found.columns), alone.row(found.columns))


def test_one_image_for_all_is_brought_to_the_grid(tmp_path):
    files = heads(tmp_path)
    finer = np.zeros((12, 14, 16), np.int32)
    finer[4:8, 4:10, 6:12] = 1
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = -0.5
    write_label_map(tmp_path / "mask.nii.gz", LabelMap(finer, affine))
    found, said = filled(files, VolumeInput(mask=str(tmp_path / "mask.nii.gz")))
    wanted = np.zeros(SHAPE, bool)
    wanted[2:4, 2:5, 3:6] = True
    np.testing.assert_array_equal(found.columns.box(np.ones(found.columns.count)) > 0, wanted)
    assert "mask.nii.gz" in said[0]


def test_everybody_without_a_usable_mask_is_listed(tmp_path):
    files = heads(tmp_path)
    own_mask(files["sub-1"]).unlink()
    write_label_map(own_mask(files["sub-3"]), LabelMap(np.ones((6, 7, 9), np.int32), AFFINE))
    write_label_map(own_mask(files["sub-4"]), LabelMap(np.ones(SHAPE, np.int32), np.diag([2.0, 2.0, 2.1, 1.0])))
    with pytest.raises(CohortError, match="masks that cannot be used") as refused:
        filled(files, VolumeInput(mask="bids"))
    assert all(f"sub-{k}: " in str(refused.value) for k in (1, 3, 4))
    assert not any(f"sub-{k}: " in str(refused.value) for k in (0, 2, 5))
    files = files.drop(["sub-1", "sub-3", "sub-4"])
    write_label_map(own_mask(files["sub-5"]), LabelMap(np.zeros(SHAPE, np.int32), AFFINE))
    with pytest.raises(CohortError, match=r"sub-5: .*the mask is empty"):
        filled(files, VolumeInput(mask="bids"))


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        ("auto", "no value stands for background"),
        ("nowhere.nii.gz", "no such file"),
        ("far.nii.gz", "no voxel of the mask lies on the images' grid"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(tmp_path, monkeypatch, mask, told):
    monkeypatch.chdir(tmp_path)
    far = AFFINE.copy()
    far[:3, 3] = 500
    write_label_map(tmp_path / "far.nii.gz", LabelMap(np.ones(SHAPE, np.int32), far))
    files = heads(tmp_path, radius=30)
    with pytest.raises(CohortError, match=told):
        filled(files, VolumeInput(mask=mask))
