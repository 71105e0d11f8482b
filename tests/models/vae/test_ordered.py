"""Ordered latents: one monotone curve of all columns, straight beyond training, and a network that never sees the value."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.errors import ModelError
from medrep.models import ConditionalVae, LinearModel, LinearSettings, VaeSettings, restore_model
from medrep.models.linear.design import natural_spline
from medrep.models.vae.objective import condition_vector
from medrep.models.vae.ordered import chosen_degrees, common_curve, ordered_effects
from medrep.models.vae.roles import Roles
from medrep.training.schedule import Schedule
from tests.models.planted import DECLARED, draw_people, named

CLOSED = VaeSettings(body="linear", latents=4, roles=Roles(ordered=("age",)))
TRAINED = replace(
    CLOSED,
    body="mlp",
    hidden=(12,),
    strength=1.0,
    training=Schedule(epochs=3, batch=64, learning_rate=1e-3, threads=1),
)


@pytest.fixture(scope="module")
def people() -> tuple[Dataset, np.ndarray]:
    """A curve that levels off, of all columns, with sex and sites; and what age alone does to each."""
    frame, rng, columns = draw_people(300, 3, 7), np.random.default_rng([7, 1]), 24
    curve = 1 - np.exp(-(frame["age"].to_numpy(float) - 20) / 25)
    effect = np.outer((curve - curve.mean()) / curve.std(), rng.normal(size=columns))
    own = effect + rng.normal(size=(len(frame), 2)) @ rng.normal(size=(2, columns)) * 0.7
    own += 0.7 * rng.normal(size=own.shape) + np.outer(frame["sex"] == "M", rng.normal(size=columns) * 0.5)
    own += rng.normal(size=(3, columns))[frame["site"].str.removeprefix("S").to_numpy(int)]
    schema = CovariateSchema.fit(frame, DECLARED)
    return Dataset(own, schema.transfer(frame), schema, named(columns)), effect


@pytest.fixture(scope="module", params=[CLOSED, TRAINED], ids=["closed", "trained"])
def model(request: pytest.FixtureRequest, people: tuple[Dataset, np.ndarray]) -> ConditionalVae:
    return ConditionalVae.fit(people[0], request.param)[0]


def _age_effect(linear: LinearModel, frame: pd.DataFrame, ages: np.ndarray) -> np.ndarray:
    """What age alone does to each column, in its residual deviations."""
    some = frame.iloc[[0] * len(ages)].assign(age=ages)
    return (linear.design.transformed_effects(some, ("age",))[:, 1:] @ linear.coefficients[1:]) / linear.sd


def test_all_columns_share_a_monotone_curve_that_goes_on_straight(model, people):
    frame = people[0].covariates
    ages = np.linspace(frame["age"].min(), frame["age"].max() + 40, 60)
    effect = _age_effect(model.parts.linear, frame, ages)
    left, values, _ = np.linalg.svd(effect - effect[0], full_matrices=False)
    assert values[1] < 1e-9 * values[0]
    curve = left[:, 0] * np.sign(left[-1, 0])
    assert (np.diff(curve) > -1e-9).all()
    beyond = curve[ages > frame["age"].max()]
    np.testing.assert_allclose(np.diff(beyond), np.diff(beyond)[0], atol=1e-9)


def test_it_is_nearer_to_the_truth_than_a_spline_of_each_column(people):
    dataset, effect = people
    linear, _ = LinearModel.fit(dataset, LinearSettings(components=0))
    ages = dataset.covariates["age"].to_numpy(float)
    missed = [
        _age_effect(own, dataset.covariates, ages) * own.sd - effect
        for own in (linear, ordered_effects(linear, ["age"]))
    ]
    free, ordered = ((each - each.mean(axis=0)).std() for each in missed)
    assert ordered < 0.7 * free


def test_a_curve_that_falls_back_is_made_monotone():
    knots = (0.0, 0.25, 0.5, 0.75, 1.0)
    grid = np.linspace(0, 1, 200)
    basis = natural_spline(grid, knots)
    basis = basis - basis.mean(axis=0)
    wave = np.linalg.lstsq(basis, grid + 0.25 * np.sin(2 * np.pi * grid), rcond=None)[0]
    curve, loadings = common_curve(np.outer(wave, [1.0, -2.0, 0.5]), np.linalg.inv(basis.T @ basis), knots)
    made = basis @ np.outer(curve, loadings)
    assert (np.diff(basis @ curve) > -1e-5).all()
    np.testing.assert_allclose(made[:, 1], -2 * made[:, 0], atol=1e-9)
    assert np.abs(made[:, 0] - basis @ wave).max() < 0.15
    # One that is monotone stays.
    straight = np.eye(4)[0]
    curve, loadings = common_curve(np.outer(straight, [1.0, -2.0]), np.linalg.inv(basis.T @ basis), knots)
    np.testing.assert_allclose(np.outer(curve, loadings), np.outer(straight, [1.0, -2.0]), atol=1e-9)


def test_the_network_never_sees_the_value(model, people):
    dataset = people[0]
    frame, parts, rng = dataset.covariates, model.parts, np.random.default_rng(0)
    z = rng.normal(size=(len(frame), len(parts.latents.gram)))
    for ages in (frame["age"], frame["age"] + 200):
        context = condition_vector(dataset.schema, frame.assign(age=ages), dataset.schema.names)
        found = parts.network.decode(z, context)
        other = parts.network.decode(z, condition_vector(dataset.schema, frame, dataset.schema.names))
        np.testing.assert_array_equal(found, other)


def test_removal_is_exact_and_a_folder_keeps_it(model, people):
    dataset = people[0]
    own = {name: dataset.covariates[name].iloc[3] for name in ("age", "site")}
    np.testing.assert_array_equal(model.remove(dataset, own)[3], dataset.values[3])
    once = model.remove(dataset, {"age": 50.0})
    moved = dataset.with_values(once).with_covariates(model.schema.transformed(dataset.covariates, {"age": 50.0}))
    np.testing.assert_array_equal(model.remove(moved, {"age": 50.0}), once)
    again = restore_model(model.kind, *model.state())
    np.testing.assert_array_equal(again.remove(dataset, {"age": 50.0}), once)
    assert again.settings.roles == Roles(ordered=("age",))


def test_people_lie_on_the_curve_where_their_features_say(model, people):
    dataset = people[0]
    ages = dataset.covariates["age"].to_numpy(float)
    found = model.scores(dataset).positions["age"]
    assert np.corrcoef(found, ages)[0, 1] > 0.8
    # On average nobody is older or younger than they are, at any age: nothing is drawn to the mean.
    young = ages < np.median(ages)
    assert abs((found - ages)[young].mean()) < 3
    # Who gets the features of ten years more, by that curve, lies ten years further.
    there = dataset.covariates.assign(age=ages + 10)
    linear = model.parts.linear
    more = (linear.design.effects(there) - linear.design.effects(dataset.covariates)) @ linear.coefficients
    moved = model.scores(dataset.with_values(dataset.values + more)).positions["age"]
    inside = young & (found < np.median(ages))
    assert abs(np.median((moved - found)[inside]) - 10) < 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (replace(CLOSED, roles=Roles(ordered=("sex",))), "give continuous covariates"),
        (replace(CLOSED, linear=LinearSettings(interactions=(("age", "sex"),))), "leave out one of them"),
        (replace(TRAINED, conditioning="concatenate"), "conditioning film"),
        (replace(CLOSED, roles=Roles(ordered=("age",), salient="sex")), "salient and ordered; give one"),
    ],
)
def test_what_cannot_be_ordered_is_refused(settings, told, people):
    with pytest.raises(ModelError, match=told):
        ConditionalVae.fit(people[0], settings)


def test_how_bent_a_curve_is_tells_who_lies_beyond(people):
    dataset, _ = people
    frame, rng = dataset.covariates, np.random.default_rng([7, 2])
    ages = frame["age"].to_numpy(float)
    line = np.outer(ages - 50, rng.normal(size=24)) / 20 + rng.normal(size=dataset.values.shape)
    bent = np.outer(3 * np.abs(ages - 20) ** 0.5, rng.normal(size=24)) + rng.normal(size=dataset.values.shape)
    found = [chosen_degrees(dataset.with_values(own), LinearSettings(), ["age"]) for own in (line, bent)]
    assert found[0] <= 2 < found[1]
    # Too few people to leave some out: as it is set.
    few = dataset.take(np.arange(8))
    assert chosen_degrees(few, LinearSettings(), ["age"]) == LinearSettings().spline_degrees
