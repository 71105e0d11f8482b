"""``medrep merge --models``: what is written, what the merged model can do, and what is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest

from medrep.cli import main
from medrep.models.saved import SavedModel
from tests.workflows.conftest import run

TRAIN = ("--config", "growth_chart.yaml", "--tracking", "none", "--set", "settings.power=none", "--quiet")


@pytest.fixture(scope="module")
def folders(table_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Charts of three institutes, the third of one site, and what was merged from them."""
    root = tmp_path_factory.mktemp("merging")
    site = pd.read_csv(table_cohort / "participants.tsv", sep="\t").set_index("participant_id")["site"]
    found = {"root": root}
    shared = site.index[site == "S1"]
    people = {
        "a": [*site.index[site == "S0"], *shared[::2]],
        "b": [*site.index[site == "S2"], *shared[1::2]],
        "c": [*site.index[site == "S3"]],
    }
    for name, who in people.items():
        alone = ("--set", "covariates.site=null") if name == "c" else ()
        assert run("train", table_cohort, root / name, *TRAIN, *alone, "--participant-label", *who) == 0
        found[name] = root / name / "model"
    out = root / "merged"
    assert run("merge", out, "--models", found["a"], found["b"], f"{found['c']}:site=S3", "--quiet") == 0
    return found | {"out": out, "model": out / "model"}


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*(str(argument) for argument in arguments), "--quiet"]) == 1
    return " ".join(capsys.readouterr().err.split())


def test_the_merged_model_says_what_it_is_made_of(folders: dict[str, Path]) -> None:
    parts = pd.read_csv(folders["out"] / "parts.tsv", sep="\t")
    saved = [SavedModel.load(folders[name]) for name in "abc"]
    assert parts["people"].tolist() == [one.provenance.people for one in saved]
    assert parts["digest"].tolist() == [one.provenance.digest for one in saved]
    assert parts["levels"].tolist() == [2, 2, 1]
    about = json.loads((folders["out"] / "parts.json").read_text(encoding="utf-8"))
    assert set(parts.columns) < set(about)
    assert any("knots" in note for note in about["Notes"])
    merged = SavedModel.load(folders["model"])
    assert merged.provenance.people == parts["people"].sum()
    assert merged.model.schema.levels("site") == ("S0", "S1", "S2", "S3")
    history = pd.read_csv(folders["out"] / "history.tsv", sep="\t")
    assert set(history["metric"]) == {"people", "columns", "chart_scale"}


def test_people_of_training_are_known_as_such_and_nobody_is_named(folders: dict[str, Path], table_cohort: Path) -> None:
    merged, one = SavedModel.load(folders["model"]), SavedModel.load(folders["a"])
    features = pd.read_csv(table_cohort / "features.tsv", sep="\t").set_index("participant_id")
    rows, own = merged.provenance.rows, one.provenance.rows
    assert rows is not None
    assert own is not None
    known = [rows.holds(row) for row in features.to_numpy(float)]
    assert sum(known) == merged.provenance.people
    assert sum(own.holds(row) for row in features.to_numpy(float)) == one.provenance.people
    text = (folders["model"] / "model.json").read_text(encoding="utf-8")
    assert not [who for who in features.index if who in text]


def test_a_merged_model_scores_charts_exports_and_adapts(
    folders: dict[str, Path], table_cohort: Path, tmp_path: Path
) -> None:
    model = ("--model", folders["model"], "--quiet")
    assert run("score", table_cohort, tmp_path / "scores", *model) == 0
    z = pd.read_csv(tmp_path / "scores" / "deviations.tsv", sep="\t").drop(columns="participant_id")
    assert z.to_numpy().std() == pytest.approx(1, abs=0.15)
    assert run("chart", table_cohort, tmp_path / "charts", *model, "--draw", "region_001") == 0
    assert run("export", table_cohort, tmp_path / "clean", *model, "--remove", "site") == 0
    fewer = tmp_path / "fewer"
    assert run("merge", fewer, "--models", folders["a"], folders["b"], "--quiet") == 0
    adapt = ("--model", fewer / "model", "--unseen-site", "adapt", "--quiet")
    assert run("score", table_cohort, tmp_path / "adapted", *adapt) == 0


def test_merged_models_are_merged_with_others(folders: dict[str, Path], tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    assert run("merge", first, "--models", folders["a"], folders["b"], "--quiet") == 0
    assert run("merge", again, "--models", first / "model", f"{folders['c']}:site=S3", "--quiet") == 0
    found, wanted = SavedModel.load(again / "model"), SavedModel.load(folders["model"])
    assert found.provenance.rows == wanted.provenance.rows
    assert found.support is not None
    assert wanted.support is not None
    assert sum(found.support.counts) == sum(wanted.support.counts)


def test_what_cannot_be_merged_is_refused_by_name(
    folders: dict[str, Path], table_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, a, b, c = tmp_path / "out", folders["a"], folders["b"], folders["c"]
    said = refused(capsys, "merge", out, "--models", a, b, a, table_model)
    assert f"{a}: was trained on the same people as {a}; give each once" in said
    assert "is a linear model; only growth charts" in said
    assert f"{folders['model']}: was trained on the same people" in refused(
        capsys, "merge", out, "--models", a, folders["model"]
    )
    assert f"{c} lacks site; if all of its people have the same, say so: {c}:site=VALUE" in refused(
        capsys, "merge", out, "--models", a, c
    )
    assert "one model is nothing to merge" in refused(capsys, "merge", out, "--models", a)
    assert not out.exists()
    assert "pass --overwrite" in refused(capsys, "merge", folders["out"], "--models", a, b)
