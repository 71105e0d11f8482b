"""What asks a served model for too much is refused before it is unpacked; a real server is asked in test_scoring_server.py."""

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from medrep.cohort.image_files import GzipContent, open_image
from medrep.errors import CohortError, ConfigError
from medrep.tracking.pyfunc_model import RegisteredModel
from medrep.tracking.serving import (
    ALLOWED_ROOT,
    MAX_BYTES,
    MAX_VOXELS,
    LimitError,
    ServedModel,
    guard_requests,
    limit,
    refusal,
    refuse_many_voxels,
)
from tests.tracking.test_serving import images, table

BODY = '{"dataframe_records": [{"a": %s}]}'


def claiming(path: Path, shape: tuple[int, ...]) -> Path:
    """Write a small file whose header claims a large image, and which could hold it as far as its size tells."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header.set_sform(np.eye(4), 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    size = int(np.prod(shape, dtype=object)) // 1000
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4096 + os.urandom(size), 1))
    return path


def test_a_scan_that_claims_too_much_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = claiming(tmp_path / "large.nii.gz", (1280, 1280, 1280))
    assert large.stat().st_size < 8 * 2**20
    with pytest.raises(LimitError, match=r"row 1: 'large\.nii\.gz' claims 1280 x 1280 x 1280 voxels") as caught:
        refuse_many_voxels([("row 1", "large.nii.gz", large)])
    assert refusal(caught.value).get_http_status_code() == 413
    assert str(tmp_path) not in str(caught.value)
    monkeypatch.setenv(MAX_VOXELS, str(1280**3))
    refuse_many_voxels([("row 1", "large.nii.gz", large)])


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgz"])
def test_small_scans_count_together(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a{ending}"
    kind = nib.MGHImage if ending == ".mgz" else nib.Nifti1Image
    nib.save(kind(np.ones((10, 10, 10), np.float32), np.eye(4)), path)
    monkeypatch.setenv(MAX_VOXELS, "2500")
    refuse_many_voxels([("row 1", path.name, path)] * 2)
    with pytest.raises(LimitError, match="more than 2500 voxels in one request"):
        refuse_many_voxels([(f"row {k}", path.name, path) for k in (1, 2, 3)])


def test_what_cannot_be_read_is_left_to_its_reader(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"nothing")
    refuse_many_voxels([("row 1", "a.nii.gz", tmp_path / "a.nii.gz"), ("row 2", "b.nii", tmp_path / "b.nii")])


def test_a_model_answers_413(volume_model: Path, volume_cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED_ROOT, str(volume_cohort))
    model = RegisteredModel()
    model._served = ServedModel.load(volume_model)
    rows = images(volume_cohort, 2)
    assert len(model.predict(rows)) == 2
    monkeypatch.setenv(MAX_VOXELS, "1000")
    with pytest.raises(MlflowException, match="voxels in one request") as caught:
        model.predict(rows)
    assert caught.value.get_http_status_code() == 413


@pytest.mark.parametrize("cell", [10**400, -(10**350), [[1]], {"a": 1}])
def test_odd_cells_are_the_requests_fault(cell: object, features_model: Path, features_cohort: Path) -> None:
    model = RegisteredModel()
    model._served = ServedModel.load(features_model)
    rows = table(features_cohort, 2)
    for column in ("region_003", "age", "site"):
        odd = rows.assign(**{column: pd.Series([cell, cell], index=rows.index, dtype=object)})
        with pytest.raises(MlflowException) as caught:
            model.predict(odd)
        assert caught.value.get_http_status_code() == 400


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (BODY % ("[" * 100_000 + "]" * 100_000), 400, "nested"),
        (BODY % ("[" * 200 + "]" * 200), 400, "nested deeper than"),
        (BODY % ("9" * 6000), 400, "4300 digits"),
        (BODY % ('"' + "x" * 3000 + '"'), 413, "bytes; at most"),
    ],
)
def test_the_server_answers_4xx(body: str, status: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guard_requests()
    guard_requests()
    if status == 413:
        monkeypatch.setenv(MAX_BYTES, "2000")
    for form in (body, body.encode()):
        with pytest.raises(MlflowException, match=said) as caught:
            scoring_server._decode_json_input(form)
        assert caught.value.get_http_status_code() == status
    assert scoring_server._decode_json_input(BODY % 1) == {"dataframe_records": [{"a": 1}]}


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e6", "9" * 6000, "\u0663"])
def test_a_limit_that_is_none_is_refused_when_a_model_is_loaded(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MAX_VOXELS, text)
    with pytest.raises(ConfigError, match=f"{MAX_VOXELS} is '.*'; give a whole number from 1"):
        limit(MAX_VOXELS)
    with pytest.raises(ConfigError, match=MAX_VOXELS):
        ServedModel.load(tmp_path)


def test_what_unpacks_without_end_behind_the_voxels_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medrep.cohort.image_files._MOST_BEHIND", 2**22)
    packed = gzip.compress(b"\0" * 2**24, 9)
    with pytest.raises(CohortError, match="more than 4194304 bytes behind"):
        GzipContent(packed).finish()
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    with (tmp_path / "a.nii.gz").open("ab") as file:
        file.write(packed)
    with pytest.raises(CohortError, match="more than 4194304 bytes behind"):
        open_image(tmp_path / "a.nii.gz")
