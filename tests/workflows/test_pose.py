"""How organs lie and what shape they have, told apart on the command line: planted, found, left alone, moved when asked for."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from scipy.spatial.transform import Rotation

from medrep.cohort.surfaces import Surface
from medrep.errors import CovariateError, ModelError
from medrep.models.saved import SavedModel
from medrep.workflows.cohorts import check_pose
from tests.models.shape.test_pose import fitted, lying_by_age, people
from tests.workflows.conftest import run

FAST = "settings={rounds: 2, modes: 40, points: 600, careful_points: 1000, threads: 1, bootstrap: 10}"
SHIFT, TURN = np.array([2.0, 0.0, 1.0]), np.array([3.0, 0.0, -1.5])
"""Of ten years of age: mm to the right, to the front, up; degrees about these axes."""


def organ(folder: Path, who: str, desc: str = "organ") -> Path:
    return folder / who / "anat" / f"{who}_desc-{desc}_mask.nii.gz"


def mesh(folder: Path, who: str, desc: str = "counterfactual") -> Surface:
    path = organ(folder, who, desc)
    points, faces = nib.load(path.with_name(path.name.replace(".nii.gz", ".surf.gii"))).darrays
    return Surface(points.data.astype(float), faces.data.astype(np.int64))


def voxels(path: Path) -> np.ndarray:
    """Where the organ's voxels are in the world, mm."""
    image = nib.load(path)
    return np.argwhere(np.asarray(image.dataobj) > 0) @ image.affine[:3, :3].T + image.affine[:3, 3]


@pytest.fixture(scope="module")
def lying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Organs whose images lie elsewhere in the world by the person's age, and by a little chance."""
    folder = tmp_path_factory.mktemp("lying") / "cohort"
    assert run("simulate", folder, "--kind", "shape", "--n", 16, "--sites", 1, "--seed", 3, "--quiet") == 0
    table, rng = pd.read_csv(folder / "participants.tsv", sep="\t"), np.random.default_rng(1)
    for who, age in zip(table["participant_id"], table["age"], strict=True):
        image = nib.load(organ(folder, who))
        shift = (age - 50) / 10 * SHIFT + 0.5 * rng.standard_normal(3)
        turn = Rotation.from_rotvec((age - 50) / 10 * TURN + rng.standard_normal(3), degrees=True).as_matrix()
        middle, motion = voxels(organ(folder, who)).mean(axis=0), np.eye(4)
        motion[:3, :3], motion[:3, 3] = turn, middle + shift - turn @ middle
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), motion @ image.affine), organ(folder, who))
    return folder


@pytest.fixture(scope="module")
def trained(lying: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("laid") / "trained"
    asked = ("--config", "additive_shape.yaml", "--set", FAST, "--set", "input.align=rigid")
    assert run("train", lying, out, *asked, "--quiet") == 0
    return out


def moved(lying: Path, out: Path, model: Path, *asked: object) -> Path:
    assert run("counterfactual", lying, out, "--model", model, *asked, "--quiet") == 0
    return out


def earlier(trained: Path, folder: Path) -> Path:
    """A model folder as it was written before poses were known."""
    old = Path(shutil.copytree(trained / "model", folder / "earlier" / "model"))
    content = json.loads((old / "model.json").read_text())
    content.pop("pose")
    (old / "model.json").write_text(json.dumps(content))
    arrays = load_file(old / "model.safetensors")
    save_file({key: own for key, own in arrays.items() if not key.startswith("pose/")}, old / "model.safetensors")
    return old


def oldest(lying: Path) -> pd.Series:
    return pd.read_csv(lying / "participants.tsv", sep="\t").sort_values("age").iloc[-1]


def test_a_planted_pose_is_told_apart_from_shape(trained: Path) -> None:
    table = pd.read_csv(trained / "effects" / "pose.tsv", sep="\t")
    assert set(table["covariate"]) == {"age", "sex"}
    age = table[table["covariate"] == "age"].set_index("pose")
    decades = (float(age["after"].iloc[0]) - float(age["before"].iloc[0])) / 10
    for name, truth in zip(("right", "superior", "pitch", "yaw"), (SHIFT[0], SHIFT[2], TURN[0], TURN[2]), strict=True):
        row = age.loc[name]
        assert row["ci_low"] < decades * truth < row["ci_high"], name
        assert row["p"] < 0.01
        assert row["unit"] == ("mm" if name in {"right", "superior"} else "degree")
    assert age.loc["right", "estimate"] == pytest.approx(decades * SHIFT[0], abs=1)
    # What there is of a motion to the right in the map of age is a small part of the 5 mm that were planted.
    (surface,) = (trained / "effects").glob("age-*.surf.gii")
    points, faces = (one.data for one in nib.load(surface).darrays)
    normals = np.zeros((len(points), 3))
    vectors = Surface(points.astype(float), faces.astype(np.int64)).face_vectors
    for corner in range(3):
        np.add.at(normals, faces[:, corner], vectors)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    out = nib.load(surface.with_name(surface.name.replace(".surf.", ".shape."))).darrays[0].data
    ways = np.concatenate([normals, np.cross(points - points.mean(axis=0), normals)], axis=1)
    assert abs(np.linalg.lstsq(ways, out)[0][0]) < 0.25 * decades * SHIFT[0]


def test_the_report_says_what_position_is_worth(trained: Path) -> None:
    about = json.loads((trained / "effects" / "pose.json").read_text())
    assert about["SharedSpace"] is about["InEffects"] is False
    assert about["CentresApartPercent"] > 15
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert "Position, not shape" in page
    assert "Position is then how images were cut or how people lay, and no anatomy." in page
    assert "nobody is moved by it without --with-pose" in page


def test_people_are_moved_as_a_whole_only_if_asked(lying: Path, trained: Path, tmp_path: Path) -> None:
    person = oldest(lying)
    who = person["participant_id"]
    asked = ("--set", "age=45", "--participant-label", who)
    plain = moved(lying, tmp_path / "plain", trained / "model", *asked)
    whole = moved(lying, tmp_path / "whole", trained / "model", *asked, "--with-pose")
    # A model that knows nothing of poses moves shapes to the same bytes.
    old = earlier(trained, tmp_path)
    assert SavedModel.load(old).pose is None
    without = moved(lying, tmp_path / "without", old, *asked)
    assert organ(without, who, "counterfactual").read_bytes() == organ(plain, who, "counterfactual").read_bytes()
    assert "PoseChange" not in json.loads(sidecar(plain, who).read_text())
    change = json.loads(sidecar(whole, who).read_text())
    assert change["WithPose"] is True
    decades = (45 - person["age"]) / 10
    assert change["PoseChange"]["right"] == pytest.approx(decades * SHIFT[0], abs=1.2)
    # The organ comes to lie there in the person's own image, as voxels and as a mesh.
    own = voxels(organ(lying, who)).mean(axis=0)
    assert voxels(organ(whole, who, "counterfactual")).mean(axis=0)[0] - own[0] == pytest.approx(
        change["PoseChange"]["right"], abs=0.7
    )
    assert abs(voxels(organ(plain, who, "counterfactual")).mean(axis=0)[0] - own[0]) < 1.5
    np.testing.assert_array_equal(
        nib.load(organ(whole, who, "counterfactual")).affine, nib.load(organ(lying, who)).affine
    )
    for folder in (plain, whole):
        found = mesh(folder, who)
        assert np.abs(found.centroid - voxels(organ(folder, who, "counterfactual")).mean(axis=0)).max() < 1
    assert mesh(whole, who).volume == pytest.approx(mesh(plain, who).volume, rel=1e-3)


def sidecar(folder: Path, who: str) -> Path:
    path = organ(folder, who, "counterfactual")
    return path.with_name(path.name.replace(".nii.gz", ".json"))


def test_parts_go_with_the_organ_and_what_leaves_the_image_is_said(lying: Path, trained: Path, tmp_path: Path) -> None:
    """A label map of two parts, moved three times as far as planted, for which the image is too small."""
    who, saved = oldest(lying)["participant_id"], SavedModel.load(trained / "model")
    shutil.copytree(lying / who, tmp_path / "c" / who)
    table = pd.read_csv(lying / "participants.tsv", sep="\t")
    table[table["participant_id"] == who].to_csv(tmp_path / "c" / "participants.tsv", sep="\t", index=False)
    image = nib.load(organ(tmp_path / "c", who))
    labels = np.asarray(image.dataobj).copy()
    middle = int(np.median(np.argwhere(labels > 0)[:, 1]))
    labels[:, middle:][labels[:, middle:] > 0] = 2
    nib.save(nib.Nifti1Image(labels, image.affine), organ(tmp_path / "c", who))
    assert saved.pose is not None
    effects = saved.pose.effects
    far = replace(saved.pose, effects=replace(effects, coefficients=3 * effects.coefficients))
    parts: dict[str, list[np.ndarray]] = {}
    for name, pose in (("stays", saved.pose), ("near", saved.pose), ("far", far)):
        replace(saved, pose=pose).save(tmp_path / name)
        asked = ("--set", "age=45") if name == "stays" else ("--set", "age=45", "--with-pose")
        out = moved(tmp_path / "c", tmp_path / f"o-{name}", tmp_path / name, *asked)
        found = np.asarray(nib.load(organ(out, who, "counterfactual")).dataobj)
        assert json.loads(sidecar(out, who).read_text())["CutByImageBorder"] is (name == "far")
        parts[name] = [np.argwhere(found == part) for part in (1, 2)]
    for near, stays in zip(parts["near"], parts["stays"], strict=True):
        assert len(near) == pytest.approx(len(stays), rel=0.05)
    apart = [np.linalg.norm(one[1].mean(axis=0) - one[0].mean(axis=0)) for one in (parts["near"], parts["stays"])]
    assert apart[0] == pytest.approx(apart[1], rel=0.05)


def test_people_of_sites_that_training_did_not_have_are_refused(trained: Path) -> None:
    saved, known = SavedModel.load(trained / "model"), fitted(people(sites=True), lying_by_age(people(sites=True)))
    frame = people(sites=True).covariates.iloc[:3]
    check_pose(replace(saved, pose=known), frame, wanted=True, own=False)
    with pytest.raises(CovariateError, match="sub-1: site C"):
        check_pose(replace(saved, pose=known), frame.assign(site=["A", "C", "B"]), wanted=True, own=False)
    with pytest.raises(ModelError, match="trajectories say nothing of how organs lie"):
        check_pose(saved, frame, wanted=True, own=True)


def test_who_stays_comes_back_bit_for_bit(lying: Path, trained: Path, tmp_path: Path) -> None:
    person = oldest(lying)
    who = person["participant_id"]
    asked = ("--set", f"age={person['age']}", "--participant-label", who, "--with-pose")
    out = moved(lying, tmp_path / "o", trained / "model", *asked)
    found, own = (nib.load(path) for path in (organ(out, who, "counterfactual"), organ(lying, who)))
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(own.dataobj))
    assert set(json.loads(sidecar(out, who).read_text())["PoseChange"].values()) == {0.0}


def test_models_without_poses_refuse_by_name(
    lying: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = earlier(trained, tmp_path)
    assert run("export", lying, tmp_path / "o", "--model", old, "--remove", "age", "--with-pose") == 1
    assert "--with-pose: the model does not say what covariates do to how organs lie" in capsys.readouterr().err
    assert run("simulate", tmp_path / "c", "--n", 40, "--quiet") == 0
    assert run("train", tmp_path / "c", tmp_path / "m", "--quiet") == 0
    asked = ("--model", tmp_path / "m" / "model", "--set", "age=50", "--with-pose")
    assert run("counterfactual", tmp_path / "c", tmp_path / "o", *asked) == 1
    assert "--with-pose: the model was trained on features data; only of shapes" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
