import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep._persisted import to_json
from medrep._structuring import from_json
from medrep.cohort.covariates import (
    POOLED,
    Categorical,
    Continuous,
    Covariate,
    CovariateSchema,
    membership,
)
from medrep.errors import CovariateError

AGE = Covariate("age", "continuous", unit="year")
SEX = Covariate("sex", "categorical")
SITE = Covariate("site", "categorical", role="batch")
ALL = (AGE, SEX, SITE)

numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))
levels = st.sampled_from(["A", "B", "C", "é", "x,y", "Straße"])


@st.composite
def frames(draw):
    rows = draw(st.integers(4, 12))
    age = draw(st.lists(numbers, min_size=rows, max_size=rows, unique=True))
    sex = ["M", "F", *draw(st.lists(st.sampled_from(["M", "F"]), min_size=rows - 2, max_size=rows - 2))]
    site = ["A", "B", *draw(st.lists(levels, min_size=rows - 2, max_size=rows - 2))]
    index = pd.Index([f"sub-{n}" for n in range(rows)], name="key")
    return pd.DataFrame({"age": age, "sex": sex, "site": site}, index=index)


def cohort(**changes):
    frame = pd.DataFrame({"age": [20.0, 30.0, 70.0], "sex": ["M", "F", "F"], "site": ["A", "B", "A"]})
    return frame.set_axis(["sub-1", "sub-2", "sub-3"]).assign(**changes)


@given(frames())
def test_a_schema_survives_json_exactly(frame):
    schema = CovariateSchema.fit(frame, ALL)
    assert from_json(CovariateSchema, json.loads(json.dumps(to_json(schema), allow_nan=False))) == schema


def test_declarations_survive_json_too():
    declared = [
        Covariate("age", "continuous", unit="year", column="Alter", reference="40", missing="drop", inexact="midpoint"),
        Covariate("sex", "categorical", reference="F", missing="impute"),
    ]
    schema = CovariateSchema.fit(cohort(), declared)
    assert from_json(CovariateSchema, json.loads(json.dumps(to_json(schema)))).fitted[0].declared == declared[0]
    assert schema["age"].reference == 40.0


@given(frames(), st.permutations(["age", "sex", "site"]))
def test_the_order_of_columns_and_further_columns_change_nothing(frame, order):
    schema = CovariateSchema.fit(frame, ALL)
    shuffled = frame.loc[:, list(order)].assign(other=1)
    assert CovariateSchema.fit(shuffled, ALL) == schema
    pd.testing.assert_frame_equal(schema.transfer(shuffled), schema.transfer(frame))


@given(frames(), st.randoms(use_true_random=False))
def test_the_order_of_people_changes_no_level_and_permutes_vectors(frame, random):
    order = random.sample(range(len(frame)), len(frame))
    schema, again = CovariateSchema.fit(frame, ALL), CovariateSchema.fit(frame.iloc[order], ALL)
    assert again["sex"] == schema["sex"]
    assert again["site"] == schema["site"]
    np.testing.assert_array_equal(schema.vector(frame.iloc[order]), schema.vector(frame)[order])


@given(frames())
def test_vectors_are_standardised_numbers_and_one_column_a_level(frame):
    schema = CovariateSchema.fit(frame, ALL)
    vector = schema.vector(schema.transfer(frame))
    assert vector.shape == (len(frame), 1 + len(schema["sex"].levels) + len(schema["site"].levels))
    np.testing.assert_allclose(vector[:, 0] * schema["age"].sd + schema["age"].mean, frame["age"], rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(vector[:, 0].mean(), 0, atol=1e-6)
    np.testing.assert_array_equal(vector[:, 1:].sum(axis=1), 2)
    np.testing.assert_array_equal(vector[:, 1:].sum(axis=0), [*schema["sex"].counts, *schema["site"].counts])


def test_vectors_of_nobody_and_of_nothing_have_a_shape():
    schema = CovariateSchema.fit(cohort(), ALL)
    assert schema.vector(cohort().iloc[:0]).shape == (0, 5)
    assert CovariateSchema(()).vector(cohort()).shape == (3, 0)


@given(frames())
def test_transfer_is_idempotent_and_moving_to_the_own_value_is_nothing(frame):
    schema = CovariateSchema.fit(frame, ALL)
    transformed = schema.transfer(frame)
    pd.testing.assert_frame_equal(schema.transfer(transformed), transformed)
    one = transformed.iloc[[0]]
    assert schema.transformed(one, {name: one[name].iloc[0] for name in schema.names}).equals(one)


def test_fitted_statistics_are_those_of_the_training_people():
    schema = CovariateSchema.fit(cohort(), ALL)
    sd = np.std([20.0, 30.0, 70.0])
    assert schema["age"] == Continuous(AGE, 40.0, float(sd), 20.0, 70.0, 40.0)
    assert schema["sex"] == Categorical(SEX, ("F", "M"), (2, 1), "F")
    assert schema["site"] == Categorical(SITE, ("A", "B"), (2, 1), POOLED)
    assert schema.names == ("age", "sex", "site")
    assert schema.batches == ("site",)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(CovariateError, match="no covariate 'bmi' in the model; it knows age, sex, site"):
        CovariateSchema.fit(cohort(), ALL)["bmi"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"age": 30.0}, "age is 30 for all 3 people; drop it with --set covariates.age=null"),
        ({"sex": "F"}, "sex is 'F' for all 3 people; drop it with --set covariates.sex=null"),
        ({"age": np.nan}, "age is missing for all 3 people; drop it with --set covariates.age=null"),
        ({"sex": None}, "sex is missing for all 3 people; drop it with --set covariates.sex=null"),
    ],
)
def test_a_covariate_without_variation_is_refused(changes, message):
    with pytest.raises(CovariateError, match=message):
        CovariateSchema.fit(cohort(**changes), ALL)


def test_fitting_names_columns_that_are_not_there():
    with pytest.raises(CovariateError, match="covariates the table does not have: sex, site; read them"):
        CovariateSchema.fit(cohort()[["age"]], ALL)


def test_transfer_names_all_covariates_that_are_absent():
    with pytest.raises(CovariateError, match="trained with are absent: age, site"):
        CovariateSchema.fit(cohort(), ALL).transfer(cohort()[["sex"]])


def test_transfer_lists_everybody_with_an_unseen_level():
    schema = CovariateSchema.fit(cohort(), ALL)
    with pytest.raises(CovariateError) as refusal:
        schema.transfer(cohort(site=["C", "A", "D"], sex=["M", "F", "X"]))
    assert str(refusal.value).splitlines() == [
        "levels the model has not seen (3):",
        "  sub-3: sex 'X' was not in training (F, M)",
        "  sub-1: site 'C' was not in training (A, B)",
        "  sub-3: site 'D' was not in training (A, B)",
        "  refit with such people, or pass --unseen-site adapt (Python: unseen_site='adapt')",
    ]


def test_adapt_lets_unseen_batches_pass_and_nothing_else():
    schema = CovariateSchema.fit(cohort(), ALL)
    assert list(schema.transfer(cohort(site=["C", "A", "D"]), unseen="adapt")["site"]) == ["C", "A", "D"]
    with pytest.raises(CovariateError, match=r"sub-1: sex 'X' was not in training \(F, M\); .* or leave them out"):
        schema.transfer(cohort(sex=["X", "F", "M"]), unseen="adapt")


def test_transfer_uses_the_spelling_of_training():
    schema = CovariateSchema.fit(cohort(site=["Leiden", "b", "b"]), ALL)
    assert list(schema.transfer(cohort(site=["LEIDEN", "B", "leiden"]))["site"]) == ["Leiden", "b", "Leiden"]


@pytest.mark.parametrize("missing", ["error", "drop"])
def test_transfer_refuses_gaps_unless_imputing_is_the_policy(missing):
    declared = [Covariate("age", "continuous", missing=missing), Covariate("sex", "categorical", missing=missing)]
    schema = CovariateSchema.fit(cohort(), declared)
    with pytest.raises(CovariateError) as refusal:
        schema.transfer(cohort(age=[np.nan, 1.0, 2.0], sex=["M", None, None]))
    assert str(refusal.value).splitlines() == [
        "people without a covariate (3):",
        "  sub-1: age is missing",
        "  sub-2: sex is missing",
        "  sub-3: sex is missing",
        "  fill it in, or leave them out",
    ]


def test_imputing_uses_the_mean_and_the_most_frequent_level_of_training():
    declared = [Covariate("age", "continuous", missing="impute"), Covariate("sex", "categorical", missing="impute")]
    schema = CovariateSchema.fit(cohort(), declared)
    transformed = schema.transfer(cohort(age=[np.nan, 1.0, 2.0], sex=["M", None, "M"]))
    assert list(transformed["age"]) == [40.0, 1.0, 2.0]
    assert list(transformed["sex"]) == ["M", "F", "M"]


def test_references_are_the_users_then_the_schemas():
    schema = CovariateSchema.fit(cohort(), ALL)
    assert schema.references(["age", "sex", "site"]) == {"age": 40.0, "sex": "F", "site": POOLED}
    assert schema.references(["age", "site"], {"age": "55,5", "site": "A"}) == {"age": 55.5, "site": "A"}
    assert schema.references(["site"], {"site": "pooled"}) == {"site": POOLED}


@pytest.mark.parametrize(
    ("removed", "chosen", "message"),
    [
        (["bmi"], {}, "unknown covariate bmi; the model knows age, sex, site"),
        (["site"], {"scanner": "A"}, "unknown covariate scanner"),
        (["site"], {"age": 3}, "a reference is given for age, which is not removed; add it to --remove"),
        (["site"], {"site": "Z"}, "reference site='Z' was not in training; allowed: A, B, pooled"),
        (["sex"], {"sex": "pooled"}, "reference sex='pooled' was not in training; allowed: F, M$"),
        (["age"], {"age": "old"}, "reference age='old' is no number; give one in year"),
        (["age"], {"age": "n/a"}, "reference age='n/a' is no number"),
        (["age"], {"age": "89+"}, "is no number"),
        (["age"], {"age": float("nan")}, "is no number"),
    ],
)
def test_references_that_cannot_be_are_refused(removed, chosen, message):
    with pytest.raises(CovariateError, match=message):
        CovariateSchema.fit(cohort(), ALL).references(removed, chosen)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (Covariate("site", "categorical", role="batch", reference="Z"), "site='Z' was not in training; allowed: A, B"),
        (Covariate("age", "continuous", reference="old"), "reference age='old' is no number; give one in its unit"),
    ],
)
def test_a_declared_reference_must_exist(declared, message):
    with pytest.raises(CovariateError, match=message):
        CovariateSchema.fit(cohort(), [declared])


def test_membership_is_one_for_the_own_level_shares_for_the_pool_and_nothing_if_unseen():
    sites = Categorical(SITE, ("A", "B"), (3, 1), POOLED)
    expected = [[1, 0], [0, 1], [0.75, 0.25], [0, 0]]
    np.testing.assert_array_equal(membership(pd.Series(["A", "B", POOLED, "Z"]), sites), expected)


def test_a_schema_is_frozen():
    schema = CovariateSchema.fit(cohort(), ALL)
    with pytest.raises(AttributeError):
        schema.fitted = ()


def sites(*levels, **more):
    frame = pd.DataFrame({"site": [*levels, *levels]}).set_axis([f"sub-{n}" for n in range(2 * len(levels))])
    return CovariateSchema.fit(frame, [Covariate("site", "categorical", role="batch", **more)])


def newcomers(*levels):
    return pd.DataFrame({"site": list(levels)}, index=[f"new-{n}" for n in range(len(levels))])


@pytest.mark.parametrize(
    ("known", "given"),
    [("1", "1.0"), ("1.0", "1"), ("Zürich", "Zu\u0308rich"), ("Site A", "Site\u00a0 A"), ('"A"', "A"), ("A", "\uff21")],
)
@pytest.mark.parametrize("unseen", ["error", "adapt"])
def test_another_spelling_of_a_site_of_training_is_that_site(known, given, unseen):
    assert list(sites(known, "else").transfer(newcomers(given, "else"), unseen=unseen)["site"]) == [known, "else"]


@pytest.mark.parametrize(("known", "given"), [("01", "1"), ("1", "01"), ("1", "True"), ("S1", "S01"), ("1.5", "1.50")])
@pytest.mark.parametrize("unseen", ["error", "adapt"])
def test_what_looks_like_a_site_of_training_never_becomes_a_new_one(known, given, unseen):
    with pytest.raises(CovariateError) as refusal:
        sites(known, "else").transfer(newcomers("else", given), unseen=unseen)
    assert str(refusal.value) == (
        f"levels that look like those of training: new-1: site {given!r} looks like {known!r} of training; write it as in"
        " training where it is the same, and give it a name of its own where it is not"
    )


def test_levels_that_training_told_apart_stay_apart():
    schema = sites("1", "01", verbatim=("1", "01"))
    assert list(schema.transfer(newcomers("01", "1"))["site"]) == ["01", "1"]
    assert schema.declared[0].verbatim == ("1", "01")


@pytest.mark.parametrize(
    ("levels", "reference", "named"),
    [
        (("1", "2"), 2, "2"),
        (("1", "2"), 2.0, "2"),
        (("1", "2"), "2.0", "2"),
        (("1.0", "2.0"), "2", "2.0"),
        (("007", "8"), "007", "007"),
        (("NO", "SE"), "NO", "NO"),
        (("A", "B"), "a", "A"),
        (("A", "B"), "pooled", POOLED),
    ],
)
def test_a_reference_is_found_in_any_certain_spelling(levels, reference, named):
    assert sites(*levels, reference=reference)["site"].reference == named
    assert sites(*levels).references(["site"], {"site": reference}) == {"site": named}


@pytest.mark.parametrize(("levels", "reference"), [(("007", "8"), 7), (("1", "2"), "02"), (("NO", "SE"), "False")])
def test_a_reference_that_only_looks_like_a_level_is_refused_with_the_levels(levels, reference):
    with pytest.raises(CovariateError, match=f"was not in training; allowed: {', '.join(levels)}, pooled"):
        sites(*levels, reference=reference)


def test_sex_is_found_by_the_words_for_it():
    assert CovariateSchema.fit(cohort(), ALL).references(["sex"], {"sex": "male"}) == {"sex": "M"}


def test_what_is_declared_beyond_the_usual_survives_json_and_the_usual_stays_as_it_was():
    declared = [
        Covariate("age", "continuous", missing_codes=("-9",), limits=(0.0, 120.0)),
        Covariate("site", "categorical", "batch", verbatim=("NA",), meanings={"A": "Aachen"}),
    ]
    schema = CovariateSchema.fit(cohort(), declared)
    assert from_json(CovariateSchema, json.loads(json.dumps(to_json(schema)))) == schema
    usual = to_json(CovariateSchema.fit(cohort(), ALL))["covariates"][0]["declared"]
    assert set(usual) == {"name", "kind", "role", "unit", "column", "reference", "missing", "inexact"}
