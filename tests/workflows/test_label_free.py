import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.workflows.conftest import run


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("label-free") / "cohort"
    assert run("simulate", folder, "--kind", "features", "--n", 400, "--seed", 3, "--quiet") == 0
    return folder


@pytest.fixture(scope="module")
def halves(cohort: Path) -> tuple[list[str], list[str]]:
    ids = read(cohort / "participants.tsv")["participant_id"].tolist()
    return ids[::2], ids[1::2]


@pytest.fixture(scope="module")
def model(cohort: Path, halves, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("closed-form") / "trained"
    train = ("train", cohort, out, "--config", "linear_latents.yaml", "--quiet")
    assert run(*train, "--participant-label", *halves[0]) == 0
    return out / "model"


@pytest.fixture
def nameless(cohort: Path, tmp_path: Path) -> Path:
    """The same people, of whom nothing is known but the id."""
    folder = tmp_path / "nameless"
    folder.mkdir()
    shutil.copy(cohort / "features.tsv", folder)
    read(cohort / "participants.tsv")[["participant_id"]].to_csv(folder / "participants.tsv", sep="\t", index=False)
    return folder


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype={"participant_id": str})


def told(data: np.ndarray, site: np.ndarray) -> float:
    """AUC of a linear probe of site, out of fold."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    guesses = cross_val_predict(probe, data, site, cv=5, method="predict_proba")
    return float(roc_auc_score(site, guesses, multi_class="ovr"))


def test_people_without_covariates_tell_less_of_their_site(
    cohort: Path, nameless: Path, model: Path, halves, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    arguments = ("--model", model, "--remove", "site", "--label-free", "--participant-label", *halves[1])
    assert run("export", nameless, out, *arguments) == 0
    assert "their covariates are not looked at" in capsys.readouterr().err
    before, after = read(cohort / "features.tsv"), read(out / "features.tsv")
    before = before[before["participant_id"].isin(halves[1])]
    assert after["participant_id"].tolist() == before["participant_id"].tolist()
    people = read(cohort / "participants.tsv").set_index("participant_id").loc[after["participant_id"]]
    site = people["site"].to_numpy()
    raw, clean = (table.iloc[:, 1:].to_numpy() for table in (before, after))
    assert np.isfinite(clean).all()
    latents = read(out / "latents.tsv").iloc[:, 1:].to_numpy()
    assert told(raw, site) > 0.9
    assert told(clean, site) < told(raw, site) - 0.1
    assert told(latents, site) < told(raw, site) - 0.15
    sidecar = json.loads((out / "features.json").read_text())
    assert sidecar["LabelFree"] is True
    assert sidecar["Removed"] == ["site"]
    assert [c["covariate"] for c in sidecar["Certificates"]] == ["site"]


def test_labels_that_are_there_do_not_matter(cohort: Path, nameless: Path, model: Path, tmp_path: Path) -> None:
    for name, source in (("a", cohort), ("b", nameless)):
        arguments = ("--model", model, "--remove", "site", "--label-free", "--quiet")
        assert run("export", source, tmp_path / name, *arguments) == 0
    first, second = ((tmp_path / name / "features.tsv").read_bytes() for name in "ab")
    assert first == second


def test_without_the_switch_covariates_are_asked_for(
    nameless: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", nameless, tmp_path / "o", "--model", model, "--remove", "site") == 1
    assert "site" in capsys.readouterr().err


def test_a_linear_model_needs_covariates(
    table_cohort: Path, table_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--model", table_model, "--remove", "site", "--label-free")
    assert run("export", table_cohort, tmp_path / "o", *arguments) == 1
    assert (
        "a linear model needs everybody's covariates; train with --config vae_features.yaml" in capsys.readouterr().err
    )


@pytest.mark.parametrize("arguments", [("--reference", "site=S0"), ("--probe",)])
def test_there_is_no_reference_and_nothing_to_probe(
    nameless: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    command = ("export", nameless, tmp_path / "o", "--model", model, "--remove", "site", "--label-free")
    assert run(*command, *arguments) == 1
    assert "leave out --reference and --probe" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
