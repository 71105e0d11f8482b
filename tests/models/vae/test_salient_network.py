"""Salient latents trained on from their closed form: it is the start, moves stay exact, and exchanged parts are found again."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from medrep.cohort.dataset import Dataset
from medrep.models import ConditionalVae, VaeSettings, restore_model
from medrep.models.base import FitContext
from medrep.models.vae.network import Plan, train
from medrep.models.vae.objective import Task
from medrep.models.vae.roles import Roles
from medrep.models.vae.salient_prior import SalientPrior
from medrep.training.schedule import Schedule
from tests.models.vae.test_salient import World, auc, blocks, fit, patients

MLP = VaeSettings(
    body="mlp",
    hidden=(32,),
    roles=Roles("diagnosis"),
    strength=1.0,
    training=Schedule(epochs=0, learning_rate=2e-3, threads=1),
)


@pytest.fixture(scope="module")
def world() -> World:
    return World.plant(3)


@pytest.fixture(scope="module")
def start(world: World) -> ConditionalVae:
    """Not trained."""
    frame, data, _ = world.draw(500, 0)
    return fit(frame, data, MLP)


@pytest.fixture(scope="module")
def trained(start: ConditionalVae, world: World) -> ConditionalVae:
    return replace(start, parts=replace(start.parts, network=network_after(start, world, 1.0)))


@pytest.fixture(scope="module")
def unseen(world: World, start: ConditionalVae) -> Dataset:
    frame, data, _ = world.draw(400, 1)
    return start.dataset(data, start.schema.transfer(frame))


def task_of(model: ConditionalVae, people: Dataset) -> Task:
    cpu, parts = torch.device("cpu"), model.parts
    prior = parts.salient.prior(people.covariates, cpu)
    return Task.of(parts.linear, people, cpu, model.settings.roles, prior)


def network_after(start: ConditionalVae, world: World, swap: float, epochs: int = 15) -> torch.nn.Module:
    """Return the start's network, trained without anybody who judges."""
    frame, data, _ = world.draw(500, 0)
    people = start.dataset(data, start.schema.transfer(frame))
    network = copy.deepcopy(start.parts.network)
    training = replace(MLP.training, epochs=epochs)
    settings = replace(MLP, roles=replace(MLP.roles, swap=swap), training=training)
    train(network, task_of(start, people), settings, Plan(1.0, epochs, 0.0, 0.0, []), 0, FitContext(), {})
    return network


def swap_error(model: ConditionalVae, people: Dataset) -> float:
    """Mean square error of latents of people with the salient part of others."""
    order, count = np.random.default_rng(0).permutation(len(people)), len(model.latent_roles)
    z = model.posterior(people)[0]
    again = model.posterior(people.with_values(model.swapped(people, people.take(order))))[0]
    truth = np.concatenate([z[:, :-count], z[order][:, -count:]], axis=1)
    return float(((again - truth) ** 2).mean())


def test_the_start_is_the_closed_form(start, world, unseen):
    frame, data, _ = world.draw(500, 0)
    closed = fit(frame, data)
    np.testing.assert_allclose(start.encode(unseen), closed.encode(unseen), atol=1e-5)
    for level in ("control", "patient"):
        np.testing.assert_allclose(
            start.remove(unseen, {"diagnosis": level}), closed.remove(unseen, {"diagnosis": level}), atol=1e-4
        )
    donors = unseen.take(np.arange(len(unseen))[::-1])
    np.testing.assert_allclose(start.swapped(unseen, donors), closed.swapped(unseen, donors), atol=1e-4)
    assert swap_error(start, unseen) < 1e-10


def test_trained_latents_keep_their_roles(trained, unseen):
    common, salient = blocks(trained, unseen)
    labels = patients(unseen)
    assert trained.parts.network.decoder.head.weight.abs().max() > 1e-3
    assert auc(salient, labels) > auc(unseen.values, labels) - 0.02
    assert auc(common, labels) < 0.6
    removed = trained.remove(unseen, {"diagnosis": "control"})
    assert auc(removed, labels) < auc(unseen.values, labels) - 0.15


def test_moves_are_exact_behind_a_network(trained, unseen):
    frame, labels = unseen.covariates, patients(unseen)
    removed = trained.remove(unseen, {"diagnosis": "control"})
    np.testing.assert_array_equal(removed[~labels], unseen.values[~labels])
    there = unseen.with_values(removed).with_covariates(frame.assign(diagnosis="control"))
    np.testing.assert_array_equal(trained.remove(there, {"diagnosis": "control"}), removed)
    for level in ("control", "patient"):
        moved = trained.remove(unseen, {"diagnosis": level})
        there = unseen.with_values(moved).with_covariates(frame.assign(diagnosis=level))
        np.testing.assert_allclose(trained.transform(there, frame[["diagnosis"]]), unseen.values, atol=1e-4)


def test_labels_are_not_looked_at_behind_a_network(trained, unseen):
    frame = unseen.covariates
    others = frame.assign(age=frame["age"].to_numpy()[::-1], site=frame["site"].to_numpy()[::-1])
    np.testing.assert_array_equal(
        trained.remove(unseen.with_covariates(others), {"diagnosis": "control"}),
        trained.remove(unseen, {"diagnosis": "control"}),
    )
    exchanged = frame.assign(diagnosis=frame["diagnosis"].to_numpy()[::-1])
    np.testing.assert_array_equal(trained.encode(unseen.with_covariates(exchanged)), trained.encode(unseen))


def test_the_swap_error_falls_with_its_weight(start, trained, world, unseen):
    errors = [
        swap_error(replace(start, parts=replace(start.parts, network=network_after(start, world, weight))), unseen)
        for weight in (0.0, 30.0)
    ]
    assert errors[1] < 0.6 * errors[0]
    np.testing.assert_allclose(trained.swapped(unseen, unseen), unseen.values, atol=1e-12)


def test_a_trained_one_is_the_same_after_it_was_saved(trained, unseen):
    content, arrays = trained.state()
    assert "swap" not in content["settings"]["roles"]
    again = restore_model(trained.kind, content, arrays)
    for level in ("control", "patient"):
        np.testing.assert_array_equal(
            again.remove(unseen, {"diagnosis": level}), trained.remove(unseen, {"diagnosis": level})
        )


def test_judges_train_it_and_other_levels_go_there_and_back(world):
    frame, data, _ = world.draw(400, 4)
    other = (np.arange(400) % 2 == 0) & (frame["diagnosis"] == "patient").to_numpy()
    frame["diagnosis"] = np.where(other, "relative", frame["diagnosis"])
    data = data + np.outer(other, world.salient[1] * 2)
    model = fit(frame, data, replace(MLP, training=replace(MLP.training, epochs=3)))
    people = model.dataset(data, model.schema.transfer(frame))
    moved = model.remove(people, {"diagnosis": "relative"})
    there = people.with_values(moved).with_covariates(people.covariates.assign(diagnosis="relative"))
    np.testing.assert_array_equal(moved[other], data[other])
    np.testing.assert_allclose(model.transform(there, people.covariates[["diagnosis"]]), data, atol=1e-4)
    assert np.isfinite(model.sample(people.covariates, seed=0)).all()


def test_too_few_patients_beside_the_judges_leave_the_closed_form(world):
    frame, data, _ = world.draw(200, 6)
    frame["diagnosis"] = np.where(np.arange(200) < 21, "patient", "control")
    model = fit(frame, data, replace(MLP, training=replace(MLP.training, epochs=3)))
    assert not model.parts.network.decoder.head.weight.any()


def test_the_posterior_is_that_of_a_reading_and_a_level():
    rng = np.random.default_rng(0)
    second = np.array([3.0, 0.5])
    root = np.array([[1.2, 0.3], [0.3, 0.4]])
    level = np.array([0.8, -0.2])
    prior = SalientPrior(
        1,
        torch.tensor([0, 1, 1]),
        0,
        torch.tensor(second, dtype=torch.float32),
        torch.tensor(np.stack([np.zeros(2), level]), dtype=torch.float32),
        torch.tensor(np.stack([np.zeros((2, 2)), root]), dtype=torch.float32),
    )
    mean, log_variance = (torch.as_tensor(rng.normal(size=(3, 3)), dtype=torch.float32) for _ in range(2))
    stretch = (second + 1) / second
    reading, noise = mean[:, 1:].numpy() * stretch, np.exp(log_variance[:, 1:].numpy()) * stretch
    draws = np.stack([prior.draw(mean, log_variance)[:, 1:].numpy() for _ in range(4000)])
    divergence = prior.divergence(mean, log_variance)
    assert divergence.shape == (3, 2)
    assert not draws[:, 0].any()
    assert float(divergence[0, 1]) == pytest.approx(0, abs=1e-6)
    for person in (1, 2):
        wide = root @ root
        covariance = np.linalg.inv(np.linalg.inv(wide) + np.diag(1 / noise[person]))
        centre = covariance @ (np.linalg.solve(wide, level) + reading[person] / noise[person])
        np.testing.assert_allclose(draws[:, person].mean(axis=0), centre, atol=0.05)
        np.testing.assert_allclose(np.cov(draws[:, person], rowvar=False), covariance, atol=0.08)
        own, there = (
            torch.distributions.MultivariateNormal(torch.as_tensor(middle), torch.as_tensor(spread))
            for middle, spread in ((centre, covariance), (level, wide))
        )
        truth = float(torch.distributions.kl_divergence(own, there))
        assert float(divergence[person, 1]) == pytest.approx(truth, abs=1e-4)


def test_the_bound_and_the_swap_count_in_the_loss(start, unseen):
    from medrep.models.vae.objective import VaeObjective

    task = task_of(start, unseen)
    assert len(task.parts) == 4
    assert all(3 in known for known in task.known)
    everybody = torch.arange(len(unseen))
    with torch.no_grad():
        parts = VaeObjective(start.parts.network, task, start.settings, 1.0)(everybody, 200)
        none = replace(start.settings, roles=replace(start.settings.roles, swap=0.0))
        assert "swap" not in VaeObjective(start.parts.network, task, none, 1.0)(everybody, 200)
    assert float(parts["swap"]) < 1e-8
    assert pd.Series({name: float(value) for name, value in parts.items()}).notna().all()
