"""Images whose sites have another gain, another contrast or both, through train and export with each kind of intensity."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medrep.workflows.cohorts import load_trained
from tests.workflows.conftest import run

PEOPLE, GAIN, GAMMA = 40, 2.0, 1.25


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort whose site B has twice the gain and another contrast; everybody has a gain of their own, too."""
    root = tmp_path_factory.mktemp("loud") / "cohort"
    rng = np.random.default_rng(0)
    shape = np.linspace(0.2, 1, 6**3).reshape(6, 6, 6)[:, ::-1]
    rows = ["participant_id\tage\tsite"]
    for k in range(PEOPLE):
        site = "AB"[k % 2]
        data = shape * np.exp(rng.normal(scale=0.03, size=shape.shape))
        data = 100 * np.exp(rng.normal(scale=0.05)) * (GAIN * data**GAMMA if site == "B" else data)
        data[0] = 0
        path = root / f"sub-{k:02d}" / "anat" / f"sub-{k:02d}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(data.astype(np.float32), np.eye(4)), path)
        rows.append(f"sub-{k:02d}\t{rng.uniform(20, 80):.1f}\t{site}")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    return root


def images(root: Path, desc: str = "") -> np.ndarray:
    return np.stack([nib.load(p).get_fdata() for p in sorted(root.glob(f"sub-*/anat/sub-*{desc}_T1w.nii.gz"))])


def gaps(data: np.ndarray) -> tuple[float, float]:
    """The log gain between the sites, and the difference that is left where it is taken out."""
    one, two = data[::2, 1:].mean(axis=0), data[1::2, 1:].mean(axis=0)
    ratio = np.log(two / one)
    return float(ratio.mean()), float(ratio.std())


@pytest.mark.parametrize(("intensity", "harmonize"), [("p99", False), ("p99", True), ("nyul", True), ("zscore", True)])
def test_a_sites_gain_goes_where_units_are_harmonised(
    loud: Path, tmp_path: Path, intensity: str, harmonize: bool
) -> None:
    section = f"input={{kind: volume, intensity: {intensity}, harmonize_unit: {str(harmonize).lower()}}}"
    asked = ("--set", section, "--set", "covariates.sex=null")
    assert run("train", loud, tmp_path / "m", *asked, "--quiet") == 0
    model, out = tmp_path / "m" / "model", tmp_path / "o"
    assert run("export", loud, out, "--model", model, "--remove", "site", "--quiet") == 0
    before, after = gaps(images(loud)), gaps(images(out, "_desc-residualized"))
    assert before[0] > 0.4
    assert before[1] > 0.06
    assert after[1] < 0.03
    assert abs(after[0]) < 0.05 if harmonize else after[0] > 0.3
    assert not images(out, "_desc-residualized")[:, 0].any()
    about = json.loads((out / "sub-01" / "anat" / "sub-01_desc-residualized_T1w.json").read_text())
    count = {"p99": 1, "zscore": 2, "nyul": 11}[intensity]
    assert ("Intensities" in about) is harmonize
    assert not harmonize or len(about["Intensities"]["After"]) == count
    saved = load_trained(model)
    assert (saved.unit is not None) is harmonize
    assert ("unit" in json.loads((model / "model.json").read_text())) is harmonize
    assert len(saved.input.section.landmarks) == (count if intensity != "p99" else 0)

    same = ("counterfactual", loud, tmp_path / "same", "--model", model, "--set", "site=A", "--quiet")
    assert run(*same) == 0
    np.testing.assert_array_equal(images(tmp_path / "same", "_desc-counterfactual")[::2], images(loud)[::2])


def test_a_unit_of_a_new_site_is_learned_from_its_own_people(loud: Path, tmp_path: Path) -> None:
    section = "input={kind: volume, intensity: p99, harmonize_unit: true}"
    asked = ("--set", section, "--set", "covariates.sex=null", "--quiet")
    assert run("train", loud, tmp_path / "m", *asked) == 0
    other = tmp_path / "other"
    other.mkdir()
    table = pd.read_csv(loud / "participants.tsv", sep="\t").iloc[:16]
    table.assign(site="C").to_csv(other / "participants.tsv", sep="\t", index=False)
    for who in table["participant_id"]:
        image = nib.load(loud / who / "anat" / f"{who}_T1w.nii.gz")
        (other / who / "anat").mkdir(parents=True)
        louder = nib.Nifti1Image((5 * image.get_fdata()).astype(np.float32), image.affine)
        nib.save(louder, other / who / "anat" / f"{who}_T1w.nii.gz")
    export = ("export", other, tmp_path / "o", "--model", tmp_path / "m" / "model", "--remove", "site")
    assert run(*export, "--unseen-site", "adapt", "--quiet") == 0
    level = np.log(images(tmp_path / "o", "_desc-residualized")[:, 1:].mean() / images(loud)[:, 1:].mean())
    assert abs(level) < 0.3 < np.log(5)


def test_raw_images_have_no_unit_to_harmonise(loud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", loud, "--set", "input={kind: volume, harmonize_unit: true}") == 1
    assert "choose p99, zscore or nyul" in capsys.readouterr().err
