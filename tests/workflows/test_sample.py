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


def demographics(folder: Path, text: str) -> Path:
    path = folder / "who.tsv"
    path.write_text(text)
    return path


def test_a_number_of_people_is_drawn_as_a_cohort(
    table_cohort: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "drawn"
    assert run("sample", out, "--model", model, "--n", 200, "--seed", 2) == 0
    assert "200 drawn" in capsys.readouterr().out
    names = [".medrep", "dataset_description.json", "features.json", "features.tsv", "participants.tsv"]
    assert sorted(path.name for path in out.iterdir()) == names
    people, features = read(out / "participants.tsv"), read(out / "features.tsv")
    assert people["participant_id"].tolist() == features["participant_id"].tolist()
    assert people["participant_id"].is_unique
    trained, before = read(table_cohort / "participants.tsv"), read(table_cohort / "features.tsv")
    assert list(features.columns) == list(before.columns)
    assert people["age"].between(trained["age"].min(), trained["age"].max()).all()
    assert people["age"].mean() == pytest.approx(trained["age"].mean(), abs=4)
    for name in ("sex", "site"):
        shares = [table[name].value_counts(normalize=True).sort_index() for table in (people, trained)]
        assert np.abs(shares[0] - shares[1]).max() < 0.12
    drawn, real = features.iloc[:, 1:].to_numpy(), before.iloc[:, 1:].to_numpy()
    off = np.abs(np.quantile(drawn, [0.1, 0.5, 0.9], axis=0) - np.quantile(real, [0.1, 0.5, 0.9], axis=0))
    assert (off / real.std(axis=0)).mean() < 0.2
    sidecar = json.loads((out / "features.json").read_text())
    assert (sidecar["Description"], sidecar["Seed"]) == ("Drawn by a model; not real people.", 2)
    # A cohort like any other: it can be read again.
    assert run("check", out, "--quiet") == 0


def test_the_same_seed_draws_the_same_people(model: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert run("sample", tmp_path / name, "--model", model, "--n", 12, "--seed", seed, "--quiet") == 0
    first, second, other = (
        [(tmp_path / name / table).read_text() for table in ("participants.tsv", "features.tsv")] for name in "abc"
    )
    assert first == second
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_a_table_with_ids_keeps_them_and_what_else_it_says(model: Path, tmp_path: Path) -> None:
    table = demographics(tmp_path, "participant_id\tage\tsex\tsite\tnote\nsub-z\t40\tF\tS0\tx\nsub-y\t70\tM\tS2\ty\n")
    assert run("sample", tmp_path / "o", "--model", model, "--table", table, "--quiet") == 0
    people = read(tmp_path / "o" / "participants.tsv")
    assert people["participant_id"].tolist() == ["sub-z", "sub-y"]
    assert people["note"].tolist() == ["x", "y"]
    assert read(tmp_path / "o" / "features.tsv")["participant_id"].tolist() == ["sub-z", "sub-y"]


def test_a_table_without_ids_gets_them(model: Path, tmp_path: Path) -> None:
    table = demographics(tmp_path, "site\tsex\tage\nS0\tF\t40\nS1\tM\t70\n")
    assert run("sample", tmp_path / "o", "--model", model, "--table", table, "--quiet") == 0
    assert read(tmp_path / "o" / "participants.tsv")["participant_id"].tolist() == ["sub-0001", "sub-0002"]


def test_older_people_are_drawn_older(table_cohort: Path, model: Path, tmp_path: Path) -> None:
    means = []
    for age in (30, 80):
        table = demographics(tmp_path, "age\tsex\tsite\n" + f"{age}\tF\tS0\n" * 60)
        assert run("sample", tmp_path / str(age), "--model", model, "--table", table, "--quiet") == 0
        means.append(read(tmp_path / str(age) / "features.tsv").iloc[:, 1:].mean().to_numpy())
    people = read(table_cohort / "participants.tsv")
    real = read(table_cohort / "features.tsv").iloc[:, 1:].to_numpy()
    line = np.polyfit(people["age"], real, 1)[0] * 50
    assert np.corrcoef(means[1] - means[0], line)[0, 1] > 0.7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age\tsex\tsite\n40\tF\tMars\n", "sub-0001: site 'Mars' was not in training (S0, S1, S2, S3)"),
        ("age\tsex\tsite\n40\tX\tS0\n", "sub-0001: sex 'X' was not in training (F, M)"),
        ("age\tsex\tsite\nn/a\tF\tS0\n", "sub-0001: age 'n/a'"),
        ("age\tsex\n40\tF\n", "site"),
        ("participant_id\tage\tsex\tsite\nsub-1\t40\tF\tS0\nsub-1\t50\tF\tS0\n", "sub-1"),
        ("age\tsex\tsite\n", "nobody to draw; give --table or --n above 0 (covariates: age, sex, site)"),
    ],
)
def test_tables_that_cannot_be_drawn_are_refused_by_name(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    table = demographics(tmp_path, text)
    assert run("sample", tmp_path / "o", "--model", model, "--table", table) == 1
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("people", [0, -3])
def test_nobody_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], people: int) -> None:
    assert run("sample", tmp_path / "o", "--model", model, "--n", people) == 1
    assert "nobody to draw" in capsys.readouterr().err


def test_a_linear_model_does_not_sample(table_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sample", tmp_path / "o", "--model", table_model, "--n", 3) == 1
    assert "a linear model does not sample; train with --config vae_features.yaml" in capsys.readouterr().err
