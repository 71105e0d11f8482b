"""Shape cohorts on the command line: generate, train, move, draw, plant."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import trimesh

from tests.workflows.conftest import run

FAST = ("--set", "settings={rounds: 2, modes: 40, points: 600, careful_points: 1000, threads: 1, bootstrap: 10}")


def mask(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def organ(folder: Path, who: str, desc: str = "organ") -> Path:
    return folder / who / "anat" / f"{who}_desc-{desc}_mask.nii.gz"


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float(((a > 0) & (b > 0)).sum()) / float((a > 0).sum() + (b > 0).sum())


@pytest.fixture(scope="module")
def organs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("organs") / "cohort"
    assert run("simulate", folder, "--kind", "shape", "--n", 16, "--sites", 1, "--seed", 3, "--quiet") == 0
    return folder


@pytest.fixture(scope="module")
def trained(organs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shape-model") / "trained"
    assert run("train", organs, out, "--config", "additive_shape.yaml", *FAST, "--quiet") == 0
    return out


def test_a_generated_cohort_has_the_truth_at_two_ages_beside(organs: Path) -> None:
    people = pd.read_csv(organs / "participants.tsv", sep="\t")
    truth = organs / "derivatives" / "truth"
    assert set(json.loads((truth / "truth.json").read_text())) == {"age", "sex"}
    for who in people["participant_id"].head(3):
        young, old = (mask(organ(truth, who, f"age{age}")) for age in (30, 75))
        assert young.sum() > old.sum() > 0
        assert mask(organ(organs, who)).dtype == np.uint8


def test_training_writes_what_covariates_do(trained: Path) -> None:
    table = pd.read_csv(trained / "effects" / "effects.tsv", sep="\t")
    assert table["covariate"].tolist() == ["age", "sex"]
    age = table.iloc[0]
    assert age["mean_mm"] < 0
    assert age["ci_low"] <= age["mean_mm"] <= age["ci_high"]
    assert age["volume_change_percent"] < -5
    names = {path.name for path in (trained / "effects").iterdir()}
    assert {"template.surf.gii", "effects.tsv", "effects.png", "pose.tsv"} <= names
    # These people share a space, and how they lie is an effect.
    about = json.loads((trained / "effects" / "pose.json").read_text())
    assert about["SharedSpace"] is about["InEffects"] is True
    maps = sorted(name for name in names if name.endswith(".shape.gii"))
    assert len(maps) == 2
    mesh = nib.load(trained / "effects" / maps[0].replace(".shape.gii", ".surf.gii"))
    values = nib.load(trained / "effects" / maps[0])
    assert len(values.darrays) == 3
    assert len(values.darrays[0].data) == len(mesh.darrays[0].data)


def test_people_are_moved_to_where_they_truly_would_be(organs: Path, trained: Path, tmp_path: Path) -> None:
    people = pd.read_csv(organs / "participants.tsv", sep="\t")
    old = people.sort_values("age")["participant_id"].tolist()[-2:]
    asked = ("--model", trained / "model", "--set", "age=30", "--participant-label", *old)
    assert run("counterfactual", organs, tmp_path / "young", *asked, "--extrapolate", "--quiet") == 0
    for who in old:
        place = organ(tmp_path / "young", who, "counterfactual")
        true = mask(organ(organs / "derivatives" / "truth", who, "age30"))
        own, made = mask(organ(organs, who)), mask(place)
        assert made.shape == own.shape
        np.testing.assert_array_equal(nib.load(place).affine, nib.load(organ(organs, who)).affine)
        assert dice(made, true) > max(0.87, dice(own, true) + 0.04)
        sidecar = json.loads(place.with_name(place.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["Covariates"] == {"age": 30.0}
        assert sidecar["VolumeMm3"] == pytest.approx(made.sum(), rel=0.05)
        mesh = nib.load(place.with_name(place.name.replace(".nii.gz", ".surf.gii")))
        corners = mesh.darrays[0].data
        inside = np.argwhere(made > 0) @ nib.load(place).affine[:3, :3].T + nib.load(place).affine[:3, 3]
        np.testing.assert_allclose(corners.mean(axis=0), inside.mean(axis=0), atol=1.5)


def test_export_brings_everybody_to_the_reference_and_says_how_sure_the_latents_are(
    organs: Path, trained: Path, tmp_path: Path
) -> None:
    few = pd.read_csv(organs / "participants.tsv", sep="\t")["participant_id"].head(3).tolist()
    asked = ("--model", trained / "model", "--participant-label", *few, "--quiet")
    assert run("export", organs, tmp_path / "o", "--remove", "age,sex", *asked) == 0
    z, sd = (pd.read_csv(tmp_path / "o" / name, sep="\t") for name in ("latents.tsv", "latents_sd.tsv"))
    assert z["participant_id"].tolist() == sd["participant_id"].tolist() == few
    assert (sd.iloc[:, 1:] > 0).all(axis=None)
    assert organ(tmp_path / "o", few[0], "residualized").is_file()


def test_who_is_at_the_target_comes_back_bit_for_bit(organs: Path, trained: Path, tmp_path: Path) -> None:
    row = pd.read_csv(organs / "participants.tsv", sep="\t").iloc[0]
    who = row["participant_id"]
    asked = ("--model", trained / "model", "--set", f"age={row['age']}", "--participant-label", who, "--quiet")
    assert run("counterfactual", organs, tmp_path / "same", *asked) == 0
    np.testing.assert_array_equal(mask(organ(tmp_path / "same", who, "counterfactual")), mask(organ(organs, who)))


@pytest.mark.parametrize("form", ["stl", "ply"])
def test_meshes_are_written_as_asked(organs: Path, trained: Path, tmp_path: Path, form: str) -> None:
    who = pd.read_csv(organs / "participants.tsv", sep="\t")["participant_id"].iloc[0]
    asked = ("--model", trained / "model", "--participant-label", who, "--set", "sex=F", "--mesh", form, "--quiet")
    assert run("counterfactual", organs, tmp_path / "o", *asked) == 0
    place = organ(tmp_path / "o", who, "counterfactual")
    mesh = trimesh.load(place.with_name(place.name.replace(".nii.gz", f".{form}")))
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(mask(place).sum(), rel=0.05)
    assert not list((tmp_path / "o").rglob("*.surf.gii"))
    assert run("sample", tmp_path / "s", "--model", trained / "model", "--n", 1, "--mesh", form, "--quiet") == 0
    assert len(list((tmp_path / "s").rglob(f"*.{form}"))) == 1


def test_a_choice_of_mesh_is_refused_where_there_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", tmp_path / "c", "--n", 40, "--quiet") == 0
    assert run("train", tmp_path / "c", tmp_path / "m", "--quiet") == 0
    asked = ("--model", tmp_path / "m" / "model", "--remove", "site", "--mesh", "stl")
    assert run("export", tmp_path / "c", tmp_path / "o", *asked) == 1
    assert (
        "--mesh stl: the model was trained on features data, which has no surface; leave it out"
        in capsys.readouterr().err
    )


def test_a_broken_file_is_named_and_the_others_are_delivered(
    organs: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(organs, tmp_path / "c")
    people = pd.read_csv(organs / "participants.tsv", sep="\t")["participant_id"].tolist()[:3]
    organ(tmp_path / "c", people[0]).write_bytes(b"no image")
    asked = ("--model", trained / "model", "--set", "sex=F", "--participant-label", *people)
    assert run("counterfactual", tmp_path / "c", tmp_path / "o", *asked) == 3
    assert people[0] in capsys.readouterr().err
    failures = pd.read_csv(tmp_path / "o" / "failures.tsv", sep="\t")
    assert failures["participant_id"].tolist() == people[:1]
    assert run("train", tmp_path / "c", tmp_path / "m", "--config", "additive_shape.yaml", *FAST) == 1
    assert "label maps that cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_an_organ_elsewhere_is_refused_with_the_setting_that_mends_it(
    organs: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(organs, tmp_path / "c")
    who = pd.read_csv(organs / "participants.tsv", sep="\t")["participant_id"].iloc[0]
    image = nib.load(organ(tmp_path / "c", who))
    affine = image.affine.copy()
    affine[:3, 3] += 100
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), organ(tmp_path / "c", who))
    asked = ("--model", trained / "model", "--set", "sex=F", "--participant-label", who)
    assert run("counterfactual", tmp_path / "c", tmp_path / "o", *asked) == 1
    assert "input.align=centre" in capsys.readouterr().err


def test_an_organ_a_little_beyond_the_grid_is_moved_on_a_larger_one(
    organs: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(organs, tmp_path / "c")
    people = pd.read_csv(organs / "participants.tsv", sep="\t")
    who, age = people["participant_id"].iloc[0], people["age"].iloc[0]
    section = json.loads((trained / "model" / "model.json").read_text())["input"]
    image = nib.load(organ(tmp_path / "c", who))
    affine = image.affine.copy()
    affine[:3, 3] += [0.9 * section["size"], 0, 0]  # half of the size is the margin
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), organ(tmp_path / "c", who))
    asked = ("--model", trained / "model", "--participant-label", who, "--quiet")
    assert run("counterfactual", tmp_path / "c", tmp_path / "same", "--set", f"age={age}", *asked) == 0
    np.testing.assert_array_equal(mask(organ(tmp_path / "same", who, "counterfactual")), mask(organ(organs, who)))
    assert run("counterfactual", tmp_path / "c", tmp_path / "o", "--set", "age=45", *asked) == 0
    moved = organ(tmp_path / "o", who, "counterfactual")
    points, faces = (one.data for one in nib.load(moved.with_name(moved.name.replace(".nii.gz", ".surf.gii"))).darrays)
    end = section["centre"][0] + (section["shape"][0] - 1) / 2 * section["spacing"][0]
    assert points[:, 0].max() > end
    voxels = np.argwhere(mask(moved)) @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(trimesh.Trimesh(points, faces).center_mass, voxels.mean(axis=0), atol=0.7)
    assert run("score", tmp_path / "c", tmp_path / "s", *asked) == 0
    assert (pd.read_csv(tmp_path / "s" / "scores.tsv", sep="\t")["reconstruction_error"] > 0).all()


def test_an_organ_that_leaves_the_grid_when_it_is_moved_is_moved_on_a_larger_one(
    organs: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(organs, tmp_path / "c")
    people = pd.read_csv(organs / "participants.tsv", sep="\t").sort_values("age")
    who, section = (
        people["participant_id"].iloc[-1],
        json.loads((trained / "model" / "model.json").read_text())["input"],
    )
    image = nib.load(organ(tmp_path / "c", who))
    affine = image.affine.copy()
    highest = (np.argwhere(mask(organ(tmp_path / "c", who)) > 0) @ affine[:3, :3].T + affine[:3, 3])[:, 1].max() + 0.5
    room = section["centre"][1] + ((section["shape"][1] - 1) / 2 - 2) * section["spacing"][1]
    affine[1, 3] += room - highest - 0.05  # it just fits as it is, and grows towards youth
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), organ(tmp_path / "c", who))
    asked = ("--model", trained / "model", "--participant-label", who, "--quiet", "--set", "age=20", "--extrapolate")
    assert run("counterfactual", tmp_path / "c", tmp_path / "o", *asked) == 0
    moved = organ(tmp_path / "o", who, "counterfactual")
    points = nib.load(moved.with_name(moved.name.replace(".nii.gz", ".surf.gii"))).darrays[0].data
    assert points[:, 1].max() > room


def test_drawn_people_are_a_cohort_that_can_be_read_again(trained: Path, tmp_path: Path) -> None:
    assert run("sample", tmp_path / "drawn", "--model", trained / "model", "--n", 8, "--quiet") == 0
    people = pd.read_csv(tmp_path / "drawn" / "participants.tsv", sep="\t")["participant_id"].tolist()
    sizes = [int(mask(organ(tmp_path / "drawn", who, "sampled")).sum()) for who in people]
    assert len(set(sizes)) > 6
    assert (
        run("check", tmp_path / "drawn", "--config", "additive_shape.yaml", "--set", "input.desc=sampled", "--quiet")
        == 0
    )


def test_other_models_work_on_shapes_too(organs: Path, tmp_path: Path) -> None:
    few = pd.read_csv(organs / "participants.tsv", sep="\t")["participant_id"].tolist()
    section = ("--set", "input={kind: shape, suffix: mask, desc: organ}", "--set", "covariates.site=null")
    assert run("train", organs, tmp_path / "m", *section, "--participant-label", *few, "--quiet") == 0
    asked = ("--model", tmp_path / "m" / "model", "--set", "age=50", "--participant-label", few[0], "--quiet")
    assert run("counterfactual", organs, tmp_path / "o", *asked) == 0
    assert mask(organ(tmp_path / "o", few[0], "counterfactual")).any()


def test_a_growth_chart_sums_up_how_unusual_an_organ_is(organs: Path, tmp_path: Path) -> None:
    chart = (
        "--config",
        "growth_chart.yaml",
        "--set",
        "input={kind: shape, suffix: mask, desc: organ, spacing: [4, 4, 4], shape: [16, 16, 16]}",
    )
    assert run("train", organs, tmp_path / "m", *chart, "--set", "covariates.site=null", "--quiet") == 0
    few = pd.read_csv(organs / "participants.tsv", sep="\t")["participant_id"][:2]
    asked = ("--model", tmp_path / "m" / "model", "--workers", 1, "--participant-label", *few, "--quiet")
    assert run("score", organs, tmp_path / "s", *asked) == 0
    scores = pd.read_csv(tmp_path / "s" / "scores.tsv", sep="\t")
    assert scores[["share_high", "extreme", "volume_mm3"]].notna().all(axis=None)
    assert not list((tmp_path / "s").rglob("*desc-z*")) + list((tmp_path / "s").glob("deviations*"))


def test_effects_are_planted_into_organs_with_the_truth_beside(organs: Path, tmp_path: Path) -> None:
    shutil.copytree(organs, tmp_path / "c", ignore=shutil.ignore_patterns("derivatives"))
    section = ("--set", "input.suffix=mask", "--set", "input.desc=organ", "--kind", "shape", "--effects", "age,sex")
    people = pd.read_csv(tmp_path / "c" / "participants.tsv", sep="\t").head(4)
    people.to_csv(tmp_path / "c" / "participants.tsv", sep="\t", index=False)
    assert run("simulate", tmp_path / "p", "--from", tmp_path / "c", *section, "--quiet") == 0
    truth = tmp_path / "p" / "derivatives" / "truth"
    for who in people["participant_id"]:
        assert mask(organ(truth, who, "age30")).sum() > mask(organ(truth, who, "age75")).sum()
        assert mask(organ(tmp_path / "p", who)).shape == mask(organ(truth, who, "age30")).shape


def test_people_are_scored_and_an_odd_one_is_unusual(organs: Path, trained: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(organs, cohort)
    odd, broken = "sub-0003", "sub-0005"
    image = nib.load(organ(cohort, odd))
    bent = np.roll(np.asarray(image.dataobj), 5, axis=2)
    bent[: bent.shape[0] // 2] = np.asarray(image.dataobj)[: bent.shape[0] // 2]
    nib.save(nib.Nifti1Image(bent, image.affine), organ(cohort, odd))
    organ(cohort, broken).write_bytes(b"no image")
    out = tmp_path / "scored"
    assert run("score", cohort, out, "--model", trained / "model", "--quiet") == 3
    scores = pd.read_csv(out / "scores.tsv", sep="\t", index_col="participant_id")
    assert len(scores) == 16
    assert scores.loc[broken, "status"] == "failed"
    assert scores.loc[broken].isna().sum() == 3
    good = scores.drop([odd, broken])
    assert (good["status"] == "scored").all()
    assert (good["reconstruction_error"] < 0.6).all()
    assert 0.6 < good["deviation"].median() < 1.4
    assert scores.loc[odd, "deviation"] > 1.3 * good["deviation"].max()
    assert scores.loc[odd, "reconstruction_error"] > good["reconstruction_error"].max()
    for name in ("latents.tsv", "latents_sd.tsv"):
        assert pd.read_csv(out / name, sep="\t")["participant_id"].tolist() == scores.index.drop(broken).tolist()
    failures = pd.read_csv(out / "failures.tsv", sep="\t")
    assert failures["participant_id"].tolist() == [broken]


def test_scoring_shapes_with_a_model_of_a_table_is_refused(
    organs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, model = tmp_path / "table", tmp_path / "m"
    assert run("simulate", table, "--kind", "features", "--n", 40, "--quiet") == 0
    assert run("train", table, model, "--quiet") == 0
    assert run("score", organs, tmp_path / "scored", "--model", model / "model", "--quiet") == 1
    assert "features.tsv" in capsys.readouterr().err
    assert not (tmp_path / "scored").exists()


def test_distances_of_an_organ_are_no_scan_to_corrupt(
    organs: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--model", trained / "model", "--stress", "corruptions,regions", "--quiet")
    assert run("audit", organs, tmp_path / "a", *asked) == 1
    said = capsys.readouterr().err
    assert "corruptions: needs scans to corrupt" in said
    assert "regions: give --regions FILE" in said


def test_organs_of_training_are_known_under_other_names(
    organs: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = pd.read_csv(organs / "participants.tsv", sep="\t", dtype=str).tail(4)
    elsewhere = Path(shutil.copytree(trained / "model", tmp_path / "elsewhere" / "model"))
    for who in people["participant_id"]:
        shutil.copytree(organs / who / "anat", tmp_path / "cohort" / f"{who}x" / "anat")
        organ(tmp_path / "cohort", f"{who}x").parent.joinpath(organ(organs, who).name).rename(
            organ(tmp_path / "cohort", f"{who}x")
        )
    named = people.assign(participant_id=people["participant_id"] + "x")
    named.to_csv(tmp_path / "cohort" / "participants.tsv", sep="\t", index=False)
    asked = ("--model", elsewhere, "--min-n", 2, "--extrapolate", "--quiet")
    assert run("audit", tmp_path / "cohort", tmp_path / "a", *asked) == 1
    said = capsys.readouterr().err
    assert "people whose data the model was trained on (4)" in said
    assert all(who in said for who in named["participant_id"])
