import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep._persisted import to_json
from medrep._structuring import from_json
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.errors import CovariateError
from medrep.models.linear.design import Design
from tests.models.planted import AGE, DECLARED, SEX, SITE, draw_people


def design_of(frame: pd.DataFrame, declared=DECLARED, degrees: int = 4, interactions=()) -> tuple[Design, pd.DataFrame]:
    schema = CovariateSchema.fit(frame, declared)
    frame = schema.transfer(frame)
    return Design.fit(schema, frame, degrees, interactions), frame


@given(n=st.integers(20, 60), sites=st.integers(2, 5), seed=st.integers(0, 999))
def test_batch_effects_average_to_zero_over_people(n, sites, seed):
    design, frame = design_of(draw_people(n, sites, seed))
    contrasts = design.contrasts()
    assert contrasts.shape == (1 + 4 + 1 + sites, 1 + 4 + 1 + sites - 1)
    np.testing.assert_allclose(contrasts.T @ contrasts, np.eye(contrasts.shape[1]), atol=1e-10)
    np.testing.assert_allclose((design.batches(frame) @ contrasts[6:]).sum(axis=0), 0, atol=1e-8)


def test_absent_levels_get_no_effect():
    design, frame = design_of(draw_people(40, 4, 0))
    contrasts = design.contrasts(np.array([True, False, True, True]))
    assert contrasts.shape[1] == 1 + 4 + 1 + 2
    np.testing.assert_array_equal(contrasts[6 + 1], 0)
    np.testing.assert_allclose((design.batches(frame) @ contrasts[6:]).sum(axis=0), 0, atol=1e-8)


def test_the_first_coefficient_is_the_pooled_mean():
    design, frame = design_of(draw_people(40, 3, 0), interactions=(("age", "sex"),))
    np.testing.assert_allclose(design.effects(frame).mean(axis=0)[1:], 0, atol=1e-10)


def test_an_interaction_is_the_product_of_its_columns():
    design, frame = design_of(draw_people(40, 3, 0), interactions=(("age", "sex"),))
    assert [len(term.centre) for term in design.terms] == [4, 1, 4]
    effects = design.effects(frame)[:, 1:]
    raw = effects + np.concatenate([term.centre for term in design.terms])
    np.testing.assert_allclose(raw[:, 5:], raw[:, :4] * raw[:, 4:5], atol=1e-12)


def test_the_pooled_reference_has_no_batch_effect():
    design, frame = design_of(draw_people(40, 3, 0))
    np.testing.assert_array_equal(design.batches(frame.assign(site="(pooled)")), 0)


def test_two_batch_covariates_stand_side_by_side():
    frame = draw_people(60, 3, 0).assign(coil=[f"C{k // 3 % 2}" for k in range(60)])
    coil = Covariate("coil", "categorical", "batch")
    design, frame = design_of(frame, (AGE, SITE, coil))
    assert design.batch_slices() == {"site": slice(0, 3), "coil": slice(3, 5)}
    np.testing.assert_array_equal(design.batches(frame).sum(axis=1), 2)


def test_json_round_trip():
    design, frame = design_of(draw_people(40, 3, 0), interactions=(("age", "sex"),))
    again = from_json(Design, json.loads(json.dumps(to_json(design))), {"schema": design.schema})
    assert again == design
    np.testing.assert_array_equal(again.full(frame), design.full(frame))


@pytest.mark.parametrize("group", [("age", "site"), ("age", "weight")])
def test_interactions_are_of_known_effects(group):
    with pytest.raises(CovariateError, match=rf"interactions of {group[1]}: allowed are age, sex"):
        design_of(draw_people(40, 3, 0), interactions=(group,))


@pytest.mark.parametrize("group", [(), ("age",), ("age", "age")])
def test_interactions_join_different_covariates(group):
    with pytest.raises(CovariateError, match="two or more different covariates"):
        design_of(draw_people(40, 3, 0), interactions=(group,))


def aliases(frame: pd.DataFrame, declared=DECLARED, **options) -> str:
    design, frame = design_of(frame, declared, **options)
    with pytest.raises(CovariateError, match="aliased covariates") as error:
        design.check_aliases(frame)
    return str(error.value)


def test_a_categorical_covariate_aliased_with_site():
    frame = draw_people(60, 3, 0)
    message = aliases(frame.assign(sex=np.where(frame["site"] == "S0", "F", "M").tolist()))
    assert "sex and site cannot be told apart" in message
    assert "--set covariates.NAME=null" in message


def test_a_continuous_covariate_aliased_with_site():
    frame = draw_people(60, 3, 0)
    assert "age and site cannot be told apart" in aliases(frame.assign(age=frame["site"].str[1:].astype(float)))


def test_two_continuous_covariates_that_are_the_same():
    frame = draw_people(60, 3, 0)
    declared = (*DECLARED, Covariate("months", "continuous"))
    assert "age and months cannot be told apart" in aliases(frame.assign(months=12 * frame["age"]), declared)


def test_the_same_interaction_twice():
    message = aliases(draw_people(60, 3, 0), interactions=(("age", "sex"), ("sex", "age")))
    assert "age x sex and sex x age cannot be told apart" in message


def test_aliased_only_together():
    frame = draw_people(60, 4, 0)
    frame["a"] = np.where(frame["site"].isin(["S0", "S1"]), "x", "y").tolist()
    assert "a and site" in aliases(frame, (AGE, SEX, Covariate("a", "categorical"), SITE))


def test_fewer_people_than_columns():
    message = aliases(draw_people(7, 2, 0))
    assert "age" in message
    assert "add people" in message


def test_tangled_but_not_aliased_passes():
    frame = draw_people(60, 3, 0)
    frame["sex"] = np.where(frame["site"] == "S0", "F", "M").tolist()
    frame.iloc[0, frame.columns.get_loc("sex")] = "M"
    design, frame = design_of(frame)
    design.check_aliases(frame)
