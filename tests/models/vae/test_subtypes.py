"""A mixture as prior: planted subtypes are found in people nobody was fitted on, and the bound is one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.errors import ModelError
from medrep.models import ConditionalVae, VaeSettings, restore_model
from medrep.models.base import FitContext
from medrep.models.vae.roles import Roles
from medrep.models.vae.subtypes import Mixture, found_subtypes, held_out_gains
from medrep.training.schedule import Schedule
from tests.models.planted import DECLARED, draw_people, named

CLOSED = VaeSettings(body="linear", latents=5, roles=Roles(subtypes=3))
TRAINED = replace(
    CLOSED,
    body="mlp",
    hidden=(12,),
    strength=1.0,
    training=Schedule(epochs=3, batch=64, learning_rate=1e-3, threads=1),
)


@pytest.fixture(scope="module")
def people() -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Three subtypes, half, a third and a sixth of people, whatever their site, age or sex; and half of all to train on."""
    frame, rng, columns = draw_people(400, 3, 6), np.random.default_rng([6, 1]), 20
    subtype = rng.choice(3, len(frame), p=[1 / 2, 1 / 3, 1 / 6])
    own = rng.normal(size=(3, columns))[subtype] * 1.5 + rng.normal(size=(len(frame), 2)) @ rng.normal(
        size=(2, columns)
    )
    own += 0.5 * rng.normal(size=own.shape)
    own += np.outer(frame["age"] - 50, rng.normal(size=columns) * 0.05)
    own += 3 * rng.normal(size=(3, columns))[frame["site"].str.removeprefix("S").to_numpy(int)]
    schema = CovariateSchema.fit(frame, DECLARED)
    return Dataset(own, schema.transfer(frame), schema, named(columns)), subtype, np.arange(len(frame)) < 200


@pytest.fixture(scope="module", params=[CLOSED, TRAINED], ids=["closed", "trained"])
def model(request: pytest.FixtureRequest, people: tuple[Dataset, np.ndarray, np.ndarray]) -> ConditionalVae:
    return ConditionalVae.fit(people[0].take(people[2]), request.param)[0]


def test_planted_subtypes_are_found_in_unseen_people(model, people):
    dataset, subtype, train = people
    shares = model.scores(dataset.take(~train)).subtypes
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert adjusted_rand_score(subtype[~train], shares.argmax(axis=1)) > 0.9
    # The commonest first.
    counts = np.bincount(shares.argmax(axis=1), minlength=3)
    assert (np.diff(counts) < 0).all()


def test_the_number_of_subtypes_is_judged_by_people_held_out(people):
    dataset, _, train = people
    said: list[str] = []
    for asked in (2, 3, 4):
        settings = replace(CLOSED, roles=Roles(subtypes=asked))
        _, history = ConditionalVae.fit(dataset.take(train), settings, work=FitContext(say=said.append))
        found = history.query("metric == 'subtypes'").set_index("name")["value"]
        assert found["likeliest"] == 3
        assert found["held_out_1"] == 0 < found["held_out_2"] < found["held_out_3"]
        assert sum(f"{asked} asked for; people held out are likeliest under 3" in line for line in said) == 1


def test_people_without_subtypes_are_of_one():
    rng = np.random.default_rng(3)
    z = rng.normal(size=(300, 5)) * [5, 1, 1, 0.2, 1e-3]
    folds = [np.arange(300) % 5 == part for part in range(5)]
    gains = held_out_gains(z, folds, 3, 0)
    assert max(gains, key=gains.get) == 1
    # Too few people for a number, or no folds, and it is not judged.
    assert list(held_out_gains(z[:60], [fold[:60] for fold in folds], 100, 0)) == [1, 2, 3, 4]
    assert held_out_gains(z, [], 3, 0) == {}


def test_a_mixture_is_found_in_any_units_of_latents():
    rng = np.random.default_rng(4)
    whose = np.array([0, 0, 1, 2])[np.arange(300) % 4]
    mix = rng.normal(size=(6, 6)) * [100, 10, 1, 1, 1, 0.01]
    z = (rng.normal(size=(300, 6)) + 5 * np.eye(6)[whose]) @ mix + 7
    weights, means, within = found_subtypes(z, 3, 0)
    np.testing.assert_allclose(weights, [1 / 2, 1 / 4, 1 / 4], atol=0.03)
    np.testing.assert_allclose(weights @ means, z.mean(axis=0))
    own = np.linalg.inv(mix)
    np.testing.assert_allclose(own.T @ within @ own, np.eye(6), atol=0.3)


def test_samples_have_the_subtypes_of_training(model, people):
    dataset, _, train = people
    drawn = model.sample(dataset.covariates, seed=2)
    shares = [model.scores(own).subtypes.mean(axis=0) for own in (dataset.with_values(drawn), dataset.take(train))]
    np.testing.assert_allclose(*shares, atol=0.1)


def test_the_bound_is_the_divergence_of_one_subtype_and_above_that_of_several():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(6, 4), 0.3 * torch.randn(6, 4) - 1
    alike = Mixture(4, 3)
    normal = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    plain = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(alike.divergence(mean, log_variance)[:, 0], plain)
    prior = Mixture(4, 3)
    with torch.no_grad():
        prior.means.copy_(torch.randn(3, 4))
        prior.log_sd.copy_(0.3 * torch.randn(4))
        prior.logits.copy_(torch.randn(3))
    components = torch.distributions.Normal(prior.means, torch.exp(prior.log_sd))
    weights = torch.distributions.Categorical(logits=prior.logits)
    mixture = torch.distributions.MixtureSameFamily(weights, torch.distributions.Independent(components, 1))
    z = normal.sample((20000,))
    drawn = (normal.log_prob(z).sum(dim=2) - mixture.log_prob(z)).mean(dim=0)
    assert (prior.divergence(mean, log_variance)[:, 0] > drawn - 0.02).all()


def test_removal_is_exact_and_a_folder_keeps_subtypes(model, people):
    dataset = people[0]
    own = {name: dataset.covariates[name].iloc[3] for name in ("age", "site")}
    np.testing.assert_array_equal(model.remove(dataset, own)[3], dataset.values[3])
    again = restore_model(model.kind, *model.state())
    np.testing.assert_array_equal(again.scores(dataset).subtypes, model.scores(dataset).subtypes)


def test_a_removed_site_is_no_subtype(model, people):
    dataset, _, train = people
    shares = model.scores(dataset.take(~train)).subtypes
    site = dataset.covariates["site"][~train]
    assert abs(adjusted_rand_score(site, shares.argmax(axis=1))) < 0.05


@pytest.mark.parametrize(
    "settings",
    [
        replace(CLOSED, roles=Roles(subtypes=0)),
        replace(CLOSED, roles=Roles(subtypes=30)),
        replace(CLOSED, roles=Roles(subtypes=2, values=4)),
        replace(TRAINED, prior="dirichlet"),
    ],
)
def test_what_cannot_be_is_refused(settings, people):
    with pytest.raises(ModelError, match="subtypes"):
        ConditionalVae.fit(people[0].take(people[2]), settings)
