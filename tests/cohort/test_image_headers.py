import gzip

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.nifti1 import Nifti1Extension

from medrep.cohort.nifti import (
    LabelMap,
    Volume,
    read_image,
    read_labels,
    read_place,
    write_image,
    write_label_map,
)
from medrep.cohort.transforms import place_notes, read_places
from medrep.errors import CohortError

SHAPE = (6, 5, 4)
VOXELS = np.round(np.random.default_rng(0).gamma(4, 100, SHAPE)).astype(np.int16)
SCALE = np.diag([2.0, 2.0, 3.0, 1.0])
MIRRORED = np.array([[-2.0, 0, 0, 10], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
KEPT = {
    "descrip": b"MNI space",
    "aux_file": b"none",
    "intent_name": b"gm density",
    "intent_code": 5,
    "intent_p1": 2.5,
    "cal_min": 3.0,
    "cal_max": 200.0,
    "toffset": 1.25,
    "slice_code": 1,
    "slice_end": 3,
    "slice_duration": 0.5,
    "xyzt_units": 2 + 16,
    "dim_info": 0b111001,
}


def shifted(mm):
    affine = SCALE.copy()
    affine[0, 3] = mm
    return affine


def stored(folder, form=nib.Nifti1Image, sform=(SCALE, 4), qform=(SCALE, 1), order="<", data=VOXELS):
    """An image whose header says as much as a header can."""
    head = form.header_class(endianness=order)
    head.set_data_dtype(data.dtype)
    image = form(data, None, head)
    image.header.set_sform(sform[0], sform[1])
    image.header.set_qform(qform[0], qform[1])
    for name, value in KEPT.items():
        image.header[name] = value
    image.header["pixdim"][4:6] = [2.25, 1]
    image.header.extensions.append(Nifti1Extension("comment", b"what the scanner said"))
    path = folder / ("a.img" if form in (nib.Nifti1Pair, nib.Nifti2Pair) else "a.nii.gz")
    nib.save(image, path)
    return path


def cleaned(path):
    volume = read_image(path)
    out = path.with_name("out.nii.gz")
    write_image(out, Volume(volume.data + np.float32(0.25), volume.affine, volume.header))
    return nib.load(out)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair, nib.Nifti2Pair])
def test_what_is_written_has_the_header_of_what_was_read(tmp_path, form, order):
    path = stored(tmp_path, form, order=order)
    before, after = nib.load(path).header, cleaned(path)
    assert type(after) is (nib.Nifti2Image if form in (nib.Nifti2Image, nib.Nifti2Pair) else nib.Nifti1Image)
    changed = {"sizeof_hdr", "magic", "datatype", "bitpix", "vox_offset", "scl_slope", "scl_inter"}
    for name in set(before.keys()) - changed:
        np.testing.assert_array_equal(after.header[name], before[name], err_msg=name)
    assert (int(after.header["sform_code"]), int(after.header["qform_code"])) == (4, 1)
    assert [one.get_content() for one in after.header.extensions] == [b"what the scanner said"]
    assert (after.get_data_dtype(), after.header.endianness) == (np.float32, "<")
    np.testing.assert_array_equal(after.get_fdata(), VOXELS + 0.25)
    np.testing.assert_array_equal(after.affine, SCALE)


@pytest.mark.parametrize(
    ("sform", "qform"), [((SCALE, 0), (SCALE, 1)), ((SCALE, 2), (SCALE, 0)), ((SCALE, 4), (shifted(9), 1))]
)
def test_codes_and_both_affines_stay_what_they_are(tmp_path, sform, qform):
    path = stored(tmp_path, sform=sform, qform=qform)
    before, after = nib.load(path), cleaned(path)
    np.testing.assert_array_equal(after.affine, before.affine)
    for name in ("sform", "qform"):
        assert int(after.header[f"{name}_code"]) == int(before.header[f"{name}_code"])
        np.testing.assert_array_equal(getattr(after, f"get_{name}")(), getattr(before, f"get_{name}")())


def test_scaling_and_a_last_axis_of_one_are_gone_and_the_rest_stays(tmp_path):
    path = stored(tmp_path, data=VOXELS[..., None])
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[112:120] = np.array([0.5, 3], "<f4").tobytes()
    raw[140:148] = np.array([77, -5], "<i4").tobytes()  # glmax and glmin
    path.write_bytes(gzip.compress(bytes(raw)))
    after = cleaned(path)
    assert after.shape == SHAPE
    np.testing.assert_array_equal(after.get_fdata(), VOXELS * 0.5 + 3 + 0.25)
    assert after.header.get_slope_inter() in {(1.0, 0.0), (None, None)}
    assert (int(after.header["glmax"]), int(after.header["glmin"])) == (0, 0)
    np.testing.assert_allclose(after.header["pixdim"][1:6], [2, 2, 3, 2.25, 1])


def test_mgh_goes_out_as_nifti_in_the_same_place(tmp_path):
    nib.save(nib.MGHImage(VOXELS.astype(np.float32), shifted(7)), tmp_path / "a.mgz")
    after = cleaned(tmp_path / "a.mgz")
    np.testing.assert_array_equal(after.affine, shifted(7))
    assert (int(after.header["sform_code"]), after.header.get_xyzt_units()[0]) == (1, "mm")


def test_a_label_map_keeps_its_header_too(tmp_path):
    labels = np.zeros(SHAPE, np.int16)
    labels[2:4, 1:3, 1:3] = 300
    path = stored(tmp_path, data=labels)
    read = read_labels(path)
    write_label_map(tmp_path / "out.nii.gz", LabelMap(np.minimum(read.data, 7), read.affine, read.header))
    after = nib.load(tmp_path / "out.nii.gz")
    assert after.get_data_dtype() == np.uint8
    assert (int(after.header["sform_code"]), after.header["descrip"].item()) == (4, b"MNI space")
    np.testing.assert_array_equal(after.get_fdata(), np.minimum(labels, 7))


@pytest.mark.parametrize("read", [read_image, read_labels, read_place])
@pytest.mark.parametrize("codes", [(1, 1), (4, 1), (2, 2)])
def test_forms_that_are_mirror_images_are_refused(tmp_path, read, codes):
    path = stored(tmp_path, sform=(SCALE, codes[0]), qform=(MIRRORED, codes[1]))
    with pytest.raises(CohortError, match=r"a.nii.gz: sform and qform are mirror images of each other, so which side"):
        read(path)


def test_a_form_without_a_code_is_no_second_one(tmp_path):
    for sform, qform in (((SCALE, 1), (MIRRORED, 0)), ((MIRRORED, 0), (SCALE, 1))):
        path = stored(tmp_path, sform=sform, qform=qform)
        np.testing.assert_array_equal(read_image(path).affine, SCALE)
        assert read_place(path).forms_apart == 0


def test_forms_that_disagree_are_told_with_the_one_that_is_used(tmp_path):
    files = {}
    for key, mm in {"a": 0.0, "b": 0.4, "c": 12.0, "d": -3.0}.items():
        (tmp_path / key).mkdir()
        files[key] = stored(tmp_path / key, qform=(shifted(mm), 1))
    notes = place_notes(read_places(pd.Series(files, dtype=object)))
    assert notes == ["2 images (c, d): sform and qform of the header disagree, by up to 12 mm; the sform is used"]
    assert place_notes(read_places(pd.Series({"a": files["a"]}, dtype=object))) == []


@pytest.mark.parametrize("form", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair, nib.MGHImage])
@pytest.mark.parametrize("packed", [False, True])
def test_a_place_is_read_without_the_voxels(tmp_path, form, packed):
    image = form(np.float32(VOXELS), shifted(7))
    if form is not nib.MGHImage:
        image.header.set_sform(shifted(7), 1)
    ending = {nib.MGHImage: ".mgh", nib.Nifti1Pair: ".img"}.get(form, ".nii")
    path = tmp_path / f"a{'.mgz' if packed and ending == '.mgh' else ending + '.gz' * packed}"
    nib.save(image, path)
    place, volume = read_place(path), read_image(path)
    assert place.shape == volume.data.shape == SHAPE
    np.testing.assert_array_equal(place.affine, volume.affine)


def test_files_that_cannot_be_opened_have_no_place(tmp_path):
    files = pd.Series({"a": tmp_path / "none.nii", "b": stored(tmp_path), "c": tmp_path / "c.nii.gz"}, dtype=object)
    files["c"].write_bytes(b"\x1f\x8b not")
    assert list(read_places(files)) == ["b"]
