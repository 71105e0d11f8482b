"""Files of points: read as they are, and written again with nothing else changed."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medrep.cohort.point_files import read_points
from medrep.errors import CohortError
from tests.point_cohorts import FACES, write_gifti_mesh, write_landmarks, write_ply

SHAPE = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32).astype(float) * 30
PLY = (
    b"ply\nformat binary_little_endian 1.0\nelement vertex 4\n"
    + b"".join(b"property float %c\n" % axis for axis in b"xyz")
    + b"end_header\n"
)
FORMS = ["landmarks", "plain", "ascii", "binary_little_endian", "binary_big_endian", "ASCII", "B64BIN", "B64GZ"]


def write(folder: Path, form: str) -> Path:
    if form in ("landmarks", "plain"):
        write_landmarks(path := folder / "sub-1_landmarks.tsv", SHAPE, names=form == "landmarks")
    elif form in ("ASCII", "B64BIN", "B64GZ"):
        write_gifti_mesh(path := folder / "sub-1_pial.surf.gii", SHAPE, f"GIFTI_ENCODING_{form}")
    else:
        write_ply(path := folder / "sub-1_mesh.ply", SHAPE, form)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_points_are_read_and_written_with_nothing_else_changed(tmp_path: Path, form: str) -> None:
    path = write(tmp_path, form)
    file = read_points(path)
    np.testing.assert_allclose(file.points, SHAPE, atol=2e-4)
    assert file.labels == (tuple(f"mark{k}" for k in range(9)) if form == "landmarks" else ())
    assert file.moved(np.zeros_like(SHAPE)) == path.read_bytes()

    change = np.zeros_like(SHAPE)
    change[3] = (1.5, 0.0, -2.25)
    before = path.read_bytes()
    path.write_bytes(file.moved(change))
    again = read_points(path)
    np.testing.assert_allclose(again.points, file.points + change, atol=1e-5)
    np.testing.assert_array_equal(np.delete(again.points, 3, 0), np.delete(file.points, 3, 0))
    if form == "landmarks":
        old, new = before.decode().splitlines(), path.read_text().splitlines()
        assert [k for k in range(len(old)) if old[k] != new[k]] == [4]
        assert new[4].split("\t")[::4] == ["mark3", "seen"]
    elif form.isupper() or form.startswith("B64"):
        image = nib.load(path)
        np.testing.assert_array_equal(image.darrays[1].data, FACES)
    else:
        assert path.read_bytes().endswith(before[-20:])


def test_two_dimensions_missing_cells_and_line_ends_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "sub-1_landmarks.tsv"
    path.write_bytes(b"\xef\xbb\xbfX\tY\r\n1\t2\r\nn/a\t4\r\n5\t6\r\n7\t8")
    file = read_points(path)
    np.testing.assert_array_equal(file.points, [[1, 2], [np.nan, 4], [5, 6], [7, 8]])
    change = np.zeros((4, 2))
    change[3, 1] = 0.5
    assert file.moved(change) == path.read_bytes()[:-1] + b"8.5"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a_landmarks.tsv", b"", "empty"),
        ("a_landmarks.tsv", b"a\tb\n1\t2\n", "name the coordinates x, y and z"),
        ("a_landmarks.tsv", b"x\ty\n1\tb\n2\t3\n4\t5\n", "line 2: 'b'"),
        ("a_landmarks.tsv", b"x\ty\n1\n", "lines 2 have not 2 cells"),
        ("a_landmarks.tsv", b"name\tx\ty\na\t1\t2\na\t2\t3\nb\t3\t4\n", "several points are named a"),
        ("a_landmarks.tsv", b"x\ty\n1\t2\n", "at least 3 are needed"),
        ("a_mesh.ply", b"solid", "no header"),
        ("a_mesh.ply", b"ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nend_header\n", "without y, z"),
        ("a_mesh.ply", b"ply\nformat ascii 1.0\nelement face 1\nend_header\n", "first element is not vertex"),
        (
            "a_mesh.ply",
            PLY + b"abc",
            "cut off or damaged",
        ),
        ("a_pial.surf.gii", b"<GIFTI", "cut off or damaged"),
        ("a.obj", b"v 1 2 3", "not a file of points"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CohortError, match=said) as error:
        read_points(tmp_path / name)
    assert "\n" not in str(error.value)
    assert str(tmp_path / name) in str(error.value)


def test_a_gifti_without_points_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a_pial.surf.gii"
    faces = nib.gifti.GiftiDataArray(FACES, intent="NIFTI_INTENT_TRIANGLE", datatype="NIFTI_TYPE_INT32")
    image = nib.gifti.GiftiImage(darrays=[faces])
    path.write_bytes(image.to_bytes())
    with pytest.raises(CohortError, match="holds 0 sets of points"):
        read_points(path)
