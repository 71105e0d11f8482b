"""Forecasts, people moved along their own trajectories, and gains, from a folder to what is written."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import medrep as mr
from medrep.cli import main
from medrep.cohort.participants import KEY_COLUMNS
from tests.models.linear.test_visits import Planted
from tests.small_runs import Runs
from tests.workflows.test_visits import features, run, write

COLUMNS = [
    *("participant_id", "from_session", "years", "feature", "estimate", "sd"),
    *(f"{end}_{share}" for share in (50, 80, 95) for end in ("low", "high")),
]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    planted = Planted(4, people=60, columns=5, slope=0.5)
    visit = planted.frame.groupby("who").cumcount().to_numpy()
    return write(tmp_path_factory.mktemp("visits") / "cohort", planted, np.argsort(visit, kind="stable"))


@pytest.fixture(scope="module")
def trained(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "trained"
    assert run("train", cohort, out, "--tracking", "none") == 0
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*(str(argument) for argument in arguments), "--quiet"]) == 1
    return " ".join(capsys.readouterr().err.split())


def forecast(cohort: Path, trained: Path, out: Path, *more: object) -> pd.DataFrame:
    assert run("forecast", cohort, out, "--model", trained / "model", *more) == 0
    return pd.read_csv(out / "forecast.tsv", sep="\t")


def test_a_row_a_person_year_and_feature(cohort: Path, trained: Path, tmp_path: Path) -> None:
    table = forecast(cohort, trained, tmp_path / "out", "--years", "1,2.5", "--extrapolate")
    assert table.columns.tolist() == COLUMNS
    people = pd.read_csv(cohort / "participants.tsv", sep="\t")
    names = people["participant_id"].drop_duplicates().tolist()
    assert table["participant_id"].drop_duplicates().tolist() == names
    assert len(table) == len(names) * 2 * 5
    assert table["years"].unique().tolist() == [1, 2.5]
    assert table["feature"].head(5).tolist() == [f"c{k}" for k in range(5)]
    last = people.sort_values("age").groupby("participant_id")["session_id"].last()
    for who, some in table.groupby("participant_id"):
        assert some["from_session"].unique().tolist() == [last[who]]
    ends = [table[f"low_{share}"] for share in (95, 80, 50)] + [table["estimate"]]
    ends += [table[f"high_{share}"] for share in (50, 80, 95)]
    assert (np.diff(np.stack(ends), axis=0) > 0).all()
    said = json.loads((tmp_path / "out" / "forecast.json").read_text())
    assert (said["Years"], said["Along"], said["EffectsKnown"]) == ([1, 2.5], "age", True)
    assert said["ModelDigest"] == mr.load(trained).provenance.digest
    assert set(COLUMNS[1:]) <= set(said)


def test_python_and_the_command_line_say_the_same(cohort: Path, trained: Path, tmp_path: Path) -> None:
    table = forecast(cohort, trained, tmp_path / "out", "--years", "0", "3", "--extrapolate", "--set", "site=S2")
    model = mr.load(trained)
    people = mr.read_cohort(cohort, model)
    pd.testing.assert_frame_equal(mr.forecast(model, people, [0, 3], others={"site": "S2"}, extrapolate=True), table)
    names = table["participant_id"].drop_duplicates().tolist()
    last = people.covariates.assign(who=list(people.participants or ())).sort_values("age").groupby("who").tail(1)
    last = last.set_index("who").loc[names]
    found = model.model.forecast(people, last.assign(age=last["age"] + 3, site="S2"), names)
    wanted = table[table["years"] == 3].pivot(index="participant_id", columns="feature", values="estimate").loc[names]
    np.testing.assert_allclose(wanted.to_numpy(), found.estimate, rtol=1e-8)


def test_the_same_again_and_people_alone(cohort: Path, trained: Path, tmp_path: Path) -> None:
    asked = ("--years", "2", "--extrapolate")
    whole = forecast(cohort, trained, tmp_path / "whole", *asked)
    forecast(cohort, trained, tmp_path / "again", *asked)
    for name in ("forecast.tsv", "forecast.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    one = whole["participant_id"].iloc[7]
    alone = forecast(cohort, trained, tmp_path / "alone", *asked, "--participant-label", one)
    own = whole[whole["participant_id"] == one].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, own, rtol=1e-8)


def test_what_cannot_be_forecast_is_refused_by_name(
    cohort: Path, trained: Path, tmp_path: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = ("--model", trained / "model"), tmp_path / "out"
    people = pd.read_csv(cohort / "participants.tsv", sep="\t")
    last = people.sort_values("age").groupby("participant_id").tail(1)
    oldest = last.loc[last["age"].idxmax(), "participant_id"]
    said = refused(capsys, "forecast", cohort, out, *model, "--years", "5,14")
    assert "people would be far beyond those of training" in said
    assert f"{oldest}_ses-" in said
    assert "in 14: age=" in said
    assert "in 5: age=" not in said
    assert "--extrapolate" in said
    assert refused(capsys, "counterfactual", cohort, out, *model, "--years", "14").count(oldest) >= 1
    for years in ("-1", "1,-2"):
        assert "numbers of 0 and more" in refused(capsys, "forecast", cohort, out, *model, "--years", years)
    asked = ("forecast", cohort, out, *model, "--years", "1")
    assert "--set age=70: --years says which age" in refused(capsys, *asked, "--set", "age=70")
    assert "unknown covariate scanner; the model knows age" in refused(capsys, *asked, "--set", "scanner=1")
    both = ("counterfactual", cohort, out, *model, "--years", "1", "--set", "site=S0")
    assert "--years 1 and --set site" in refused(capsys, *both)
    single = (runs("table"), out, "--model", runs("table_model") / "model")
    for command in (("forecast", *single, "--years", "1"), ("counterfactual", *single, "--years", "1")):
        assert "train on a cohort in which people come again" in refused(capsys, *command)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "features.tsv").write_bytes((cohort / "features.tsv").read_bytes())
    people.drop(columns="age").to_csv(bare / "participants.tsv", sep="\t", index=False)
    assert "age" in refused(capsys, "forecast", bare, out, *model, "--years", "1")
    assert not out.exists()
    with pytest.raises(mr.MedrepError, match="numbers of 0 and more"):
        mr.forecast(mr.load(trained), mr.read_cohort(cohort, mr.load(trained)), [])


def test_a_folder_is_replaced_only_if_asked(cohort: Path, trained: Path, tmp_path: Path) -> None:
    asked = ("forecast", cohort, tmp_path / "out", "--model", trained / "model", "--years", "1", "--extrapolate")
    assert run(*asked) == 0
    assert run(*asked) == 1
    assert run(*asked, "--overwrite") == 0


def test_a_model_that_does_not_say_how_well_it_knows(
    cohort: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from medrep.models.linear.random_effects import EffectErrors

    saved = mr.load(trained)
    older = replace(saved, model=replace(saved.model, people=replace(saved.model.people, known=EffectErrors())))
    older.save(tmp_path / "older")
    asked = ("--model", tmp_path / "older", "--years", "1", "--extrapolate")
    assert main([str(word) for word in ("forecast", cohort, tmp_path / "out", *asked)]) == 0
    assert "intervals leave that out" in " ".join(capsys.readouterr().err.split())
    before = forecast(cohort, trained, tmp_path / "new", "--years", "1", "--extrapolate")
    after = pd.read_csv(tmp_path / "out" / "forecast.tsv", sep="\t")
    pd.testing.assert_series_equal(after["estimate"], before["estimate"])
    assert (after["sd"] < before["sd"]).all()
    assert not json.loads((tmp_path / "out" / "forecast.json").read_text())["EffectsKnown"]


def test_people_of_a_new_site_are_forecast(cohort: Path, trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "features.tsv").write_bytes((cohort / "features.tsv").read_bytes())
    people = pd.read_csv(cohort / "participants.tsv", sep="\t")
    people.assign(site=people["site"].replace("S3", "S9")).to_csv(moved / "participants.tsv", sep="\t", index=False)
    asked = ("--years", "1", "--extrapolate")
    assert run("forecast", moved, tmp_path / "out", "--model", trained / "model", *asked) == 1
    table = forecast(moved, trained, tmp_path / "out", *asked, "--unseen-site", "adapt")
    assert np.isfinite(table[COLUMNS[4:]].to_numpy()).all()
    told = forecast(moved, trained, tmp_path / "told", *asked, "--unseen-site", "adapt", "--reference-people", "sex=F")
    men = people.loc[(people["sex"] == "M"), "participant_id"].unique()
    alone = forecast(moved, trained, tmp_path / "alone", *asked, "--unseen-site", "adapt", "--exclude", *men)
    women = ~told["participant_id"].isin(men)
    np.testing.assert_allclose(told.loc[women, "estimate"], alone["estimate"], rtol=1e-9)
    assert not np.allclose(told["estimate"], table["estimate"])


@pytest.mark.parametrize("parts", [1, 3])
def test_people_move_along_their_own_trajectories(cohort: Path, trained: Path, tmp_path: Path, parts: int) -> None:
    asked = ("--model", trained / "model", "--years", "+5", "--extrapolate")
    if parts == 1:
        assert run("counterfactual", cohort, tmp_path / "out", *asked) == 0
    else:
        for part in range(parts):
            assert run("counterfactual", cohort, tmp_path / "out", *asked, "--num-parts", parts, "--part-id", part) == 0
        assert run("merge", tmp_path / "out") == 0
        assert run("counterfactual", cohort, tmp_path / "whole", *asked) == 0
        for name in ("features.tsv", "latents.tsv", "features.json"):
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    model = mr.load(trained)
    people = mr.read_cohort(cohort, model)
    written = features(tmp_path / "out")
    np.testing.assert_allclose(written.to_numpy(), model.model.follow(people, 5.0), rtol=1e-8)
    said = json.loads((tmp_path / "out" / "features.json").read_text())
    assert said["Covariates"] == {"age": "+5"}
    assert said["Description"].startswith(
        "What a model expects with age=+5 along each person's own trajectory; sex, site as"
    )
    assert (tmp_path / "out" / "report.html").is_file()
    population = tmp_path / "population"
    assert run("counterfactual", cohort, population, "--model", trained / "model", "--set", "age=60") == 0
    assert not np.allclose(features(population).to_numpy(), written.to_numpy())


def test_no_years_change_nothing(cohort: Path, trained: Path, tmp_path: Path) -> None:
    assert run("counterfactual", cohort, tmp_path / "out", "--model", trained / "model", "--years", "0") == 0
    assert (tmp_path / "out" / "features.tsv").read_bytes() == (cohort / "features.tsv").read_bytes()


def test_what_was_moved_already_is_not_moved_again(
    cohort: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--model", trained / "model", "--years", "1", "--extrapolate")
    assert run("counterfactual", cohort, tmp_path / "out", *asked) == 0
    said = refused(capsys, "counterfactual", tmp_path / "out", tmp_path / "twice", *asked)
    assert "moved to another age already" in said
    (tmp_path / "out" / "features.json").unlink()
    assert "moved to another age already" in refused(
        capsys, "counterfactual", tmp_path / "out", tmp_path / "twice", *asked
    )


@pytest.mark.parametrize("parts", [1, 4])
def test_scores_have_the_gain_since_the_visit_before(cohort: Path, trained: Path, tmp_path: Path, parts: int) -> None:
    asked = ("--model", trained / "model")
    assert run("score", cohort, tmp_path / "out", *asked) == 0
    table = pd.read_csv(tmp_path / "out" / "scores.tsv", sep="\t")
    model = mr.load(trained)
    gain = model.model.scores(mr.read_cohort(cohort, model)).gain
    assert gain is not None
    np.testing.assert_allclose(table["gain_z"], gain, rtol=1e-9)
    np.testing.assert_array_equal(table["gain_z"].isna(), table["session_id"] == "ses-0")
    assert "at first visits" in json.loads((tmp_path / "out" / "scores.json").read_text())["gain_z"]["Description"]
    if parts > 1:
        for part in range(parts):
            assert run("score", cohort, tmp_path / "parts", *asked, "--num-parts", parts, "--part-id", part) == 0
        assert run("merge", tmp_path / "parts") == 0
        for name in ("scores.tsv", "latents.tsv"):
            assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_scores_without_visits_have_no_gain(cohort: Path, trained: Path, tmp_path: Path, runs: Runs) -> None:
    assert run("score", runs("table"), tmp_path / "single", "--model", runs("table_model") / "model") == 0
    assert "gain_z" not in pd.read_csv(tmp_path / "single" / "scores.tsv", sep="\t")
    first = tmp_path / "first"
    assert run("score", cohort, first, "--model", trained / "model", "--session-label", "0") == 0
    assert pd.read_csv(first / "scores.tsv", sep="\t")["gain_z"].isna().all()
    assert set(KEY_COLUMNS) <= set(pd.read_csv(first / "scores.tsv", sep="\t"))
