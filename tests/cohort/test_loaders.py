import numpy as np
import pandas as pd
import pytest

from medrep.cohort.grid import Grid, grid_problem, world_rows
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.loaders import fill_matrix, load_alike, load_volumes
from medrep.cohort.nifti import Volume, write_image
from medrep.cohort.transforms import VolumePipeline, common_grid, read_places
from medrep.errors import CohortError

WANTED = VolumeInput()


def cohort(folder, **volumes):
    files = {}
    for key, (shape, spacing) in volumes.items():
        seed = sum(key.encode())
        data = np.random.default_rng(seed).gamma(4, 100, shape).astype(np.float32)
        files[key] = folder / f"{key}.nii.gz"
        write_image(files[key], Volume(data, np.diag([*spacing, 1.0])))
    return pd.Series(files, dtype=object)


SAME = dict.fromkeys("abc", ((4, 5, 6), (2.0, 2.0, 2.0)))


def filled(files, wanted=WANTED, workers=0):
    steps = []
    found = fill_matrix(files, wanted, lambda n, m: np.zeros((n, m), np.float32), steps.append, workers)
    assert steps == [1] * len(files)
    return found.rows, found.columns.grid


def test_a_row_of_the_matrix_is_a_person_in_the_order_of_the_files(tmp_path):
    files = cohort(tmp_path, **SAME)
    matrix, grid = filled(files)
    assert (grid.shape, grid.spacing) == ((4, 5, 6), (2.0, 2.0, 2.0))
    np.testing.assert_array_equal(grid.affine(), np.diag([2.0, 2.0, 2.0, 1.0]))
    assert matrix.shape == (3, 120)
    backwards, _ = filled(files.iloc[::-1])
    np.testing.assert_array_equal(backwards, matrix[::-1])
    for row, loaded in zip(matrix, load_volumes(files, WANTED), strict=True):
        np.testing.assert_array_equal(row, loaded.placed.values.ravel())
        np.testing.assert_array_equal(row, loaded.volume.data.ravel())


def test_reading_ahead_in_other_processes_changes_nothing(tmp_path):
    files = cohort(tmp_path, **SAME)
    (tmp_path / "b.nii.gz").write_bytes(b"")
    here, there = ([*load_volumes(files, WANTED, workers=workers)] for workers in (0, 2))
    for one, two in zip(here, there, strict=True):
        assert (one.key, one.path, one.error) == (two.key, two.path, two.error)
        if one.volume is None:
            assert two.volume is None
        else:
            np.testing.assert_array_equal(one.placed.values, two.placed.values)
            np.testing.assert_array_equal(one.volume.data, two.volume.data)


def test_a_file_that_cannot_be_used_is_an_entry_with_an_error(tmp_path):
    files = cohort(tmp_path, **SAME)
    (tmp_path / "b.nii.gz").unlink()
    entries = list(load_volumes(files, WANTED))
    assert [entry.key for entry in entries] == ["a", "b", "c"]
    assert [bool(entry.error) for entry in entries] == [False, True, False]
    assert entries[1].error == f"{tmp_path}/b.nii.gz: no such file"
    assert entries[1].volume is None
    assert entries[1].placed is None


def test_every_file_that_cannot_be_used_is_listed(tmp_path):
    files = cohort(tmp_path, **SAME, d=((4, 5, 7), (2.0, 2.0, 2.0)), e=((4, 5, 6), (2.0, 2.0, 3.0)))
    (tmp_path / "b.nii.gz").write_bytes(b"")
    write_image(tmp_path / "c.nii.gz", Volume(np.full((4, 5, 6), np.nan, np.float32), np.diag([2.0, 2.0, 2.0, 1.0])))
    with pytest.raises(CohortError) as refusal:
        filled(files)
    assert str(refusal.value).splitlines() == [
        "images that cannot be used (4):",
        f"  b: {tmp_path}/b.nii.gz: the file is empty (0 bytes); fetch or convert it again",
        f"  c: {tmp_path}/c.nii.gz: 120 of 120 voxels are NaN or infinite; mend the image, or set input.missing to keep",
        "  d: grid (4, 5, 7) differs from (4, 5, 6); set input.shape to cut or pad to one grid",
        "  e: voxels of (2.0, 2.0, 3.0) mm differ from (2.0, 2.0, 2.0) mm; set input.spacing to resample",
        "  mend them, or leave the people out with --exclude",
    ]


def test_a_cohort_without_a_usable_image_is_refused(tmp_path):
    with pytest.raises(CohortError, match=r"images that cannot be used: a: .*no such file"):
        filled(pd.Series({"a": tmp_path / "a.nii"}, dtype=object))


def test_shape_and_spacing_bring_people_to_one_grid(tmp_path):
    files = cohort(tmp_path, a=((4, 5, 6), (2.0, 2.0, 2.0)), b=((8, 9, 3), (1.0, 1.0, 4.0)))
    matrix, grid = filled(files, VolumeInput(spacing=(2.0, 2.0, 2.0), shape=(4, 4, 4)))
    assert (grid.shape, grid.spacing) == ((4, 4, 4), (2.0, 2.0, 2.0))
    assert matrix.shape == (2, 64)
    assert np.isfinite(matrix).all()


def test_nan_voxels_are_kept_if_asked(tmp_path):
    files = cohort(tmp_path, **SAME)
    data = np.ones((4, 5, 6), np.float32) * np.linspace(1, 2, 6, dtype=np.float32)
    data[0, 0, 0] = np.nan
    write_image(tmp_path / "b.nii.gz", Volume(data, np.diag([2.0, 2.0, 2.0, 1.0])))
    matrix, _ = filled(files, VolumeInput(missing="keep"))
    assert np.isnan(matrix).sum() == 1
    assert np.isnan(matrix[1, 0])


def test_input_that_cannot_be_is_an_error_of_each_file_not_a_crash(tmp_path):
    entries = list(load_volumes(cohort(tmp_path, **SAME), VolumeInput(shape=(1, 2))))
    assert [entry.error for entry in entries] == ["input.shape has 2 numbers; give three, or leave it empty"] * 3


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        (Grid((4, 5, 6), (1.0, 1.0, 1.005)), ""),
        (Grid((4, 5, 7), (1.0, 1.0, 1.0)), "grid (4, 5, 7) differs from (4, 5, 6); set input.shape"),
        (Grid((4, 5, 6), (1.0, 1.0, 1.2)), "voxels of (1.0, 1.0, 1.2) mm differ from (1.0, 1.0, 1.0) mm; set input.sp"),
    ],
)
def test_grids_are_compared_in_voxels_and_mm(own, problem):
    assert grid_problem(own, Grid((4, 5, 6), (1.0, 1.0, 1.0))).startswith(problem)
    assert bool(problem) == bool(grid_problem(own, Grid((4, 5, 6), (1.0, 1.0, 1.0))))


@pytest.mark.real_data
def test_real_people_with_their_own_grids_come_to_one(shared_data):
    paths = sorted((shared_data / "hippocampus" / "images").iterdir())[:6]
    files = pd.Series({path.name.split(".")[0]: path for path in paths}, dtype=object)
    with pytest.raises(CohortError, match=r"hippocampus_\d+: grid \(.*\) differs from .*; set input.shape"):
        filled(files)
    matrix, grid = filled(files, VolumeInput(shape=(40, 56, 40)))
    assert grid.shape == (40, 56, 40)
    assert np.isfinite(matrix).all()


@pytest.mark.parametrize("intensity", ["raw", "p99"])
def test_volumes_that_are_placed_together_come_out_as_if_they_had_come_alone(tmp_path, monkeypatch, intensity):
    files = cohort(
        tmp_path, **{f"a{k}": ((9, 8, 7), (2.0, 2.0, 3.0)) for k in range(7)}, b=((8, 8, 8), (2.0, 2.0, 2.0))
    )
    (tmp_path / "a3.nii.gz").write_bytes(b"")
    monkeypatch.setattr("medrep.cohort.loaders._CELLS", 3 * 9 * 8 * 7)
    wanted = VolumeInput(spacing=(2.5, 2.5, 2.5), shape=(8, 6, 7), intensity=intensity)
    found = load_alike(files, wanted)
    assert [loaded.key for loaded in found] == list(files.index)
    for together, alone in zip(found, load_volumes(files, wanted), strict=True):
        assert (together.path, together.error) == (alone.path, alone.error)
        if alone.placed is not None:
            assert together.placed.grid == alone.placed.grid
            assert together.placed.unit == alone.placed.unit
            np.testing.assert_array_equal(together.placed.values, alone.placed.values)


def placed_cohort(folder, affines, shape=(16, 14, 12)):
    """One smooth object of the world as each image's affine sees it."""
    files = {}
    for key, affine in affines.items():
        world = np.einsum("ij,jxyz->ixyz", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
        data = 100 + 50 * np.sin(world[0] / 9) + 30 * np.cos(world[1] / 8) + 20 * np.sin(world[2] / 7)
        files[key] = folder / f"{key}.nii.gz"
        write_image(files[key], Volume(data.astype(np.float32), affine))
    return pd.Series(files, dtype=object)


def placed_at(shift=(0, 0, 0), degrees=0.0, flip=False):
    affine, angle = np.diag([2.0, 2.0, 2.0, 1.0]), np.radians(degrees)
    affine[:2, :2] = 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine[:3, 3] = shift
    return affine @ np.array([[-1, 0, 0, 15], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]) if flip else affine


ELSEWHERE = {
    "8 mm away": placed_at((8, 0, 0)),
    "half a voxel away": placed_at((0, 1, 0)),
    "turned by 25 degrees": placed_at(degrees=25),
    "turned by 3 degrees": placed_at((1, 1, 1), 3),
}


@pytest.mark.parametrize("how", ELSEWHERE)
def test_images_elsewhere_in_the_world_are_refused_by_name_whoever_is_first(tmp_path, how):
    files = placed_cohort(
        tmp_path, {"z": ELSEWHERE[how], "a": placed_at(), "b": placed_at(flip=True), "c": placed_at()}
    )
    with pytest.raises(CohortError, match=r"^images that cannot be used: z: lies apart from the common grid by up to"):
        filled(files)
    together = load_alike(files, WANTED, filled(files.drop("z"))[1])
    assert [bool(one.error) for one in together] == [True, False, False, False]


@pytest.mark.parametrize("how", ELSEWHERE)
@pytest.mark.parametrize(
    "chosen", [{"spacing": (2.0, 2.0, 2.0)}, {"shape": (12, 12, 12)}, {"spacing": (3.0, 3.0, 3.0)}]
)
def test_images_elsewhere_are_put_right_where_a_common_grid_is_asked_for(tmp_path, how, chosen):
    wanted = VolumeInput(**chosen)
    files = placed_cohort(tmp_path, {"a": placed_at(), "b": placed_at(flip=True), "z": ELSEWHERE[how]})
    said = []
    found = fill_matrix(files, wanted, lambda n, m: np.zeros((n, m), np.float32), lambda n: None, tell=said.extend)
    matrix, grid = found.rows, found.columns.grid
    assert said == ["1 image (z): not on the common grid of the world as they are, and resampled onto it"]
    np.testing.assert_array_equal(matrix[0], matrix[1])
    inside = tuple(slice(length // 3, -(length // 3)) for length in grid.shape)
    here, there = (row.reshape(grid.shape)[inside] for row in (matrix[0], matrix[2]))
    assert np.abs(here - there).max() < 3  # of an object that spans 200
    for one, alone in zip(load_alike(files, wanted, grid), load_volumes(files, wanted, common=grid), strict=True):
        np.testing.assert_array_equal(one.placed.values, alone.placed.values)


def test_a_change_goes_back_to_the_voxels_of_an_image_elsewhere(tmp_path):
    wanted = VolumeInput(spacing=(2.0, 2.0, 2.0))
    files = placed_cohort(tmp_path, {"a": placed_at(), "b": placed_at(), "z": placed_at((10, -4, 0))})
    _, grid = filled(files, wanted)
    change = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    pipeline = VolumePipeline(wanted, grid)
    *_, loaded = load_volumes(files, wanted, common=grid)
    back = pipeline.back(change, loaded.placed)
    np.testing.assert_array_equal(back[:-5, 2:], change[5:, :-2])
    assert not back[-5:].any()
    assert not back[:, :2].any()
    assert not pipeline.back(np.zeros_like(change), loaded.placed).any()


def test_images_beside_the_common_grid_are_refused_by_name(tmp_path):
    files = placed_cohort(tmp_path, {"a": placed_at(), "b": placed_at(), "z": placed_at((25, 0, 0))})
    with pytest.raises(CohortError, match=r"z: the image lies beside the common grid: \d+% of the smaller of the two"):
        filled(files, VolumeInput(spacing=(2.0, 2.0, 2.0)))


def test_a_common_grid_without_a_place_leaves_the_place_out(tmp_path):
    files = placed_cohort(tmp_path, {"a": placed_at(), "z": placed_at((10, 0, 0))})
    for wanted in (WANTED, VolumeInput(shape=(16, 14, 12))):
        found = list(load_volumes(files, wanted, common=Grid((16, 14, 12), (2.0, 2.0, 2.0))))
        assert [one.error for one in found] == ["", ""]
        assert not any(one.resampled for one in found)


def test_the_grid_of_most_images_is_the_common_one(tmp_path):
    files = placed_cohort(tmp_path, {"z": placed_at((10, 0, 0)), "a": placed_at(), "b": placed_at()})
    assert common_grid(read_places(files), WANTED).world == world_rows(placed_at())
    (tmp_path / "b.nii.gz").write_bytes(b"")
    assert common_grid(read_places(files), WANTED).world == world_rows(placed_at((10, 0, 0)))
    assert common_grid({}, WANTED) is None
