"""Standardising for some covariates and back, with columns and cells that have no fit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.covariates import POOLED
from medrep.models import LinearModel, LinearSettings
from medrep.models.linear.design import natural_spline
from medrep.models.vae.residuals import batch_scale, standardise, unstandardise
from tests.models.planted import AGE, DIAGNOSIS, SEX, SITE, Case, cases, draw_data, draw_people

pytestmark = pytest.mark.rounding

NAMES = ("age", "sex", "site")
subsets = st.sets(st.sampled_from(NAMES))
ATOL = 1e-3  # residuals are held in float32


def messy(case: Case, seed: int) -> Case:
    """Put a constant column and one of mostly one value beside the others, and leave some cells out."""
    rng = np.random.default_rng([seed, 5])
    people = len(case.frame)
    flat, stuck = np.full(people, 7.0), np.where(rng.uniform(size=people) < 0.3, rng.uniform(1, 2, people), 0.0)
    data = np.concatenate([flat[:, None], case.data, stuck[:, None]], axis=1)
    data[rng.uniform(size=data.shape) < 0.02] = np.nan
    return replace(case, data=data)


def elsewhere(frame, known):
    """Change everything but what is known: other ages, labels of other people, levels nobody has."""
    shuffled = frame.iloc[::-1].set_axis(frame.index)
    values = {"age": shuffled["age"] + 30, "sex": shuffled["sex"], "site": [POOLED, "S99"] * (len(frame) // 2 + 1)}
    values["site"] = values["site"][: len(frame)]
    return frame.assign(**{name: own for name, own in values.items() if name not in known})


@given(case=cases(), known=subsets, seed=st.integers(0, 99), own=st.booleans())
def test_standardising_and_back_returns_the_data(case, known, seed, own):
    case = messy(case, seed)
    model = case.fit()
    frame = case.frame if own else elsewhere(case.frame, ())
    h = standardise(model, case.data, frame, known)
    assert h.dtype == np.float32
    assert np.isfinite(h).all()
    assert not h[~np.isfinite(case.data)].any()
    assert not h[:, model.sd == 0].any()
    back = unstandardise(model, h, frame, known, case.data, np.empty_like(case.data))
    np.testing.assert_allclose(back, case.data, atol=ATOL)
    np.testing.assert_array_equal(back[:, model.sd == 0], case.data[:, model.sd == 0])
    np.testing.assert_array_equal(unstandardise(model, h, frame, known, case.data, case.data), back)


@given(case=cases(), known=subsets, seed=st.integers(0, 99))
def test_what_is_not_known_is_not_looked_at(case, known, seed):
    case = messy(case, seed)
    model = case.fit()
    expected = standardise(model, case.data, case.frame, known)
    seen = model.design.looked_at(known)
    assert seen == known or case.settings.interactions
    for frame in (elsewhere(case.frame, seen), case.frame[sorted(seen)]):
        np.testing.assert_array_equal(standardise(model, case.data, frame, known), expected)
        moved, same = (
            unstandardise(model, expected, own, known, case.data, np.empty_like(case.data))
            for own in (frame, case.frame)
        )
        np.testing.assert_array_equal(moved, same)


@given(case=cases(), seed=st.integers(0, 99))
def test_with_all_known_the_residual_is_that_of_the_linear_model(case, seed):
    case = messy(case, seed)
    model = case.fit()
    for frame in (case.frame, elsewhere(case.frame, ("age", "sex"))):
        chunks = [chunk for _, chunk in model.residuals(model.dataset(case.data, frame)).map(lambda part, chunk: chunk)]
        exact = standardise(model, case.data, frame, NAMES, out=np.empty(case.data.shape))
        np.testing.assert_allclose(exact, np.concatenate(chunks, axis=1), atol=1e-9)
        np.testing.assert_allclose(standardise(model, case.data, frame, NAMES), exact, atol=ATOL)


def by_hand(model: LinearModel, case: Case, known) -> np.ndarray:
    """Return (x - alpha - sum of f_k - sigma gamma_b) / (sigma delta_b), a term at a time."""
    mean = np.tile(model.coefficients[0], (len(case.frame), 1))
    effect, row = np.zeros_like(mean), 1
    for term in model.design.terms:
        columns, at_mean = np.ones((len(case.frame), 1)), np.ones((len(case.frame), 1))
        for name in term.covariates:
            values = case.frame[name]
            own = (
                natural_spline(values.to_numpy(float), model.design.knots[name])
                if name == "age"
                else (values == "M").to_numpy(float)[:, None]
            )
            mean_own = np.tile(own.mean(axis=0), (len(own), 1)) if name in known else own
            columns = np.concatenate([columns * own[:, [k]] for k in range(own.shape[1])], axis=1)
            at_mean = np.concatenate([at_mean * mean_own[:, [k]] for k in range(own.shape[1])], axis=1)
        width = len(term.centre)
        if set(term.covariates) & set(known):
            centre = np.asarray(term.centre) if set(term.covariates) <= set(known) else at_mean
            effect += (columns - centre) @ model.coefficients[row : row + width]
        row += width
    delta = np.ones_like(mean)
    if "site" in known:
        site = [model.schema.levels("site").index(level) for level in case.frame["site"]]
        mean, delta = mean + model.batches.location[site], np.exp(model.batches.log_scale[site])
    mean = mean + effect * (delta if model.gain else 1)
    return (case.data - mean) / (model.sd * delta)


@given(case=cases(), known=subsets)
def test_the_residual_is_the_formula(case, known):
    model = case.fit()
    exact = standardise(model, case.data, case.frame, known, out=np.empty(case.data.shape))
    np.testing.assert_allclose(exact, by_hand(model, case, known), atol=1e-8)


@given(case=cases(), known=subsets)
def test_a_batch_scales_only_where_it_is_known(case, known):
    model = case.fit()
    site = [model.schema.levels("site").index(level) for level in case.frame["site"]]
    expected = np.exp(model.batches.log_scale)[site] if "site" in known else np.ones(case.data.shape)
    np.testing.assert_allclose(batch_scale(model, case.frame, known), expected)


@given(case=cases(), known=subsets, person=st.integers(0, 39))
def test_moving_to_where_somebody_is_changes_nothing(case, known, person):
    model = case.fit()
    own = case.frame.iloc[[person] * len(case.frame)].set_axis(case.frame.index)
    h = standardise(model, case.data, case.frame, known, out=np.empty(case.data.shape))
    moved = unstandardise(model, h, own, known, case.data, np.empty_like(case.data))
    np.testing.assert_allclose(moved[person], case.data[person], atol=1e-8)


@given(case=cases(("line", "default")), moved=st.sets(st.sampled_from(("age", "sex"))), person=st.integers(0, 39))
def test_moving_effects_is_what_the_linear_model_does(case, moved, person):
    model = case.fit()
    target = {name: case.frame[name].iloc[person] for name in sorted(moved)}
    there = model.schema.transformed(case.frame, target)
    h = standardise(model, case.data, case.frame, moved, out=np.empty(case.data.shape))
    found = unstandardise(model, h, there, moved, case.data, np.empty_like(case.data))
    np.testing.assert_allclose(found, model.remove(model.dataset(case.data, case.frame), target), atol=1e-8)


THREE = (AGE, SEX, DIAGNOSIS, SITE)
INTERACTIONS = {
    "two pairs": (("age", "sex"), ("diagnosis", "age")),
    "levels": (("sex", "diagnosis"),),
    "three": (("sex", "age", "diagnosis"),),
    "all": (("age", "sex"), ("age", "diagnosis"), ("sex", "diagnosis"), ("age", "sex", "diagnosis")),
}


@pytest.mark.parametrize("interactions", INTERACTIONS.values(), ids=INTERACTIONS)
@pytest.mark.parametrize("moved", [("age",), ("sex",), ("diagnosis",), ("age", "sex"), ("age", "sex", "diagnosis")])
def test_any_subset_of_three_interacting_covariates_moves_as_in_the_linear_model(interactions, moved):
    frame = draw_people(120, 3, 4)
    frame["diagnosis"] = [f"D{k // 6 % 3}" for k in range(120)]
    data = draw_data(frame, 4, 4) + (frame["diagnosis"] == "D1").to_numpy()[:, None] * frame[["age"]].to_numpy() / 20
    model = Case(frame, data, LinearSettings(spline_degrees=2, interactions=interactions), THREE).fit()
    target = model.schema.references(moved)
    there = model.schema.transformed(frame, target)
    h = standardise(model, data, frame, moved, out=np.empty(data.shape))
    found = unstandardise(model, h, there, moved, data, np.empty_like(data))
    np.testing.assert_allclose(found, model.remove(model.dataset(data, frame), target), atol=1e-8)
    # What stays in h of an interaction is the others' effect at the mean of what moved, and nothing else.
    kept = [name for name in ("age", "sex", "diagnosis") if name not in moved]
    closed, averaged = model.design.closed(), model.design.averaged(model.coefficients[1:], kept)
    left = closed.effects(frame)[:, 1:] @ averaged
    mean = data - h * model.sd - model.coefficients[0]
    whole = (model.design.effects(frame)[:, 1:]) @ model.coefficients[1:]
    both = mean + left - whole
    np.testing.assert_allclose(both, np.tile(both[0], (len(both), 1)), atol=1e-8)
