import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Dirichlet, Normal, kl_divergence

from medrep.models.vae.losses import PRIORS

GAUSSIAN, DIRICHLET = PRIORS["gaussian"], PRIORS["dirichlet"]
each_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


def outputs(seed: int, people: int, latents: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(people, latents, generator=generator), torch.randn(people, latents, generator=generator)


def concentration(mean: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softplus(mean + 1) + 0.01


@given(seed=st.integers(0, 999), latents=st.integers(2, 7))
def test_divergences_have_their_closed_forms(seed, latents):
    mean, log_variance = outputs(seed, 4, latents)
    normal = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros_like(mean), 1.0))
    torch.testing.assert_close(GAUSSIAN.divergence(mean, log_variance), normal)
    shares = kl_divergence(Dirichlet(concentration(mean)), Dirichlet(torch.ones_like(mean)))
    torch.testing.assert_close(DIRICHLET.divergence(mean, log_variance), shares[:, None], rtol=1e-4, atol=1e-5)


def test_divergences_are_zero_where_the_posterior_is_the_prior():
    nothing = torch.zeros(2, 5)
    assert torch.equal(GAUSSIAN.divergence(nothing, nothing), nothing)
    uniform = torch.full((2, 5), float(np.log(np.expm1(0.99))) - 1)
    torch.testing.assert_close(DIRICHLET.divergence(uniform, nothing), torch.zeros(2, 1), rtol=0, atol=1e-5)


@given(seed=st.integers(0, 999), latents=st.integers(2, 7))
def test_shares_of_a_mixture_sum_to_zero_once_centred(seed, latents):
    mean, log_variance = outputs(seed, 4, latents)
    torch.manual_seed(seed)
    prior = torch.as_tensor(DIRICHLET.sample(4, latents, np.random.default_rng(seed)))
    for z in (DIRICHLET.expected(mean, log_variance), DIRICHLET.draw(mean, log_variance), prior):
        torch.testing.assert_close(z.double().sum(dim=1), torch.zeros(4).double(), rtol=0, atol=1e-5)
        assert z.min() >= -1
        assert z.max() <= latents - 1 + 1e-5


@each_prior
def test_the_expected_latents_are_the_mean_of_draws(prior):
    mean, log_variance = outputs(3, 1, 4)
    torch.manual_seed(0)
    draws = prior.draw(mean.expand(40_000, -1), log_variance.expand(40_000, -1))
    off = draws.mean(dim=0) - prior.expected(mean, log_variance)[0]
    assert (off.abs() < 4 * draws.std(dim=0) / 200).all()


def test_draws_of_a_normal_posterior_have_its_variance():
    mean, log_variance = outputs(3, 1, 4)
    torch.manual_seed(0)
    draws = GAUSSIAN.draw(mean.expand(40_000, -1), log_variance.expand(40_000, -1))
    torch.testing.assert_close(draws.var(dim=0).log(), log_variance[0], rtol=0, atol=0.05)


@each_prior
def test_gradients_pass_through_draws_and_differ_from_none(prior):
    mean, log_variance = (part.requires_grad_() for part in outputs(0, 5, 3))
    torch.manual_seed(0)
    (prior.draw(mean, log_variance)[:, 0] ** 2).sum().backward()
    assert mean.grad.isfinite().all()
    assert mean.grad.abs().sum() > 0


@each_prior
def test_a_posterior_equal_to_the_prior_draws_as_the_prior_samples(prior):
    latents, people = 5, 40_000
    raw = 0.0 if prior is GAUSSIAN else float(np.log(np.expm1(0.99))) - 1
    torch.manual_seed(0)
    drawn = prior.draw(torch.full((people, latents), raw), torch.zeros(people, latents)).double().numpy()
    sampled = prior.sample(people, latents, np.random.default_rng(0))
    # Of Dirichlet(1, ..., 1): Var = (K - 1) / (K^2 (K + 1)), Cov = -1 / (K^2 (K + 1)); the scale is K.
    covariance = np.eye(latents) if prior is GAUSSIAN else (latents * np.eye(latents) - 1) / (latents + 1)
    for z in (drawn, sampled):
        np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.025)
        np.testing.assert_allclose(np.cov(z, rowvar=False), covariance, atol=0.04)
