"""A growth chart on its way: trained, audited, registered, promoted by its calibration, and used by its alias."""

from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from medrep.cli import GATE_REFUSED, OK, TOO_LITTLE
from tests.tracking.registering import copied
from tests.workflows.conftest import run

PEOPLE, FEATURES = 600, [f"f{k}" for k in range(6)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cohort of two sites, a chart of half of its people, and mlflow.db."""
    folder, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(4)
    table = pd.DataFrame(
        {"participant_id": [f"sub-{k:03d}" for k in range(PEOPLE)], "site": ["A", "B"] * (PEOPLE // 2)}
    )
    table["age"] = rng.uniform(20, 70, PEOPLE).round(2)
    table["sex"] = rng.choice(["F", "M"], PEOPLE)
    values = rng.standard_normal((PEOPLE, len(FEATURES))) + 0.03 * table[["age"]].to_numpy()
    values += np.where(table[["site"]] == "A", 0.0, rng.normal(0, 1.5, len(FEATURES)))
    (folder / "cohort").mkdir()
    table.to_csv(folder / "cohort" / "participants.tsv", sep="\t", index=False)
    features = pd.DataFrame(values, columns=FEATURES)
    features.insert(0, "participant_id", table["participant_id"])
    features.to_csv(folder / "cohort" / "features.tsv", sep="\t", index=False)
    settings = ("--set", "settings.power=none", "--set", "settings.components=2", "--tracking", "none", "--quiet")
    chart = ("--config", "growth_chart.yaml", "--hold-out", 0.5)
    assert run("train", folder / "cohort", folder / "trained", *chart, *settings) == 0
    return folder


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def held_out(home: Path) -> list[str]:
    people = pd.read_csv(home / "trained" / "people.tsv", sep="\t")
    return people.loc[people["part"] == "held-out", "participant_id"].tolist()


def registered(home: Path, name: str, cohort: Path, *options: object) -> None:
    audit = home / f"audit-{name}"
    assert run("audit", cohort, audit, "--model", "trained/model", "--by", "site", *options, "--quiet") == 0
    assert run("register", "trained/model", "--name", name, "--audit", audit, "--quiet") == OK


@pytest.fixture(scope="module")
def promoted(home: Path) -> str:
    """The address of a chart that passed, asked for once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        registered(home, "chart", home / "cohort")
        assert run("promote", "chart", "--gates", "gates_small.yaml", "--quiet") == OK
    return "models:/chart@champion"


def test_scores_and_centiles_by_alias_are_those_of_the_folder(home: Path, promoted: str) -> None:
    for out, model in (("alias", promoted), ("folder", "trained/model")):
        assert run("score", "cohort", f"scored-{out}", "--model", model, "--quiet") == 0
        assert run("chart", "cohort", f"chart-{out}", "--model", model, "--draw", "f0", "--quiet") == 0
    for name in ("scored-{}/scores.tsv", "scored-{}/deviations.tsv", "chart-{}/centiles.tsv"):
        assert Path(name.format("alias")).read_bytes() == Path(name.format("folder")).read_bytes()


def test_the_registered_chart_answers_requests_with_what_score_writes(
    home: Path, promoted: str, tmp_path: Path
) -> None:
    uri = f"sqlite:///{home / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    version = client.get_model_version_by_alias("chart", "champion")
    place = client.get_model_version_download_uri("chart", version.version)
    served = mlflow.pyfunc.load_model(mlflow.artifacts.download_artifacts(artifact_uri=place, dst_path=str(tmp_path)))
    people = pd.read_csv("cohort/participants.tsv", sep="\t").merge(pd.read_csv("cohort/features.tsv", sep="\t"))
    assert run("score", "cohort", "asked", "--model", promoted, "--quiet") == 0
    scores, z = (pd.read_csv(f"asked/{name}.tsv", sep="\t") for name in ("scores", "deviations"))
    found = served.predict(people)
    assert list(found) == ["reconstruction_error", "deviation", "z1", "z2"]
    np.testing.assert_allclose(found["deviation"], scores["deviation"], rtol=1e-9)
    deviations = served.predict(people, params={"output": "deviations"})
    assert list(deviations) == FEATURES
    np.testing.assert_allclose(deviations, z[FEATURES], rtol=1e-8, atol=1e-9)
    with pytest.raises(MlflowException, match="does not go with the other parameters"):
        served.predict(people, params={"output": "deviations", "remove": "site"})
    moved = served.predict(people, params={"remove": "site"})
    assert moved.shape == (PEOPLE, len(FEATURES))


def test_a_chart_that_says_too_little_spread_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = copied(home / "cohort", home / "wide")
    features = pd.read_csv(wide / "features.tsv", sep="\t")
    features[FEATURES] = 2 * features[FEATURES] - features[FEATURES].mean()
    features.to_csv(wide / "features.tsv", sep="\t", index=False)
    registered(home, "wide", wide)
    assert run("promote", "wide", "--gates", "gates_small.yaml") == GATE_REFUSED
    said = capsys.readouterr().err
    assert "people spread as a growth chart says: z_log_sd everybody" in said
    assert "hardly more people are unusual than a growth chart says: z_outside everybody" in said


def test_too_few_people_are_too_little_evidence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registered(home, "few", home / "cohort", "--participant-label", *held_out(home)[:44])
    assert run("promote", "few", "--gates", "gates_small.yaml") == TOO_LITTLE
    assert "centiles of a growth chart hold what they say: pit_distance everybody: ci_high" in capsys.readouterr().err
