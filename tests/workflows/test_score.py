"""`medrep score` on tables and volumes; organs are in test_shapes.py."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medrep.cli import main
from medrep.models import ConditionalVae, LinearModel
from medrep.workflows.cohorts import load_trained


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("score") / "table"
    assert run("simulate", folder, "--kind", "features", "--n", 160, "--seed", 3, "--quiet") == 0
    return folder


@pytest.fixture(scope="module", params=["linear.yaml", "linear_latents.yaml", "vae_features.yaml"])
def trained(request: pytest.FixtureRequest, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("score") / "m"
    people = pd.read_csv(table / "participants.tsv", sep="\t")["participant_id"][:120]
    fewer = ("--set", "settings.training.epochs=20") if request.param == "vae_features.yaml" else ()
    switches = ("--config", request.param, *fewer, "--tracking", "none", "--quiet")
    assert run("train", table, out, *switches, "--participant-label", *people) == 0
    return out / "model"


def test_unseen_people_are_about_typical_and_an_odd_one_is_not(table: Path, trained: Path, tmp_path: Path) -> None:
    unseen = pd.read_csv(table / "participants.tsv", sep="\t")["participant_id"][120:]
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    for name in ("participants.tsv", "features.tsv"):
        (cohort / name).write_bytes((table / name).read_bytes())
    features = pd.read_csv(cohort / "features.tsv", sep="\t", index_col="participant_id")
    odd = unseen.iloc[3]
    rng = np.random.default_rng(0)
    features.loc[odd] += 4 * features.std() * rng.standard_normal(features.shape[1])
    features.to_csv(cohort / "features.tsv", sep="\t")
    out = tmp_path / "scored"
    assert run("score", cohort, out, "--model", trained, "--participant-label", *unseen, "--quiet") == 0
    scores = pd.read_csv(out / "scores.tsv", sep="\t", index_col="participant_id")
    assert list(scores.columns) == ["status", "reconstruction_error", "deviation"]
    assert list(scores.index) == list(unseen)
    assert (scores["status"] == "scored").all()
    good = scores.drop(odd)
    assert 0.8 < good["deviation"].median() < 1.25
    assert scores.loc[odd, "deviation"] > 2 * good["deviation"].max()
    assert scores.loc[odd, "reconstruction_error"] > good["reconstruction_error"].max()
    assert json.loads((out / "scores.json").read_text())["reconstruction_error"]["Units"] == "sd"
    model = load_trained(trained).model
    if model.encode(model.dataset(features.to_numpy(float)[:1], _frame(table, model).iloc[:1])).shape[1]:
        assert pd.read_csv(out / "latents.tsv", sep="\t")["participant_id"].tolist() == list(unseen)


def _frame(table: Path, model: object) -> pd.DataFrame:
    people = pd.read_csv(table / "participants.tsv", sep="\t", index_col="participant_id")
    return model.schema.transfer(people)  # type: ignore[attr-defined]


def test_the_error_is_what_components_or_the_decoder_leave(table: Path, trained: Path) -> None:
    model = load_trained(trained).model
    frame = _frame(table, model)
    data = pd.read_csv(table / "features.tsv", sep="\t", index_col="participant_id")[list(model.columns.names)]
    data = data.loc[frame.index].to_numpy(float)
    found = model.scores(model.dataset(data, frame))
    if isinstance(model, ConditionalVae):
        linear = model.parts.linear
        left = data - model.reconstruct(model.dataset(data, frame))
    else:
        assert isinstance(model, LinearModel)
        linear = model
        e = np.concatenate(
            [block for _, block in model.residuals(model.dataset(data, frame)).map(lambda _, block: block)], axis=1
        )
        left = (e - e @ model.components.T @ model.components) * linear.sd
        left *= linear.scale(linear.design.batches(frame), linear.batches.log_scale)
    scale = linear.sd * linear.scale(linear.design.batches(frame), linear.batches.log_scale)
    np.testing.assert_allclose(found.reconstruction_error, np.sqrt(((left / scale) ** 2).mean(axis=1)), rtol=1e-4)


def test_cells_that_are_missing_are_left_out(table: Path, trained: Path) -> None:
    model = load_trained(trained).model
    frame = _frame(table, model)
    data = pd.read_csv(table / "features.tsv", sep="\t", index_col="participant_id")[list(model.columns.names)]
    data = data.loc[frame.index].to_numpy(float)[:3]
    holes = data.copy()
    holes[0, :5] = np.nan
    holes[1] = np.nan
    found = model.scores(model.dataset(holes, frame.iloc[:3]))
    assert np.isfinite(found.reconstruction_error[[0, 2]]).all()
    assert np.isnan(found.reconstruction_error[1])
    assert found.reconstruction_error[2] == pytest.approx(
        model.scores(model.dataset(data, frame.iloc[:3])).reconstruction_error[2]
    )


def test_a_missing_feature_is_named(
    table: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    (cohort / "participants.tsv").write_bytes((table / "participants.tsv").read_bytes())
    features = pd.read_csv(table / "features.tsv", sep="\t", index_col="participant_id")
    features.iloc[5, 2] = np.nan
    features.to_csv(cohort / "features.tsv", sep="\t", na_rep="n/a")
    assert run("score", cohort, tmp_path / "scored", "--model", trained, "--quiet") == 1
    message = capsys.readouterr().err
    assert str(features.index[5]) in message
    assert features.columns[2] in message
    assert not (tmp_path / "scored").exists()


def test_volumes_are_scored_and_a_broken_one_is_listed(tmp_path: Path) -> None:
    cohort, model, out = tmp_path / "cohort", tmp_path / "m", tmp_path / "scored"
    assert run("simulate", cohort, "--kind", "volume", "--n", 24, "--sites", 2, "--quiet") == 0
    switches = ("--config", "linear.yaml", "--set", "input.kind=volume", "--tracking", "none", "--quiet")
    assert run("train", cohort, model, *switches) == 0
    broken = sorted(cohort.glob("sub-*/anat/*.nii.gz"))[4]
    broken.write_bytes(b"no image")
    assert run("score", cohort, out, "--model", model / "model", "--quiet") == 3
    scores = pd.read_csv(out / "scores.tsv", sep="\t")
    assert (scores["status"] == "failed").sum() == 1
    assert scores["deviation"].notna().sum() == 23
    failures = pd.read_csv(out / "failures.tsv", sep="\t")
    assert failures["file"].tolist() == [broken.relative_to(cohort).as_posix()]
