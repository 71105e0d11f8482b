import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.audit.confounding import confounding, small_levels
from medrep.cohort.covariates import Covariate, CovariateSchema
from tests.models.planted import DECLARED, draw_people


def measure(kinds: dict[str, str], **columns) -> pd.Series:
    frame = pd.DataFrame(columns)
    schema = CovariateSchema.fit(frame, [Covariate(name, kind) for name, kind in kinds.items()])
    return confounding(frame, schema).iloc[0]


BOTH = {"a": "categorical", "b": "categorical"}
NUMBERS = {"a": "continuous", "b": "continuous"}
MIXED = {"a": "continuous", "b": "categorical"}


def test_the_correlation_of_two_numbers():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    row = measure(NUMBERS, a=a, b=b - 0.5 * a)
    assert row["measure"] == "|r|"
    assert row["estimate"] == pytest.approx(abs(np.corrcoef(a, b - 0.5 * a)[0, 1]))


def test_the_correlation_ratio_is_adjusted_like_r2():
    rng = np.random.default_rng(0)
    groups = np.repeat(["x", "y", "z"], 20)
    a = rng.normal(size=60) + np.repeat([0.0, 1.0, 2.0], 20)
    X = np.stack([groups == level for level in "xyz"], axis=1).astype(float)
    within = ((a - X @ np.linalg.lstsq(X, a)[0]) ** 2).sum()
    adjusted = 1 - (within / 57) / (a.var() * 60 / 59)
    row = measure(MIXED, a=a, b=groups)
    assert row["measure"] == "eta"
    assert row["estimate"] == pytest.approx(np.sqrt(adjusted))


def test_cramers_v_of_a_two_by_two_table():
    a, b = ["x"] * 50 + ["y"] * 50, ["u"] * 40 + ["v"] * 10 + ["u"] * 10 + ["v"] * 40
    phi2, n = 0.36, 100
    corrected, size = phi2 - 1 / (n - 1), 2 - 1 / (n - 1)
    row = measure(BOTH, a=a, b=b)
    assert row["measure"] == "V"
    assert row["estimate"] == pytest.approx(np.sqrt(corrected / (size - 1)))


@pytest.mark.parametrize(
    ("kinds", "a", "b"),
    [
        (NUMBERS, np.arange(30.0), 70 - 2 * np.arange(30.0)),
        (MIXED, np.repeat([1.0, 5.0, 9.0], 10), np.repeat(["x", "y", "z"], 10)),
        (BOTH, ["p", "q"] * 15, ["F", "M"] * 15),
        (BOTH, ["p", "q", "r"] * 10, ["F", "M", "F"] * 10),
        (MIXED, np.arange(10.0), [f"person {k}" for k in range(10)]),
    ],
)
def test_what_tells_the_other_is_aliased(kinds, a, b):
    row = measure(kinds, a=a, b=b)
    assert row["estimate"] == pytest.approx(1)
    assert row["verdict"] == "aliased"


@given(seed=st.integers(0, 999), levels=st.integers(2, 25))
def test_independent_covariates_are_weak_however_many_levels(seed, levels):
    rng = np.random.default_rng(seed)
    a, b = rng.permutation(400) % levels, rng.permutation(400) % 2
    row = measure(BOTH, a=[f"A{k}" for k in a], b=[f"B{k}" for k in b])
    assert row["estimate"] < 0.25
    row = measure(MIXED, a=rng.normal(size=400), b=[f"A{k}" for k in a])
    assert row["estimate"] < 0.3
    assert row["verdict"] == "weak"


@given(seed=st.integers(0, 999))
def test_the_order_of_people_and_the_names_of_levels_do_not_matter(seed):
    frame = draw_people(60, 3, seed)
    turned = frame.sample(frac=1, random_state=seed).assign(site=lambda x: "site " + x["site"])
    one, other = (
        confounding(each, CovariateSchema.fit(each, DECLARED)).set_index(["first", "second"])["estimate"]
        for each in (frame, turned)
    )
    np.testing.assert_allclose(other[one.index], one, atol=1e-12)


def test_every_pair_is_there_strongest_first():
    frame = draw_people(120, 3, 0)
    frame["age"] += 40.0 * (frame["site"] == "S2")
    table = confounding(frame, CovariateSchema.fit(frame, DECLARED))
    assert table[["first", "second"]].iloc[0].tolist() == ["age", "site"]
    assert len(table) == 3
    assert table["estimate"].is_monotonic_decreasing
    assert table["verdict"].iloc[0] == "strong"
    assert (table["n"] == 120).all()


def test_one_covariate_has_no_pairs():
    frame = draw_people(20, 2, 0)
    table = confounding(frame, CovariateSchema.fit(frame, DECLARED[:1]))
    assert table.empty
    assert list(table.columns) == ["first", "second", "measure", "n", "estimate", "verdict"]


def test_people_who_all_have_one_value_tell_nothing():
    frame = draw_people(60, 3, 0)
    schema = CovariateSchema.fit(frame, DECLARED)
    table = confounding(frame.assign(age=50.0, sex="F"), schema)
    assert (table["estimate"] == 0).all()
    assert (table["verdict"] == "weak").all()


def test_small_levels_are_named():
    frame = draw_people(60, 3, 0)
    frame.iloc[0, frame.columns.get_loc("site")] = "Lone"
    lines = small_levels(CovariateSchema.fit(frame, DECLARED), least=10)
    assert lines == ["site 'Lone' has 1 person"]
    assert small_levels(CovariateSchema.fit(frame, DECLARED), least=20)[1] == "site 'S0' has 19 people"


@pytest.mark.parametrize("scans", [2, 3, 5])
def test_levels_and_associations_are_of_people_not_of_scans(scans):
    frame = draw_people(24, 3, 0)
    many = frame.iloc[np.repeat(np.arange(24), scans)]
    whose = [str(key) for key in many.index]
    schema, single = (CovariateSchema.fit(own, DECLARED) for own in (many, frame))
    assert small_levels(schema, frame=many, participants=whose) == small_levels(single)
    assert "site 'S0' has 8 people" in small_levels(single)
    pd.testing.assert_frame_equal(confounding(many, schema, whose), confounding(frame, single))
