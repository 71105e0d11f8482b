"""Answers to requests are those of the commands, and whatever cannot be answered is refused with its reason."""

from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from medrep.cli import main
from medrep.errors import MedrepError, ModelError
from medrep.tracking.pyfunc_model import RegisteredModel
from medrep.tracking.serving import ALLOWED_ROOT, ServedModel
from medrep.training.checkpoint import digest
from tests.tracking.registering import copied


@pytest.fixture(scope="module")
def features(features_model: Path) -> ServedModel:
    return ServedModel.load(features_model)


@pytest.fixture(scope="module")
def volumes(volume_model: Path) -> ServedModel:
    return ServedModel.load(volume_model)


def table(cohort: Path, people: int) -> pd.DataFrame:
    """What somebody would send: the participants' columns and the features' side by side, indexed in a way of their own."""
    who = pd.read_csv(cohort / "participants.tsv", sep="\t")
    if (cohort / "features.tsv").is_file():
        who = who.merge(pd.read_csv(cohort / "features.tsv", sep="\t"), on="participant_id")
    return who.head(people).set_axis([10 * k for k in range(people)])


def images(cohort: Path, people: int) -> pd.DataFrame:
    who = table(cohort, people)
    return who.assign(path=[f"{one}/anat/{one}_T1w.nii.gz" for one in who["participant_id"]])


def test_rows_are_scored_as_medrep_score_does(
    features: ServedModel, features_cohort: Path, features_model: Path, tmp_path: Path
) -> None:
    assert main(["score", str(features_cohort), str(tmp_path / "o"), "--model", str(features_model), "--quiet"]) == 0
    wanted = pd.read_csv(tmp_path / "o" / "scores.tsv", sep="\t")
    latents = pd.read_csv(tmp_path / "o" / "latents.tsv", sep="\t").filter(like="z")
    request = table(features_cohort, 120)
    found = features.answer(request)
    assert found.index.equals(request.index)
    for column in ("reconstruction_error", "deviation"):
        np.testing.assert_allclose(found[column], wanted[column], rtol=1e-9)
    np.testing.assert_allclose(found.filter(regex=r"^z\d"), latents, rtol=1e-6, atol=1e-9)
    only = features.answer(request, output="latents")
    assert list(only.columns) == [name for name in found.columns if name.startswith("z")]


def test_rows_are_cleaned_as_medrep_export_does(
    features: ServedModel, features_cohort: Path, features_model: Path, tmp_path: Path
) -> None:
    arguments = [str(features_cohort), str(tmp_path / "o"), "--model", str(features_model), "--remove", "site,age"]
    assert main(["export", *arguments, "--quiet"]) == 0
    wanted = pd.read_csv(tmp_path / "o" / "features.tsv", sep="\t")
    found = features.answer(table(features_cohort, 120), output="removed", remove="site, age")
    assert list(found.columns) == list(features.model.columns.names)
    np.testing.assert_allclose(found, wanted[found.columns], rtol=1e-6)


def test_the_order_of_columns_and_rows_and_whole_numbers_do_not_matter(
    features: ServedModel, features_cohort: Path
) -> None:
    request = table(features_cohort, 8)
    request["age"] = request["age"].round()
    found = features.answer(request)
    whole = request.assign(age=request["age"].astype(int)).iloc[::-1, ::-1]
    pd.testing.assert_frame_equal(features.answer(whole), found.iloc[::-1])
    assert features.answer(request.assign(age=request["age"].astype(str))).equals(found)


def test_images_are_scored_as_medrep_score_does(
    volumes: ServedModel, volume_cohort: Path, volume_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED_ROOT, str(volume_cohort))
    few = table(volume_cohort, 3)["participant_id"].tolist()
    arguments = [str(volume_cohort), str(tmp_path / "o"), "--model", str(volume_model), "--participant-label", *few]
    assert main(["score", *arguments, "--quiet"]) == 0
    wanted = pd.read_csv(tmp_path / "o" / "scores.tsv", sep="\t").set_index("participant_id").loc[few]
    request = images(volume_cohort, 3)
    found = volumes.answer(request)
    assert found.index.equals(request.index)
    np.testing.assert_allclose(found["reconstruction_error"], wanted["reconstruction_error"], rtol=1e-6)
    absolute = request.assign(path=[str(volume_cohort / path) for path in request["path"]])
    pd.testing.assert_frame_equal(volumes.answer(absolute), found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"site": "S77"}, "row 2: site 'S77' was not in training"),
        ({"site": None}, "row 2: site '' is missing"),
        ({"age": "old"}, "row 2: age 'old' is no number"),
        ({"age": np.nan}, "row 2: age '' is missing"),
        ({"region_003": np.nan}, "row 2: region_003"),
        ({"region_003": "x"}, "row 2: region_003"),
        ({"region_003": np.inf}, "row 2: region_003"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_row(
    features: ServedModel, features_cohort: Path, change: dict[str, object], said: str
) -> None:
    request = table(features_cohort, 3).astype(object)
    for column, value in change.items():
        request.iloc[1, request.columns.get_loc(column)] = value
    with pytest.raises(MedrepError) as caught:
        features.answer(request)
    assert said in str(caught.value)
    assert "row 1" not in str(caught.value)


def test_people_far_outside_training_are_refused_but_where_a_guess_is_asked_for(
    features: ServedModel, features_cohort: Path
) -> None:
    request = table(features_cohort, 4)
    request["age"] = [30.0, 999.0, 40.0, -9.0]
    with pytest.raises(MedrepError, match=r"(?s)row 2: age=999: training people had.*row 4: age=-9.*extrapolate: true"):
        features.answer(request)
    assert len(features.answer(request, extrapolate=True)) == 4


def test_what_is_absent_is_named(features: ServedModel, features_cohort: Path) -> None:
    request = table(features_cohort, 2)
    for absent, said in (("site", "'site'"), ("region_003", "region_003"), ("age", "'age'")):
        with pytest.raises(MedrepError, match=said):
            features.answer(request.drop(columns=absent))
    with pytest.raises(MedrepError, match="no row"):
        features.answer(request.head(0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"output": "nonsense"}, "allowed: scores, latents, removed"),
        ({"output": "removed"}, "belong together"),
        ({"remove": "site"}, "belong together"),
        ({"output": "removed", "remove": "scanner"}, "unknown covariate scanner"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    features: ServedModel, features_cohort: Path, options: dict[str, str], said: str
) -> None:
    with pytest.raises(MedrepError, match=said):
        features.answer(table(features_cohort, 2), **options)


def test_paths_lead_nowhere_but_under_the_allowed_folder(
    volumes: ServedModel, volume_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = images(volume_cohort, 2)
    monkeypatch.delenv(ALLOWED_ROOT, raising=False)
    with pytest.raises(MedrepError, match="names no folder on this server"):
        volumes.answer(request)
    root = copied(volume_cohort, tmp_path / "root")
    monkeypatch.setenv(ALLOWED_ROOT, str(root))
    volumes.answer(request)
    secret = copied(volume_cohort, tmp_path / "root-not") / request["path"].iloc[0]
    (root / "link.nii.gz").symlink_to(secret)
    (root / "folder").symlink_to(tmp_path / "root-not")
    (root / "loop.nii.gz").symlink_to(root / "loop.nii.gz")
    (root / "inside.nii.gz").symlink_to(root / request["path"].iloc[0])
    first = request.head(1)
    outside = (
        f"../root-not/{request['path'].iloc[0]}",
        str(secret),
        "/etc/passwd",
        "/nowhere/at/all.nii.gz",
        "link.nii.gz",
        f"folder/{request['path'].iloc[0]}",
        "sub-0001/../../root-not/x.nii.gz",
    )
    for path in outside:
        with pytest.raises(MedrepError, match="leads out of the allowed folder") as caught:
            volumes.answer(first.assign(path=path))
        assert str(tmp_path / "root-not") not in str(caught.value).replace(path, "")
    for path, said in (
        ("sub-9999/x.nii.gz", "no such file"),
        ("sub-0001", "no such file"),
        ("", "is no path"),
        (None, "is no path"),
        (3, "is no path"),
        ("a\0b", "is no path"),
        ("loop.nii.gz", "(cannot be followed|no such file)"),
        ("participants.tsv", "row 1: participants.tsv"),
    ):
        with pytest.raises(MedrepError, match=said) as caught:
            volumes.answer(first.assign(path=pd.Series([path], index=first.index, dtype=object)))
        assert str(root) not in str(caught.value)
    assert len(volumes.answer(first.assign(path="inside.nii.gz"))) == 1


def test_all_images_that_cannot_be_used_are_named(
    volumes: ServedModel, volume_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(volume_cohort, tmp_path / "root")
    monkeypatch.setenv(ALLOWED_ROOT, str(root))
    request = images(volume_cohort, 3)
    for path in request["path"].iloc[[0, 2]]:
        (root / path).write_bytes((root / path).read_bytes()[:500])
    with pytest.raises(MedrepError) as caught:
        volumes.answer(request)
    assert all(
        f"row {k}: {path}" in str(caught.value) for k, path in zip((1, 3), request["path"].iloc[[0, 2]], strict=True)
    )
    assert "row 2" not in str(caught.value)


def test_a_model_says_which_kind_of_rows_it_reads(
    features: ServedModel, volumes: ServedModel, features_cohort: Path, volume_cohort: Path
) -> None:
    with pytest.raises(MedrepError, match="'path' is of no use"):
        features.answer(table(features_cohort, 2).assign(path="x.nii"))
    with pytest.raises(MedrepError, match="'path' is absent"):
        volumes.answer(table(volume_cohort, 2))
    with pytest.raises(MedrepError, match="images are cleaned by medrep export"):
        volumes.answer(images(volume_cohort, 2), output="removed", remove="site")


def test_another_model_than_was_registered_is_not_served(features_model: Path, tmp_path: Path) -> None:
    ServedModel.load(features_model, digest(features_model))
    with pytest.raises(ModelError, match="not the model that was registered"):
        ServedModel.load(features_model, "0" * 64)
    planted = copied(features_model, tmp_path / "model")
    (planted / "model.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="files that no model folder has"):
        ServedModel.load(planted)


def test_mlflow_raises_a_reason_and_never_a_traceback(features: ServedModel, features_cohort: Path) -> None:
    model = RegisteredModel()
    model._served = features
    request = table(features_cohort, 2)
    assert len(model.predict(request)) == 2
    assert isinstance(model, mlflow.pyfunc.PythonModel)
    for wrong in (request.assign(site="S77"), request.drop(columns="age")):
        with pytest.raises(MlflowException) as caught:
            model.predict(wrong)
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
        assert caught.value.get_http_status_code() == 400
        assert "Traceback" not in caught.value.serialize_as_json()
    model._served = None  # type: ignore[assignment]
    with pytest.raises(MlflowException) as caught:
        model.predict(request)
    assert caught.value.error_code == "INTERNAL_ERROR"
    assert "Traceback" not in caught.value.serialize_as_json()
