"""People outside of where training was, and data that medrep has cleaned already: refused by name, or told."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.workflows.conftest import run


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype={"participant_id": str})


@pytest.fixture(scope="module")
def clean(table_cohort: Path, table_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clean") / "out"
    assert run("export", table_cohort, out, "--model", table_model, "--remove", "site", "--quiet") == 0
    return out


@pytest.fixture
def aged(table_cohort: Path, tmp_path: Path) -> Path:
    """The cohort with one person of 8500 weeks, and one a little older than anybody of training."""
    cohort = tmp_path / "aged"
    shutil.copytree(table_cohort, cohort)
    people = read(cohort / "participants.tsv")
    people["age"] = people["age"].astype(float)
    people.loc[3, "age"], people.loc[5, "age"] = 8500.0, people["age"].max() + 1
    people.to_csv(cohort / "participants.tsv", sep="\t", index=False)
    return cohort


def test_a_person_far_outside_is_refused_by_name_or_told(
    aged: Path, table_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    who = read(aged / "participants.tsv")["participant_id"]
    for command, more in (("score", ()), ("export", ("--remove", "site")), ("counterfactual", ("--set", "age=50"))):
        capsys.readouterr()
        assert run(command, aged, tmp_path / command, "--model", table_model, *more) == 1
        said = capsys.readouterr().err
        assert f"people far outside those of training: {who[3]}: age=8500: training people had" in said
        assert "--extrapolate" in said
        assert who[5] not in said
        assert not (tmp_path / command).exists()
    for command, more in (
        ("score", ()),
        ("export", ("--remove", "site", "--extrapolate")),
        ("export", ("--remove", "age")),
    ):
        out = tmp_path / f"{command}{len(more)}"
        switches = ("--extrapolate",) if "--extrapolate" not in more else ()
        assert run(command, aged, out, "--model", table_model, *more, *switches) == 0
        said = capsys.readouterr().err
        assert f"a little outside the people of training: {who[5]}" in said
        assert f"extrapolated: people far outside those of training: {who[3]}" in said
    scores = read(tmp_path / "score0" / "scores.tsv").set_index("participant_id")["outside_training"]
    assert scores[who[3]] > 100
    assert 0 < scores[who[5]] < 1
    assert (scores.drop([who[3], who[5]]) == 0).all()
    assert "outside_training" in json.loads((tmp_path / "score0" / "scores.json").read_text())
    sidecar = json.loads((tmp_path / "export3" / "features.json").read_text())
    assert list(sidecar["OutsideTraining"]) == [who[3], who[5]]
    assert sidecar["OutsideTraining"][who[3]]["age"]["Value"] == 8500


def test_a_reference_outside_is_refused(table_cohort: Path, table_model: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    export = (
        "export",
        table_cohort,
        tmp_path / "o",
        "--model",
        table_model,
        "--remove",
        "age",
        "--reference",
        "age=500",
    )
    assert run(*export) == 1
    assert "age=500: training people had" in capsys.readouterr().err


def test_an_image_says_how_far_its_person_is(bids_cohort: Path, bids_model: Path, tmp_path: Path) -> None:
    people = read(bids_cohort / "participants.tsv")
    who = people["participant_id"].iloc[:2]
    cohort = tmp_path / "c"
    for one in who:
        shutil.copytree(bids_cohort / one, cohort / one)
    changed = people[:2].assign(age=[people["age"].iloc[0], 400.0])
    changed.to_csv(cohort / "participants.tsv", sep="\t", index=False)
    export = ("export", cohort, tmp_path / "o", "--model", bids_model, "--remove", "site", "--workers", 1, "--quiet")
    assert run(*export) == 1
    assert run(*export, "--extrapolate") == 0
    inside, outside = (json.loads(next((tmp_path / "o" / one).rglob("*.json")).read_text()) for one in who)
    assert "OutsideTraining" not in inside
    assert outside["OutsideTraining"]["age"]["Value"] == 400


def test_nothing_is_taken_away_twice(clean: Path, table_model: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    for more in (
        ("export", "--remove", "site"),
        ("export", "--remove", "age,site"),
        ("counterfactual", "--set", "site=S0"),
    ):
        command, *switches = more
        assert run(command, clean, tmp_path / "again", "--model", table_model, *switches) == 1
        said = capsys.readouterr().err
        assert "effects of site removed already (features.json)" in said
        assert "a model that was trained on data like these" in said
    assert run("export", clean, tmp_path / "other", "--model", table_model, "--remove", "age") == 0
    assert "the model was trained on other data, which had these effects" in capsys.readouterr().err
    bare = tmp_path / "bare"
    shutil.copytree(clean, bare, ignore=shutil.ignore_patterns("features.json", ".medrep", "report*"))
    assert run("export", bare, tmp_path / "third", "--model", table_model, "--remove", "site") == 1
    assert "removed already (dataset_description.json)" in capsys.readouterr().err


def test_a_model_of_cleaned_data_cleans_them_and_knows_it(
    clean: Path, table_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", clean) == 0
    assert "effects of site removed already (features.json); what a model learns of site" in capsys.readouterr().err
    assert run("train", clean, tmp_path / "m", "--set", "settings.spline_degrees=1") == 0
    assert "effects of site removed already" in capsys.readouterr().err
    assert run("export", clean, tmp_path / "o", "--model", tmp_path / "m", "--remove", "site age") == 0
    assert "removed already" not in capsys.readouterr().err
    assert run("score", table_cohort, tmp_path / "s", "--model", tmp_path / "m") == 0
    assert "trained on data that medrep had moved along site; nothing says so" in capsys.readouterr().err


def test_ids_and_columns_of_an_exported_table_are_those_of_the_input(
    table_cohort: Path, table_model: Path, tmp_path: Path
) -> None:
    cohort = tmp_path / "c"
    cohort.mkdir()
    people, features = read(table_cohort / "participants.tsv")[:9], read(table_cohort / "features.tsv")[:9]
    people.to_csv(cohort / "participants.tsv", sep="\t", index=False)
    short = features.assign(participant_id=[str(int(who.removeprefix("sub-"))) for who in features["participant_id"]])
    names = list(short.columns[1:])
    transformed = short[[names[4], "participant_id", *names[:4], *names[5:]]].rename(
        columns={"participant_id": "Participant_ID"}
    )
    transformed.iloc[::-1].to_csv(cohort / "features.tsv", sep="\t", index=True)
    for source, out in ((table_cohort, "whole"), (cohort, "part")):
        assert run("export", source, tmp_path / out, "--model", table_model, "--remove", "site", "--quiet") == 0
    written = read(tmp_path / "part" / "features.tsv")
    assert list(written.columns) == list(transformed.columns)
    assert written["Participant_ID"].astype(str).tolist() == short["participant_id"].tolist()
    for name in ("participants.tsv", "latents.tsv"):
        assert read(tmp_path / "part" / name)["participant_id"].equals(people["participant_id"])
    whole = read(tmp_path / "whole" / "features.tsv")[:9]
    np.testing.assert_allclose(written[names], whole[names], rtol=1e-9)


def test_a_linear_model_says_what_it_leaves(table_cohort: Path, table_model: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    wide = len(read(table_cohort / "features.tsv").columns) > 20
    assert run("export", table_cohort, tmp_path / "o", "--model", table_model, "--remove", "sex") == 0
    assert wide
    assert (
        "a linear model takes sex out of each column; combinations of columns may still tell" in capsys.readouterr().err
    )
    assert "all together may" in json.loads((tmp_path / "o" / "features.json").read_text())["NotRemoved"]
