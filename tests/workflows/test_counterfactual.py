import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.workflows.conftest import run


@pytest.fixture(scope="module")
def model(table_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("closed-form") / "trained"
    assert run("train", table_cohort, out, "--config", "linear_latents.yaml", "--quiet") == 0
    return out / "model"


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype={"participant_id": str})


def values(folder: Path) -> np.ndarray:
    return read(folder / "features.tsv").iloc[:, 1:].to_numpy()


def test_only_people_of_the_other_sex_move(table_cohort: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert run("counterfactual", table_cohort, out, "--model", model, "--set", "sex=F", "--quiet") == 0
    women = (read(table_cohort / "participants.tsv")["sex"] == "F").to_numpy()
    before, after = values(table_cohort), values(out)
    np.testing.assert_array_equal(after[women], before[women])
    assert (after[~women] != before[~women]).any(axis=1).all()


def test_an_age_moves_by_the_planted_effect(table_cohort: Path, model: Path, tmp_path: Path) -> None:
    for age in (40, 60):
        out = tmp_path / str(age)
        assert run("counterfactual", table_cohort, out, "--model", model, "--set", f"age={age}", "--quiet") == 0
    transformed = (values(tmp_path / "60") - values(tmp_path / "40")).mean(axis=0)
    people = read(table_cohort / "participants.tsv")
    planted = 20 * np.polyfit(people["age"], values(table_cohort / "derivatives" / "truth"), 1)[0]
    assert np.corrcoef(transformed, planted)[0, 1] > 0.7
    assert transformed.mean() < 0


def test_the_sidecar_says_what_was_asked_and_who_was_near(
    table_cohort: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    assert run("counterfactual", table_cohort, out, "--model", model, "--set", "age=60", "--set", "sex=F") == 0
    sidecar = json.loads((out / "features.json").read_text())
    people = read(table_cohort / "participants.tsv")
    age, width = people["age"].to_numpy(), (people["age"].max() - people["age"].min()) / 40
    middle = age.min() + (np.minimum((age - age.min()) // width, 39) + 0.5) * width
    near = (np.abs(middle - 60) <= age.std() / 2) & (people["sex"] == "F").to_numpy()
    assert sidecar["TrainingPeopleNear"] == near.sum() > 0
    assert f"{near.sum()} people of training were near these values" in capsys.readouterr().err
    assert sidecar["Covariates"] == {"age": 60.0, "sex": "F"}
    assert sidecar["Kept"] == ["site"]
    assert sidecar["ModelKind"] == "conditional_vae"
    assert sidecar["Description"].startswith("What a model expects with age=60.0, sex=F; site as they are.")
    assert "not a causal fact" in sidecar["Description"]
    assert "Removed" not in sidecar
    description = json.loads((out / "dataset_description.json").read_text())
    assert (description["Name"], description["DatasetType"]) == ("cohort with other age, sex", "derivative")


def test_participants_stay_what_they_are(table_cohort: Path, model: Path, tmp_path: Path) -> None:
    assert run("counterfactual", table_cohort, tmp_path / "o", "--model", model, "--set", "age=60", "--quiet") == 0
    assert read(tmp_path / "o" / "participants.tsv").equals(read(table_cohort / "participants.tsv"))


@pytest.mark.parametrize("kind", ["linear", "conditional_vae"])
def test_values_beyond_training_need_a_switch(
    table_cohort: Path,
    table_model: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    chosen = model if kind == "conditional_vae" else table_model
    command = ("counterfactual", table_cohort, tmp_path / "o", "--model", chosen, "--set", "age=120")
    assert run(*command) == 1
    ages = read(table_cohort / "participants.tsv")["age"]
    said = capsys.readouterr().err
    assert f"age=120: training people had {ages.min():g} to {ages.max():g} year" in said
    assert "--extrapolate" in said
    assert not (tmp_path / "o").exists()
    assert run(*command, "--extrapolate") == 0
    assert json.loads((tmp_path / "o" / "features.json").read_text())["TrainingPeopleNear"] == 0
    assert np.isfinite(values(tmp_path / "o")).all()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--set", "scanner=A"), "unknown covariate scanner; the model knows age, sex, site"),
        (("--set", "site=Mars"), "'Mars' was not in training; allowed: S0, S1, S2, S3, pooled"),
        (("--set", "age=old"), "'old' is no number; give one in year"),
        (("--set", "age"), "--set age: write it as NAME=VALUE"),
        ((), "nothing to set; name one or more of age, sex, site"),
    ],
)
def test_wrong_requests_say_what_is_allowed(
    table_cohort: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    assert run("counterfactual", table_cohort, tmp_path / "o", "--model", model, *arguments) == 1
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
