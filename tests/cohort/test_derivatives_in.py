"""BIDS as it is: derivatives without participants.tsv, several spaces, runs and visits, covariates in a table of their own."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medrep._files import write_json
from medrep._texts import read_json
from medrep.batch.store import fingerprints
from medrep.cli import main
from medrep.cohort.bids import image_files
from medrep.cohort.cohort import read_cohort
from medrep.cohort.files import CohortFiles
from medrep.cohort.inputs import ConnectivityInput, VolumeInput
from medrep.cohort.kinds.connectivity import ConnectivityKind
from medrep.cohort.kinds.volume import VolumeKind
from medrep.cohort.masks import read_own_mask
from medrep.cohort.nifti import read_image, read_labels
from medrep.errors import CohortError

WHO = [f"sub-{n:02d}" for n in range(1, 25)]
T1W = VolumeKind(VolumeInput(desc="preproc"))


def scan(path: Path, seed: int, shape: tuple[int, int, int] = (4, 4, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).normal(100, 5, shape).astype(np.float32)
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


def several_runs(folder: Path, *values: float, who: list[str] = WHO, visit: str = "") -> None:
    """Write runs 1, 2, ... of everybody, each of one value more than the person's number."""
    people(folder, who)
    for n, one in enumerate(who):
        for run, value in enumerate(values, 1):
            name = "_".join([one, *([visit] if visit else []), f"run-{run}", "desc-preproc_T1w.nii.gz"])
            path = folder / one / visit / "anat" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(n).normal(0, 1, (4, 4, 4))
            nib.save(nib.Nifti1Image((n + value + noise).astype(np.float32), np.eye(4)), path)


def asked(folder: Path, run: str, kind: Any = T1W) -> Any:
    return read_cohort(CohortFiles(folder, changes={"entities": {"run": run}}), kind)


def test_the_mean_of_several_runs(tmp_path: Path) -> None:
    several_runs(tmp_path, 10, 20, 60)
    for run in (2, 3):
        (tmp_path / f"sub-01/anat/sub-01_run-{run}_desc-preproc_T1w.nii.gz").unlink()
    cohort = asked(tmp_path, "mean")
    assert cohort.notes[-1] == "several runs: 23 of 24 images; their mean is taken (--run mean)"
    files = list(cohort.source.files)
    assert files[0].name == "sub-01_run-1_desc-preproc_T1w.nii.gz"
    assert [file.name.split("_")[1] for file in image_files(files[1])] == ["run-1", "run-2", "run-3"]
    own = [read_image(file).data for file in image_files(files[1])]
    np.testing.assert_allclose(read_image(files[1]).data, np.mean(own, axis=0), rtol=1e-6)
    assert asked(tmp_path, "first").notes[-1].endswith("23 of 24 images; the lowest is taken (--run first)")


def test_a_run_that_changes_is_told_from_before(tmp_path: Path) -> None:
    several_runs(tmp_path, 10, 20)
    before = fingerprints(asked(tmp_path, "mean").source.samples(asked(tmp_path, "mean").table[[]]))
    scan(tmp_path / "sub-02/anat/sub-02_run-2_desc-preproc_T1w.nii.gz", 9)
    after = fingerprints(asked(tmp_path, "mean").source.samples(asked(tmp_path, "mean").table[[]]))
    assert [k for k in range(len(WHO)) if before[k] != after[k]] == [1]


def test_runs_without_a_mean_are_refused_by_name(tmp_path: Path) -> None:
    several_runs(tmp_path, 10, 20)
    scan(tmp_path / "sub-03/anat/sub-03_run-2_desc-preproc_T1w.nii.gz", 1, (4, 4, 5))
    told = "sub-03_run-2_desc-preproc_T1w.nii.gz: 4 x 4 x 5 voxels that are not those of sub-03_run-1"
    with pytest.raises(CohortError, match=told):
        read_image(asked(tmp_path, "mean").source.files["sub-03"])
    for run in ("1", "2"):
        labels = tmp_path / f"sub-01/anat/sub-01_run-{run}_mask.nii.gz"
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), labels)
    with pytest.raises(CohortError, match="label maps of several runs have no mean; choose --run first or all"):
        read_labels(tmp_path / "sub-01/anat/sub-01_run-mean_mask.nii.gz")


def test_a_mask_of_runs_holds_what_half_of_them_hold(tmp_path: Path) -> None:
    several_runs(tmp_path, 10, 20, 30)
    for run, inside in (("1", (1, 1, 0)), ("2", (1, 1, 0)), ("3", (1, 0, 1))):
        path = tmp_path / f"sub-02/anat/sub-02_run-{run}_desc-brain_mask.nii.gz"
        mask = np.zeros((4, 4, 4), np.uint8)
        mask[0, 0, :3] = inside
        nib.save(nib.Nifti1Image(mask, np.eye(4)), path)
    image = asked(tmp_path, "mean").source.files["sub-02"]
    assert read_own_mask(image, read_image(image)).data[0, 0].tolist() == [1, 1, 0, 0]
    with pytest.raises(CohortError, match="no mask sub-03_run-mean_desc-brain_mask"):
        read_own_mask(image.parents[2] / "sub-03/anat/sub-03_run-mean_desc-preproc_T1w.nii.gz", read_image(image))


def test_two_spellings_of_one_run_have_no_mean(tmp_path: Path) -> None:
    several_runs(tmp_path, 10, 20)
    scan(tmp_path / "sub-01/anat/sub-01_run-02_desc-preproc_T1w.nii.gz", 1)
    with pytest.raises(CohortError, match="sub-01: 3 images match"):
        asked(tmp_path, "mean")


@pytest.mark.parametrize(("visit", "names"), [("", ["run-1", "run-2"]), ("ses-a", ["ses-a_run-1", "ses-a_run-2"])])
def test_all_runs_are_rows_of_their_own(tmp_path: Path, visit: str, names: list[str]) -> None:
    several_runs(tmp_path, 10, 20, visit=visit)
    (tmp_path / "sub-01" / visit / "anat" / f"sub-01_{visit}_run-2_x.nii.gz".replace("__", "_")).touch()
    cohort = asked(tmp_path, "all")
    assert list(cohort.table["session_id"]) == names * len(WHO)
    assert [file.name for file in cohort.source.files[:2]] == [
        "_".join(["sub-01", *([visit] if visit else []), f"run-{run}", "desc-preproc_T1w.nii.gz"]) for run in (1, 2)
    ]
    assert cohort.notes[-1].startswith("48 runs of 24 ")
    assert cohort.notes[-1].endswith(", a row each (--run all)")
    cohort.table.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    again = asked(tmp_path, "all")
    assert again.table.index.equals(cohort.table.index)
    assert list(again.source.files) == list(cohort.source.files)


def test_matrices_of_runs_are_averaged_cell_by_cell(tmp_path: Path) -> None:
    people(tmp_path, WHO)
    for who in WHO:
        for run, value in ((1, 0.2), (2, 0.6)):
            path = tmp_path / who / "func" / f"{who}_run-{run}_relmat.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savetxt(path, [[1, value, 0], [value, 1, 0], [0, 0, 1]], delimiter="\t")
    cohort = asked(tmp_path, "mean", ConnectivityKind(ConnectivityInput(suffix="relmat", edges="z")))
    assert cohort.source.features.values[0] == pytest.approx([0.4, 0, 0])
    assert cohort.notes[-1].startswith("several runs: 24 of 24 images; their mean")


@pytest.mark.parametrize("run", ["mean", "all"])
def test_each_run_is_written(tmp_path: Path, run: str) -> None:
    cohort, out = tmp_path / "study", tmp_path / "out"
    several_runs(cohort, 10, 20)
    flags = ["--desc", "preproc", "--run", run, "--set", "input.kind=volume", "--tracking", "none"]
    assert main(["train", str(cohort), str(tmp_path / "t"), *flags]) == 0
    exported = ["export", str(cohort), str(out), "--model", str(tmp_path / "t/model"), "--remove", "site"]
    assert main([*exported, "--workers", "1"]) == 0
    changes = []
    for n in (1, 2):
        before = nib.load(cohort / f"sub-05/anat/sub-05_run-{n}_desc-preproc_T1w.nii.gz").get_fdata()
        after = out / f"sub-05/anat/sub-05_run-{n}_desc-residualized_T1w.nii.gz"
        changes.append(nib.load(after).get_fdata() - before)
        said = read_json(after.with_name(after.name.replace(".nii.gz", ".json")).read_text())
        assert said["Sources"] == [f"sub-05/anat/sub-05_run-{n}_desc-preproc_T1w.nii.gz"]
    assert np.abs(changes[0]).max() > 1e-4
    if run == "mean":
        np.testing.assert_allclose(changes[0], changes[1], atol=1e-5)
    rows = pd.read_csv(out / "participants.tsv", sep="\t")
    assert len(rows) == len(WHO) * (2 if run == "all" else 1)
    again = read_cohort(CohortFiles(out, changes={"entities": {"run": run}, "desc": "residualized"}), T1W)
    assert len(again) == len(rows)


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
