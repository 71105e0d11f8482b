"""Organs of people who come again on the command line: trained, followed, forecast, and their change scored."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medrep.cohort.nifti import LabelMap, write_label_map
from medrep.derivatives.bids import write_tsv
from tests.workflows.conftest import run

PEOPLE, EDGE, YEARS = 16, 30, 4.0
FAST = ("--set", "settings={rounds: 2, modes: 30, points: 400, careful_points: 500, threads: 1, bootstrap: 0}")


def organ(root: Path, who: str, session: str, desc: str = "") -> Path:
    return root / who / session / "anat" / f"{who}_{session}{desc}_mask.nii.gz"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ellipsoids that shrink with age, each at a rate of its own, seen three times; and a model of them."""
    root = tmp_path_factory.mktemp("over-time")
    rng, rows = np.random.default_rng(1), []
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = -(EDGE - 1) / 2
    world = np.indices((EDGE,) * 3).reshape(3, -1).T + affine[:3, 3]
    for number in range(PEOPLE):
        who, start, rate = f"sub-{number:02d}", rng.uniform(50, 70), rng.uniform(0.2, 1.8)
        radii = np.array([8.0, 10.0, 6.5]) * np.exp(rng.normal(0, 0.05, 3))
        for visit in range(3):
            age = start + YEARS * visit
            size = radii * np.exp(-0.012 * (start - 60) - 0.012 * rate * YEARS * visit)
            inside = ((world / size) ** 2).sum(axis=1) < 1
            path = organ(root / "c", who, f"ses-{visit + 1}")
            path.parent.mkdir(parents=True)
            write_label_map(path, LabelMap(inside.astype(np.int32).reshape((EDGE,) * 3), affine))
            rows.append((who, f"ses-{visit + 1}", round(age, 2)))
    write_tsv(root / "c" / "participants.tsv", pd.DataFrame(rows, columns=["participant_id", "session_id", "age"]))
    chosen = ("--set", "input={kind: shape, suffix: mask}", "--set", "covariates={age: {kind: continuous}}")
    words = ("train", root / "c", root / "m", "--config", "additive_shape.yaml", *chosen, *FAST, "--quiet")
    assert run(*words) == 0
    return root


def volume(path: Path) -> float:
    return float((np.asarray(nib.load(path).dataobj) > 0).sum())


def test_visits_are_moved_along_paths_of_their_own(trained: Path, tmp_path: Path) -> None:
    words = ("--model", trained / "m" / "model", "--participant-label", "sub-03", "--quiet")
    for name, years in (("same", "+0"), ("later", "+4")):
        asked = ("counterfactual", trained / "c", tmp_path / name, "--years", years, *words)
        assert run(*asked, "--extrapolate") == 0
    own = organ(trained / "c", "sub-03", "ses-2")
    same = organ(tmp_path / "same", "sub-03", "ses-2", "_desc-counterfactual")
    np.testing.assert_array_equal(nib.load(same).dataobj, nib.load(own).dataobj)
    last = organ(trained / "c", "sub-03", "ses-3")
    later = volume(organ(tmp_path / "later", "sub-03", "ses-2", "_desc-counterfactual"))
    assert later < volume(own)
    assert abs(later - volume(last)) < abs(volume(own) - volume(last))


def test_organs_to_come_are_written_with_how_well_they_are_known(trained: Path, tmp_path: Path) -> None:
    words = ("--model", trained / "m" / "model", "--participant-label", "sub-05", "--quiet", "--extrapolate")
    assert run("forecast", trained / "c", tmp_path / "f", "--years", "2", *words) == 0
    table = pd.read_csv(tmp_path / "f" / "forecast.tsv", sep="\t")
    assert table["from_session"].tolist() == ["ses-3"]
    estimate, sd = (tmp_path / "f" / table[name].iloc[0] for name in ("estimate", "sd"))
    assert volume(estimate) < volume(organ(trained / "c", "sub-05", "ses-3"))
    spread = np.asarray(nib.load(sd).dataobj)
    assert 0 < np.median(spread) < 3
    assert json.loads((tmp_path / "f" / "forecast.json").read_text())["Years"] == [2.0]


def test_a_change_that_is_unlike_a_person_s_is_scored(trained: Path, tmp_path: Path) -> None:
    words = ("--model", trained / "m" / "model", "--participant-label", "sub-01", "sub-02", "--quiet")
    assert run("score", trained / "c", tmp_path / "s", *words) == 0
    scores = pd.read_csv(tmp_path / "s" / "scores.tsv", sep="\t")
    assert scores["gain_z"].isna().tolist() == [True, False, False] * 2
    assert (scores["volume_mm3"] > 0).all()
