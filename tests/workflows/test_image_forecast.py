"""Forecasts of images, and images moved along people's own trajectories, from a folder to what is written."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import medrep as mr
from medrep.cli import main
from tests.models.linear.test_visits import Planted
from tests.surface_cohorts import write_gifti
from tests.workflows.test_visits import features, run, write

Make = Callable[[np.random.Generator, float], np.ndarray]
Write = Callable[[Path, np.ndarray], None]
YEARS = ("1", "2.5")


def write_volume(path: Path, data: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0])), f"{path}.nii.gz")


def write_hemispheres(path: Path, data: np.ndarray) -> None:
    for side, values in zip("LR", np.split(data, 2), strict=True):
        write_gifti(path.with_name(path.name.replace("hemi", f"hemi-{side}") + ".shape.gii"), values)


def grown(cohort: Path, ending: str, make: Make, write: Write = write_volume) -> Path:
    """Write a cohort of people with three visits, who change at a pace of their own, and an image of each visit."""
    rng, rows = np.random.default_rng(8), []
    for who in range(24):
        age, pace, size = rng.uniform(30, 50), rng.normal(0.15, 0.08), rng.normal(0, 0.4)
        for visit in range(3):
            names = f"sub-{who:02d}", f"ses-{visit}"
            place = cohort / names[0] / names[1] / "anat"
            place.mkdir(parents=True)
            years = age + 2 * visit
            rows.append((*names, f"{years:.2f}", "FM"[who % 2], f"S{(who + visit) % 2}"))
            write(place / f"{'_'.join(names)}_{ending}", make(rng, size + pace * 2 * visit))
    table = pd.DataFrame(rows, columns=["participant_id", "session_id", "age", "sex", "site"])
    table.to_csv(cohort / "participants.tsv", sep="\t", index=False)
    return cohort


def brain(rng: np.random.Generator, size: float) -> np.ndarray:
    near = np.linalg.norm(np.indices((8, 9, 8)).T - np.array([4, 4, 4]), axis=-1).T < 3.6
    return np.where(near, 100 + 6 * size + rng.normal(0, 1, near.shape), 0).astype(np.float32)


def organ(rng: np.random.Generator, size: float) -> np.ndarray:
    stretch = 1 + rng.normal(0, 0.01, 3)
    away = (np.indices((20, 20, 20)).T - 9.5) / stretch
    return (5.5 + size > np.linalg.norm(away, axis=-1).T).astype(np.uint8)


def sheet(rng: np.random.Generator, size: float) -> np.ndarray:
    return (2.5 + 0.2 * size + rng.normal(0, 0.05, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grown(tmp_path_factory.mktemp("brains") / "cohort", "T1w", brain)


@pytest.fixture(scope="module")
def trained(brains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "trained"
    assert (
        run("train", brains, out, "--set", "input.kind=volume", "--set", "input.intensity=raw", "--tracking", "none")
        == 0
    )
    return out


def image(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata(dtype=np.float32)


def test_images_of_what_is_expected_and_how_well(brains: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("forecast", brains, out, "--model", trained / "model", "--years", ",".join(YEARS), "--extrapolate")
    assert run(*asked) == 0
    table = pd.read_csv(out / "forecast.tsv", sep="\t", dtype=str)
    assert table.columns.tolist() == ["participant_id", "from_session", "years", "estimate", "sd"]
    assert table["years"].tolist() == [*YEARS] * 24
    assert table["from_session"].unique().tolist() == ["ses-2"]
    assert table["estimate"].iloc[1] == "sub-00/ses-2/anat/sub-00_ses-2_desc-forecast2p5_T1w.nii.gz"
    assert table["sd"].iloc[1] == "sub-00/ses-2/anat/sub-00_ses-2_desc-forecast2p5sd_T1w.nii.gz"
    assert len({*table["estimate"], *table["sd"]}) == 24 * 4 == len(list(out.glob("sub-*/ses-*/anat/*.nii.gz")))
    said = json.loads((out / "forecast.json").read_text())
    assert (said["Years"], said["Along"], said["ModelKind"]) == ([1, 2.5], "age", "linear")
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    beside = json.loads((out / table["sd"].iloc[0].replace(".nii.gz", ".json")).read_text())
    assert beside["Years"] == 1
    assert beside["Sources"] == ["sub-00/ses-2/anat/sub-00_ses-2_T1w.nii.gz"]
    assert beside["Description"].startswith("Standard deviation")
    model = mr.load(trained)
    people = mr.read_cohort(brains, model)
    last = people.covariates[[str(key).endswith("ses-2") for key in people.keys]].iloc[[0]]
    found = model.model.forecast(people, last.assign(age=last["age"] + 2.5), [people.whose[0]])
    box, own = people.columns.box(found.estimate[0]), image(out / table["estimate"].iloc[1])
    told = np.isfinite(box)
    np.testing.assert_allclose(own[told], box[told], rtol=1e-4)
    np.testing.assert_array_equal(own[~told], image(brains / beside["Sources"][0])[~told])
    spread = image(out / table["sd"].iloc[1])
    np.testing.assert_allclose(spread[told], people.columns.box(found.sd[0])[told], rtol=1e-3)
    assert not spread[~told].any()
    pd.testing.assert_frame_equal(
        mr.forecast(model, people, [1, 2.5], extrapolate=True).astype(str), table.replace({"years": {"1": "1.0"}})
    )
    assert run(*asked) == 1
    assert run(*asked, "--overwrite") == 0


def test_people_whose_images_cannot_be_read_are_named(
    brains: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = tmp_path / "some"
    for who in ("sub-00", "sub-01", "sub-02"):
        for file in (brains / who).rglob("*.nii.gz"):
            place = some / file.relative_to(brains)
            place.parent.mkdir(parents=True)
            place.write_bytes(file.read_bytes())
    table = pd.read_csv(brains / "participants.tsv", sep="\t").head(9)
    table.to_csv(some / "participants.tsv", sep="\t", index=False)
    (some / "sub-01/ses-0/anat/sub-01_ses-0_T1w.nii.gz").write_bytes(b"no image")
    (some / "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz").unlink()
    asked = ("forecast", some, tmp_path / "out", "--model", trained / "model", "--years", "1", "--extrapolate")
    assert main([str(word) for word in asked]) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "visits that cannot be read: sub-01_ses-0" in said
    failed = pd.read_csv(tmp_path / "out/failures.tsv", sep="\t")
    assert failed["participant_id"].tolist() == ["sub-01", "sub-02"]
    assert pd.read_csv(tmp_path / "out/forecast.tsv", sep="\t")["participant_id"].tolist() == ["sub-00"]
    nobody = ("--participant-label", "sub-01", "sub-02", "--quiet")
    assert main([str(word) for word in (*asked, "--overwrite", *nobody)]) == 1
    assert "people who cannot be forecast (2): sub-01: visits" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "out/forecast.tsv").is_file()


@pytest.mark.parametrize("parts", [1, 2])
def test_images_move_along_their_persons_own_trajectories(
    brains: Path, trained: Path, tmp_path: Path, parts: int
) -> None:
    asked = ("--model", trained / "model", "--years", "+4", "--extrapolate", "--show", "nobody")
    for part in range(parts):
        cut = ("--num-parts", parts, "--part-id", part) if parts > 1 else ()
        assert run("counterfactual", brains, tmp_path / "out", *asked, *cut) == 0
    model = mr.load(trained)
    people = mr.read_cohort(brains, model)
    moved = model.model.follow(people, 4.0)
    for key in ("sub-03_ses-0", "sub-03_ses-2", "sub-11_ses-1"):
        who, session = key.split("_")
        written = image(tmp_path / "out" / who / session / "anat" / f"{key}_desc-counterfactual_T1w.nii.gz")
        np.testing.assert_allclose(written.ravel(), moved[list(people.keys).index(key)], atol=1e-3)


def test_scores_of_images_have_the_gain(brains: Path, trained: Path, tmp_path: Path) -> None:
    assert run("score", brains, tmp_path / "out", "--model", trained / "model") == 0
    table = pd.read_csv(tmp_path / "out" / "scores.tsv", sep="\t")
    model = mr.load(trained)
    gain = model.model.scores(mr.read_cohort(brains, model)).gain
    assert gain is not None
    np.testing.assert_allclose(table["gain_z"], gain, rtol=1e-4)
    np.testing.assert_array_equal(table["gain_z"].isna(), table["session_id"] == "ses-0")


def test_organs_are_forecast_as_label_maps_and_meshes(tmp_path: Path) -> None:
    """By the linear model, whose columns are distances to the surface."""
    pytest.importorskip("igl")
    cohort, out = grown(tmp_path / "organs", "desc-organ_mask", organ), tmp_path / "out"
    kind = ("--set", "input.kind=shape", "--set", "input.suffix=mask", "--set", "input.desc=organ")
    assert run("train", cohort, tmp_path / "trained", *kind, "--tracking", "none") == 0
    model = ("--model", tmp_path / "trained" / "model")
    one = ("--participant-label", "sub-05", "--extrapolate")
    assert run("forecast", cohort, out, *model, "--years", "1,6", *one) == 0
    table = pd.read_csv(out / "forecast.tsv", sep="\t")
    stem = "sub-05/ses-2/anat/sub-05_ses-2_desc-forecast6"
    assert table["estimate"].iloc[1] == f"{stem}_mask.nii.gz"
    assert table["sd"].iloc[1] == f"{stem}sd_distance.nii.gz"
    assert (out / f"{stem}_mask.surf.gii").is_file()
    volumes = [
        json.loads((out / f"{stem.replace('6', year)}_mask.json").read_text())["VolumeMm3"] for year in ("1", "6")
    ]
    voxels = [int((image(out / place) > 0).sum()) for place in table["estimate"]]
    assert volumes[1] > volumes[0]
    assert voxels[1] > voxels[0]
    spread = image(out / table["sd"].iloc[1])
    assert spread.shape == (20, 20, 20)
    assert 0.05 < np.median(spread[image(out / table["estimate"].iloc[1]) > 0]) < 5
    moved = tmp_path / "moved"
    assert run("counterfactual", cohort, moved, *model, "--years", "6", *one, "--show", "nobody") == 0
    for session in range(3):
        place = f"sub-05/ses-{session}/anat/sub-05_ses-{session}_desc-"
        before = image(cohort / f"{place}organ_mask.nii.gz")
        assert (image(moved / f"{place}counterfactual_mask.nii.gz") > 0).sum() > before.sum()


def test_surfaces_are_forecast_in_files_as_they_came(tmp_path: Path) -> None:
    cohort, out = grown(tmp_path / "sheets", "hemi_thickness", sheet, write_hemispheres), tmp_path / "out"
    trained = tmp_path / "trained"
    assert run("train", cohort, trained, "--set", "input.kind=surface", "--tracking", "none") == 0
    assert run("forecast", cohort, out, "--model", trained / "model", "--years", "2", "--extrapolate") == 0
    model = mr.load(trained)
    people = mr.read_cohort(cohort, model)
    last = people.covariates[[str(key).endswith("ses-2") for key in people.keys]].iloc[[0]]
    found = model.model.forecast(people, last.assign(age=last["age"] + 2), [people.whose[0]])
    table = pd.read_csv(out / "forecast.tsv", sep="\t")
    for name, values in (("estimate", found.estimate), ("sd", found.sd)):
        place = table[name].iloc[0]
        assert "hemi-L" in place
        both = [nib.load(out / place.replace("hemi-L", f"hemi-{side}")).darrays[0].data for side in "LR"]
        np.testing.assert_allclose(np.concatenate(both), values[0], rtol=1e-5)
    assert len({*table["estimate"], *table["sd"]}) == 48
    assert run("counterfactual", cohort, tmp_path / "moved", "--model", trained / "model", "--years", "0") == 0
    for file in (tmp_path / "moved").rglob("*.shape.gii"):
        came = cohort / file.relative_to(tmp_path / "moved").parent / file.name.replace("_desc-counterfactual", "")
        assert file.read_bytes() == came.read_bytes()


def test_edges_are_forecast_in_the_form_in_which_they_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = Planted(4, people=60, columns=6, slope=0.5)
    planted.values = np.tanh(planted.values / 20)
    cohort, out = write(tmp_path / "cohort", planted, np.arange(len(planted.values))), tmp_path / "out"
    names = {f"c{k}": edge for k, edge in enumerate(("a-b", "a-c", "a-d", "b-c", "b-d", "c-d"))}
    features(cohort).rename(columns=names).to_csv(cohort / "features.tsv", sep="\t")
    edges = ("--set", "input={kind: connectivity, edges: r}", "--tracking", "none")
    assert run("train", cohort, tmp_path / "trained", *edges) == 0
    asked = ("--model", tmp_path / "trained" / "model", "--years", "2", "--extrapolate")
    assert run("forecast", cohort, out, *asked) == 0
    table = pd.read_csv(out / "forecast.tsv", sep="\t")
    ends = [table[f"low_{share}"] for share in (95, 80, 50)] + [table["estimate"]]
    ends += [table[f"high_{share}"] for share in (50, 80, 95)]
    assert (np.diff(np.stack(ends), axis=0) > 0).all()
    assert table[["low_95", "high_95"]].abs().max().max() < 1
    model = mr.load(tmp_path / "trained")
    people = mr.read_cohort(cohort, model)
    last = people.covariates.iloc[[np.flatnonzero(people.whose == people.whose[0])[-1]]]
    found = model.model.forecast(people, last.assign(age=last["age"] + 2), [people.whose[0]])
    low, high = found.interval(0.5)
    np.testing.assert_allclose(table["estimate"].head(6), np.tanh(found.estimate[0]), rtol=1e-8)
    np.testing.assert_allclose(table["high_50"].head(6), np.tanh(high[0]), rtol=1e-8)
    np.testing.assert_allclose(
        (high - low)[0] * table["sd"].head(6) / found.sd[0], (table["high_50"] - table["low_50"]).head(6), rtol=0.05
    )
    assert run("counterfactual", cohort, tmp_path / "moved", *asked[:2], "--years", "2", "--extrapolate") == 0
    np.testing.assert_allclose(features(tmp_path / "moved"), np.tanh(model.model.follow(people, 2.0)), rtol=1e-8)
    capsys.readouterr()
    tangent = ("--set", "input={kind: connectivity, edges: r, measure: tangent, shrinkage: 0.5}", "--tracking", "none")
    assert run("train", cohort, tmp_path / "tangent", *tangent) == 0
    assert run("forecast", cohort, tmp_path / "no", "--model", tmp_path / "tangent" / "model", *asked[2:]) == 1
    assert "forecasts are not of measure tangent" in " ".join(capsys.readouterr().err.split())


def test_a_conditional_vae_forecasts_tables_from_a_folder(tmp_path: Path) -> None:
    planted = Planted(4, people=60, columns=6, slope=0.5)
    cohort = write(tmp_path / "cohort", planted, np.arange(len(planted.values)))
    trained = tmp_path / "trained"
    assert run("train", cohort, trained, "--config", "linear_latents.yaml", "--tracking", "none") == 0
    asked = ("--model", trained / "model", "--years", "2", "--extrapolate")
    assert run("forecast", cohort, tmp_path / "out", *asked) == 0
    assert json.loads((tmp_path / "out/forecast.json").read_text())["EffectsKnown"]
    table = pd.read_csv(tmp_path / "out/forecast.tsv", sep="\t")
    ends = [table[f"low_{share}"] for share in (95, 80, 50)] + [table["estimate"]]
    ends += [table[f"high_{share}"] for share in (50, 80, 95)]
    assert (np.diff(np.stack(ends), axis=0) > 0).all()
    assert run("counterfactual", cohort, tmp_path / "moved", *asked) == 0
    model = mr.load(trained)
    people = mr.read_cohort(cohort, model)
    np.testing.assert_allclose(features(tmp_path / "moved"), model.model.follow(people, 2.0), rtol=1e-5)
    assert run("counterfactual", cohort, tmp_path / "still", "--model", trained / "model", "--years", "0") == 0
    assert (tmp_path / "still/features.tsv").read_bytes() == (cohort / "features.tsv").read_bytes()
    assert run("score", cohort, tmp_path / "scored", "--model", trained / "model") == 0
    gain = pd.read_csv(tmp_path / "scored/scores.tsv", sep="\t")["gain_z"]
    np.testing.assert_allclose(gain, model.model.scores(people).gain, rtol=1e-4)
