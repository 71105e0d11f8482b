"""Several structures at once on the command line: mirrored organs of which age changes one, and real ones that touch."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import trimesh

from medrep.cohort.nifti import LabelMap, write_label_map
from medrep.cohort.surfaces import Surface, signed_distance
from tests.structure_cohorts import LEFT, RIGHT, write_hippocampi, write_pairs
from tests.workflows.conftest import run

FAST = ("--set", "settings={rounds: 2, modes: 24, points: 500, careful_points: 600, threads: 1, bootstrap: 10}")
SIDES = ("--config", "additive_shape.yaml", "--set", f"input.structures={{left: [{LEFT}], right: [{RIGHT}]}}")
AGE = ("--set", "covariates.sex=null")


def organ(folder: Path, who: str, desc: str = "organ") -> Path:
    return folder / who / "anat" / f"{who}_desc-{desc}_mask.nii.gz"


def labels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def mesh(path: Path, structure: str) -> trimesh.Trimesh:
    who, rest = path.name.split("_", 1)
    points, faces = nib.load(path.with_name(f"{who}_label-{structure}_{rest}".replace(".nii.gz", ".surf.gii"))).darrays
    return trimesh.Trimesh(points.data, faces.data)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "cohort"
    write_pairs(folder, 14, 2.0)
    return folder


@pytest.fixture(scope="module")
def trained(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pair-model") / "trained"
    assert run("train", pairs, out, *SIDES, *AGE, *FAST, "--quiet") == 0
    return out


def test_effects_of_each_structure_are_written(trained: Path) -> None:
    table = pd.read_csv(trained / "effects" / "effects.tsv", sep="\t").set_index("structure")
    assert table.index.tolist() == ["left", "right"]
    left, right = table.loc["left"], table.loc["right"]
    assert left["ci_high"] < -0.3
    assert left["volume_change_percent"] < -10
    assert abs(right["mean_mm"]) < 0.25 * abs(left["mean_mm"])
    assert right["surface_share_not_zero"] < 0.25 < left["surface_share_not_zero"]
    assert abs(right["volume_change_percent"]) < 5
    names = {path.name for path in (trained / "effects").iterdir()}
    assert {"template_label-left.surf.gii", "template_label-right.surf.gii", "effects.png"} <= names
    assert len([name for name in names if name.endswith("_label-right.shape.gii")]) == 1
    assert (trained / "report.html").is_file()


def test_a_moved_structure_is_the_true_one_and_the_other_stays(pairs: Path, trained: Path, tmp_path: Path) -> None:
    people = pd.read_csv(pairs / "participants.tsv", sep="\t").sort_values("age")
    who, same = people["participant_id"].iloc[-1], people["participant_id"].iloc[0]
    asked = ("--model", trained / "model", "--extrapolate", "--quiet")
    assert run("counterfactual", pairs, tmp_path / "o", "--set", "age=30", "--participant-label", who, *asked) == 0
    own, moved = labels(organ(pairs, who)), labels(organ(tmp_path / "o", who, "counterfactual"))
    assert set(np.unique(moved)) == {0, LEFT, RIGHT}
    assert (moved == LEFT).sum() > 1.2 * (own == LEFT).sum()
    assert dice(moved == RIGHT, own == RIGHT) > 0.93
    sidecar = json.loads((tmp_path / "o" / who / "anat" / f"{who}_desc-counterfactual_mask.json").read_text())
    volumes = sidecar["StructureVolumesMm3"]
    for name, number in (("left", LEFT), ("right", RIGHT)):
        found = mesh(organ(tmp_path / "o", who, "counterfactual"), name)
        assert found.is_watertight
        assert found.volume == pytest.approx(volumes[name], rel=1e-3)
        assert volumes[name] == pytest.approx(8 * (moved == number).sum(), rel=0.05)
    assert sidecar["VolumeMm3"] == pytest.approx(sum(volumes.values()), abs=0.01)
    age = people["age"].iloc[0]
    assert run("counterfactual", pairs, tmp_path / "s", "--set", f"age={age}", "--participant-label", same, *asked) == 0
    np.testing.assert_array_equal(labels(organ(tmp_path / "s", same, "counterfactual")), labels(organ(pairs, same)))


def test_volumes_of_structures_are_scored_and_who_lacks_one_is_named(
    pairs: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pairs, tmp_path / "c")
    place = organ(tmp_path / "c", "sub-02")
    image = nib.load(place)
    data = np.asarray(image.dataobj).astype(np.int32)
    write_label_map(place, LabelMap(np.where(data == LEFT, 0, data), image.affine))
    asked = ("--model", trained / "model", "--participant-label", "sub-01", "sub-02", "--quiet")
    assert run("score", tmp_path / "c", tmp_path / "s", *asked) == 3
    failed = pd.read_csv(tmp_path / "s" / "failures.tsv", sep="\t")["error"].tolist()
    assert len(failed) == 1
    assert f"structure left: none of the labels {LEFT} is there; it has {RIGHT}" in failed[0]
    row = pd.read_csv(tmp_path / "s" / "scores.tsv", sep="\t").set_index("participant_id").loc["sub-01"]
    own = labels(organ(pairs, "sub-01"))
    assert row["volume_mm3_left"] == 8 * (own == LEFT).sum()
    assert row["volume_mm3_right"] == 8 * (own == RIGHT).sum()
    assert row["volume_mm3"] == row["volume_mm3_left"] + row["volume_mm3_right"]
    assert "left" in json.loads((tmp_path / "s" / "scores.json").read_text())["volume_mm3_left"]["Description"]
    assert run("check", tmp_path / "c", *SIDES, *AGE) == 1
    told = capsys.readouterr()
    assert "sub-02: " in told.out + told.err
    assert "structure left" in told.out + told.err
    assert "13 left of 13" in told.out + told.err
    assert "and 14 right of 13" in told.out + told.err
    assert run("train", tmp_path / "c", tmp_path / "t", *SIDES, *AGE, *FAST, "--quiet") == 1
    assert "structure left: none of the labels" in capsys.readouterr().err


def test_drawn_people_have_every_structure(trained: Path, tmp_path: Path) -> None:
    assert run("sample", tmp_path / "drawn", "--model", trained / "model", "--n", 2, "--seed", 3, "--quiet") == 0
    for who in ("sub-0001", "sub-0002"):
        place = organ(tmp_path / "drawn", who, "sampled")
        assert set(np.unique(labels(place))) == {0, LEFT, RIGHT}
        left, right = mesh(place, "left"), mesh(place, "right")
        assert left.vertices[:, 0].max() < right.vertices[:, 0].min()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("--set", "input.labels=[17]"), "input.labels: of one organ; input.structures has the labels of each"),
        (("--set", "model=linear"), "input.structures: not of kind shape with model linear"),
        (("--set", "input.structures={left-side: [17]}"), "left-side: names are letters and digits"),
        (("--set", "input.structures={left: [17], right: [17]}"), "17: a region is part of one structure only"),
        (("--set", "input.structures={left: []}"), "left: give region numbers above 0"),
        (("--set", "input.structures={left: [a]}"), "input.structures: {'left': ['a']} is not allowed"),
    ],
)
def test_structures_that_cannot_be_are_refused(
    pairs: Path, wrong: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*SIDES[:2], *wrong] if "structures" in wrong[1] else [*SIDES, *wrong]
    assert run("check", pairs, *asked, *AGE) == 1
    assert told in capsys.readouterr().err


def test_real_structures_that_touch_share_no_voxel_at_an_extreme_age(shared_data: Path, tmp_path: Path) -> None:
    people = write_hippocampi(tmp_path / "c", shared_data, 10).sort_values("age")
    parts = ("--set", "input.structures={anterior: [1], posterior: [2]}", "--set", "input.align=centre")
    asked = ("--config", "additive_shape.yaml", *parts, *AGE, *FAST, "--set", "settings.spline_degrees=1", "--quiet")
    assert run("train", tmp_path / "c", tmp_path / "t", *asked) == 0
    few = people["participant_id"].iloc[[0, -1]].tolist()
    move = ("--model", tmp_path / "t" / "model", "--participant-label", *few, "--extrapolate", "--quiet")
    assert run("counterfactual", tmp_path / "c", tmp_path / "o", "--set", "age=90", *move) == 0
    for who in few:
        own, place = labels(organ(tmp_path / "c", who)), organ(tmp_path / "o", who, "counterfactual")
        moved = labels(place)
        assert set(np.unique(moved)) == {0, 1, 2}
        assert touching(moved) > 0.4 * touching(own)
        anterior, posterior = mesh(place, "anterior"), mesh(place, "posterior")
        whole = json.loads(place.with_name(place.name.replace(".nii.gz", ".json")).read_text())["VolumeMm3"]
        assert whole == pytest.approx((moved > 0).sum(), rel=0.05)
        for one, other in ((anterior, posterior), (posterior, anterior)):
            surface = Surface(np.asarray(one.vertices), np.asarray(one.faces))
            assert signed_distance(other.vertices, surface).min() > -0.2  # mm; meshes have edges of 0.4


def touching(data: np.ndarray) -> int:
    """Count pairs of neighbouring voxels of two structures."""
    found = 0
    for axis in range(3):
        first, second = data.swapaxes(0, axis)[:-1], data.swapaxes(0, axis)[1:]
        found += int(((first != second) & (first > 0) & (second > 0)).sum())
    return found
