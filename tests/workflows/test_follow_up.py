"""`medrep simulate` with visits, as a user runs it: read by every command, and with the truth beside."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import medrep as mr
from medrep.cli import main

KEYS = ["participant_id", "session_id"]


def run(*arguments: object) -> int:
    return main([*(str(argument) for argument in arguments), "--quiet"])


def table(path: Path, keys: list[str] | None = None) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", index_col=KEYS if keys is None else keys)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("visits") / "cohort"
    asked = ("--visits", 3, "--travellers", 6, "--dropout", 0.2, "--dropout-by", "value")
    assert run("simulate", out, "--n", 80, "--sites", 3, *asked) == 0
    return out


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("once") / "cohort"
    assert run("simulate", out, "--n", 120, "--sites", 3, "--seed", 4) == 0
    return out


def test_a_generated_cohort_is_read_and_its_truth_has_the_same_visits(generated: Path) -> None:
    people, data = table(generated / "participants.tsv"), table(generated / "features.tsv")
    truth = generated / "derivatives" / "truth"
    clean = table(truth / "features.tsv")
    assert people.index.equals(data.index)
    assert clean.index.equals(data.index)
    home = (people["site"] == "S0").to_numpy()
    np.testing.assert_allclose(data[home], clean[home], rtol=1e-12)
    own = [table(truth / f"{name}.tsv", ["participant_id"]) for name in ("levels", "slopes")]
    assert {len(part) for part in own} == {80}
    dataset = mr.read_cohort(generated)
    assert dataset.people == 80
    assert len(dataset) == len(people)


def test_slopes_are_found_again_by_the_model_that_takes_people_together(generated: Path, tmp_path: Path) -> None:
    """With the site removed, own slopes go with the truth better than as scanned."""
    assert run("train", generated, tmp_path / "m", "--tracking", "none") == 0
    assert run("export", generated, tmp_path / "o", "--model", tmp_path / "m" / "model", "--remove", "site") == 0
    people = table(generated / "participants.tsv")
    truth = table(generated / "derivatives" / "truth" / "slopes.tsv", ["participant_id"])
    whose = people.index.get_level_values(0).to_numpy()
    age = people["age"].to_numpy()
    away = age - pd.Series(age).groupby(whose).transform("mean").to_numpy()
    span = pd.Series(away**2).groupby(whose).sum()
    long = span.index[span > 2]

    def agreement(folder: Path) -> float:
        data = table(folder / "features.tsv")
        slopes = (data.mul(away, axis=0).groupby(level=0).sum()).div(span, axis=0).loc[long]
        return float(np.mean([np.corrcoef(slopes[name], truth.loc[long, name])[0, 1] for name in data]))

    raw, cleaned = agreement(generated), agreement(tmp_path / "o")
    assert cleaned > raw + 0.1
    assert cleaned > 0.9 * agreement(generated / "derivatives" / "truth")


def test_images_have_sessions_and_the_truth_of_each(tmp_path: Path) -> None:
    out = tmp_path / "scans"
    asked = ("--visits", 2, "--travellers", 1, "--dropout", 0.3, "--dropout-by", "age")
    assert run("simulate", out, "--kind", "volume", "--n", 5, "--sites", 2, *asked) == 0
    people = table(out / "participants.tsv")
    files = sorted(path.relative_to(out).as_posix() for path in out.glob("sub-*/ses-*/anat/*.nii.gz"))
    assert files == sorted(f"{who}/{visit}/anat/{who}_{visit}_T1w.nii.gz" for who, visit in people.index)
    first, again = (out / name for name in files if name.startswith(files[0].split("/")[0]))
    truth = out / "derivatives" / "truth"
    assert all((truth / name).is_file() for name in files)
    # Neither the person's noise nor anything else is the same at another visit.
    assert not np.array_equal(nib.load(first).get_fdata(), nib.load(again).get_fdata())
    assert len(json.loads((truth / "truth.json").read_text())["rates"]) == 5
    assert run("check", out, "--set", "input.kind=volume", "--set", "covariates.sex=null") in (0, 1)
    assert len(mr.read_cohort(out, overrides=["input.kind=volume"])) == len(people)


def test_follow_ups_of_ones_own_people_begin_with_them_and_go_on_as_planted(once: Path, tmp_path: Path) -> None:
    out = tmp_path / "more"
    assert run("simulate", out, "--from", once, "--visits", 3, "--travellers", 5, "--seed", 3) == 0
    people, data = table(out / "participants.tsv"), table(out / "features.tsv")
    truth = out / "derivatives" / "truth"
    clean, slopes = table(truth / "features.tsv"), table(truth / "slopes.tsv", ["participant_id"])
    began, before = (
        table(once / "participants.tsv", ["participant_id"]),
        table(once / "features.tsv", ["participant_id"]),
    )
    first = data.xs("ses-1", level=1)
    pd.testing.assert_frame_equal(first, before)
    pd.testing.assert_frame_equal(people.xs("ses-1", level=1), began)
    assert (people.groupby(level=0)["site"].nunique() > 1).sum() > 40
    # Who stays has the truth's visits.
    home = people["site"] == began["site"].reindex(people.index.get_level_values(0)).to_numpy()
    np.testing.assert_allclose(data[home], clean[home], rtol=1e-12)
    assert not np.allclose(data[~home], clean[~home])
    said = json.loads((truth / "truth.json").read_text())
    last = clean.xs("ses-3", level=1)
    who = last.index
    years = (people.xs("ses-3", level=1)["age"] - began.loc[who, "age"]).to_numpy()[:, None]
    left = (last - before.loc[who]).to_numpy() / years - slopes.loc[who].to_numpy()
    # Of change, own slopes set aside, the population's and noise of the stated size are left.
    noise = np.sqrt((((left - left.mean(axis=0)) * years) ** 2).mean(axis=0))
    assert np.median(noise / np.array(said["noise_sd"])) == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("lacks", [["site"], ["sex", "diagnosis"], ["site", "sex"]])
def test_what_a_cohort_lacks_is_not_asked_for(once: Path, tmp_path: Path, lacks: list[str]) -> None:
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    table(once / "participants.tsv", ["participant_id"]).drop(columns=lacks).to_csv(
        cohort / "participants.tsv", sep="\t"
    )
    (cohort / "features.tsv").write_bytes((once / "features.tsv").read_bytes())
    assert run("simulate", tmp_path / "out", "--from", cohort, "--visits", 2) == 0
    people = table(tmp_path / "out" / "participants.tsv")
    assert not set(lacks) & set(people)
    assert len(people) == 240


def test_missing_cells_and_point_masses_stay(once: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    (cohort / "participants.tsv").write_bytes((once / "participants.tsv").read_bytes())
    data = table(once / "features.tsv", ["participant_id"])
    data.iloc[:50, 0] = 0.0
    data.iloc[7, 1] = np.nan
    data.to_csv(cohort / "features.tsv", sep="\t", na_rep="n/a")
    assert run("simulate", tmp_path / "out", "--from", cohort, "--visits", 3) == 0
    written = table(tmp_path / "out" / "features.tsv")
    whose = written.index.get_level_values(0)
    assert (written.loc[whose.isin(data.index[:50]), data.columns[0]] == 0).all()
    assert written.loc[data.index[7], data.columns[1]].isna().all()
    assert written.isna().sum().sum() == 3


def test_without_an_age_nothing_can_be_planted(once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    table(once / "participants.tsv", ["participant_id"]).drop(columns="age").to_csv(
        cohort / "participants.tsv", sep="\t"
    )
    (cohort / "features.tsv").write_bytes((once / "features.tsv").read_bytes())
    assert run("simulate", tmp_path / "out", "--from", cohort, "--visits", 2) == 1
    assert "covariates without a column" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_audit_of_people_who_came_again_says_what_became_of_change(generated: Path, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    (narrow / "participants.tsv").write_bytes((generated / "participants.tsv").read_bytes())
    table(generated / "features.tsv").iloc[:, :4].to_csv(narrow / "features.tsv", sep="\t")
    simple = ("--set", "settings={spline_degrees: 1, components: 0}", "--tracking", "none")
    assert run("train", narrow, tmp_path / "m", "--hold-out", 0.5, *simple) == 0
    asked = ("--by", "sex", "--min-n", 12)
    assert run("audit", narrow, tmp_path / "a", "--model", tmp_path / "m" / "model", *asked) == 0
    found = pd.read_csv(tmp_path / "a" / "audit.tsv", sep="\t", index_col=["metric", "group"])
    assert found.loc[("change_slope", "exported"), "estimate"] == pytest.approx(1, abs=0.1)
    assert (
        found.loc[("within_switch", "raw/site"), "estimate"] > found.loc[("within_switch", "exported/site"), "estimate"]
    )
    assert "Change within people" in (tmp_path / "a" / "report.html").read_text()
