import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cohort.inputs import VolumeInput
from medrep.cohort.nifti import Volume, read_image
from medrep.cohort.transforms import VolumePipeline, from_log_steps, intensity_landmarks, log_steps
from medrep.errors import CohortError

edges = st.sampled_from([0.5, 0.8, 1.0, 1.2, 2.0, 3.3])


@st.composite
def volumes(draw, oblique=False):
    """A volume with flipped and permuted axes, anisotropic voxels, and (oblique) turned out of the axes."""
    shape = draw(st.tuples(*[st.integers(2, 9)] * 3))
    axes = np.eye(3)[list(draw(st.sampled_from(list(itertools.permutations(range(3))))))]
    signs = np.diag(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    turned = np.eye(3)
    if oblique:
        for plane in ((0, 1), (1, 2)):
            angle = draw(st.floats(-0.6, 0.6))
            turn = np.eye(3)
            turn[np.ix_(plane, plane)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            turned = turned @ turn
    affine = np.eye(4)
    affine[:3, :3] = turned @ axes @ signs @ np.diag(draw(st.tuples(*[edges] * 3)))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-100, 100)] * 3))
    seed = draw(st.integers(0, 2**32))
    return Volume(np.random.default_rng(seed).gamma(4, 100, shape).astype(np.float32), affine)


boxes = st.tuples(*[st.integers(1, 12)] * 3)
choices = st.fixed_dictionaries(
    {
        "shape": st.just(()) | boxes,
        "spacing": st.just(()) | st.tuples(*[edges] * 3),
        "intensity": st.sampled_from(["raw", "p99", "zscore", "nyul"]),
    }
)


def world(volume, voxel):
    return volume.affine[:3, :3] @ voxel + volume.affine[:3, 3]


@given(volumes(oblique=True), choices)
def test_the_null_change_is_exactly_zero_on_the_own_grid(volume, choice):
    wanted = VolumeInput(**choice)
    pipeline = VolumePipeline(wanted)
    placed = pipeline.place(volume)
    change = pipeline.back(np.zeros_like(placed.values), placed)
    assert change.shape == volume.data.shape
    assert change.dtype == np.float32
    assert not change.any()
    np.testing.assert_array_equal(volume.data + change, volume.data)
    np.testing.assert_array_equal(pipeline.changed(volume.data, np.zeros_like(placed.values), placed), volume.data)


@given(volumes(oblique=True), choices)
def test_placing_leaves_the_volume_as_it_was_and_gives_the_grid_asked_for(volume, choice):
    wanted = VolumeInput(**choice)
    data, affine = volume.data.copy(), volume.affine.copy()
    placed = VolumePipeline(wanted).place(volume)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_array_equal(volume.affine, affine)
    assert placed.values.dtype == np.float32
    assert placed.values.flags.c_contiguous
    assert placed.grid.shape == placed.values.shape
    assert not wanted.shape or placed.values.shape == wanted.shape
    assert not wanted.spacing or np.allclose(placed.spacing, wanted.spacing, rtol=1e-5)


@given(volumes(oblique=True), st.integers(0, 4))
def test_turning_to_ras_and_padding_is_undone_exactly(volume, margin):
    box = tuple(length + margin for length in [max(volume.data.shape)] * 3)
    for shape in ((), box):
        pipeline = VolumePipeline(VolumeInput(shape=shape))
        placed = pipeline.place(volume)
        np.testing.assert_array_equal(pipeline.back(placed.values, placed), volume.data)


@given(volumes(), boxes)
def test_cutting_returns_what_was_kept_and_zero_where_the_grid_does_not_reach(volume, box):
    pipeline = VolumePipeline(VolumeInput(shape=box))
    placed = pipeline.place(volume)
    own = pipeline.back(placed.values, placed)
    inside = own != 0
    np.testing.assert_array_equal(own[inside], volume.data[inside])
    turned = VolumePipeline(VolumeInput()).place(volume).values.shape
    assert np.count_nonzero(inside) == np.prod(np.minimum(turned, box))


@given(volumes(), choices)
def test_a_pipeline_keeps_nothing_of_one_volume_for_the_next(volume, choice):
    wanted = VolumeInput(**choice)
    pipeline = VolumePipeline(wanted)
    other = Volume(np.ones((3, 4, 5), np.float32), np.diag([-1.0, 2.0, 1.0, 1.0]))
    first, between = pipeline.place(volume), pipeline.place(other)
    change = np.ones_like(first.values)
    once, twice, fresh = (
        pipeline.back(change, first),
        pipeline.back(change, first),
        VolumePipeline(wanted).back(change, VolumePipeline(wanted).place(volume)),
    )
    np.testing.assert_array_equal(once, twice)
    np.testing.assert_array_equal(once, fresh)
    assert pipeline.back(np.ones_like(between.values), between).shape == other.data.shape


@given(volumes())
def test_axes_come_out_as_right_anterior_superior(volume):
    placed = VolumePipeline(VolumeInput()).place(volume)
    voxels = np.argwhere(volume.data == volume.data.max())[0], np.argwhere(volume.data == volume.data.min())[0]
    there = np.argwhere(placed.values == placed.values.max())[0], np.argwhere(placed.values == placed.values.min())[0]
    step = world(volume, voxels[0]) - world(volume, voxels[1])
    np.testing.assert_allclose((there[0] - there[1]) * placed.spacing, step, atol=1e-4)


def test_the_same_object_stored_in_two_orientations_arrives_the_same():
    data = np.random.default_rng(0).gamma(4, 100, (6, 7, 8)).astype(np.float32)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    turned = nib.Nifti1Image(data, affine).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    other = Volume(np.ascontiguousarray(turned.get_fdata(dtype=np.float32)), turned.affine)
    for wanted in (VolumeInput(), VolumeInput(spacing=(2.0, 2.0, 2.0), shape=(5, 8, 9))):
        one, two = (VolumePipeline(wanted).place(volume) for volume in (Volume(data, affine), other))
        np.testing.assert_allclose(one.values, two.values, rtol=1e-5)
        np.testing.assert_allclose(one.spacing, two.spacing, rtol=1e-6)


def test_p99_gives_units_of_the_own_percentile_and_goes_back_in_the_files_units():
    data = np.random.default_rng(0).gamma(4, 100, (9, 9, 9)).astype(np.float32)
    data[0] = 0
    data[1, 1, 1] = np.nan
    pipeline = VolumePipeline(VolumeInput(intensity="p99"))
    placed = pipeline.place(Volume(data, np.eye(4)))
    inside = data[np.isfinite(data) & (data != 0)]
    assert placed.unit == pytest.approx(np.percentile(inside, 99))
    np.testing.assert_allclose(placed.values, data / placed.unit, rtol=1e-6)
    np.testing.assert_allclose(pipeline.back(np.ones_like(placed.values), placed), placed.unit, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_p99_of_nothing_is_one(value):
    volume = Volume(np.full((3, 3, 3), value, np.float32), np.eye(4))
    assert VolumePipeline(VolumeInput(intensity="p99")).place(volume).unit == 1.0


def scan(seed: int) -> np.ndarray:
    """A bright half on a dim one, with an empty border."""
    rng = np.random.default_rng(seed)
    data = rng.gamma(6, 20, (9, 9, 9)).astype(np.float32)
    data[4:] += rng.uniform(200, 400)
    data[0] = 0
    return data


LANDMARKS = {"zscore": (1.0, 3.0), "nyul": tuple(np.linspace(0.3, 1.0, 11) ** 2)}


@pytest.mark.parametrize("intensity", LANDMARKS)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.booleans())
def test_curves_take_gain_away_and_are_undone(intensity, seed, gain, trained):
    pipeline = VolumePipeline(VolumeInput(intensity=intensity, landmarks=LANDMARKS[intensity] if trained else ()))
    data = scan(seed)
    louder = (data * np.float32(gain)).astype(np.float32)
    one, two = (pipeline.place(Volume(each, np.eye(4))) for each in (data, louder))
    np.testing.assert_allclose(two.values, one.values, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(one.intensities, data, rtol=1e-4, atol=1e-2)
    assert not one.values[0].any()
    inside = one.values[data > 0]
    assert (np.diff(inside[np.argsort(data[data > 0])]) >= 0).all()
    change = np.random.default_rng(seed).normal(scale=0.1, size=data.shape).astype(np.float32)
    change[5:] = 0
    moved = pipeline.changed(data, change, one)
    np.testing.assert_array_equal(moved[5:], data[5:])
    values = one.curve.apply(moved)
    np.testing.assert_allclose((values - one.values)[1:5][moved[1:5] != 0], change[1:5][moved[1:5] != 0], atol=1e-3)
    back = pipeline.changed(moved, -change, one)
    np.testing.assert_allclose(back, data, rtol=1e-3, atol=0.05)


def test_landmarks_are_of_the_foreground_and_arrive_where_training_had_them():
    data = scan(3)
    bright = data[data >= data[data != 0].mean()]
    np.testing.assert_allclose(
        intensity_landmarks(data, "zscore"), [bright.mean(), bright.mean() + bright.std()], rtol=1e-4
    )
    np.testing.assert_allclose(
        intensity_landmarks(data, "nyul"), np.percentile(bright, [1, *range(10, 91, 10), 99]), rtol=1e-4
    )
    for intensity, common in LANDMARKS.items():
        placed = VolumePipeline(VolumeInput(intensity=intensity, landmarks=common)).place(Volume(data, np.eye(4)))
        moved = placed.values[data >= data[data != 0].mean()]
        found = [moved.mean(), moved.mean() + moved.std()]
        if intensity == "nyul":
            found = np.percentile(moved, [1, *range(10, 91, 10), 99])
        np.testing.assert_allclose(found, common, rtol=1e-2)


@pytest.mark.parametrize("value", [0.0, np.nan, 7.0])
@pytest.mark.parametrize("intensity", LANDMARKS)
def test_an_image_without_a_foreground_stays_as_it_is(intensity, value):
    volume = Volume(np.full((3, 3, 3), value, np.float32), np.eye(4))
    placed = VolumePipeline(VolumeInput(intensity=intensity)).place(volume)
    np.testing.assert_allclose(placed.intensities, volume.data)


def test_landmarks_of_another_kind_are_refused():
    with pytest.raises(CohortError, match="zscore has 2 ascending ones; leave them to training"):
        VolumePipeline(VolumeInput(intensity="zscore", landmarks=(1.0, 2.0, 3.0)))
    with pytest.raises(CohortError, match="ascending"):
        VolumePipeline(VolumeInput(intensity="zscore", landmarks=(2.0, 1.0)))


@pytest.mark.parametrize("intensity", ["p99", *LANDMARKS])
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_other_landmarks_give_an_image_the_intensities_of_another(intensity, seed, gain):
    data = scan(seed)
    pipeline = VolumePipeline(VolumeInput(intensity=intensity))
    placed = pipeline.place(Volume(data, np.eye(4)))
    steps = log_steps(placed.landmarks)
    np.testing.assert_allclose(from_log_steps(steps), placed.landmarks, rtol=1e-9)
    louder = pipeline.changed(data, np.zeros_like(data), placed, from_log_steps(steps + np.log(gain)))
    np.testing.assert_allclose(louder, gain * data, rtol=1e-3, atol=1e-2)
    assert not louder[0].any()


def test_a_smooth_change_survives_resampling():
    x = np.linspace(0, np.pi, 16)
    bump = (np.sin(x)[:, None, None] * np.sin(x)[None, :, None] * np.sin(x)[None, None, :]).astype(np.float32)
    volume = Volume(bump, np.diag([-1.0, 1.0, 1.0, 1.0]))
    pipeline = VolumePipeline(VolumeInput(spacing=(1.25, 1.25, 1.25)))
    placed = pipeline.place(volume)
    back = pipeline.back(placed.values, placed)
    assert back.shape == bump.shape
    assert np.abs(back - bump)[2:-2, 2:-2, 2:-2].max() < 0.05


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (VolumeInput(spacing=(1.0, 1.0)), "input.spacing has 2 numbers; give three, or leave it empty"),
        (VolumeInput(shape=(4, 4, 4, 4)), "input.shape has 4 numbers; give three"),
        (
            VolumeInput(spacing=(1.0, 0.0, 1.0)),
            r"input.spacing \(1.0, 0.0, 1.0\) and shape \(\) must be above zero",
        ),
        (VolumeInput(spacing=(1.0, np.nan, 1.0)), "must be above zero"),
        (VolumeInput(shape=(4, -4, 4)), "must be above zero"),
    ],
)
def test_grids_that_cannot_be_are_refused(wanted, message):
    with pytest.raises(CohortError, match=message):
        VolumePipeline(wanted)


@pytest.mark.real_data
def test_a_real_head_that_is_not_ras_comes_back_exactly(shared_data):
    volume = read_image(sorted((shared_data / "ixi" / "t1w").iterdir())[0])
    assert "".join(nib.aff2axcodes(volume.affine)) == "PSR"
    pipeline = VolumePipeline(VolumeInput(shape=(100, 130, 130)))
    placed = pipeline.place(volume)
    assert placed.values.shape == (100, 130, 130)
    np.testing.assert_array_equal(pipeline.back(placed.values, placed), volume.data)


@settings(max_examples=25, deadline=None)
@given(volumes(oblique=True))
def test_axes_are_turned_as_monai_turns_them(volume):
    placed = VolumePipeline(VolumeInput()).place(volume)
    steps = VolumePipeline(VolumeInput(shape=placed.values.shape)).place(volume)  # a box of its own size cuts nothing
    np.testing.assert_array_equal(placed.values, steps.values)
    assert placed.grid == steps.grid
