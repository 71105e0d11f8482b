import numpy as np
import pytest

from medrep.cohort.image_quality import check_intensities, mean_level


def test_units_that_differ_between_people_are_named_with_a_cure():
    levels = {f"sub-{k:02d}": 1.0 for k in range(20)} | {f"sub-{k}": 300.0 for k in range(90, 96)}
    warning = check_intensities(levels)
    assert "differ 300-fold" in warning
    assert "sub-00: 1" in warning
    assert "sub-90: 300" in warning
    assert "--set input.intensity=p99" in warning


@pytest.mark.parametrize("gain", [1.0, 1.8, 3.0])
def test_scanner_gains_and_single_outliers_are_no_other_unit(gain):
    levels = {f"sub-{k}": (gain if k % 2 else 1.0) for k in range(40)}
    assert check_intensities(levels) == ""
    assert check_intensities(levels | {"sub-odd": 1000.0}) == ""


def test_empty_images_and_missing_voxels_do_not_count():
    assert mean_level(np.array([[-1.0, np.nan], [3.0, np.inf]])) == 2
    assert mean_level(np.full((2, 2), np.nan)) == 0
    assert check_intensities({"a": 0.0, "b": 5.0}) == ""


@pytest.mark.real_data
def test_the_raw_hippocampus_images_are_not_in_one_unit(shared_data):
    import nibabel as nib

    files = sorted((shared_data / "hippocampus" / "images").glob("*.nii.gz"))[::4]
    levels = {file.name: mean_level(nib.load(file).get_fdata()) for file in files}
    assert check_intensities(levels)
    assert not check_intensities({name: 1 + 0.1 * np.sin(k) for k, name in enumerate(levels)})
