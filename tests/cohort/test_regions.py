"""Regions of columns: read from a table of features or a label image, refused with all that is wrong."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medrep.cohort.grid import Columns, Grid, Mask, world_rows
from medrep.cohort.regions import ELSEWHERE, read_regions
from medrep.errors import CohortError

FEATURES = Columns(("a", "b", "c"), 3, None)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
AFFINE[:3, 3] = -5
GRID = Grid((3, 4, 2), (2.0, 2.0, 3.0), world_rows(AFFINE))
LABELS = np.arange(24).reshape(3, 4, 2) % 3


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def image(path: Path, labels: np.ndarray = LABELS, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(labels.astype(np.int16), affine), path)
    return path


def test_features_that_are_not_listed_are_elsewhere(tmp_path: Path) -> None:
    path = table(tmp_path / "r.tsv", "region\tfeature\tcolour\nfront\ta\tx\nback\tc\tx\n")
    found = read_regions(path, FEATURES)
    assert [found.names[code] for code in found.codes] == ["front", ELSEWHERE, "back"]


def test_a_label_image_is_read_in_the_order_of_columns_whatever_the_order_of_its_axes(tmp_path: Path) -> None:
    path = image(tmp_path / "brain_dseg.nii.gz")
    found = read_regions(path, Columns.of_grid(GRID))
    assert found.names == ("1", "2", ELSEWHERE)
    expected = np.take([2, 0, 1], LABELS.ravel())
    np.testing.assert_array_equal(found.codes, expected)
    table(tmp_path / "brain_dseg.tsv", "index\tname\n2\tright\n1\tleft\n")
    mask = Mask.of(LABELS > 0)
    named = read_regions(path, Columns.of_grid(GRID, mask))
    assert named.names == ("left", "right")
    np.testing.assert_array_equal(named.codes, LABELS.ravel()[mask.places] - 1)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = 2
    turned = image(tmp_path / "turned.nii.gz", LABELS[::-1], AFFINE @ flip)
    np.testing.assert_array_equal(read_regions(turned, Columns.of_grid(GRID)).codes, expected)
    two = read_regions(path, Columns.of_grid(GRID, structures=("x", "y")))
    table(tmp_path / "brain_dseg.tsv", "index\tname\n2\telsewhere\n1\tleft\n")
    assert read_regions(path, Columns.of_grid(GRID)).names == (ELSEWHERE, "left")
    np.testing.assert_array_equal(two.codes, np.tile(LABELS.ravel(), 2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("feature\tcolour\na\tx\n", ("no column region",)),
        (
            "feature\tregion\nx\tfront\na\t\nb\tfront\nb\tback\n",
            ("x: no feature of the model", "a: no region", "b: in front and in back"),
        ),
        ("feature\tregion\na\tfront\nb\tfront\nc\tfront\n", ("all columns are of front",)),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    with pytest.raises(CohortError) as refused:
        read_regions(table(tmp_path / "r.tsv", text), FEATURES)
    for part in said:
        assert part in str(refused.value)


def test_files_of_another_kind_or_grid_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no such file"):
        read_regions(tmp_path / "nothing.tsv", FEATURES)
    with pytest.raises(CohortError, match="columns are voxels"):
        read_regions(table(tmp_path / "r.tsv", "feature\tregion\n"), Columns.of_grid(GRID))
    with pytest.raises(CohortError, match=r"not a \.tsv"):
        read_regions(image(tmp_path / "r.nii.gz"), FEATURES)
    with pytest.raises(CohortError, match="not on the model's grid"):
        read_regions(image(tmp_path / "long.nii.gz", LABELS[:2]), Columns.of_grid(GRID))
    away = AFFINE.copy()
    away[:3, 3] += 40
    with pytest.raises(CohortError, match="lie apart in the world"):
        read_regions(image(tmp_path / "away.nii.gz", LABELS, away), Columns.of_grid(GRID))
    with pytest.raises(CohortError, match="all columns are of elsewhere"):
        read_regions(image(tmp_path / "empty.nii.gz", 0 * LABELS), Columns.of_grid(GRID))
