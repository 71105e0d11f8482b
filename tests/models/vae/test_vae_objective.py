"""Parts and weights of the loss, with covariates of three kinds, some of them unknown."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from medrep.models.base import FitContext
from medrep.models.chunks import ChunkSource
from medrep.models.vae.bodies import Autoencoder, Body
from medrep.models.vae.components import FactorModel
from medrep.models.vae.losses import moment_gap
from medrep.models.vae.network import _Reporter, start_at_optimum
from medrep.models.vae.objective import Task, VaeObjective, condition_vector
from medrep.models.vae.residuals import standardise
from medrep.models.vae.settings import Independence, VaeSettings
from medrep.training.loop import TOTAL
from medrep.training.schedule import Schedule
from tests.models.planted import Case, draw_data, draw_people

PEOPLE, COLUMNS, LATENTS = 60, 6, 3
SETTINGS = VaeSettings(body="mlp", beta=2.0, aggregate=0.3, training=Schedule(warmup=3))
EVERYBODY = torch.arange(PEOPLE)
LATE = 99  # an epoch after warm-up


def covariates(seed: int = 0) -> list[torch.Tensor]:
    """Return age, sex (two columns) and site (three), standardised."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(PEOPLE, 1)), np.eye(2)[rng.integers(2, size=PEOPLE)], np.eye(3)[np.arange(PEOPLE) % 3]]
    return [torch.as_tensor((part - part.mean(axis=0)) / part.std(), dtype=torch.float32) for part in parts]


def network(latents: int = LATENTS, **changes) -> Autoencoder:
    torch.manual_seed(0)
    options = {"heteroscedastic": True, "prior": "gaussian", **changes}
    body = Body(options.pop("body", "mlp"), (5,), "film")
    made = Autoencoder(COLUMNS, latents, 2, body, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return made.eval()


def task() -> Task:
    """Return people of whom all three covariates are known, none, or age and site alone; the last column never varies."""
    rng = np.random.default_rng(1)
    residuals = [torch.as_tensor(rng.normal(size=(PEOPLE, COLUMNS)) + k, dtype=torch.float32) for k in range(3)]
    for own in residuals:
        own[:, -1] = 0
    contexts = [torch.as_tensor(rng.normal(size=(PEOPLE, 2)), dtype=torch.float32) for _ in range(3)]
    used = torch.arange(COLUMNS) < COLUMNS - 1
    return Task(residuals, contexts, covariates(), [[0, 1, 2], [], [0, 2]], used, np.arange(PEOPLE))


def objective(settings: VaeSettings = SETTINGS, made: Autoencoder | None = None) -> VaeObjective:
    return VaeObjective(made or network(prior=settings.prior), task(), settings, 1.5)


def judged(loss: VaeObjective, people: torch.Tensor = EVERYBODY, epoch: int = LATE) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return loss(people, epoch)


@pytest.mark.parametrize("prior", ["gaussian", "dirichlet"])
@pytest.mark.parametrize("independence", get_args(Independence))
def test_every_independence_has_a_finite_loss_with_a_gradient(independence, prior):
    made = network(prior=prior)
    parts = judged(objective(replace(SETTINGS, independence=independence, prior=prior), made=made))
    assert all(part.isfinite() and part.ndim == 0 for part in parts.values())
    assert (parts["dependence"] == 0) == (independence == "none")
    parts[TOTAL].backward()
    gradients = {name: parameter.grad for name, parameter in made.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)
    assert gradients["encoder.linear.weight"].abs().sum() > 0
    if independence != "none":
        made.zero_grad()
        judged(objective(replace(SETTINGS, independence=independence, prior=prior), made=made))["dependence"].backward()
        assert made.encoder.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("independence", [kind for kind in get_args(Independence) if kind != "none"])
def test_latents_that_tell_a_covariate_cost_more(independence):
    settings = replace(SETTINGS, independence=independence)
    age, sex, site = covariates()
    told = torch.cat([site, age, 2 * sex], dim=1)
    scattered = told[torch.randperm(PEOPLE, generator=torch.Generator().manual_seed(0))]
    costs = []
    for h in (told, scattered):
        made = network(body="linear")
        torch.nn.init.eye_(made.encoder.linear.weight)
        alone = Task([h], [torch.zeros(PEOPLE, 2)], [age, sex, site], [[0, 1, 2]], torch.ones(6) > 0, np.arange(PEOPLE))
        costs.append(float(judged(VaeObjective(made, alone, settings, 1.0))["dependence"].detach()))
    assert costs[0] > 0.005
    assert abs(costs[1]) < 0.3 * costs[0]


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.25), (1, 0.5), (3, 1.0), (LATE, 1.0)])
def test_the_loss_is_the_weighted_sum_of_its_parts(epoch, share):
    parts = judged(objective(), epoch=epoch)
    expected = (
        parts["reconstruction"]
        + 2.0 * share * parts["divergence"]
        + 1.5 * parts["dependence"]
        + 0.3 * parts["aggregate"] * LATENTS / (COLUMNS - 1)
    )
    torch.testing.assert_close(parts[TOTAL], expected)


def test_likelihood_and_prior_are_in_nats_a_column():
    made = network()
    parts = judged(objective(made=made))
    h, context = task().residuals[0], task().contexts[0]
    torch.manual_seed(0)
    mean, log_variance = made.encoder(h, context)
    z = made.prior.draw(mean, log_variance)
    expected, log_scale = made.decoder(z, context)
    normal = torch.distributions.Normal(expected, log_scale.exp())
    torch.testing.assert_close(parts["reconstruction"], -normal.log_prob(h)[:, :-1].sum(dim=1).mean() / 5)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(parts["divergence"], kl.sum(dim=1).mean() / 5)
    torch.testing.assert_close(parts["aggregate"], moment_gap(z))


def test_columns_that_never_vary_do_not_count():
    made = network()
    before = judged(objective(made=made))[TOTAL].item()
    with torch.no_grad():
        made.decoder.linear.bias[-1] += 100
    assert judged(objective(made=made))[TOTAL].item() == before


def test_a_given_noise_is_the_scale_of_every_column():
    made = network()
    parts = judged(objective(replace(SETTINGS, noise=0.5), made=made))
    parts[TOTAL].backward()
    assert made.decoder.log_scale.grad is None
    learnt = judged(objective(made=made))
    assert parts["reconstruction"] != learnt["reconstruction"]


def test_too_few_people_have_no_dependence_to_judge():
    parts = judged(objective(), EVERYBODY[:3])
    assert set(parts) == {"reconstruction", "divergence", TOTAL}
    assert parts[TOTAL].isfinite()
    assert "aggregate" not in judged(objective(replace(SETTINGS, prior="dirichlet")))


def test_in_training_some_covariates_are_unknown_and_not_penalised():
    made = network()
    loss = objective(made=made)
    made.train()
    seen = []
    for seed in range(300):
        torch.manual_seed(seed)
        parts = loss(EVERYBODY[:8], LATE)
        assert {"reconstruction", "divergence", "dependence", TOTAL} <= set(parts)
        seen.append(("aggregate" in parts, bool(parts["dependence"] == 0)))
    everything, nothing, some = (True, False), (False, True), (False, False)
    assert set(seen) == {everything, nothing, some}
    # All in one half, and each of the three sets alike in the other.
    assert np.mean([own == everything for own in seen]) == pytest.approx(4 / 6, abs=0.08)
    assert np.mean([own == nothing for own in seen]) == pytest.approx(1 / 6, abs=0.06)
    made.eval()
    assert "aggregate" in judged(loss)


def test_a_task_has_residuals_and_contexts_for_every_set():
    frame = draw_people(60, 3, 0)
    data = np.insert(draw_data(frame, 4, 0), 2, 7.0, axis=1)
    linear = Case(frame, data).fit()
    made = Task.of(linear, linear.dataset(data, frame), torch.device("cpu"))
    assert len(made.residuals) == len(made.contexts) == len(made.known) == 8
    assert made.known[:2] == [[0, 1, 2], []]
    assert made.used.tolist() == [True, True, False, True, True]
    for known, h, context in zip(made.known, made.residuals, made.contexts, strict=True):
        names = [linear.schema.names[k] for k in known]
        np.testing.assert_array_equal(h.numpy(), standardise(linear, data, frame, names))
        np.testing.assert_allclose(context.numpy(), condition_vector(linear.schema, frame, names), atol=1e-6)
    for part, width in zip(made.parts, (1, 2, 3), strict=True):
        assert part.shape == (60, width)
        torch.testing.assert_close(part.mean(dim=0), torch.zeros(width), rtol=0, atol=1e-6)
        assert part.var(dim=0, correction=0).sum().item() == pytest.approx(1)


def test_large_residuals_lie_in_a_file_and_are_the_same(monkeypatch):
    frame = draw_people(60, 3, 0)
    data = draw_data(frame, 4, 0)
    linear = Case(frame, data).fit()
    dataset, cpu = linear.dataset(data, frame), torch.device("cpu")
    held = Task.of(linear, dataset, cpu)
    monkeypatch.setattr("medrep.models.vae.objective._HELD_CELLS", 0)
    mapped = Task.of(linear, dataset, cpu)
    assert all(isinstance(own, np.memmap) for own in mapped.residuals)
    some = torch.tensor([5, 0, 41])
    for chosen in range(len(held.residuals)):
        torch.testing.assert_close(mapped.rows(chosen, some), held.rows(chosen, some), rtol=0, atol=0)
    made = Autoencoder(
        4, 2, held.contexts[0].shape[1], Body("mlp", (5,), "film"), heteroscedastic=True, prior="gaussian"
    )
    monkeypatch.setattr("medrep.models.chunks._ROW_CELLS", 8)
    np.testing.assert_allclose(
        mapped.encode(made, some), made.encode(held.rows(0, some).numpy(), held.contexts[0][some].numpy()), atol=1e-6
    )


@pytest.mark.parametrize("cells", [6, 20, 100])
def test_judges_are_seen_a_few_at_a_time_with_the_same_loss(monkeypatch, cells):
    with torch.no_grad():
        whole = judged(objective())
        monkeypatch.setattr("medrep.models.chunks._ROW_CELLS", cells)
        apart = judged(objective())
    assert set(apart) == set(whole)
    for name, value in whole.items():
        torch.testing.assert_close(apart[name], value, rtol=1e-5, atol=1e-6)


def test_how_far_a_training_is_is_said(monkeypatch):
    said: list[str] = []
    times = iter([60.0, 120.0, 240.0])
    monkeypatch.setattr("medrep.models.vae.network.time.monotonic", lambda: next(times))
    tell = _Reporter(FitContext(phase=said.append), "search 1", 3, [0.0])
    for epoch in (1, 2, 3):
        tell(epoch, {"train/loss": 1.0})
    assert said == [
        "search 1, epoch 2 of 3 at most, 0:02:00 left at most",
        "search 1, epoch 3 of 3 at most, 0:01:00 left at most",
    ]


def test_the_closed_form_start_is_the_optimum():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(COLUMNS, COLUMNS)))[0]
    h = rng.normal(size=(1000, COLUMNS)) * np.sqrt([9, 4, 2, 1, 1, 1]) @ turn.T
    factors = FactorModel.fit(ChunkSource(h.shape, lambda part: h[:, part].copy()), 1000.0, LATENTS, seed=0)
    made = network(body="linear", heteroscedastic=False)
    settings = replace(SETTINGS, body="linear", beta=1.0, aggregate=0.0, independence="none")
    start_at_optimum(made, factors, LATENTS, settings)
    data, nobody = torch.as_tensor(h, dtype=torch.float32), torch.zeros(1000, 2)
    loss = VaeObjective(made, Task([data], [nobody], [], [[]], torch.ones(COLUMNS) > 0, np.arange(1000)), settings, 0.0)

    def bound() -> float:
        with torch.no_grad():
            return judged(loss, torch.arange(1000))[TOTAL].item()

    # At the optimum the bound is tight: it equals the log likelihood of the factor model.
    covariance = factors.loadings.T @ factors.loadings + np.diag(factors.noise)
    log_likelihood = torch.distributions.MultivariateNormal(torch.zeros(COLUMNS).double(), torch.as_tensor(covariance))
    exact = -log_likelihood.log_prob(torch.as_tensor(h)).mean().item() / COLUMNS
    start = bound()
    assert start == pytest.approx(exact, abs=0.005)
    for parameter in made.parameters():
        for seed in range(3):
            step = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                parameter.add_(step)
                assert bound() > start
                parameter.sub_(step)


@pytest.mark.parametrize("independence", [kind for kind in get_args(Independence) if kind != "none"])
def test_dependence_is_that_of_one_visit_of_each_person(independence):
    """Twice everybody is nobody more."""
    settings, (age, sex, site) = replace(SETTINGS, independence=independence), covariates()
    told = torch.cat([site, age, 2 * sex], dim=1)
    made = network(body="linear")
    torch.nn.init.eye_(made.encoder.linear.weight)

    def cost(rows: torch.Tensor, whose: np.ndarray) -> float:
        parts = [part[rows] for part in (age, sex, site)]
        own = Task([told[rows]], [torch.zeros(len(rows), 2)], parts, [[0, 1, 2]], torch.ones(6) > 0, whose)
        return float(judged(VaeObjective(made, own, settings, 1.0), torch.arange(len(rows)))["dependence"].detach())

    once, twice = torch.arange(PEOPLE), torch.arange(PEOPLE).repeat(2)
    alone = cost(once, np.arange(PEOPLE))
    assert cost(twice, twice.numpy()) == pytest.approx(alone, rel=1e-5)
    assert cost(twice, np.arange(2 * PEOPLE)) != pytest.approx(alone, rel=1e-3)
