"""``input.mask`` from ``check`` to ``score``: what is outside stays bit for bit, and masks of files are not needed again."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medrep.cli import main
from medrep.cohort.nifti import LabelMap, Volume, write_image, write_label_map

SHAPE, PEOPLE = (9, 10, 8), 24
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def run(*arguments: object) -> int:
    return main([*map(str, arguments), "--quiet"])


def ball(radius: float) -> np.ndarray:
    axes = np.meshgrid(*[np.arange(length) - (length - 1) / 2 for length in SHAPE], indexing="ij")
    return sum(axis**2 for axis in axes) <= radius**2


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write heads with a background of 0, a mask of their own each that differs at the edge, and one of all."""
    root = tmp_path_factory.mktemp("heads") / "cohort"
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"participant_id": [f"sub-{k:02d}" for k in range(PEOPLE)]})
    table["age"], table["sex"] = rng.uniform(20, 80, PEOPLE).round(1), ["F", "M"] * (PEOPLE // 2)
    table["site"] = [f"S{k // 2 % 2}" for k in range(PEOPLE)]
    shift = rng.normal(0, 3, SHAPE)
    for k, row in enumerate(table.itertuples()):
        data = 100 + (row.age - 50) / 10 + (row.site == "S1") * shift + rng.normal(0, 2, SHAPE)
        stem = root / row.participant_id / "anat" / row.participant_id
        write_image(Path(f"{stem}_T1w.nii.gz"), Volume(np.where(ball(3.6), data, 0).astype(np.float32), AFFINE))
        own = ball((2.6, 3.0)[k % 3 == 0]).astype(np.int32)
        write_label_map(Path(f"{stem}_desc-brain_mask.nii.gz"), LabelMap(own, AFFINE))
    write_label_map(root.parent / "mask.nii.gz", LabelMap(ball(3.0).astype(np.int32), AFFINE))
    table.to_csv(root / "participants.tsv", sep="\t", index=False)
    return root


def moved(image: Path, out: Path) -> np.ndarray:
    after = out / image.parent.parent.name / "anat" / image.name.replace("_T1w", "_desc-residualized_T1w")
    return np.asarray(nib.load(after).dataobj, np.float32) - np.asarray(nib.load(image).dataobj, np.float32)


@pytest.mark.parametrize("mask", ["auto", "bids", "file"])
def test_voxels_outside_stay_bit_for_bit(
    heads: Path, tmp_path: Path, mask: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mask.nii.gz"
    file.write_bytes((heads.parent / "mask.nii.gz").read_bytes())
    which = {"auto": ball(3.6), "bids": ball(2.6), "file": ball(3.0)}[mask]
    asked = ("--set", "input.kind=volume", "--mask", file if mask == "file" else mask)
    assert run("check", heads, *asked) == 0
    assert main(["train", str(heads), str(tmp_path / "trained"), *map(str, asked)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"mask: {which.sum()} of 720 voxels" in said
    described = json.loads((tmp_path / "trained" / "model" / "model.json").read_text())
    assert described["input"]["mask"] == (str(file) if mask == "file" else mask)
    about = json.loads((tmp_path / "trained" / "report" / "about.json").read_text())
    assert (about["columns"], about["voxels"]) == (which.sum(), 720)
    file.unlink()
    model = tmp_path / "trained" / "model"
    assert run("export", heads, tmp_path / "out", "--model", model, "--remove", "site", "--workers", 1) == 0
    images = sorted(heads.glob("sub-*/anat/*_T1w.nii.gz"))
    changes = np.stack([moved(image, tmp_path / "out") for image in images])
    assert (changes[:, ~which] == 0).all()
    assert (changes[:, which] != 0).mean() > 0.9
    assert run("score", heads, tmp_path / "scores", "--model", model, "--workers", 1) == 0
    scores = pd.read_csv(tmp_path / "scores" / "scores.tsv", sep="\t")
    assert len(scores) == PEOPLE
    assert (scores["status"] == "ok").all() or scores["deviation"].between(0.3, 2).all()


def test_only_whose_own_mask_is_missing_fails(heads: Path, tmp_path: Path) -> None:
    import shutil

    asked = ("--set", "input.kind=volume", "--mask", "bids")
    assert run("train", heads, tmp_path / "trained", *asked) == 0
    cohort = tmp_path / "cohort"
    shutil.copytree(heads, cohort)
    (cohort / "sub-03" / "anat" / "sub-03_desc-brain_mask.nii.gz").unlink()
    assert run("check", cohort, *asked) == 1
    assert run("train", cohort, tmp_path / "again", *asked) == 1
    out = tmp_path / "out"
    assert (
        run("export", cohort, out, "--model", tmp_path / "trained" / "model", "--remove", "site", "--workers", 1) == 3
    )
    failures = pd.read_csv(out / "failures.tsv", sep="\t", dtype=str)
    assert failures["participant_id"].tolist() == ["sub-03"]
    assert "no mask sub-03_desc-brain_mask.nii.gz" in failures["error"][0]


@pytest.mark.parametrize("asked", [(), ("--config", "vae_volume.yaml")])
def test_a_mask_of_what_has_none_is_refused(
    heads: Path, tmp_path: Path, asked: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", heads, tmp_path / "trained", *asked, "--mask", "auto") == 1
    assert "only of volumes with the linear model" in " ".join(capsys.readouterr().err.split())
