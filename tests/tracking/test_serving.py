"""Answers to requests are those of the commands, and whatever cannot be answered is refused with its reason."""

import json
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from medrep.cli import main
from medrep.errors import MedrepError, ModelError
from medrep.models.saved import digest
from medrep.tracking.cleaning import OUTPUT_ROOT
from medrep.tracking.served_model import RegisteredModel
from medrep.tracking.serving import ALLOWED_ROOT, ServedModel
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


CLEANINGS = {
    "remove": (["export", "--remove", "site,age"], {"remove": "site, age"}),
    "keep and reference": (
        ["export", "--remove", "site,age", "--keep", "sex", "--reference", "site=S1", "--reference", "age=50"],
        {"remove": '["site", "age"]', "keep": "sex", "references": "site=S1, age=50"},
    ),
    "whole numbers, output named": (
        ["export", "--remove", "age", "--reference", "age=41"],
        {"output": "removed", "remove": "age", "references": '{"age": 41}'},
    ),
    "counterfactual": (["counterfactual", "--set", "age=50", "--set", "sex=F"], {"set": '{"age": 50, "sex": "F"}'}),
}


@pytest.mark.parametrize("name", CLEANINGS)
def test_rows_are_those_that_medrep_export_writes(
    name: str, features: ServedModel, features_cohort: Path, features_model: Path, tmp_path: Path
) -> None:
    (command, *switches), params = CLEANINGS[name]
    arguments = [command, str(features_cohort), str(tmp_path / "o"), "--model", str(features_model), *switches]
    assert main([*arguments, "--quiet"]) == 0
    wanted = pd.read_csv(tmp_path / "o" / "features.tsv", sep="\t")
    request = table(features_cohort, 120)
    found = features.answer(request, **params)
    assert found.index.equals(request.index)
    assert list(found.columns) == list(features.model.columns.names)
    np.testing.assert_array_equal(found, wanted[found.columns])


@pytest.fixture
def roots(volume_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where images may be written; they may be read from the cohort."""
    out = tmp_path / "served"
    out.mkdir()
    monkeypatch.setenv(ALLOWED_ROOT, str(volume_cohort))
    monkeypatch.setenv(OUTPUT_ROOT, str(out))
    return out


@pytest.mark.parametrize(
    ("switches", "params", "desc"),
    [
        (
            ["export", "--remove", "site,age", "--reference", "age=50"],
            {"remove": "site,age", "references": "age=50"},
            "residualized",
        ),
        (["counterfactual", "--set", "age=50"], {"set": "age=50"}, "counterfactual"),
    ],
)
def test_images_are_those_that_medrep_export_writes(
    volumes: ServedModel,
    volume_cohort: Path,
    volume_model: Path,
    roots: Path,
    tmp_path: Path,
    switches: list[str],
    params: dict[str, str],
    desc: str,
) -> None:
    request = images(volume_cohort, 2)
    few = ["--participant-label", *request["participant_id"]]
    arguments = [*switches[:1], str(volume_cohort), str(tmp_path / "o"), "--model", str(volume_model), *switches[1:]]
    assert main([*arguments, *few, "--quiet"]) == 0
    found = volumes.answer(request, **params)
    assert found.index.equals(request.index)
    assert list(found.columns) == ["path", "sidecar"]
    for person, (path, sidecar) in zip(request["participant_id"], found.to_numpy(), strict=True):
        wanted = tmp_path / "o" / person / "anat" / f"{person}_desc-{desc}_T1w.nii.gz"
        assert (roots / path).read_bytes() == wanted.read_bytes()
        own, theirs = json.loads((roots / sidecar).read_text()), json.loads(read_sidecar(wanted))
        assert own.pop("Model") == f"model sha256:{digest(volume_model)}"
        del theirs["Model"]
        assert own == theirs


def read_sidecar(image: Path) -> str:
    return image.with_name(image.name.replace(".nii.gz", ".json")).read_text()


def test_what_is_written_replaces_nothing_and_has_a_name_of_its_own(
    volumes: ServedModel, volume_cohort: Path, roots: Path, tmp_path: Path
) -> None:
    # The same file twice, and at places where a name that was foreseen could have been planted.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("row-1", "residualized", "sub-0001", ".partial-"):
        (roots / name).symlink_to(elsewhere)
    one = images(volume_cohort, 1)
    request = pd.concat([one, one], ignore_index=True)
    answers = [volumes.answer(request, remove="site") for _ in range(2)]
    paths = [path for found in answers for path in found["path"]]
    assert len({roots / path for path in paths}) == 4
    assert len({(roots / path).read_bytes() for path in paths}) == 1
    assert all((roots / path).resolve().is_relative_to(roots.resolve()) for path in paths)
    assert not list(elsewhere.iterdir())


def test_either_all_images_are_written_or_none(
    volumes: ServedModel, volume_cohort: Path, roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(volume_cohort, tmp_path / "root")
    monkeypatch.setenv(ALLOWED_ROOT, str(root))
    request = images(volume_cohort, 3)
    for path in request["path"].iloc[[0, 2]]:
        (root / path).write_bytes((root / path).read_bytes()[:500])
    with pytest.raises(MedrepError) as caught:
        volumes.answer(request, remove="site")
    assert all(
        f"row {k}: {path}" in str(caught.value) for k, path in zip((1, 3), request["path"].iloc[[0, 2]], strict=True)
    )
    assert "row 2" not in str(caught.value)
    assert str(root) not in str(caught.value)
    assert not list(roots.iterdir())


def test_images_that_were_cleaned_are_not_cleaned_again(
    volumes: ServedModel, volume_cohort: Path, roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = images(volume_cohort, 1)
    (path,) = volumes.answer(request, remove="site")["path"]
    monkeypatch.setenv(ALLOWED_ROOT, str(roots))
    again = request.assign(path=path)
    with pytest.raises(MedrepError, match="effects of site removed already"):
        volumes.answer(again, remove="site")
    assert len(volumes.answer(again)) == 1
    assert len(volumes.answer(again, remove="age")) == 1


@pytest.mark.parametrize("named", ["", "nowhere", "participants.tsv"])
def test_images_are_cleaned_only_where_there_is_a_folder_for_them(
    named: str, volumes: ServedModel, volume_cohort: Path, roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OUTPUT_ROOT, str(volume_cohort / named) if named else "")
    with pytest.raises(MedrepError, match="MEDREP_OUTPUT_ROOT names no folder on this server") as caught:
        volumes.answer(images(volume_cohort, 1), remove="site")
    assert str(volume_cohort) not in str(caught.value)


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
    with pytest.raises(MedrepError, match="row 2: age=999"):
        features.answer(request, remove="site")
    assert len(features.answer(request, remove="age", references="age=500", extrapolate=True)) == 4


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
        ({"output": "nonsense"}, "allowed: scores, latents, removed, counterfactual"),
        ({"output": "removed"}, "belong together"),
        ({"output": "counterfactual"}, "belong together"),
        ({"output": "scores", "remove": "site"}, "belong together"),
        ({"output": "removed", "set": "age=50"}, "belong together"),
        ({"remove": "scanner"}, "the model does not know scanner; it was trained with age, sex, site"),
        ({"remove": "site", "keep": "scanner"}, "the model does not know scanner"),
        ({"remove": "site", "keep": "age,site"}, "site: both in remove and in keep"),
        ({"keep": "age"}, "keep and references go with remove"),
        ({"references": "site=S0"}, "keep and references go with remove"),
        ({"set": "age=50", "remove": "site"}, "goes without remove"),
        ({"remove": "site", "references": "age=50"}, "a reference is given for age, which is not removed"),
        ({"remove": "site", "references": "site=S77"}, "was not in training; allowed: S0"),
        ({"remove": "age", "references": "age=old"}, "is no number"),
        ({"remove": "age", "references": "age=500"}, r"age=500: training people had .*send extrapolate: true"),
        ({"set": "age=500"}, r"age=500: training people had .*send extrapolate: true"),
        ({"set": "shoe=43"}, "the model does not know shoe"),
        ({"set": "age"}, "set 'age' cannot be read; write it as site=S0,age=50"),
        ({"set": "age=50, 60"}, "cannot be read"),
        ({"set": '{"age": [50]}'}, "cannot be read"),
        ({"set": '{"age": true}'}, "cannot be read"),
        ({"set": '{"age": 50'}, "cannot be read"),
        ({"remove": "[" * 100_000}, r"remove '\[+\.\.\.' cannot be read"),
        ({"remove": '["site", 3]'}, "cannot be read"),
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


def test_what_is_missing_is_null_and_not_the_nan_that_json_does_not_have() -> None:
    class Holes:
        def answer(self, request: pd.DataFrame) -> pd.DataFrame:
            return request.assign(b=[2.0, 3.0])

    model = RegisteredModel()
    model._served = Holes()  # type: ignore[assignment]
    found = model.predict(pd.DataFrame({"a": [1.5, np.nan]}))
    assert json.dumps(found.to_dict("records"), allow_nan=False) == '[{"a": 1.5, "b": 2.0}, {"a": null, "b": 3.0}]'
