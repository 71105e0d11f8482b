"""Columns with neighbours on a mesh: smooth effects of sites are kept, noise is not, and models come back with their mesh."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Mesh
from medrep.cohort.neighbours import icosphere
from medrep.errors import ModelError
from medrep.models import LinearModel, LinearSettings, restore_model
from medrep.models.linear.bands import mesh_bands, shrink

FACES = icosphere(2)
EDGES = np.unique(np.sort(np.concatenate([FACES[:, :2], FACES[:, 1:], FACES[:, ::2]]), axis=1), axis=0).astype(np.int32)
MESH, COUNT = Mesh(EDGES), 162
COLUMNS = Columns(tuple(f"left_{k}" for k in range(COUNT)), COUNT, None, mesh=MESH)
DECLARED = (Covariate("age", "continuous"), Covariate("site", "categorical", role="batch"))


def smooth(seed: int, fields: int, steps: int = 40) -> np.ndarray:
    """Return random fields that vary slowly over the mesh."""
    near = np.zeros((COUNT, COUNT))
    near[EDGES[:, 0], EDGES[:, 1]] = near[EDGES[:, 1], EDGES[:, 0]] = 1
    walk = (np.eye(COUNT) + near / near.sum(axis=1, keepdims=True)) / 2
    found = np.random.default_rng(seed).normal(size=(fields, COUNT)) @ np.linalg.matrix_power(walk, steps).T
    return np.asarray(found / found.std(axis=1, keepdims=True))


def people(seed: int, count: int = 60, amplitude: float = 0.4) -> tuple[Dataset, np.ndarray]:
    """Return people of three sites on the mesh, and what the sites are off by, as their mean is 0."""
    rng = np.random.default_rng(seed)
    site = np.arange(count) % 3
    truth = amplitude * smooth(seed, 3)
    truth -= truth.mean(axis=0)
    frame = pd.DataFrame(
        {"age": rng.uniform(20, 80, count), "site": [f"S{k}" for k in site]},
        index=pd.Index([f"sub-{k:02d}" for k in range(count)], name="key"),
    )
    values = 2.5 + 0.01 * frame["age"].to_numpy()[:, None] + truth[site] + rng.normal(size=(count, COUNT))
    schema = CovariateSchema.fit(frame, DECLARED)
    return Dataset(values, schema.transfer(frame), schema, COLUMNS), truth


def error(dataset: Dataset, truth: np.ndarray, **given: object) -> float:
    model, _ = LinearModel.fit(dataset, LinearSettings(components=0, **given))
    return float(np.sqrt(np.mean((model.batches.location - truth) ** 2)))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.booleans(), min_size=COUNT, max_size=COUNT))
def test_bands_add_up_to_the_field_and_leave_what_does_not_vary(seed: int, varies: list[bool]) -> None:
    some = np.array(varies)
    bands = mesh_bands(some, MESH)
    fields = np.random.default_rng(seed).normal(size=(2, COUNT)) * some
    np.testing.assert_allclose(bands.weigh(fields, np.ones((2, bands.count))), fields, atol=1e-12)
    assert np.abs(bands.weigh(fields, np.random.default_rng(seed).uniform(size=(2, bands.count)))[:, ~some]).sum() == 0
    assert bands.energy(fields).shape == (2, bands.count)


def test_a_constant_lies_in_the_span_and_the_order_of_vertices_does_not_matter() -> None:
    bands = mesh_bands(np.ones(COUNT, bool), MESH)
    np.testing.assert_allclose(bands.energy(np.full((1, COUNT), 3.0)), [[9 * COUNT, 0, 0, 0, 0, 0]], atol=1e-9)
    order = np.random.default_rng(1).permutation(COUNT)
    place = np.argsort(order)
    other = mesh_bands(np.ones(COUNT, bool), Mesh(np.sort(place[EDGES], axis=1).astype(np.int32)))
    fields = smooth(1, 2) + np.random.default_rng(2).normal(size=(2, COUNT))
    np.testing.assert_allclose(other.energy(fields[:, order]), bands.energy(fields))


def test_infinite_noise_leaves_nothing_and_none_leaves_all() -> None:
    bands, fields = mesh_bands(np.ones(COUNT, bool), MESH), smooth(3, 2)
    np.testing.assert_allclose(shrink(fields, np.zeros((2, bands.count)), bands)[0], fields, atol=1e-12)
    assert np.abs(shrink(fields, np.full((2, bands.count), np.inf), bands)[0]).max() == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_smooth_sites_are_told_better_than_over_columns(seed: int) -> None:
    dataset, truth = people(seed)
    assert error(dataset, truth) < 0.8 * error(dataset, truth, borrow="columns")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_where_sites_do_not_differ_no_more_is_found_than_over_columns(seed: int) -> None:
    dataset, truth = people(seed, amplitude=0.0)
    assert error(dataset, truth) < error(dataset, truth, borrow="columns") + 0.005


def test_the_null_intervention_is_the_identity() -> None:
    dataset, _ = people(4)
    model, _ = LinearModel.fit(dataset, LinearSettings())
    for site in ("S0", "S2"):
        own = np.flatnonzero(dataset.covariates["site"] == site)
        some = model.dataset(dataset.values[own], dataset.covariates.iloc[own])
        np.testing.assert_allclose(model.remove(some, {"site": site}), some.values, atol=1e-12)


def test_a_model_comes_back_with_its_mesh() -> None:
    dataset, _ = people(5)
    model, _ = LinearModel.fit(dataset, LinearSettings())
    again = restore_model("linear", *model.state())
    assert again.columns.mesh is not None
    np.testing.assert_array_equal(again.columns.mesh.edges, EDGES)
    assert model.batches.location_noise.shape == (6,)
    target = {"site": "S1"}
    np.testing.assert_array_equal(again.remove(dataset, target), model.remove(dataset, target))


def test_columns_without_a_mesh_are_as_they_were() -> None:
    dataset, _ = people(6)
    without = replace(dataset, columns=replace(COLUMNS, mesh=None))
    assert without.columns == dataset.columns
    plain, _ = LinearModel.fit(without, LinearSettings())
    columns, _ = LinearModel.fit(dataset, LinearSettings(borrow="columns"))
    np.testing.assert_array_equal(plain.batches.location, columns.batches.location)
    assert not any("mesh" in name for name in plain.state()[1])
    with pytest.raises(ModelError, match="the columns have no grid"):
        LinearModel.fit(without, LinearSettings(borrow="space"))


def test_edges_beyond_the_columns_are_refused() -> None:
    dataset, _ = people(7)
    model, _ = LinearModel.fit(dataset, LinearSettings(components=0))
    content, arrays = model.state()
    name = next(name for name in arrays if "edges" in name)
    with pytest.raises(Exception, match="the mesh has edges of columns that are not there"):
        restore_model("linear", content, arrays | {name: arrays[name] + np.int32(COUNT)})
