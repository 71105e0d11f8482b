"""The benchmarks can be started: their imports hold, though no test has the time to run them."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from safetensors.numpy import save_file

from benchmarks.comparison import compare_folders
from benchmarks.shape_bulge import Bulge
from medrep.cohort.nifti import LabelMap
from tests.conftest import ROOT


def test_the_benchmarks_import_and_say_what_there_is() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "shape_fields" in found.stdout


def test_two_folders_are_compared_file_by_file(tmp_path: Path) -> None:
    for side, value, version in (("a", 2.0, "1"), ("b", 2.5, "2")):
        home = tmp_path / side
        (home / "model").mkdir(parents=True)
        (home / "same.tsv").write_text("id\tx\ns1\t1.0\n")
        (home / "features.tsv").write_text(f"id\tx\ty\ns1\t4.0\t1\ns2\t{value}\t1\n")
        (home / "features.json").write_text(json.dumps({"MedrepVersion": version, "Kept": ["age"]}))
        (home / "history.tsv").write_text(f"metric\tname\tvalue\nseconds\tfit\t{version}\n")
        (home / "report.html").write_text(version)
        save_file({"w": np.array([-4.0, value])}, home / "model" / "model.safetensors")
        nib.save(nib.Nifti1Image(np.full((2, 2, 2), 4.0 * value), np.eye(4)), home / "image.nii.gz")
    (tmp_path / "b" / "new.tsv").write_text("")

    found = compare_folders(tmp_path / "a", tmp_path / "b")
    assert {name: each.verdict for name, each in found.items()} == {
        "same.tsv": "same",
        "features.json": "same",
        "history.tsv": "same",
        "features.tsv": "differs",
        "image.nii.gz": "differs",
        "model/model.safetensors": "differs",
        "new.tsv": "only after",
    }
    assert found["features.tsv"].difference == found["model/model.safetensors"].difference == 0.125
    assert found["image.nii.gz"].difference == 0.25
    assert found["features.tsv"].note == "1 of 3: x"


def test_what_bulges_goes_back() -> None:
    grid = np.indices((24, 40, 24)).reshape(3, -1).T - np.array([11.5, 19.5, 11.5])
    inside = (np.square(grid / [7, 15, 7]).sum(axis=1) < 1).reshape(24, 40, 24)
    bulge = Bulge.of(LabelMap(inside.astype(np.int32), np.eye(4)))
    points = np.random.default_rng(0).uniform(5, 25, (200, 3))
    for age, sex in ((20.0, "F"), (75.0, "M")):
        moved = bulge.moved(age, sex, points)
        assert np.abs(moved - points).max() > 0.3
        np.testing.assert_allclose(bulge.back(age, sex, moved), points, atol=1e-6)
    np.testing.assert_allclose(bulge.moved(50.0, "F", points), points, atol=1e-9)
