"""People with other latents: nothing changes with their own, and what changes is what latents do, by closed form."""

import numpy as np
import pytest

from medrep.cohort.dataset import Dataset
from medrep.errors import ModelError
from medrep.models import ConditionalVae, GrowthChart, LinearModel, LinearSettings, Model, VaeSettings
from tests.models.planted import draw_data, draw_people, fit, people_of

COUNT, COLUMNS, LATENTS = 150, 12, 3


@pytest.fixture(scope="module")
def people() -> Dataset:
    frame = draw_people(COUNT, 3, 0)
    shared = np.random.default_rng(5).normal(size=(COUNT, LATENTS)) @ np.random.default_rng(6).normal(
        0, 1.5, (LATENTS, COLUMNS)
    )
    schema = fit(frame, draw_data(frame, COLUMNS, 0)).schema
    return people_of(draw_data(frame, COLUMNS, 0) + shared, schema.transfer(frame), schema)


@pytest.fixture(scope="module")
def linear(people: Dataset) -> LinearModel:
    return LinearModel.fit(people, LinearSettings(components=LATENTS))[0]


@pytest.fixture(scope="module")
def vae(people: Dataset) -> ConditionalVae:
    return ConditionalVae.fit(people, VaeSettings(body="linear", latents=LATENTS))[0]


def moved(model: Model, dataset: Dataset, latents: np.ndarray) -> np.ndarray:
    (found,) = model.with_latents(dataset, [latents])
    return found


def test_own_latents_change_nothing(linear: LinearModel, vae: ConditionalVae, people: Dataset) -> None:
    holes = people.values.copy()
    holes[3, 2] = np.nan
    for model in (linear, vae):
        for dataset in (people, people.with_values(holes)):
            np.testing.assert_array_equal(moved(model, dataset, model.posterior(dataset)[0]), dataset.values)


def test_linear_latents_are_reached_and_no_other_direction_is_touched(linear: LinearModel, people: Dataset) -> None:
    wanted = np.random.default_rng(0).normal(size=(COUNT, LATENTS))
    there = people.with_values(moved(linear, people, wanted))
    np.testing.assert_allclose(linear.encode(there), wanted, atol=1e-9)
    before, after = (linear.scores(one).reconstruction_error for one in (people, there))
    np.testing.assert_allclose(after, before, rtol=1e-8)
    once = people.with_values(moved(linear, people, linear.encode(people)[::-1]))
    np.testing.assert_allclose(moved(linear, once, linear.encode(people)), people.values, atol=1e-9)


def test_a_latent_of_a_linear_decoder_moves_data_by_its_loadings(vae: ConditionalVae, people: Dataset) -> None:
    z = vae.posterior(people)[0]
    change = moved(vae, people, z + np.eye(LATENTS)[1]) - people.values
    linear = vae.parts.linear
    unit = linear.sd * linear.scale(linear.design.batches(people.covariates), linear.batches.log_scale)
    loadings = vae.parts.network.decoder.linear.weight.detach().numpy()[:, 1]
    np.testing.assert_allclose(change / unit, np.tile(loadings, (COUNT, 1)), atol=1e-4)


def test_models_whose_latents_cannot_be_moved_say_so(people: Dataset) -> None:
    plain = LinearModel.fit(people, LinearSettings(components=0))[0]
    assert "latents" not in plain.capabilities
    with pytest.raises(ModelError, match=r"no latents that can be moved.*linear_latents"):
        next(plain.with_latents(people, [np.zeros((COUNT, 0))]))
    assert GrowthChart.with_latents is Model.with_latents
