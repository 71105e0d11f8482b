"""Requests whose rows are visits of people: numbers are those of the commands, whose cohort has the same visits."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medrep.cli import main
from medrep.errors import CohortError
from medrep.tracking.serving import ServedModel


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("visits") / "cohort"
    simulated = ["simulate", str(folder), "--kind", "features", "--n", "60", "--visits", "3", "--travellers", "20"]
    assert main([*simulated, "--seed", "3", "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("visits-model") / "trained"
    assert main(["train", str(cohort), str(out), "--tracking", "none", "--quiet"]) == 0
    return out / "model"


@pytest.fixture(scope="module")
def served(model: Path) -> ServedModel:
    return ServedModel.load(model)


@pytest.fixture(scope="module")
def request_rows(cohort: Path) -> pd.DataFrame:
    """What somebody would send: visits in no order, indexed in a way of their own."""
    who, values = (pd.read_csv(cohort / name, sep="\t") for name in ("participants.tsv", "features.tsv"))
    rows = who.merge(values, on=["participant_id", "session_id"]).sample(frac=1, random_state=0)
    return rows.set_axis([7 * k for k in range(len(rows))])


def in_order(rows: pd.DataFrame, written: pd.DataFrame) -> pd.DataFrame:
    keys = ["participant_id", "session_id"]
    return written.set_index(keys).loc[list(rows[keys].itertuples(index=False, name=None))].reset_index()


def test_visits_are_moved_as_medrep_export_moves_them(
    cohort: Path, model: Path, served: ServedModel, request_rows: pd.DataFrame, tmp_path: Path
) -> None:
    assert served.model.by_person
    out = tmp_path / "o"
    assert main(["export", str(cohort), str(out), "--model", str(model), "--remove", "site", "--quiet"]) == 0
    wanted = in_order(request_rows, pd.read_csv(out / "features.tsv", sep="\t"))
    found = served.answer(request_rows, remove="site")
    assert found.index.equals(request_rows.index)
    np.testing.assert_allclose(found, wanted[found.columns], rtol=1e-9)
    alone = served.answer(request_rows.drop(columns=["participant_id", "session_id"]), remove="site")
    assert np.abs(alone - found).to_numpy().max() > 1e-3
    each = served.answer(request_rows.assign(participant_id=None), remove="site")
    pd.testing.assert_frame_equal(each, alone)


def test_changes_since_the_visit_before_are_scored_as_medrep_score_does(
    cohort: Path, model: Path, served: ServedModel, request_rows: pd.DataFrame, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    assert main(["score", str(cohort), str(out), "--model", str(model), "--quiet"]) == 0
    wanted = in_order(request_rows, pd.read_csv(out / "scores.tsv", sep="\t"))
    found = served.answer(request_rows)
    for name in ("reconstruction_error", "deviation", "gain_z"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-6)
    assert found["gain_z"].isna().sum() == 60
    assert "gain_z" not in served.answer(request_rows, output="latents")
    assert "gain_z" not in served.answer(request_rows.drop(columns=["participant_id", "session_id"]))


def test_ids_are_read_with_and_without_their_prefixes(served: ServedModel, request_rows: pd.DataFrame) -> None:
    bare = request_rows.assign(participant_id=request_rows["participant_id"].str.removeprefix("sub-"))
    mixed = bare.assign(
        participant_id=bare["participant_id"].where(np.arange(len(bare)) % 2 == 0, "sub-" + bare["participant_id"])
    )
    pd.testing.assert_frame_equal(served.answer(mixed, remove="site"), served.answer(request_rows, remove="site"))


def test_a_visit_that_is_sent_twice_is_named(served: ServedModel, request_rows: pd.DataFrame) -> None:
    twice = pd.concat([request_rows.head(4), request_rows.head(1)])
    with pytest.raises(CohortError, match=r"(?s)rows that stand for the same visit.*row 1: .*row 5: "):
        served.answer(twice, remove="site")
