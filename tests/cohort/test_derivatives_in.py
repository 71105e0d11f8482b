"""BIDS as it is: derivatives without participants.tsv, several spaces, runs and visits, covariates in a table of their own."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medrep._files import write_json
from medrep.cli import main
from medrep.cohort.cohort import read_cohort
from medrep.cohort.files import CohortFiles
from medrep.cohort.inputs import VolumeInput
from medrep.cohort.kinds.volume import VolumeKind
from medrep.errors import CohortError

WHO = [f"sub-{n:02d}" for n in range(1, 25)]
T1W = VolumeKind(VolumeInput(desc="preproc"))


def scan(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).normal(100, 5, (4, 4, 4)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)


def people(folder: Path, who: list[str], name: str = "participants.tsv") -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": rng.uniform(20, 80, len(who)).round(1),
            "sex": ["F", "M"] * (len(who) // 2),
            "site": ["A", "A", "B", "B"] * (len(who) // 4),
        }
    )
    table.insert(0, "participant_id", who)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / name, sep="\t", index=False)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw dataset, with what fMRIPrep leaves in ``derivatives/fmriprep``: two spaces, and nobody's table."""
    root = tmp_path / "study"
    people(root, [*WHO, "sub-90", "sub-91", "sub-92", "sub-93"])
    for n, who in enumerate(WHO):
        anat = root / "derivatives/fmriprep" / who / "anat"
        scan(anat / f"{who}_desc-preproc_T1w.nii.gz", n)
        scan(anat / f"{who}_space-MNI152NLin2009cAsym_desc-preproc_T1w.nii.gz", 100 + n)
    return root


def test_a_derivative_has_the_people_of_its_raw_dataset(raw: Path) -> None:
    derivative = raw / "derivatives/fmriprep"
    with pytest.raises(CohortError, match="choose with --space MNI152NLin2009cAsym or none"):
        read_cohort(derivative, T1W)
    there = CohortFiles(derivative, changes={"entities": {"space": "MNI152NLin2009cAsym"}})
    cohort = read_cohort(there, T1W)
    assert list(cohort.table["participant_id"]) == WHO
    assert any("4 people without a folder here are left out" in note for note in cohort.notes)
    assert all("space-MNI" in str(path) for path in cohort.source.files)
    own = read_cohort(CohortFiles(derivative, changes={"entities": {"space": "none"}}), T1W)
    assert not any("space-" in str(path) for path in own.source.files)


@pytest.mark.parametrize("said", [{"DatasetLinks": {"raw": "../raw"}}, {"SourceDatasets": [{"URL": "../raw"}]}])
def test_a_derivative_says_where_its_raw_dataset_is(tmp_path: Path, said: dict[str, object]) -> None:
    people(tmp_path / "raw", WHO)
    for who in WHO:
        scan(tmp_path / "elsewhere" / who / f"{who}_desc-preproc_T1w.nii.gz", 1)
    write_json(tmp_path / "elsewhere/dataset_description.json", said)
    cohort = read_cohort(tmp_path / "elsewhere", T1W)
    assert len(cohort) == len(WHO)
    assert any("the raw dataset" in note for note in cohort.notes)


def test_covariates_may_lie_in_a_table_of_their_own(raw: Path) -> None:
    table = pd.read_csv(raw / "participants.tsv", sep="\t").rename(columns={"participant_id": "Subject"})
    table.iloc[::-1].to_csv(raw / "people.csv", index=False)
    (raw / "participants.tsv").unlink()
    changes = {"entities": {"space": "none"}}
    cohort = read_cohort(CohortFiles(raw / "derivatives/fmriprep", raw / "people.csv", changes=changes), T1W)
    assert sorted(cohort.table["participant_id"]) == WHO
    assert cohort.table.loc["sub-01", "age"] == str(table.set_index("Subject").loc["sub-01", "age"])


def test_the_first_of_several_runs(tmp_path: Path) -> None:
    people(tmp_path, WHO)
    for n, who in enumerate(WHO):
        for run in ("02", "10") if n else ("1",):
            scan(tmp_path / who / f"{who}_run-{run}_desc-preproc_T1w.nii.gz", n)
    with pytest.raises(CohortError, match="choose with --run 02 or 10"):
        read_cohort(tmp_path, T1W)
    cohort = read_cohort(CohortFiles(tmp_path, changes={"entities": {"run": "first"}}), T1W)
    assert "run-1_" in str(cohort.source.files.iloc[0])
    assert all("run-02" in str(path) for path in cohort.source.files.iloc[1:])


def test_one_visit_of_several(tmp_path: Path) -> None:
    people(tmp_path, WHO)
    for who in WHO:
        for visit in ("ses-1", "ses-2"):
            scan(tmp_path / who / visit / f"{who}_{visit}_desc-preproc_T1w.nii.gz", 1)
    assert len(read_cohort(tmp_path, T1W)) == 2 * len(WHO)
    cohort = read_cohort(CohortFiles(tmp_path, visits=("2",)), T1W)
    assert set(cohort.table["session_id"]) == {"ses-2"}
    with pytest.raises(CohortError, match="no such visit; there are: 1, 2"):
        read_cohort(CohortFiles(tmp_path, visits=("3",)), T1W)


def test_flags_go_with_every_command(raw: Path, tmp_path: Path) -> None:
    derivative, model = raw / "derivatives/fmriprep", tmp_path / "trained/model"
    flags = ["--desc", "preproc", "--space", "none", "--suffix", "T1w"]
    kind = ["--set", "input.kind=volume"]
    assert main(["check", str(derivative), *flags, *kind]) == 0
    assert main(["train", str(derivative), str(tmp_path / "trained"), *flags, *kind, "--tracking", "none"]) == 0
    out = tmp_path / "out"
    exported = ["export", str(derivative), str(out), "--model", str(model), "--remove", "site"]
    assert main(exported) == 0
    assert len(list(out.rglob("*_desc-residualized_T1w.nii.gz"))) == len(WHO)
    other = [*exported[:2], str(tmp_path / "other"), *exported[3:], "--space", "MNI152NLin2009cAsym"]
    assert main(other) == 0
    assert len(list((tmp_path / "other").rglob("*space-MNI*_desc-residualized_T1w.nii.gz"))) == len(WHO)
