"""How far in the tails a person's columns lie, and files that hold z in place of what was measured."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medrep.cohort.surface_files import read_surface, refilled
from medrep.derivatives.deviations import EXTREME, SHARES, about_extremes, extreme_values, whole
from medrep.models.chunks import ChunkSource
from tests.surface_cohorts import write_cifti, write_gifti


def test_tails_are_shares_of_columns_that_have_a_z() -> None:
    z = np.array([2.0, -2.0, 3.5, 0.0, 1.96, np.nan, np.nan, -5.0])
    found = extreme_values(z)
    assert found["share_high"] == pytest.approx(2 / 6)  # 1.96 itself is not beyond
    assert found["share_low"] == pytest.approx(2 / 6)
    assert found["share_very_high"] == found["share_very_low"] == pytest.approx(1 / 6)
    assert found[EXTREME] == 5.0


@pytest.mark.parametrize(("columns", "largest"), [(1, 1), (100, 1), (101, 2), (250, 3)])
def test_the_extreme_is_the_mean_of_a_hundredth(columns: int, largest: int) -> None:
    z = np.random.default_rng(columns).permutation(np.arange(1.0, columns + 1)) * np.tile([1, -1], columns)[:columns]
    told = np.arange(columns, columns - largest, -1)
    assert extreme_values(np.append(z, np.nan))[EXTREME] == pytest.approx(told.mean())


def test_who_has_no_z_has_no_tails() -> None:
    assert all(np.isnan(value) for value in extreme_values(np.full(4, np.nan)).values())


def test_people_of_a_normal_cohort_have_the_shares_that_are_told() -> None:
    found = extreme_values(np.random.default_rng(0).normal(size=400_000))
    for name, (typical, told) in {"share_high": (0.025, "2.5 %"), "share_very_low": (0.00135, "0.13 %")}.items():
        assert found[name] == pytest.approx(typical, rel=0.1)
        assert told in str(about_extremes(name)["Description"])
    assert set(found) == {*SHARES, EXTREME}


def test_a_matrix_is_put_together_from_its_blocks() -> None:
    matrix = np.random.default_rng(0).normal(size=(40, 5000))
    np.testing.assert_array_equal(whole(ChunkSource(matrix.shape, lambda part: matrix[:, part])), matrix)


@pytest.mark.parametrize("encoding", ["ASCII", "B64BIN", "B64GZ"])
def test_every_map_of_a_surface_is_refilled(tmp_path: Path, encoding: str) -> None:
    path, z = tmp_path / "sub-1_hemi-L_thickness.shape.gii", np.array([0.5, -1.25, np.nan, 3.0])
    maps = np.arange(8, dtype=np.float32).reshape(2, 4)
    write_gifti(path, *maps, encoding=f"GIFTI_ENCODING_{encoding}")
    path.write_bytes(refilled(read_surface(path), z))
    for column in nib.load(path).agg_data():
        np.testing.assert_array_equal(column, z.astype(np.float32))


def test_a_cifti_file_keeps_its_axes(tmp_path: Path) -> None:
    path, z = tmp_path / "sub-1_thickness.dscalar.nii", np.random.default_rng(0).normal(size=40)
    write_cifti(path, np.arange(80, dtype=np.float32).reshape(2, 40))
    before = nib.load(path)
    path.write_bytes(refilled(read_surface(path), z))
    after = nib.load(path)
    np.testing.assert_array_equal(after.get_fdata(dtype=np.float32), np.stack([z, z]).astype(np.float32))
    assert after.header.get_axis(1) == before.header.get_axis(1)
