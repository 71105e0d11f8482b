"""People who belong together: the column, what is refused, and that they are never parted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import medrep as mr
from medrep.cli import main
from medrep.cohort.cohort import read_cohort
from medrep.cohort.grouping import are_sessions, count_groups, independent_units, tied_rows
from medrep.cohort.kinds.features import FeaturesKind
from medrep.config import read_config
from medrep.errors import CohortError
from medrep.workflows.train import TrainOptions, train


def table(*rows: tuple[str, str]) -> pd.DataFrame:
    found = pd.DataFrame(rows, columns=["participant_id", "family"])
    return found.set_axis(pd.Index([f"row {k}" for k in range(len(rows))], name="key"))


def test_relatives_share_a_unit_and_who_has_none_is_one() -> None:
    people = table(("a", "F1"), ("b", "F1"), ("c", "n/a"), ("d", ""), ("a", "n/a"))
    units = tied_rows(people, "family")
    assert units == ("family=F1", "family=F1", "c", "d", "family=F1")
    assert count_groups(units, people["participant_id"].tolist()).tolist() == [2, 1, 1]


def test_everybody_in_two_groups_is_named() -> None:
    people = table(("a", "F1"), ("a", "F2"), ("b", "F3"), ("b", "F4"), ("c", "F1"))
    with pytest.raises(CohortError, match="people in several groups of family") as refused:
        tied_rows(people, "family")
    assert "a: 'F1' (row 0), 'F2' (row 1)" in str(refused.value)
    assert "b: 'F3' (row 2), 'F4' (row 3)" in str(refused.value)
    assert "c" not in str(refused.value).partition(":")[2].split(";")[0].replace("row", "")


def test_sessions_that_nobody_shares_are_groups_within_people() -> None:
    scans = table(("a", "a1"), ("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "n/a"))
    groups = tied_rows(scans, "family")
    assert groups == ("family=a1", "family=a1", "family=a2", "family=b1", "row 4 by itself")
    whose = scans["participant_id"].tolist()
    assert are_sessions(groups, whose)
    assert list(independent_units(groups, whose)) == whose


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(CohortError, match=r"--group litter .*columns are: participant_id, family"):
        tied_rows(table(("a", "F1")), "litter")


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 people in 30 families and 20 alone, once each; one file, in which families are numbers."""
    rng = np.random.default_rng(5)
    family = np.repeat(np.arange(30), 2).tolist() + [None] * 20
    own = rng.normal(size=(30, 6))
    values = rng.normal(size=(80, 6)) + np.stack([np.zeros(6) if one is None else own[one] for one in family])
    people = pd.DataFrame(
        {"participant_id": [f"sub-{k:03d}" for k in range(80)], "age": rng.uniform(20, 70, 80).round(2)}
    )
    people["sex"], people["site"] = np.where(rng.random(80) < 0.5, "F", "M"), [f"S{k % 3}" for k in range(80)]
    people["family_id"] = ["n/a" if one is None else str(one) for one in family]
    people = people.join(pd.DataFrame(values, columns=[f"region{k}" for k in range(6)]))
    path = tmp_path_factory.mktemp("families") / "table.csv"
    people.to_csv(path, index=False)
    return path


def test_a_column_of_numbers_is_no_feature(families: Path) -> None:
    config = read_config("linear.yaml", ["input.group=family_id"])
    cohort = read_cohort(families, config.input, declared=config.covariates)
    assert cohort.source.features.names == tuple(f"region{k}" for k in range(6))
    assert cohort.groups is not None
    assert len(set(cohort.groups)) == 50


def test_families_are_held_out_as_a_whole(families: Path, tmp_path: Path) -> None:
    config = read_config("linear.yaml", ["input.group=family_id"])
    done = train(families, tmp_path / "trained", config, options=TrainOptions(hold_out=0.4, tracking="none"))
    assert done is not None
    people = pd.read_csv(tmp_path / "trained" / "people.tsv", sep="\t", dtype=str).set_index("participant_id")["part"]
    family = pd.read_csv(families, dtype=str, keep_default_na=False).set_index("participant_id")["family_id"]
    together = people.groupby(family[family != "n/a"]).nunique()
    assert (together == 1).all()
    assert people.nunique() == 2
    saved = mr.load(tmp_path / "trained" / "model")
    assert saved.input.group == "family_id"


def test_check_says_how_many_belong_together(families: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(families), "--group", "family_id"]) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert "Who belongs together (family_id)" in said
    assert "groups of 2 people" in said
    assert main(["check", str(families), "--group", "household"]) == 1
    assert "--group household (input.group): there is no such column" in " ".join("".join(capsys.readouterr()).split())


def test_without_the_option_nothing_is_said_of_it() -> None:
    assert "group" not in FeaturesKind().to_json()
    assert "group" not in read_config("vae_volume.yaml").input.to_json()


def test_python_knows_whom_rows_belong_with() -> None:
    rng = np.random.default_rng(0)
    keys = [f"p{k}" for k in range(30)]
    features = pd.DataFrame(rng.normal(size=(30, 3)), keys, ["a", "b", "c"])
    covariates = pd.DataFrame({"age": rng.uniform(20, 60, 30), "site": ["S0", "S1", "S2"] * 10}, keys)
    groups = [f"F{k // 2}" for k in range(24)] + [None] * 6
    found = mr.Dataset.from_frames(features, covariates, {"age": "continuous", "site": "batch"}, groups=groups)
    assert found.units.tolist()[:2] == ["groups=F0", "groups=F0"]
    assert found.units.tolist()[-1] == "p29"
    assert found.take(slice(2, 4)).units.tolist() == ["groups=F1", "groups=F1"]
    model = mr.train(found)
    assert model.input.group == "groups"
    again = mr.Dataset.from_frames(features, covariates, model.model.schema)
    assert len(model.remove(again, "site")) == 30
