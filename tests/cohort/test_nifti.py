import gzip
import os
import struct

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from medrep.cohort.nifti import (
    LabelMap,
    Volume,
    in_memory,
    missing_voxels,
    read_image,
    read_labels,
    read_series,
    write_image,
    write_label_map,
)
from medrep.errors import CohortError

OPENED = {
    "anatomical.nii": ((33, 41, 25), (2.0, 2.0, 2.0)),
    "reoriented_anat_moved.nii": ((21, 26, 22), (4.0, 4.0, 4.0)),
    "resampled_anat_moved.nii": ((17, 21, 3), (4.0, 4.0, 8.0)),
}
REFUSED = {
    "README.rst": "not a file that is read",
    "analyze.hdr": "a header without its image; put analyze.img there or convert to .nii",
    "example4d.nii.gz": r"has 4 axes \(128, 96, 24, 2\), not 3; take one volume or the mean of it",
    "example_nifti2.nii.gz": r"has 4 axes \(32, 20, 12, 2\), not 3",
    "functional.nii": r"has 4 axes \(17, 21, 3, 20\), not 3",
    "nifti1.hdr": "a header without its image; put nifti1.img there",
    "nifti2.hdr": "a header without its image; put nifti2.img there",
    "row_major.dconn.nii": "a CIFTI matrix has no voxel grid; export it as features.tsv",
    "standard.nii.gz": r"looks like a label map \(2 whole-number values\), not an image; choose another suffix",
    "test.mgz": r"has 4 axes \(3, 4, 5, 2\), not 3",
}
SHAPE = (5, 4, 3)
NOISE = (np.random.default_rng(0).normal(size=SHAPE) * 100).astype(np.float32)
SCALE = np.diag([2.0, 2.0, 3.0, 1.0])


def image(data=NOISE, affine=SCALE, form=nib.Nifti1Image):
    made = form(data, affine)
    if form is not nib.MGHImage:
        made.header.set_sform(affine, code=1)
    return made


def header_with(offset, layout, *values, form=nib.Nifti1Image):
    raw = bytearray(image(form=form).to_bytes())
    struct.pack_into(layout, raw, offset, *values)
    return bytes(raw)


def refuse(path, message):
    with pytest.raises(CohortError, match=message) as refusal:
        read_image(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


def saved(folder, content, name="sub-1_T1w.nii"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.to_bytes())
    return path


@pytest.mark.real_data
def test_every_edge_case_is_listed_here(shared_data):
    assert {path.name for path in (shared_data / "nifti_edge_cases").iterdir()} == {*OPENED, *REFUSED}


@pytest.mark.real_data
@pytest.mark.parametrize("name", OPENED)
def test_edge_cases_that_are_opened(shared_data, name):
    path = shared_data / "nifti_edge_cases" / name
    volume = read_image(path)
    shape, spacing = OPENED[name]
    assert volume.data.shape == shape
    assert volume.data.dtype == np.float32
    np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-5)
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)


@pytest.mark.real_data
@pytest.mark.parametrize("name", REFUSED)
def test_edge_cases_that_are_refused(shared_data, name):
    refuse(shared_data / "nifti_edge_cases" / name, REFUSED[name])


@pytest.mark.real_data
def test_real_images_are_accepted(shared_data):
    paths = [*sorted((shared_data / "hippocampus" / "images").iterdir())[::5], *(shared_data / "ixi" / "t1w").iterdir()]
    assert len(paths) == 50
    assert all(missing_voxels(read_image(path)) == 0 for path in paths)


@pytest.mark.real_data
@pytest.mark.parametrize(("folder", "count"), [("hippocampus/labels", 200), ("ixi/dlmuse", 10)])
def test_every_real_label_map_is_refused_as_an_image(shared_data, folder, count):
    paths = list((shared_data / folder).iterdir())
    assert len(paths) == count
    for path in paths:
        refuse(path, r"looks like a label map \(\d+ whole-number values\), not an image")


@pytest.mark.parametrize("form", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_is_read_with_its_affine(tmp_path, form, ending):
    raw = image(form=form).to_bytes()
    volume = read_image(saved(tmp_path, gzip.compress(raw) if ending == ".nii.gz" else raw, f"a{ending}"))
    np.testing.assert_array_equal(volume.data, NOISE)
    np.testing.assert_array_equal(volume.affine, SCALE)


def test_scaling_byte_order_and_a_last_axis_of_one_are_handled(tmp_path):
    whole = np.round(NOISE).astype(np.int16)
    swapped = nib.Nifti1Image(whole.reshape(*SHAPE, 1), None, nib.Nifti1Header(endianness=">"))
    swapped.header.set_data_dtype(np.int16)
    swapped.header.set_sform(SCALE, code=1)
    path = tmp_path / "a.nii"
    swapped.to_filename(path)
    raw = bytearray(path.read_bytes())
    struct.pack_into(">2f", raw, 112, 0.5, 3.0)
    struct.pack_into(">60h", raw, 352, *whole.ravel(order="F"))
    np.testing.assert_array_equal(read_image(saved(tmp_path, bytes(raw))).data, whole * 0.5 + 3)


def test_mgh_is_read_and_a_pair_of_header_and_image(tmp_path):
    packed = saved(tmp_path, gzip.compress(image(form=nib.MGHImage).to_bytes()), "a.mgz")
    np.testing.assert_array_equal(read_image(packed).data, NOISE)
    nib.save(image(form=nib.Nifti1Pair), tmp_path / "pair.img")
    for name in ("pair.img", "pair.hdr"):
        np.testing.assert_array_equal(read_image(tmp_path / name).data, NOISE)
    (tmp_path / "pair.hdr").rename(tmp_path / "kept.hdr")
    refuse(tmp_path / "pair.img", "no header beside it; put pair.hdr there or convert to .nii")
    (tmp_path / "pair.img").unlink()
    refuse(tmp_path / "kept.hdr", "a header without its image; put kept.img there or convert to .nii")


def test_analyze_is_refused_since_its_left_is_unknown(tmp_path):
    nib.save(nib.AnalyzeImage(NOISE, None), tmp_path / "a.img")
    refuse(tmp_path / "a.img", "ANALYZE files do not say which side is left; convert to NIfTI")


@pytest.mark.parametrize("share", [0.005, 0.2, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("packed", [False, True])
def test_truncated_files_are_refused(tmp_path, share, packed):
    raw = image().to_bytes()
    raw = gzip.compress(raw) if packed else raw
    path = saved(tmp_path, raw[: int(share * len(raw))], "a.nii.gz" if packed else "a.nii")
    refuse(path, "not a readable image|the data are cut off or damaged|more than the file can hold")


@pytest.mark.parametrize("form", [nib.Nifti1Image, nib.Nifti2Image])
def test_gzip_in_several_members_and_with_something_after_it_is_read(tmp_path, form):
    raw = image(form=form).to_bytes()
    packed = b"".join(gzip.compress(raw[start : start + 200]) for start in range(0, len(raw), 200))
    for content in (packed, gzip.compress(raw), gzip.compress(raw + bytes(64))):
        volume = read_image(saved(tmp_path, content, "a.nii.gz"))
        np.testing.assert_array_equal(volume.data, NOISE)
        np.testing.assert_array_equal(volume.affine, SCALE)


def test_damaged_gzip_and_wrong_endings_are_refused(tmp_path):
    raw = bytearray(gzip.compress(image().to_bytes()))
    raw[200] ^= 255
    refuse(saved(tmp_path, bytes(raw), "a.nii.gz"), "not a readable image|cut off or damaged")
    refuse(saved(tmp_path, image(), "b.nii.gz"), r"not a readable image \(File .* is not a gzip file\)")
    refuse(saved(tmp_path, gzip.compress(image().to_bytes()), "c.nii"), "not a readable image")
    refuse(saved(tmp_path, image(), "d.png"), r"not a file that is read \(\.nii, \.nii\.gz, ")


def test_an_empty_file_nothing_a_folder_and_a_loop_are_refused(tmp_path):
    refuse(saved(tmp_path, b"", "a.nii.gz"), r"the file is empty \(0 bytes\); fetch or convert it again")
    refuse(tmp_path / "nothing.nii", "no such file")
    (tmp_path / "folder.nii").mkdir()
    refuse(tmp_path / "folder.nii", "not a file")
    (tmp_path / "loop.nii").symlink_to("loop.nii")
    refuse(tmp_path / "loop.nii", r"cannot be opened \(Too many levels of symbolic links\)")
    (tmp_path / "dead.nii").symlink_to("nothing.nii")
    refuse(tmp_path / "dead.nii", "no such file")
    refuse(tmp_path / ("x" * 300 + ".nii"), r"cannot be opened \(File name too long\)")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = saved(tmp_path, image())
    path.chmod(0)
    refuse(path, r"cannot be opened \(Permission denied\)")


@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_claims_a_trillion_voxels_is_refused_before_anything_is_allocated(tmp_path, packed):
    raw = header_with(40, "<8h", 3, 10_000, 10_000, 10_000, 1, 1, 1, 1)
    path = saved(tmp_path, gzip.compress(raw) if packed else raw, "a.nii.gz" if packed else "a.nii")
    refuse(path, r"the header claims 1e\+12 voxels, more than the file can hold; convert it again")


def test_a_nifti2_header_that_claims_more_than_a_disk_is_refused(tmp_path):
    raw = header_with(16, "<8q", 7, *[2**62] * 7, form=nib.Nifti2Image)
    refuse(saved(tmp_path, raw), r"the header claims 4\.44e\+130 voxels")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 5, 4), r"shape \(0, 5, 4\), which holds no voxel"),
        ((-5, 4, 3), "which holds no voxel|not a readable image"),
        ((20, 3), r"has 2 axes \(20, 3\), not 3; a 3-D image is needed"),
        ((5, 4, 1, 3), r"has 4 axes \(5, 4, 1, 3\), not 3; take one volume"),
        ((5, 1, 1, 1, 12), r"has 5 axes"),
    ],
)
def test_shapes_that_are_no_volume_are_refused(tmp_path, shape, message):
    raw = header_with(40, "<8h", len(shape), *shape, *[1] * (7 - len(shape)))
    refuse(saved(tmp_path, raw), message)


def test_an_affine_that_no_code_vouches_for_is_refused(tmp_path):
    raw = header_with(252, "<2h", 0, 0)
    refuse(saved(tmp_path, raw), r"no orientation \(sform and qform codes are 0\); set the affine with a tool")
    raw = bytearray(image(form=nib.MGHImage).to_bytes())
    raw[28:30] = b"\0\0"
    refuse(saved(tmp_path, gzip.compress(bytes(raw)), "a.mgz"), r"no orientation \(goodRASFlag is 0\)")


def test_a_qform_alone_is_enough(tmp_path):
    made = nib.Nifti1Image(NOISE, None)
    made.header.set_qform(SCALE, code=1)
    np.testing.assert_allclose(read_image(saved(tmp_path, made)).affine, SCALE)


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((3, 4)),
        np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]),
        np.array([[1, 2, 3, 0], [2, 4, 6, 0], [0, 0, 1, 0]]),
        np.array([[1, 0, 0, np.nan], [0, 1, 0, 0], [0, 0, 1, 0]]),
        np.array([[np.inf, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]),
        np.array([[1e30, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]),
        np.array([[1e-40, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]),
    ],
)
def test_affines_that_cannot_be_inverted_are_refused(tmp_path, rows):
    raw = header_with(280, "<12f", *rows.ravel())
    refuse(saved(tmp_path, raw), r"the affine \[\[.* cannot be inverted; set a valid one")


def test_voxels_of_a_micrometre_are_accepted_and_units_other_than_mm_refused(tmp_path):
    tiny = np.diag([1e-4, 1e-4, 2e-4, 1.0])
    np.testing.assert_allclose(read_image(saved(tmp_path, image(affine=tiny))).spacing, [1e-4, 1e-4, 2e-4])
    refuse(saved(tmp_path, header_with(123, "B", 3)), "the header gives lengths in micrometres; convert the affine")
    refuse(saved(tmp_path, header_with(123, "B", 1 + 8)), "the header gives lengths in metres")


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_colour_and_complex_voxels_are_refused(tmp_path, dtype):
    made = nib.Nifti1Image(np.zeros(SHAPE, dtype), SCALE)
    refuse(saved(tmp_path, made), "colour or complex voxels .*; one real number a voxel is needed")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint16, np.float64])
def test_every_real_type_becomes_float32(tmp_path, dtype):
    data = np.random.default_rng(1).integers(0, 200, SHAPE).astype(dtype)
    volume = read_image(saved(tmp_path, image(data)))
    assert volume.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data, data)


def test_nan_voxels_are_kept_and_counted(tmp_path):
    data = NOISE.copy()
    data[0, 0, 0], data[1, 1, 1] = np.nan, np.inf
    assert missing_voxels(read_image(saved(tmp_path, image(data)))) == 2
    assert missing_voxels(read_image(saved(tmp_path, image(np.full_like(NOISE, np.nan))))) == NOISE.size


def test_numbers_beyond_float32_become_infinite_and_are_counted(tmp_path):
    data = NOISE.astype(np.float64)
    data[0, 0, 0] = 1e300
    assert missing_voxels(read_image(saved(tmp_path, image(data)))) == 1


def blocks(levels, shape=(8, 8, 8)):
    return np.add.outer(np.add.outer(*[np.arange(n) // 4 for n in shape[:2]]), np.arange(shape[2]) // 4) % levels


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("levels", [2, 3, 4])
def test_label_maps_are_refused_in_any_type(tmp_path, dtype, levels):
    refuse(saved(tmp_path, image(blocks(levels).astype(dtype))), rf"label map \({levels} whole-number values\)")


def test_a_label_map_of_one_slice_or_with_a_nan_is_still_one(tmp_path):
    refuse(saved(tmp_path, image(blocks(3)[:1].astype(np.uint8))), "looks like a label map")
    data = blocks(3).astype(np.float32)
    data[0, 0, 0] = np.nan
    refuse(saved(tmp_path, image(data)), "looks like a label map")


affines = npst.arrays(np.float64, (3, 3), elements=st.floats(-4, 4)).filter(lambda m: abs(np.linalg.det(m)) > 0.5)


@st.composite
def volumes(draw):
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
    data = draw(npst.arrays(np.float32, shape, elements=st.floats(width=32, allow_nan=True, allow_infinity=True)))
    affine = np.eye(4)
    affine[:3, :3] = draw(affines)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return Volume(data, affine.astype(np.float32).astype(np.float64))


@given(volumes(), st.sampled_from([".nii", ".nii.gz"]))
def test_what_is_written_is_what_other_tools_read_sheared_and_oblique_affines_too(tmp_path_factory, volume, ending):
    path = tmp_path_factory.mktemp("v") / f"a{ending}"
    write_image(path, volume)
    seen = nib.load(path)
    assert seen.get_data_dtype() == np.float32
    assert seen.shape == volume.data.shape
    assert seen.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(seen.get_fdata(dtype=np.float32), volume.data)
    np.testing.assert_array_equal(seen.affine, volume.affine)
    qform, code = seen.header.get_qform(coded=True)
    assert code == 0 or np.allclose(qform, volume.affine, atol=1e-2)


@given(volumes())
def test_the_same_volume_gives_the_same_bytes_in_any_folder(tmp_path_factory, volume):
    paths = [tmp_path_factory.mktemp("v") / name for name in ("a.nii.gz", "b.nii.gz")]
    for path in paths:
        write_image(path, volume)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_written_image_is_read_back_exactly(tmp_path):
    turned = np.array([[0.0, -2, 0, 10], [1.5, 0, 0, -20], [0.25, 0, 3, 30], [0, 0, 0, 1]])
    write_image(tmp_path / "deep" / "a.nii.gz", Volume(NOISE, turned))
    volume = read_image(tmp_path / "deep" / "a.nii.gz")
    np.testing.assert_array_equal(volume.data, NOISE)
    np.testing.assert_array_equal(volume.affine, turned)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.nii.gz"]


def test_an_axis_too_long_for_nifti1_is_written_as_nifti2(tmp_path):
    volume = Volume(np.arange(40_000, dtype=np.float32).reshape(-1, 1, 1), SCALE)
    write_image(tmp_path / "a.nii", volume)
    assert isinstance(nib.load(tmp_path / "a.nii"), nib.Nifti2Image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii").data, volume.data)


@given(st.binary(max_size=600), st.sampled_from([".nii", ".nii.gz", ".mgz"]))
def test_any_bytes_are_refused(tmp_path_factory, raw, ending):
    refuse(
        saved(tmp_path_factory.mktemp("n"), raw, f"a{ending}"),
        "the file is empty|not a readable image|no orientation|cut off or damaged",
    )


changes = st.lists(
    st.tuples(
        st.integers(0, 351),
        st.binary(min_size=1, max_size=4)
        | st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\xff\xff\x7f\x7f", b"\1\0\0\0"]),
    ),
    min_size=1,
    max_size=4,
)


@given(changes, st.sampled_from([(nib.Nifti1Image, ".nii"), (nib.Nifti2Image, ".nii.gz"), (nib.MGHImage, ".mgz")]))
def test_a_header_with_any_bytes_changed_is_read_or_refused(tmp_path_factory, changes, kind):
    form, ending = kind
    raw = bytearray(image(form=form).to_bytes())
    for place, new in changes:
        start = place % 90 if form is nib.MGHImage else place
        raw[start : start + len(new)] = new
    path = saved(
        tmp_path_factory.mktemp("n"), bytes(raw) if ending == ".nii" else gzip.compress(bytes(raw)), f"a{ending}"
    )
    try:
        volume = read_image(path)
    except CohortError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        write_image(path.with_name("again.nii"), volume)
        assert read_image(path.with_name("again.nii")).data.shape == volume.data.shape


@pytest.mark.parametrize(
    ("unit", "zoom", "seconds"),
    [("sec", 2.5, 2.5), ("msec", 2500, 2.5), ("usec", 2.5e6, 2.5), ("unknown", 2.5, 0), ("sec", 0, 0), ("hz", 2, 0)],
)
def test_a_series_comes_with_the_seconds_between_its_volumes(tmp_path, unit, zoom, seconds):
    data = np.random.default_rng(0).normal(size=(*SHAPE, 6)).astype(np.float32)
    data[0, 0, 0, 2] = np.nan
    made = image(data)
    made.header.set_xyzt_units("mm", unit)
    made.header["pixdim"][4] = zoom
    series = read_series(saved(tmp_path, made))
    np.testing.assert_array_equal(series.data, data)
    np.testing.assert_array_equal(series.affine, SCALE)
    assert series.repetition == pytest.approx(seconds)


def test_a_series_needs_four_axes(tmp_path):
    one, five = saved(tmp_path, image()), saved(tmp_path, image(np.zeros((*SHAPE, 2, 2), np.float32)), "five.nii")
    with pytest.raises(CohortError, match=r"has 3 axes \(5, 4, 3\), not 4; a time series is needed"):
        read_series(one)
    with pytest.raises(CohortError, match=r"has 5 axes \(5, 4, 3, 2, 2\), not 4"):
        read_series(five)
    assert read_series(saved(tmp_path, image(NOISE[..., None, None]), "trailing.nii")).data.shape == (*SHAPE, 1)


def test_labels_are_whole_numbers_whatever_they_are_stored_as(tmp_path):
    labels = np.random.default_rng(0).integers(0, 12_000, SHAPE)
    for kind in (np.uint16, np.int32, np.float32, np.float64):
        read = read_labels(saved(tmp_path, image(labels.astype(kind))))
        np.testing.assert_array_equal(read.data, labels)
        assert read.data.dtype == np.int32
    with pytest.raises(CohortError, match=r"60 voxels are no region number .* a label map holds whole numbers from 0"):
        read_labels(saved(tmp_path, image()))


@pytest.mark.parametrize(("most", "kind"), [(255, np.uint8), (256, np.int16), (32767, np.int16), (32768, np.int32)])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_label_map_is_written_in_the_smallest_whole_number_type(tmp_path, most, kind, ending):
    data = np.random.default_rng(0).integers(0, most, SHAPE, dtype=np.int32)
    data[0, 0, 0] = most
    oblique = np.array([[0.0, -2, 0, 10], [1.5, 0, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])
    paths = [tmp_path / name / f"a{ending}" for name in ("one", "two")]
    for path in paths:
        write_label_map(path, LabelMap(data, oblique))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    seen = nib.load(paths[0])
    assert seen.get_data_dtype() == kind
    assert seen.header.get_slope_inter() == (None, None)
    for form, code in (seen.header.get_sform(coded=True), seen.header.get_qform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(form, oblique, atol=1e-5)
    read = read_labels(paths[0])
    np.testing.assert_array_equal(read.data, data)
    np.testing.assert_array_equal(read.affine, oblique)


def test_an_array_becomes_an_image_that_says_where_it_lies():
    made = in_memory(NOISE, SCALE)
    np.testing.assert_array_equal(made.affine, SCALE)
    np.testing.assert_array_equal(made.get_fdata(dtype=np.float32), NOISE)
    assert made.header["sform_code"] > 0


@pytest.mark.real_data
def test_a_real_series_is_read(shared_data):
    path = shared_data / "nifti_edge_cases" / "functional.nii"
    series = read_series(path)
    np.testing.assert_allclose(series.data, nib.load(path).get_fdata(), rtol=1e-6)
    assert series.data.shape == (17, 21, 3, 20)


FORMS = {
    "a.nii.gz": nib.Nifti1Image,
    "b.nii.gz": nib.Nifti2Image,
    "c.mgz": nib.MGHImage,
    "d.img.gz": nib.Nifti1Pair,
    "e.img.gz": nib.Nifti2Pair,
}


def packed_file(folder, name, data=NOISE):
    """Write a packed file whose voxels gzip cannot shorten, so that most of its bytes are theirs."""
    path = folder / name
    nib.save(image(data, form=FORMS[name]), path)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    return path


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("read", [read_image, read_labels])
def test_a_flipped_bit_in_a_packed_voxel_is_refused_through_every_door(tmp_path, name, read):
    data = NOISE if read is read_image else (NOISE > 0).astype(np.float32)
    path = packed_file(tmp_path, name, data)
    read(path)
    raw = path.read_bytes()
    for place in range(-20, -12):
        damaged = bytearray(raw)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(
            CohortError, match=r"the data are cut off or damaged .*checksum does not fit.*; fetch it again"
        ):
            read(path)


@given(st.integers(0, 10**6), st.integers(0, 7), st.sampled_from([1, 6]))
def test_no_flipped_bit_of_a_series_passes_with_other_voxels(tmp_path_factory, place, bit, level):
    data = np.stack([NOISE, NOISE + 1, NOISE - 5], axis=-1)
    path = tmp_path_factory.mktemp("s") / "a.nii.gz"
    raw = bytearray(gzip.compress(image(data).to_bytes(), level))
    raw[place % len(raw)] ^= 1 << bit
    path.write_bytes(raw)
    try:
        series = read_series(path)
    except CohortError:
        return
    np.testing.assert_array_equal(series.data, data)


@pytest.mark.parametrize("name", FORMS)
def test_behind_the_voxels_zeros_are_padding_and_all_else_is_refused(tmp_path, name):
    path = packed_file(tmp_path, name)
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw + bytes(100)) + bytes(512))
    np.testing.assert_array_equal(read_image(path).data, NOISE)
    path.write_bytes(gzip.compress(raw) + b"more")
    refuse(path, r"cut off or damaged \(4 bytes behind its end are no part of it\)")
    if FORMS[name] is not nib.MGHImage:  # an MGH file may say more behind its voxels
        path.write_bytes(gzip.compress(raw + b"\0\1"))
        refuse(path, r"cut off or damaged \(2 bytes too many behind the voxels that its header tells of\)")
    path.write_bytes(gzip.compress(raw[: 200 if "img" in name else -30]))
    refuse(path, r"cut off or damaged \(\d+ bytes of the \d+ that its header tells of\)|not a readable image")


@pytest.mark.parametrize("name", ["a.nii", "a.img"])
def test_surplus_behind_voxels_that_are_not_packed_is_refused_unless_it_is_padding(tmp_path, name):
    path = tmp_path / name
    nib.save(image(form=nib.Nifti1Image if name == "a.nii" else nib.Nifti1Pair), path)
    raw = path.read_bytes()
    path.write_bytes(raw + bytes(160))
    np.testing.assert_array_equal(read_image(path).data, NOISE)
    path.write_bytes(raw + bytes(3) + b"\1")
    refuse(path, "4 bytes too many behind the voxels that its header tells of; convert it again")
    path.write_bytes(raw[:-1])
    refuse(path, "the data are cut off or damaged|more than the file can hold")


def test_a_series_whose_header_tells_of_one_volume_is_not_taken_for_one(tmp_path):
    raw = bytearray(image(np.stack([NOISE, NOISE + 1], axis=-1)).to_bytes())
    struct.pack_into("<8h", raw, 40, 3, *SHAPE, 1, 1, 1, 1)
    for name, content in (("a.nii", bytes(raw)), ("a.nii.gz", gzip.compress(bytes(raw)))):
        refuse(saved(tmp_path, content, name), "240 bytes too many behind the voxels")


def test_voxels_that_begin_in_the_header_are_refused(tmp_path):
    for place in (0.0, 16.0):
        raw = header_with(108, "<f", place)
        for name, content in (("a.nii", raw), ("a.nii.gz", gzip.compress(raw))):
            refuse(saved(tmp_path, content, name), "begin inside of its|too low for single file")
