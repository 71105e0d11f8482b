"""Surfaces written again: the bytes of the file that was read, but for the values that moved."""

import base64
import re
import zlib
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medrep.cohort.kinds.surface import SurfaceInput, read_person
from medrep.cohort.surface_files import rewritten
from medrep.derivatives.bids import described_name, sidecar
from tests.surface_cohorts import write_cifti, write_gifti

ENCODINGS = ("GIFTI_ENCODING_ASCII", "GIFTI_ENCODING_B64BIN", "GIFTI_ENCODING_B64GZ")
DATA = re.compile(rb"(?<=<Data>).*?(?=</Data>)", re.DOTALL)
FINITE = {"allow_nan": False, "allow_infinity": False, "width": 32, "min_value": -1e6, "max_value": 1e6}


def read(content: bytes, cifti: bool = False) -> np.ndarray:
    """Return what nibabel reads of a file that was written again: a row a map."""
    if cifti:
        return np.asarray(nib.Cifti2Image.from_bytes(content).dataobj)
    return np.stack([one.data for one in nib.GiftiImage.from_bytes(content).darrays])


@settings(max_examples=12)
@given(
    arrays(np.float32, st.tuples(st.just(2), st.integers(1, 8)), elements=st.floats(**FINITE)),
    st.sampled_from(ENCODINGS),
    st.booleans(),
)
def test_gifti_comes_back_but_for_its_values(
    tmp_path_factory: pytest.TempPathFactory, data: np.ndarray, encoding: str, big: bool
) -> None:
    path = tmp_path_factory.mktemp("one") / "sub-1_thickness.shape.gii"
    write_gifti(path, *data, encoding=encoding)
    content = (
        path.read_bytes().replace(b"<Data>", b"<Data>\n  ").replace(b'Dimensionality="1"', b'Dimensionality = "1"')
    )
    if big and "ASCII" not in encoding:
        content = big_endian(content, data, encoding)
    path.write_bytes(content)
    before = read(content)
    file = read_person(path, SurfaceInput(map="2")).files[0]
    change = np.arange(data.shape[1]) * 0.5  # the first value stays
    assert rewritten(file, np.zeros(data.shape[1]), slice(1, 2)) == content
    written = rewritten(file, change, slice(1, 2))
    assert DATA.sub(b"", written) == DATA.sub(b"", content)
    assert DATA.findall(written)[0] == DATA.findall(content)[0]
    after = read(written)
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1], (before[1] + change).astype(np.float32))


@pytest.mark.parametrize("name", ["rh.shape.curv.gii", "task.func.gii", "gzipbase64.gii"])
def test_files_of_other_programs_come_back_but_for_their_values(tmp_path: Path, name: str) -> None:
    there = Path(nib.__file__).parent / "gifti" / "tests" / "data" / name
    if not there.is_file():
        pytest.skip("nibabel is installed without its examples")
    path = tmp_path / "sub-1_thickness.func.gii"
    path.write_bytes(there.read_bytes())
    person = read_person(path, SurfaceInput(map="mean"))
    written = rewritten(person.files[0], np.full(len(person.names), 0.5), person.maps[0])
    assert DATA.sub(b"", written) == DATA.sub(b"", there.read_bytes())
    np.testing.assert_allclose(read(written), read(there.read_bytes()) + 0.5, rtol=1e-6)


def big_endian(content: bytes, data: np.ndarray, encoding: str) -> bytes:
    """Return a GIFTI file in the other byte order."""
    rows, packed = iter(data.astype(">f4")), zlib.compress if "GZ" in encoding else bytes
    content = content.replace(b"LittleEndian", b"BigEndian")
    return DATA.sub(lambda _: b"\n" + base64.b64encode(packed(next(rows).tobytes())) + b"\n", content)


def test_values_that_stay_keep_their_bits(tmp_path: Path) -> None:
    path = tmp_path / "sub-1_thickness.shape.gii"
    odd = np.array([np.nan, -0.0, 1.5, np.inf], np.float32)
    odd.view(np.uint32)[0] = 0x7FC12345  # a NaN with a payload
    write_gifti(path, odd)
    file = read_person(path, SurfaceInput(missing="keep")).files[0]
    after = read(rewritten(file, np.array([0.0, 0.0, 1.0, 0.0]), slice(0, 1)))[0]
    np.testing.assert_array_equal(after.view(np.uint32)[[0, 1, 3]], odd.view(np.uint32)[[0, 1, 3]])
    assert after[2] == 2.5


@settings(max_examples=8)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(6, 9)), elements=st.floats(**FINITE)),
    st.sampled_from(["dscalar", "ptseries", "pscalar", "dtseries"]),
    st.sampled_from(["<f4", ">f4", ">f8"]),
)
def test_cifti_comes_back_but_for_its_values(
    tmp_path_factory: pytest.TempPathFactory, data: np.ndarray, ending: str, dtype: str
) -> None:
    path = tmp_path_factory.mktemp("one") / f"sub-1_thickness.{ending}.nii"
    write_cifti(path, data)
    content = stored_as(path.read_bytes(), data, np.dtype(dtype))
    path.write_bytes(content)
    before = read(content, cifti=True)
    person = read_person(path, SurfaceInput(map="mean"))
    file, count = person.files[0], data.shape[1]
    np.testing.assert_allclose(person.row, data.mean(axis=0), rtol=1e-6, atol=1e-6)
    assert rewritten(file, np.zeros(count), person.maps[0]) == content
    change = np.arange(count) * 0.5
    written = rewritten(file, change, person.maps[0])
    start = len(content) - data.size * np.dtype(dtype).itemsize
    assert len(written) == len(content)
    assert written[:start] == content[:start]
    np.testing.assert_array_equal(read(written, cifti=True), (before + change).astype(dtype))


def stored_as(content: bytes, data: np.ndarray, dtype: np.dtype) -> bytes:
    """Return a CIFTI file with its header and its values in another type or byte order."""
    header = nib.Nifti2Header.from_fileobj(BytesIO(content), check=False)
    start = int(header["vox_offset"])
    header.set_data_dtype(dtype.newbyteorder("="))
    order, extension = "<>"[dtype.str[0] == ">"], content[540:start]
    if order == ">":  # size and code of the extension are of the header's order, too
        extension = extension[:4] + extension[7:3:-1] + extension[11:7:-1] + extension[12:]
    return header.as_byteswapped(order).binaryblock + extension + data.astype(dtype).tobytes("F")


@pytest.mark.parametrize(
    ("name", "stem", "ending"),
    [
        ("sub-1/anat/sub-1_hemi-L_thickness", "sub-1/anat/sub-1_hemi-L_desc-x_thickness", ".shape.gii"),
        ("sub-1_hemi-R_desc-y_sulc", "sub-1_hemi-R_desc-x_sulc", ".func.gii"),
        ("sub-1_space-fsLR_den-91k_thickness", "sub-1_space-fsLR_den-91k_desc-x_thickness", ".dscalar.nii"),
        ("a/sub-1_timeseries", "a/sub-1_desc-x_timeseries", ".ptseries.nii"),
    ],
)
def test_a_surface_keeps_its_place_entities_and_ending(name: str, stem: str, ending: str) -> None:
    place = described_name(name + ending, "x")
    assert str(place) == stem + ending
    assert str(sidecar(place)) == f"{stem}.json"
