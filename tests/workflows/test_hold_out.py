import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medrep.cli import main
from medrep.cohort.nifti import Volume, read_image, write_image
from medrep.cohort.splits import cohort_fingerprint, row_fingerprint
from medrep.models.saved import SavedModel
from tests.tracking.registering import copied, without_digests


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held") / "table"
    assert run("simulate", folder, "--kind", "features", "--n", 120, "--sites", 3, "--seed", 4, "--quiet") == 0
    return folder


def train(table: Path, out: Path, *more: object) -> pd.DataFrame:
    assert run("train", table, out, "--tracking", "none", "--quiet", *more) == 0
    return pd.read_csv(out / "people.tsv", sep="\t")


def test_a_share_of_each_site_is_kept_from_training(table: Path, tmp_path: Path) -> None:
    people = train(table, tmp_path / "m", "--hold-out", 0.4)
    sites = pd.read_csv(table / "participants.tsv", sep="\t").set_index("participant_id")["site"]
    held = people["part"] == "held-out"
    share = held.groupby(people["participant_id"].map(sites)).mean()
    assert len(share) == 3
    assert share.between(0.3, 0.5).all()
    assert people.loc[held, "data"].isna().all()
    assert people.loc[~held, "data"].is_unique
    known = SavedModel.load(tmp_path / "m" / "model").provenance
    assert known.people == (~held).sum()
    assert known.fingerprint == cohort_fingerprint(people.loc[~held, "data"])


def test_the_model_is_the_one_of_the_others_alone(table: Path, tmp_path: Path) -> None:
    people = train(table, tmp_path / "a", "--hold-out", 0.4)
    others = people.loc[people["part"] == "train", "participant_id"]
    again = train(table, tmp_path / "b", "--participant-label", *others)
    np.testing.assert_array_equal(again["data"], people.loc[people["part"] == "train", "data"])
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("share", [1.0, -0.1, 2.0])
def test_a_share_that_cannot_be_is_refused(
    table: Path, tmp_path: Path, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", table, tmp_path / "m", "--hold-out", share, "--tracking", "none", "--quiet") == 1
    assert "between 0 and 1" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_fingerprints_tell_data_apart_and_do_not_mind_order() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 7))
    marks = [row_fingerprint(row) for row in rows]
    assert len(set(marks)) == 50
    assert marks == [row_fingerprint(row.copy()) for row in rows]
    assert cohort_fingerprint(marks) == cohort_fingerprint(marks[::-1])
    assert cohort_fingerprint(marks) != cohort_fingerprint(marks[1:])
    changed = rows[0].copy()
    changed[3] = np.nextafter(changed[3], 9)
    assert row_fingerprint(changed) != marks[0]


def test_those_held_out_calibrate_a_gate_that_scoring_asks(bids_cohort: Path, tmp_path: Path) -> None:
    switches = ("--set", "input.kind=volume", "--hold-out", 0.6, "--tracking", "none", "--quiet")
    assert run("train", bids_cohort, tmp_path / "trained", *switches) == 0
    people = pd.read_csv(tmp_path / "trained" / "people.tsv", sep="\t", index_col="participant_id")
    held_out = people.index[people["part"] == "held-out"]
    cohort, odd = tmp_path / "cohort", held_out[3]
    shutil.copytree(bids_cohort, cohort)
    path = next((cohort / odd).rglob("*_T1w.nii.gz"))
    image = read_image(path)
    noise = np.random.default_rng(0).normal(0, 0.2 * image.data.max(), image.data.shape)
    write_image(path, Volume(image.data + noise.astype(np.float32), image.affine))
    model = tmp_path / "trained" / "model"
    who = ("--participant-label", *held_out, "--extrapolate", "--quiet")
    assert run("score", cohort, tmp_path / "scored", "--model", model, *who) == 0
    scores = pd.read_csv(
        tmp_path / "scored" / "scores.tsv", sep="\t", index_col="participant_id", keep_default_na=False
    )
    assert list(scores.columns)[:4] == ["status", "shift_p", "shift_reason", "in_training"]
    assert set(scores["in_training"]) == {"no"}
    assert scores.loc[odd, "status"] in {"reject", "warn"}
    assert " sd" in scores.loc[odd, "shift_reason"]
    assert (scores.drop(odd)["status"] == "accept").mean() > 0.7
    assert run("score", cohort, tmp_path / "x", "--model", model, *who, "--false-alarms", 2) == 1
    assert not (tmp_path / "x").exists()
    # What stands in the model folder tells nobody's row, and no name.
    text = (model / "model.json").read_text()
    assert not any(name in text for name in people.index)


def test_people_of_training_are_told_and_not_rejected_for_fitting_well(
    table_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", table_cohort, tmp_path / "m", "--hold-out", 0.4, "--tracking", "none", "--quiet") == 0
    part = pd.read_csv(tmp_path / "m" / "people.tsv", sep="\t", index_col="participant_id")["part"]
    model = tmp_path / "m" / "model"
    assert run("score", table_cohort, tmp_path / "scored", "--model", model) == 0
    read = {"sep": "\t", "index_col": "participant_id", "keep_default_na": False}
    scores = pd.read_csv(tmp_path / "scored" / "scores.tsv", **read)
    trained = part.reindex(scores.index) == "train"
    assert (scores["in_training"] == np.where(trained, "yes", "no")).all()
    assert set(scores.loc[trained, "status"]) == {"scored"}
    assert set(scores.loc[trained, "shift_reason"]) == {"in training"}
    assert not (scores["shift_reason"].str.contains("-")).any()
    assert f"{trained.sum()} of them were in training" in capsys.readouterr().err
    # A model without its people.tsv knows by its own digests; one of before there were any does not.
    alone = copied(model, tmp_path / "alone" / "model")
    assert run("score", table_cohort, tmp_path / "x", "--model", alone, "--quiet") == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "x" / "scores.tsv", **read), scores)
    without_digests(alone)
    assert run("score", table_cohort, tmp_path / "y", "--model", alone, "--quiet") == 0
    assert set(pd.read_csv(tmp_path / "y" / "scores.tsv", **read)["in_training"]) == {"n/a"}
