"""fcon1000 from the table to the alias: train, audit, register, promote, score; 20 sites, half of everybody unseen."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medrep.cli import GATE_REFUSED, OK, main

pytestmark = pytest.mark.real_data


def test_a_model_is_trained_audited_registered_promoted_and_scored_by_alias(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    raw = pd.read_csv(shared_data / "fcon1000" / "fcon1000.csv")
    raw = raw[raw.groupby("site")["site"].transform("size") >= 16].rename(columns={"sub_id": "participant_id"})
    raw["sex"] = raw["sex"].map({0: "F", 1: "M"})
    Path("cohort").mkdir()
    raw[["participant_id", "age", "sex", "site"]].to_csv("cohort/participants.tsv", sep="\t", index=False)
    raw.drop(columns=["age", "sex", "site"]).to_csv("cohort/features.tsv", sep="\t", index=False)

    def run(*arguments: str) -> int:
        return main([*arguments, "--quiet"])

    assert run("train", "cohort", "trained", "--hold-out", "0.5", "--tracking", "none", "--set", "predict=[age]") == OK
    by = ("--by", "sex,age:20/40/60/80,site", "--intersect", "sex,site")
    assert run("audit", "cohort", "audited", "--model", "trained/model", *by) == OK
    assert run("register", "trained/model", "--name", "fcon", "--audit", "audited") == OK
    assert run("score", "cohort", "early", "--model", "models:/fcon@challenger") == 1
    assert "no gate passed" in capsys.readouterr().err
    # A dozen people of training a site leave what they cannot tell of its mean, and the audit sees it.
    assert run("promote", "fcon") == GATE_REFUSED
    said = capsys.readouterr().err
    assert "leakage_excess exported/site: estimate" in said
    assert "champion stays where it is" in said
    assert run("score", "cohort", "early", "--model", "models:/fcon@champion") == 1
    Path("ours.yaml").write_text(
        "- {name: hardly read, metric: leakage_excess, group: exported/*, estimate: {max: 0.4}}\n"
    )
    assert run("promote", "fcon", "--gates", "ours.yaml") == OK
    people = pd.read_csv("audited/people.tsv", sep="\t")
    assert run("score", "cohort", "scored", "--model", "models:/fcon@champion") == OK
    scores = pd.read_csv("scored/scores.tsv", sep="\t").set_index("participant_id")
    again = scores.loc[people["participant_id"], "deviation"].to_numpy()
    assert again == pytest.approx(people["deviation"].to_numpy())
    assert not Path("early").exists()
    # Nobody of training among those who calibrated the shift gate and were audited.
    unseen = scores.loc[people["participant_id"]]
    assert 0.9 < (unseen["status"] == "accept").mean() <= 1
    age = raw.set_index("participant_id").loc[unseen.index, "age"]
    assert run("score", "cohort", "unshrunk", "--model", "models:/fcon@champion", "--unshrink", "linear") == OK
    corrected = pd.read_csv("unshrunk/scores.tsv", sep="\t").set_index("participant_id").loc[unseen.index]
    before, after = (np.polyfit(age, table["age_gap"], 1)[0] for table in (unseen, corrected))
    assert before < -0.2
    assert abs(after) < 0.5 * abs(before)
