"""Latents that snap to learned values: their axes and values are found, removal stays exact, and a folder keeps them."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from medrep._persisted import to_json
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.errors import ModelError
from medrep.models import ConditionalVae, VaeSettings, restore_model
from medrep.models.vae.components import FactorModel
from medrep.models.vae.quantised import Quantised, cluster_means, independent_axes, told_latents
from medrep.models.vae.roles import Roles
from medrep.training.schedule import Schedule
from tests.models.planted import DECLARED, draw_people, named

VALUES = 4
CLOSED = VaeSettings(body="linear", latents=6, roles=Roles(values=VALUES))
TRAINED = replace(
    CLOSED,
    body="mlp",
    hidden=(12,),
    strength=1.0,
    training=Schedule(epochs=3, batch=64, learning_rate=1e-3, threads=1),
)
TARGETS = ({"site": "S0"}, {"site": "pooled"}, {"age": 50.0, "sex": "M"})


@pytest.fixture(scope="module")
def people() -> tuple[Dataset, np.ndarray]:
    """Three factors of 2, 3 and 4 levels, each of which moves all columns, and effects of age, sex and site."""
    frame, rng, columns = draw_people(300, 3, 5), np.random.default_rng([5, 1]), 24
    codes = np.stack([rng.integers(0, levels, len(frame)) for levels in (2, 3, 4)], axis=1)
    own = (codes - codes.mean(axis=0)) / codes.std(axis=0) @ rng.normal(size=(3, columns))
    own += 0.3 * rng.normal(size=own.shape)
    own += np.outer(frame["age"] - 50, rng.normal(size=columns) * 0.03)
    own += np.outer(frame["sex"] == "M", rng.normal(size=columns) * 0.5)
    own += rng.normal(size=(3, columns))[frame["site"].str.removeprefix("S").to_numpy(int)]
    schema = CovariateSchema.fit(frame, DECLARED)
    return Dataset(own, schema.transfer(frame), schema, named(columns)), codes


@pytest.fixture(scope="module")
def closed(people: tuple[Dataset, np.ndarray]) -> ConditionalVae:
    return ConditionalVae.fit(people[0], CLOSED)[0]


@pytest.fixture(scope="module")
def trained(people: tuple[Dataset, np.ndarray]) -> ConditionalVae:
    return ConditionalVae.fit(people[0], TRAINED)[0]


@pytest.fixture(params=["closed", "trained"])
def model(request: pytest.FixtureRequest) -> ConditionalVae:
    fitted: ConditionalVae = request.getfixturevalue(request.param)
    return fitted


def test_independent_factors_are_turned_back_to_their_axes():
    rng = np.random.default_rng(0)
    factors = np.stack([rng.choice([-1.0, 1.0], 600), rng.uniform(-1.7, 1.7, 600), rng.choice([-1.2, 0, 1.2], 600)], 1)
    mixing, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn = independent_axes(factors @ mixing, 0)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    found = np.abs(np.corrcoef((factors @ mixing @ turn.T).T, factors.T)[:3, 3:])
    assert (found.max(axis=0) > 0.99).all()
    np.testing.assert_array_equal(independent_axes(factors[:30], 0), np.eye(3))  # too few to tell


def test_values_are_where_people_are():
    rng = np.random.default_rng(1)
    levels = np.array([[-2.0, 0.0, 0.5], [-1.0, 1.0, 4.0]])
    z = np.stack([rng.choice(own, 400) for own in levels], axis=1) + 0.02 * rng.normal(size=(400, 2))
    np.testing.assert_allclose(cluster_means(z, 3), levels, atol=0.01)


def test_only_latents_above_noise_snap():
    rng = np.random.default_rng(2)
    signal = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 30))
    for own, told in ((signal, 3), (np.zeros((400, 30)), 0)):
        assert told_latents(_factors(own, rng), 10, 400) == told


def _factors(signal: np.ndarray, rng: np.random.Generator) -> FactorModel:
    h = signal + rng.normal(size=signal.shape)
    _, values, right = np.linalg.svd((h - h.mean(axis=0)) / len(h) ** 0.5, full_matrices=False)
    floor = (values[-1] * 0.9) ** 2
    return FactorModel(np.sqrt(values**2 - floor)[:, None] * right, np.full(h.shape[1], floor))


def test_gradients_pass_straight_through_and_values_follow_people():
    prior = Quantised(2, 3)
    with torch.no_grad():
        prior.values.copy_(torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0]]))
    mean = torch.tensor([[0.4, 1.2], [-0.9, -0.3]], requires_grad=True)
    z = prior.draw(mean, torch.zeros_like(mean))
    torch.testing.assert_close(z.detach(), torch.tensor([[0.0, 2.0], [-1.0, 0.0]]))
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    (z * weights).sum().backward()
    torch.testing.assert_close(mean.grad, weights)
    assert prior.values.grad is None
    prior.divergence(mean.detach(), torch.zeros_like(mean)).sum().backward()
    pull = -prior.values.grad  # towards the people who have a value
    torch.testing.assert_close(pull.sign(), torch.tensor([[1.0, 1.0, 0.0], [0.0, -1.0, -1.0]]))


def test_each_latent_has_a_few_values_and_tells_one_factor(model, people):
    dataset, codes = people
    z, sd = model.posterior(dataset)
    assert sd is None
    assert z.shape[1] == 3
    assert max(len(np.unique(own)) for own in z.T) <= VALUES
    told = np.abs(np.corrcoef(z.T, codes.T)[:3, 3:])
    assert (told.max(axis=0) > 0.9).all()
    assert (np.sort(told, axis=0)[:2] < 0.4).all()
    drawn = model.parts.network.prior.sample(50, 3, np.random.default_rng(0))
    assert all(
        set(own) <= set(values) for own, values in zip(drawn.T, model.parts.network.prior.values.tolist(), strict=True)
    )


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_removal_is_exact_where_nobody_moves_and_the_second_time(model, people, target):
    dataset, _ = people
    frame = dataset.covariates
    own = {name: frame[name].iloc[3] for name in ("age", "sex", "site")}
    np.testing.assert_array_equal(model.remove(dataset, own)[3], dataset.values[3])
    once = model.remove(dataset, target)
    assert np.abs(once - dataset.values).mean() > 0.01
    moved = model.dataset(once, model.schema.transformed(frame, target))
    np.testing.assert_array_equal(model.remove(moved, target), once)


def test_what_snapping_leaves_of_a_person_is_carried(closed, people):
    dataset, _ = people
    frame = dataset.covariates
    women = (frame["sex"] == "F").to_numpy()
    change = (closed.remove(dataset, {"sex": "M"}) - dataset.values)[women]
    lost = np.abs(closed.reconstruct(dataset) - dataset.values).mean()
    # All women are moved alike: nobody jumps from value to value on the way, and nobody's detail is lost.
    assert change.std(axis=0).mean() < 0.1 * lost


def test_a_folder_keeps_values(trained, people):
    dataset, _ = people
    content, arrays = trained.state()
    assert content["settings"]["roles"] == to_json(Roles(values=VALUES))
    assert arrays["network.prior.values"].shape == (3, VALUES)
    again = restore_model(trained.kind, content, arrays)
    np.testing.assert_array_equal(again.posterior(dataset)[0], trained.posterior(dataset)[0])
    for draw in (lambda own: own.sample(dataset.covariates[:20], seed=1), lambda own: own.encode(dataset)):
        np.testing.assert_array_equal(draw(again), draw(trained))


def test_without_roles_nothing_is_written_of_them():
    assert "roles" not in to_json(VaeSettings())
    assert asdict(VaeSettings())["roles"] == asdict(Roles())


@pytest.mark.parametrize("settings", [replace(CLOSED, roles=Roles(values=1)), replace(TRAINED, prior="dirichlet")])
def test_what_cannot_snap_is_refused(settings, people):
    with pytest.raises(ModelError, match=r"roles\.values"):
        ConditionalVae.fit(people[0], settings)
