"""One object holds values and covariates together; tables of a notebook are checked as it is made."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import medrep as mr
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Grid
from medrep.errors import CohortError, CovariateError, ModelError

KEYS = ["sub-1", "sub-2", "sub-3", "sub-4"]
FEATURES = pd.DataFrame({"a": [1.0, 2.0, np.nan, 4.0], "b": [0, 1, 2, 3]}, index=KEYS)
COVARIATES = pd.DataFrame({"age": [30, 40, 50.5, 60], "site": ["A", "B", "A", "B"], "other": 0}, index=KEYS)
DECLARED = {"age": "continuous", "site": "batch"}


def dataset(**more: object) -> Dataset:
    return Dataset.from_frames(FEATURES, COVARIATES, DECLARED, **more)


def test_tables_are_held_together_whatever_their_order() -> None:
    found = Dataset.from_frames(FEATURES, COVARIATES.iloc[[2, 0, 3, 1]], DECLARED)
    assert list(found.keys) == KEYS
    assert list(found.covariates.columns) == ["age", "site"]
    assert found.covariates["age"].tolist() == [30.0, 40.0, 50.5, 60.0]
    assert found.columns.names == ("a", "b")
    assert found.schema.batches == ("site",)
    np.testing.assert_array_equal(found.values, FEATURES.to_numpy(float))
    assert (len(found), found.people, found.whose.tolist()) == (4, 4, KEYS)


def test_new_people_come_in_the_form_of_a_schema() -> None:
    schema = dataset().schema
    new = Dataset.from_frames(FEATURES.iloc[:2], COVARIATES.iloc[:2], schema)
    assert new.schema is schema
    stranger = COVARIATES.iloc[:2].assign(site="C")
    with pytest.raises(CovariateError, match=r"sub-1: site 'C' was not in training[\s\S]*sub-2"):
        Dataset.from_frames(FEATURES.iloc[:2], stranger, schema)


def test_whom_a_policy_leaves_out_has_no_row_of_values() -> None:
    declared = {"age": {"kind": "continuous", "missing": "drop"}, "site": "batch"}
    holed = COVARIATES.assign(age=[30, None, 50, 60])
    found = Dataset.from_frames(FEATURES, holed, declared, participants=["p", "p", "q", "r"])
    assert list(found.keys) == ["sub-1", "sub-3", "sub-4"]
    assert found.participants == ("p", "q", "r")
    np.testing.assert_array_equal(found.values, FEATURES.to_numpy(float)[[0, 2, 3]])


@pytest.mark.parametrize(
    ("features", "covariates", "said"),
    [
        (FEATURES, COVARIATES.iloc[:2], r"sub-3: no covariates[\s\S]*sub-4: no covariates"),
        (FEATURES.iloc[1:], COVARIATES, "sub-1: no features"),
        (FEATURES, pd.concat([COVARIATES, COVARIATES.iloc[:1]]), "sub-1: two rows of covariates"),
        (pd.concat([FEATURES, FEATURES.iloc[2:]]), COVARIATES, r"twice[\s\S]*sub-3[\s\S]*sub-4"),
        (FEATURES.assign(a=["1", "x", "2", "y"]), COVARIATES, r"sub-2: a is 'x'[\s\S]*sub-4: a is 'y'"),
        (FEATURES.assign(b=[1, np.inf, 2, -np.inf]), COVARIATES, r"sub-2: b is 'inf'[\s\S]*sub-4: b is '-inf'"),
    ],
)
def test_what_does_not_belong_together_is_refused_by_name(
    features: pd.DataFrame, covariates: pd.DataFrame, said: str
) -> None:
    with pytest.raises(CohortError, match=said):
        Dataset.from_frames(features, covariates, DECLARED)


def test_names_of_rows_are_one_a_row() -> None:
    with pytest.raises(CohortError, match=r"participants has 1 entries[\s\S]*sessions has 2 entries"):
        dataset(participants=["p"], sessions=["1", "2"])


@pytest.mark.parametrize("declared", [{}, {"age": "number"}, {"age": {"kind": "continuous", "rol": "batch"}}])
def test_declarations_that_cannot_be_are_refused(declared: dict[str, object]) -> None:
    with pytest.raises(CovariateError, match="cannot be declared"):
        Dataset.from_frames(FEATURES, COVARIATES, declared)


def test_single_precision_stays_and_a_grid_is_kept() -> None:
    grid = Grid((2, 1, 1), (1.0, 1.0, 1.0))
    found = Dataset.from_frames(FEATURES.astype(np.float32), COVARIATES, DECLARED, grid=grid)
    assert found.values.dtype == np.float32
    assert found.columns.grid == grid


@given(rows=st.lists(st.integers(0, 3), max_size=6), size=st.integers(1, 5))
def test_rows_stay_together_however_they_are_taken(rows: list[int], size: int) -> None:
    people = dataset(participants=["p", "p", "q", "r"], sessions=["1", "2", "1", "1"])
    some = people.take(np.array(rows, int))
    assert list(some.keys) == [KEYS[row] for row in rows]
    assert some.whose.tolist() == ["ppqr"[row] for row in rows]
    assert some.sessions == tuple("1211"[row] for row in rows)
    np.testing.assert_array_equal(some.values, people.values[rows])
    chunks = list(some.chunks(size))
    assert sum(len(block) for block in chunks) == len(rows)
    assert [key for block in chunks for key in block.keys] == list(some.keys)


def test_keys_and_marks_choose_rows_and_nobody_is_made_up() -> None:
    people = dataset()
    assert people.select(KEYS) is people
    np.testing.assert_array_equal(people.select(["sub-4", "sub-1"]).values, people.values[[3, 0]])
    assert list(people.take(np.array([True, False, False, True])).keys) == ["sub-1", "sub-4"]
    assert np.shares_memory(people.take(slice(1, 3)).values, people.values)
    with pytest.raises(CohortError, match=r"sub-7[\s\S]*sub-9"):
        people.select(["sub-1", "sub-7", "sub-9"])


def test_covariates_and_values_are_exchanged_by_themselves() -> None:
    people = dataset()
    assert (people.transformed({"site": "A"}).covariates["site"] == "A").all()
    other = people.with_values(people.values + 1)
    np.testing.assert_array_equal(other.values - people.values, np.where(np.isnan(people.values), np.nan, 1))
    assert other.covariates is people.covariates


def test_a_model_is_fitted_to_it_and_moves_it() -> None:
    rng = np.random.default_rng(0)
    keys = [f"sub-{k:02d}" for k in range(60)]
    covariates = pd.DataFrame({"age": rng.uniform(20, 80, 60), "site": ["A", "B"] * 30}, index=keys)
    features = pd.DataFrame(rng.normal(size=(60, 3)) + (covariates[["site"]] == "B").to_numpy(), index=keys)
    people = mr.Dataset.from_frames(features, covariates, DECLARED)
    model, _ = mr.LinearModel.fit(people)
    clean = model.remove(people, people.schema.references(["site"]))
    by_site = [clean[(covariates["site"] == site).to_numpy()].mean(axis=0) for site in "AB"]
    np.testing.assert_allclose(*by_site, atol=0.2)
    turned = mr.Dataset.from_frames(features[[2, 1, 0]], covariates, people.schema)
    for ask in (
        model.encode,
        model.scores,
        lambda own: model.remove(own, {"site": "A"}),
        lambda own: model.adapt([own]),
    ):
        with pytest.raises(ModelError, match=r"column 1: 2, not 0[\s\S]*column 3: 0, not 2[\s\S]*model.columns.names"):
            ask(turned)
