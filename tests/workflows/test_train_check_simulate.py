import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medrep.workflows import demo as demo_command
from tests.workflows.conftest import run


def edited(cohort: Path, folder: Path, name: str, edit) -> Path:
    shutil.copytree(cohort, folder)
    table = pd.read_csv(folder / name, sep="\t", dtype=str, keep_default_na=False)
    edit(table)
    table.to_csv(folder / name, sep="\t", index=False)
    return folder


def test_train_leaves_a_model_its_history_and_its_configuration(table_cohort: Path, tmp_path: Path) -> None:
    assert run("train", table_cohort, tmp_path / "m", "--set", "settings.spline_degrees=1") == 0
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        ".medrep",
        "config.yaml",
        "history.tsv",
        "model",
        "people.tsv",
        "report",
        "report.html",
    ]
    again = ("train", table_cohort, tmp_path / "again", "--config", tmp_path / "m" / "config.yaml")
    assert run(*again) == 0
    first, second = ((tmp_path / m / "model" / "model.safetensors").read_bytes() for m in ("m", "again"))
    assert first == second
    shares = pd.read_csv(tmp_path / "m" / "history.tsv", sep="\t").query("metric == 'variance_share'")
    assert shares["name"].tolist() == ["age", "sex", "site"]
    assert shares["value"].between(0, 1).all()


def test_aliased_covariates_are_refused_by_name(
    table_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def alias(table: pd.DataFrame) -> None:
        table["sex"] = np.where(table["site"].isin(["S0", "S1"]), "F", "M")

    cohort = edited(table_cohort, tmp_path / "c", "participants.tsv", alias)
    assert run("train", cohort, tmp_path / "m") == 1
    assert "sex and site cannot be told apart" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
    assert run("check", cohort) == 1
    assert "sex and site cannot be told apart" in capsys.readouterr().err


def test_check_lists_every_problem_at_once(
    table_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(table: pd.DataFrame) -> None:
        table.loc[[3, 5, 7], "age"] = ["n/a", "89+", "old"]

    def hole(table: pd.DataFrame) -> None:
        table.loc[2, "region_004"] = "n/a"

    cohort = edited(table_cohort, tmp_path / "c", "participants.tsv", spoil)
    cohort = edited(cohort, tmp_path / "d", "features.tsv", hole)
    assert run("check", cohort) == 1
    said = capsys.readouterr().err
    for part in ("sub-0004: age 'n/a'", "sub-0006: age '89+'", "sub-0008: age 'old'", "sub-0003: region_004 is nan"):
        assert part in said


def test_check_is_content_with_a_good_cohort(bids_cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", bids_cohort, "--set", "input.kind=volume") == 0
    said = capsys.readouterr()
    assert "40 images on a grid of 40 x 48 x 40 voxels of 4 x 4 x 4 mm" in said.err
    assert "age - site" in said.out


def test_one_missing_feature_is_refused_or_kept(
    table_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def hole(table: pd.DataFrame) -> None:
        table.loc[2, "region_004"] = "n/a"

    cohort = edited(table_cohort, tmp_path / "c", "features.tsv", hole)
    assert run("train", cohort, tmp_path / "m") == 1
    assert "sub-0003: region_004 is nan" in capsys.readouterr().err
    assert run("train", cohort, tmp_path / "m", "--set", "input.missing=keep") == 0
    assert run("export", cohort, tmp_path / "o", "--model", tmp_path / "m" / "model", "--remove", "site") == 0
    result = pd.read_csv(tmp_path / "o" / "features.tsv", sep="\t", index_col=0)
    assert result.isna().sum().sum() == 1
    assert pd.isna(result.loc["sub-0003", "region_004"])


def test_shipped_config_says_how_to_do_without_a_covariate(
    table_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def drop(table: pd.DataFrame) -> None:
        del table["sex"]

    cohort = edited(table_cohort, tmp_path / "c", "participants.tsv", drop)
    assert run("train", cohort, tmp_path / "m") == 1
    assert "--set covariates.sex=null" in capsys.readouterr().err
    assert run("train", cohort, tmp_path / "m", "--set", "covariates.sex=null") == 0


def test_simulate_is_reproducible(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert run("simulate", tmp_path / name, "--kind", "volume", "--n", 8, "--seed", seed, "--quiet") == 0
    first, second, other = (
        [path.read_bytes() for path in sorted((tmp_path / name).glob("sub-*/anat/*.nii.gz"))] for name in "abc"
    )
    assert first == second
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.real_data
def test_effects_are_planted_into_real_images(shared_data: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "mine"
    files = sorted((shared_data / "hippocampus" / "images").glob("*.nii.gz"))[:12]
    for file in files:
        place = cohort / f"sub-{file.name[12:15]}" / "anat"
        place.mkdir(parents=True)
        shutil.copy(file, place / f"sub-{file.name[12:15]}_T1w.nii.gz")
    ids = [f"sub-{file.name[12:15]}" for file in files]
    (cohort / "participants.tsv").write_text("participant_id\n" + "\n".join(ids) + "\n")
    assert run("simulate", tmp_path / "p", "--from", cohort, "--effects", "site,age", "--sites", 3, "--quiet") == 0
    table = pd.read_csv(tmp_path / "p" / "participants.tsv", sep="\t")
    assert list(table.columns) == ["participant_id", "site", "age"]
    for row in table.itertuples():
        name = f"{row.participant_id}/anat/{row.participant_id}_T1w.nii.gz"
        planted = nib.load(tmp_path / "p" / name)
        clean = nib.load(tmp_path / "p" / "derivatives" / "truth" / name)
        original = nib.load(cohort / name)
        assert planted.shape == original.shape
        np.testing.assert_array_equal(planted.affine, original.affine)
        assert np.array_equal(planted.get_fdata(), clean.get_fdata()) == (row.site == "S0")
        assert not np.array_equal(clean.get_fdata(), original.get_fdata())


def test_demo_ends_with_a_cohort_a_picture_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_command, "PEOPLE", 96)
    assert run("demo", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert said.count("Summary") == 1
    for name in ("clean", "before_after.png", "leakage.tsv"):
        assert str(tmp_path / "out" / name) in said
        assert (tmp_path / "out" / name).exists()
    leakage = pd.read_csv(tmp_path / "out" / "leakage.tsv", sep="\t", index_col=0)
    assert leakage.loc["site (AUC)", "before"] > 0.9
    assert leakage.loc["site (AUC)", "after"] < leakage.loc["site (AUC)", "before"] - 0.1


def test_the_report_opens_from_disk_and_says_what_was_fitted(table_cohort: Path, table_model: Path) -> None:
    page = (table_model.parent / "report.html").read_text(encoding="utf-8")
    for part in ("160 people", "Which covariates tell which", "S0 (", "spline_degrees: 4", "Limitations", "(pooled)"):
        assert part in page
    assert not re.search(r"""(src|href)=["']?(http|//)|@import|url\(""", page)


def test_no_room_for_scratch_is_one_line(
    bids_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    assert run("train", bids_cohort, tmp_path / "m", "--set", "input.kind=volume") == 1
    assert "0.012 GB of scratch space are needed beside OUT: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "setting"),
    [("linear", "settings.interactions"), ("conditional_vae", "settings.linear.interactions")],
)
def test_an_undeclared_interaction_is_named_with_its_setting(
    table_cohort: Path, tmp_path: Path, model: str, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    features = pd.read_csv(table_cohort / "features.tsv", sep="\t", index_col="participant_id")
    people = pd.read_csv(table_cohort / "participants.tsv", sep="\t", index_col="participant_id").loc[features.index]
    both = (people["age"] - 50) / 20 * (people["sex"] == "M")
    spread = features.std().to_numpy() * np.random.default_rng(0).normal(size=features.shape[1])
    (features + both.to_numpy()[:, None] * spread).to_csv(tmp_path / "features.tsv", sep="\t")
    people.to_csv(tmp_path / "participants.tsv", sep="\t")
    settings = ("--set", f"model={model}", "--set", "settings={}")
    assert run("check", tmp_path, *settings) == 0
    said = capsys.readouterr().err
    assert "what age does depends on sex" in said
    assert f"--set '{setting}=[[age, sex]]'" in said
    assert run("check", tmp_path, *settings, "--set", f"{setting}=[[age, sex]]") == 0
    assert "depends on" not in capsys.readouterr().err
