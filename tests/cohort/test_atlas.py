import gzip

import numpy as np
import pytest

from medrep.cohort.connectivity import read_atlas
from medrep.errors import CohortError
from tests.bold_cohorts import AFFINE, NAMES, atlas_labels, save, save_atlas


def test_edges_are_the_upper_triangle_named_by_region_or_number(tmp_path):
    named = read_atlas(save_atlas(tmp_path / "atlas.nii.gz"))
    assert named.numbers == (2, 4, 5, 7, 11, 30)
    assert named.names == tuple(NAMES.values())
    assert named.edges[:2] == ("Caudate~Cuneus", "Caudate~Insula")
    assert (named.edges[5], named.edges[-1], len(named.edges)) == ("Cuneus~Insula", "Putamen~Uncus", 15)
    (tmp_path / "atlas.tsv").unlink()
    assert read_atlas(tmp_path / "atlas.nii.gz").edges[:2] == ("2~4", "2~5")


def test_the_fingerprint_is_of_what_is_measured_and_not_of_the_file(tmp_path):
    path = save_atlas(tmp_path / "atlas.nii.gz")
    first = read_atlas(path).sha256
    other = tmp_path / "b" / "atlas.nii"
    save_atlas(other, atlas_labels().astype(np.float32), AFFINE + 1e-7)
    assert read_atlas(other).sha256 == first
    gz = tmp_path / "b" / "copy.nii.gz"
    gz.write_bytes(gzip.compress(other.read_bytes()))
    gz.with_name("copy.tsv").write_bytes(other.with_name("atlas.tsv").read_bytes())
    assert read_atlas(gz).sha256 == first

    grown, transformed = atlas_labels(), AFFINE.copy()
    grown[0, 0, 0] = 2
    transformed[0, 3] += 0.5
    changed = [
        read_atlas(save_atlas(tmp_path / f"c{n}" / "atlas.nii", *a)).sha256
        for n, a in enumerate([(grown,), (atlas_labels(), transformed)])
    ]
    table = tmp_path / "atlas.tsv"
    table.write_text(table.read_text().replace("Insula", "@").replace("Cuneus", "Insula").replace("@", "Cuneus"))
    changed.append(read_atlas(path).sha256)
    assert len({first, *changed}) == 4


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.replace("index\t", "number\t"), "no column index; a table of regions has the columns"),
        (
            lambda t: t.replace("4\tCuneus\n", "").replace("Insula", "Caudate").replace("Uncus", "a~b"),
            r"of their own \(3\):\n  region 4: 0 rows\n  region 5: named 'Caudate' as is region 2\n"
            r"  region 30: 'a~b' holds '~', which stands between two regions\n  give each region",
        ),
        (lambda t: t + "2\tAgain\n", "region 2: 2 rows; give each region of the image one row"),
        (lambda t: t.replace("Cuneus", " "), "region 4: no name"),
    ],
)
def test_tables_that_do_not_name_every_region_are_refused(tmp_path, spoil, message):
    path = save_atlas(tmp_path / "atlas.nii.gz")
    table = tmp_path / "atlas.tsv"
    table.write_text(spoil(table.read_text()))
    with pytest.raises(CohortError, match=message) as refusal:
        read_atlas(path)
    assert str(refusal.value).startswith(f"{table}: ")


def test_regions_that_the_image_lacks_need_no_name(tmp_path):
    path = save_atlas(tmp_path / "atlas.nii.gz")
    before = read_atlas(path)
    table = tmp_path / "atlas.tsv"
    table.write_text(table.read_text() + "0\tBackground\n99\tElsewhere\n")
    assert read_atlas(path).names == before.names


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((3, 3, 3), np.float32), "0 region"),
        (np.ones((3, 3, 3), np.float32), r"1 region\(s\); edges need an atlas of two or more"),
        (np.full((3, 3, 3), 1.5, np.float32), r"27 voxels are no region number \(1.5, ...\)"),
        (np.full((3, 3, 3), -1, np.float32), "27 voxels are no region number"),
        (np.full((3, 3, 3), np.nan, np.float32), "27 voxels are no region number"),
        (np.full((3, 3, 3), 2**25, np.float32), "27 voxels are no region number"),
        (np.ones((3, 3, 3, 2), np.float32), r"has 4 axes \(3, 3, 3, 2\), not 3"),
    ],
)
def test_images_that_are_no_atlas_are_refused(tmp_path, data, message):
    with pytest.raises(CohortError, match=message):
        read_atlas(save(tmp_path / "atlas.nii.gz", data))
