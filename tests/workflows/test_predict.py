"""Predicted covariates, from `predict` in a configuration to columns of scores.tsv."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medrep.cli import main


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def slope(scores: pd.DataFrame, people: pd.DataFrame) -> float:
    age = people.set_index("participant_id").loc[scores.index, "age"].astype(float)
    return float(np.polyfit(age, scores["age_gap"], 1)[0])


def test_age_is_predicted_and_unshrunk_on_request(
    table_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = pd.read_csv(table_cohort / "participants.tsv", sep="\t")
    half, rest = people["participant_id"][:110], people["participant_id"][110:]
    out = tmp_path / "trained"
    switches = ("--set", "predict=[age]", "--tracking", "none", "--participant-label", *half)
    assert run("train", table_cohort, out, *switches) == 0
    assert "predict age: people left out of the fit, mean error" in capsys.readouterr().err
    slopes = {}
    for how in ("none", "linear", "tweedie"):
        where = ("--model", out / "model", "--participant-label", *rest, "--quiet")
        assert run("score", table_cohort, tmp_path / how, *where, "--unshrink", how) == 0
        scores = pd.read_csv(tmp_path / how / "scores.tsv", sep="\t", index_col="participant_id")
        age = people.set_index("participant_id").loc[scores.index, "age"].astype(float)
        np.testing.assert_allclose(scores["predicted_age"] - age, scores["age_gap"], atol=1e-9)
        slopes[how] = slope(scores, people)
        assert "predicted_age" in json.loads((tmp_path / how / "scores.json").read_text())
    assert slopes["none"] < -0.02
    assert abs(slopes["linear"]) < abs(slopes["none"])


def test_what_cannot_be_predicted_is_refused(
    table_cohort: Path, table_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", table_cohort, tmp_path / "m", "--set", "predict=[sex]", "--quiet") == 1
    assert "predict: ['sex'] is not allowed; allowed: a list of age" in capsys.readouterr().err
    switches = ("--model", table_model, "--unshrink", "linear", "--quiet")
    assert run("score", table_cohort, tmp_path / "s", *switches) == 1
    assert "the model predicts no covariate; train with --set 'predict=[age]'" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
