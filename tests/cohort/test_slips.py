import numpy as np
import pandas as pd
import pytest

from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.features import FeatureTable
from medrep.cohort.plausibility import feature_slips, repeated_scans, same_data

COUNT = 30
KEYS = pd.Index([f"sub-{k:02d}" for k in range(COUNT)], name="key")
DECLARED = (
    Covariate("age", "continuous"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", role="batch"),
)
FRAME = pd.DataFrame(
    {
        "age": np.random.default_rng(0).uniform(20, 80, COUNT).round(1),
        "sex": ["FM"[k % 2] for k in range(COUNT)],
        "site": ["ABC"[k % 3] for k in range(COUNT)],
    },
    index=KEYS,
)
SCHEMA = CovariateSchema.fit(FRAME, DECLARED)


def slips(values=None, **columns):
    noise = np.random.default_rng(1).normal(10, 1, (COUNT, 3)) if values is None else values
    names = (*(f"f{k}" for k in range(noise.shape[1])), *columns)
    own = np.column_stack([noise, *columns.values()])
    ids = pd.DataFrame({"participant_id": KEYS}).set_axis(KEYS)
    return feature_slips(FeatureTable(ids, own, names, None), FRAME, SCHEMA)


def test_measurements_are_not_named():
    assert slips() == []
    assert slips(flat=np.full(COUNT, 3.0), holes=np.full(COUNT, np.nan)) == []


@pytest.mark.parametrize(
    ("name", "values", "covariate"),
    [
        ("a", FRAME["age"], "age"),
        ("months", 12 * FRAME["age"] + 3, "age"),
        ("code", [5.0 if sex == "F" else 7.0 for sex in FRAME["sex"]], "sex"),
        ("place", [{"A": 2.0, "B": 0.0, "C": 1.0}[site] for site in FRAME["site"]], "site"),
    ],
)
def test_a_feature_that_is_a_covariate_is_named_whatever_it_is_called(name, values, covariate):
    told = slips(**{name: np.asarray(values, float)})
    assert told == [
        f"features that are covariate {covariate}, not a measurement: {name}; take them out of features.tsv"
    ]


@pytest.mark.parametrize(("name", "covariate"), [("Age", "age"), ("gender", "sex"), ("centre", "site")])
def test_a_feature_called_like_a_covariate_is_named(name, covariate):
    told = slips(**{name: np.random.default_rng(2).normal(size=COUNT)})
    assert told == [
        f"feature {name!r} has the name of covariate {covariate}: if it is that, take it out of features.tsv"
    ]


@pytest.mark.parametrize("start", [0, 1])
def test_a_feature_that_counts_the_rows_is_named(start):
    assert "features that count the rows, not a measurement: nr" in slips(nr=np.arange(COUNT) + float(start))[0]
    assert slips(nr=np.arange(COUNT) + 7.0) == []


def test_the_same_row_under_several_ids_is_named():
    values = np.random.default_rng(1).normal(10, 1, (COUNT, 3))
    values[7] = values[3]
    values[9] = values[3]
    assert "the same data under several ids: sub-03 = sub-07 = sub-09; leave all but one" in slips(values)[0]


def test_rows_of_few_or_coarse_or_no_numbers_may_be_alike():
    assert slips(np.random.default_rng(1).integers(0, 5, (COUNT, 2)).astype(float)) == []
    assert slips(np.random.default_rng(1).integers(0, 2, (COUNT, 4)).astype(float)) == []
    holes = np.random.default_rng(1).normal(10, 1, (COUNT, 3))
    holes[3:6] = np.nan
    assert slips(holes) == []


def test_fingerprints_are_grouped():
    assert same_data({"a": "1", "b": "2"}) == []
    assert same_data({"a": "1", "b": "2", "c": "1"})[0].startswith("the same data under several ids: a = c;")


def test_scans_of_one_person_are_said_to_be_taken_as_independent():
    assert repeated_scans(pd.DataFrame({"participant_id": ["a", "b"]})) == []
    assert (
        "3 scans of 2 people are treated as independent"
        in repeated_scans(pd.DataFrame({"participant_id": ["a", "b", "a"]}))[0]
    )
