"""Voxels of a mask, and large images: the same fit as of whole grids, in float32."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid, Mask
from medrep.models import LinearModel, LinearSettings, restore_model

GRID = Grid((6, 7, 5), (2.0, 2.0, 2.0))
DECLARED = (
    Covariate("age", "continuous"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", role="batch"),
)


def draw(seed, people=36, background=0.0):
    """Draw people with age and sites that differ in location and scale, background outside of a mask, and their covariates."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": rng.uniform(20, 80, people),
            "sex": rng.permutation(["F", "M"] * people)[:people],
            "site": [f"S{k % 3}" for k in range(people)],
        },
        index=pd.Index([f"sub-{k:02d}" for k in range(people)], name="key"),
    )
    inside = rng.uniform(size=GRID.size) < 0.6
    site = rng.normal(0, 3, (3, GRID.size))[np.arange(people) % 3]
    scale = np.exp(rng.normal(0, 0.3, (3, 1)))[np.arange(people) % 3]
    data = (
        100 + np.outer(frame["age"] - 50, rng.normal(0, 0.1, GRID.size)) + site + scale * rng.normal(0, 4, site.shape)
    )
    schema = CovariateSchema.fit(frame, DECLARED)
    return np.where(inside, data, background).astype(np.float32), inside, schema, schema.transfer(frame)


def fitted(data, schema, frame, mask=None, **given):
    columns = Columns.of_grid(GRID, mask)
    rows = data if mask is None else data[:, mask.places]
    dataset = Dataset(rows, frame, schema, columns)
    return LinearModel.fit(dataset, LinearSettings(**given))[0], dataset


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, -1024.0]), st.booleans())
def test_the_fit_inside_a_mask_is_that_of_the_whole_grid(seed, background, scale):
    data, inside, schema, frame = draw(seed, background=background)
    mask = Mask.of(inside, background)
    whole, people = fitted(data, schema, frame, scale=scale, components=0)
    masked, some = fitted(data, schema, frame, mask, scale=scale, components=0)
    for name in ("coefficients", "sd"):
        np.testing.assert_allclose(getattr(masked, name), getattr(whole, name)[..., inside], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(masked.batches.location, whole.batches.location[:, inside], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(masked.batches.log_scale, whole.batches.log_scale[:, inside], rtol=1e-6, atol=1e-7)
    target = schema.references(["site"], {})
    np.testing.assert_allclose(masked.remove(some, target), whole.remove(people, target)[:, inside], rtol=1e-6)
    np.testing.assert_array_equal(masked.remove(some, {"site": "S1"})[1::3], some.values[1::3])
    again = restore_model("linear", *masked.state())
    np.testing.assert_array_equal(again.remove(some, target), masked.remove(some, target))
    assert again.columns == masked.columns


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 10_000))
def test_background_inside_a_mask_stays_whoever_has_it(seed):
    data, inside, schema, frame = draw(seed)
    place = int(np.flatnonzero(inside)[5])
    data[7, place] = 0
    model, people = fitted(data, schema, frame, Mask.of(inside, 0.0))
    moved = model.remove(people, schema.references(["site"], {}))
    assert moved[7, 5] == 0
    assert (moved[np.arange(36) != 7, 5] != people.values[np.arange(36) != 7, 5]).any()


def test_voxels_outside_of_a_persons_own_mask_are_left_out_and_stay():
    data, inside, schema, frame = draw(3)
    mask = Mask.of(inside, 0.0)
    complete, _ = fitted(data, schema, frame, mask)
    lacking = data.copy()
    edge = mask.places[:10]
    lacking[::4, edge] = np.nan
    model, people = fitted(lacking, schema, frame, mask)
    few = np.isfinite(lacking[:, edge]).sum(axis=0)
    assert (few == 27).all()
    np.testing.assert_allclose(model.sd[10:], complete.sd[10:], rtol=0.05)
    moved = model.remove(people, schema.references(["site"], {}))
    np.testing.assert_array_equal(np.isnan(moved), np.isnan(people.values))
    others = np.arange(36) % 4 != 0
    alone, _ = fitted(data[others], schema, frame[others], mask)
    np.testing.assert_allclose(model.coefficients[0, :10], alone.coefficients[0, :10], rtol=0.02)


@pytest.fixture
def large(monkeypatch):
    """Let every image count as large."""
    monkeypatch.setattr("medrep.models.linear.fit.LARGE", 0)
    monkeypatch.setattr("medrep.models.chunks._WIDE", 0)


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_kept_of_large_images_is_single_and_the_same(large, masked, monkeypatch):
    data, inside, schema, frame = draw(1)
    mask = Mask.of(inside, 0.0) if masked else None
    model, people = fitted(data, schema, frame, mask, components=4)
    arrays = model.state()[1]
    kept = ("coefficients", "sd", "batches.location", "batches.log_scale", "components", "masses.values")
    assert {arrays[name].dtype.name for name in kept if name in arrays} == {"float32"}
    monkeypatch.undo()
    double, _ = fitted(data, schema, frame, mask, components=4)
    target = schema.references(["site"], {})
    np.testing.assert_allclose(model.remove(people, target), double.remove(people, target), rtol=1e-5)
    np.testing.assert_array_equal(model.remove(people, {"site": "S2"})[2::3], people.values[2::3])
