"""Losses and priors of the conditional VAE, as differentiable functions.

The dependence measures are U-statistics: their mean is exactly zero where there is no dependence, whatever the size of the
batch, so they may be negative and their gradient does not push towards a smaller spread. All of them centre a matrix of
pairs in one way, which makes the sum of products of two such matrices an unbiased estimate (Szekely & Rizzo 2014),

    U_ij = A_ij - sum_k A_ik / (n - 2) - sum_k A_kj / (n - 2) + sum_kl A_kl / ((n - 1)(n - 2)),    A_ii = U_ii = 0.

They need four people or more, cost O(n^2) and are in the units of what they are given: standardise covariates first.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medrep.errors import ModelError


def gaussian_kl(
    mean: Float[Tensor, "people latents"], log_variance: Float[Tensor, "people latents"]
) -> Float[Tensor, "people latents"]:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)) of each latent, in nats."""
    return 0.5 * (mean**2 + torch.expm1(log_variance) - log_variance)


def dirichlet_kl(
    concentration: Float[Tensor, "people levels"], prior: Float[Tensor, " levels"]
) -> Float[Tensor, " people"]:
    """Return KL(Dirichlet(concentration) || Dirichlet(prior)) of each person, in nats; concentrations are positive."""
    total = concentration.sum(dim=1)
    normaliser = torch.lgamma(total) - torch.lgamma(concentration).sum(dim=1)
    prior_normaliser = torch.lgamma(prior.sum()) - torch.lgamma(prior).sum()
    expected_log = torch.digamma(concentration) - torch.digamma(total)[:, None]
    return normaliser - prior_normaliser + ((concentration - prior) * expected_log).sum(dim=1)


def gaussian_nll(
    x: Float[Tensor, "people columns"],
    mean: Float[Tensor, "people columns"],
    log_scale: Float[Tensor, "#people columns"],
) -> Float[Tensor, "people columns"]:
    """Return -log N(x; mean, exp(log_scale)^2), its constant included, in nats."""
    return 0.5 * ((x - mean) * torch.exp(-log_scale)) ** 2 + log_scale + 0.5 * math.log(2 * math.pi)


def distance_covariance(a: Float[Tensor, "people left"], b: Float[Tensor, "people right"]) -> Float[Tensor, ""]:
    """Return the unbiased squared distance covariance, sum U^a U^b / (n (n - 3)); zero in the mean iff independent."""
    return _mean_product(_u_centred(_distances(a)), _u_centred(_distances(b)))


def distance_correlation(a: Float[Tensor, "people left"], b: Float[Tensor, "people right"]) -> Float[Tensor, ""]:
    """Return the bias-corrected squared distance correlation, at most 1; 0 where one side is constant."""
    left, right = _u_centred(_distances(a)), _u_centred(_distances(b))
    spread = _mean_product(left, left) * _mean_product(right, right)
    varies = spread > torch.finfo(spread.dtype).tiny
    root = torch.where(varies, spread, torch.ones_like(spread)).sqrt()
    return torch.where(varies, _mean_product(left, right) / root, torch.zeros_like(root))


def hsic(a: Float[Tensor, "people left"], b: Float[Tensor, "people right"]) -> Float[Tensor, ""]:
    """Return the unbiased Hilbert-Schmidt independence criterion of Gaussian kernels (Song et al. 2012).

    A kernel's bandwidth is the median of the non-zero distances in the batch and carries no gradient.
    """
    return _mean_product(_u_centred(_gaussian_kernel(a)), _u_centred(_gaussian_kernel(b)))


def joint_distance_covariance(
    z: Float[Tensor, "people latents"], parts: Sequence[Float[Tensor, "people _"]]
) -> Float[Tensor, ""]:
    """Return how much z depends on several standardised covariates (one-hot for levels) together, intersections included.

    The joint distance covariance (Chakraborty & Zhang 2019) of z and the covariates, less that of the covariates alone:

        JdCov2(z, parts) - JdCov2(parts),    JdCov2 = sum prod_m (U^m + 1) / (n (n - 3)) - n / (n - 3),

    which is sum U^z prod_m (U^m + 1) / (n (n - 3)): the terms of z with each covariate, each pair, and so on. Here U is minus
    the centred distance, a positive kernel, so that every term is positive under dependence; with the other sign, terms
    of an odd number of variables are negative and cancel the rest. Unbiased zero where z is independent of all of them.
    """
    kernel = -_u_centred(_distances(z))
    together = torch.ones_like(kernel)
    for part in parts:
        together = together * (1 - _u_centred(_distances(part)))
    return _mean_product(kernel, together)


def concatenated_distance_covariance(
    y: Float[Tensor, "people outputs"], parts: Sequence[Float[Tensor, "people _"]]
) -> Float[Tensor, ""]:
    """Return the squared distance covariance of y with all covariates side by side (CCdCov).

    The parts are standardised: one in larger units outweighs the others. Raises ModelError if there is none.
    """
    if not parts:
        raise ModelError("concatenated distance covariance: no covariates; name one or more")
    return distance_covariance(y, torch.cat(list(parts), dim=1))


def moment_gap(z: Float[Tensor, "people latents"]) -> Float[Tensor, ""]:
    """Return how far the latents' mean and covariance over the batch are from those of N(0, I), per latent.

    An unbiased estimate of (|mean|^2 + |covariance - I|_F^2) / latents, for any distribution and any batch: |mean|^2 from the
    products of different people, tr(covariance^2) as the unbiased HSIC of two linear kernels. The plug-in figure has the
    expectation (1 / n + (latents + 1) / (n - 1)) under N(0, I), and its minimum is at a variance smaller than 1.
    """
    people, latents = z.shape
    products = z @ z.T
    centred = _u_centred(products)
    squared_mean = (products.sum() - products.diagonal().sum()) / (people * (people - 1))
    variance = z.var(dim=0).sum()
    return (squared_mean + _mean_product(centred, centred) - 2 * variance + latents) / latents


def _distances(a: Float[Tensor, "people columns"]) -> Float[Tensor, "people people"]:
    # Not through matrix products: these lose close pairs in float32. The gradient of a zero distance is zero.
    return torch.cdist(a, a, compute_mode="donot_use_mm_for_euclid_dist")


def _gaussian_kernel(a: Float[Tensor, "people columns"]) -> Float[Tensor, "people people"]:
    distances = _distances(a)
    apart = distances.detach()[distances.detach() > 0]
    bandwidth = apart.median() if len(apart) else distances.new_ones(())
    return torch.exp(-0.5 * (distances / bandwidth) ** 2)


def _u_centred(pairs: Float[Tensor, "people people"]) -> Float[Tensor, "people people"]:
    people = len(pairs)
    if people < 4:
        raise ModelError(f"dependence among {people} people cannot be estimated: 4 or more are needed in a batch")
    same = torch.eye(people, dtype=torch.bool, device=pairs.device)
    sums = pairs.masked_fill(same, 0).sum(dim=1)
    grand = sums.sum() / ((people - 1) * (people - 2))
    return (pairs - (sums[:, None] + sums[None, :]) / (people - 2) + grand).masked_fill(same, 0)


def _mean_product(left: Float[Tensor, "people people"], right: Float[Tensor, "people people"]) -> Float[Tensor, ""]:
    people = len(left)
    return (left * right).sum() / (people * (people - 3))


_Parameters = Float[Tensor, "people latents"]


class Prior(ABC):
    """How the encoder's (mean, log variance) become a posterior; drawing uses torch's own generator."""

    @abstractmethod
    def draw(self, mean: _Parameters, log_variance: _Parameters) -> _Parameters:
        """Draw z once for each person, so that gradients pass."""

    @abstractmethod
    def expected(self, mean: _Parameters, log_variance: _Parameters) -> _Parameters:
        """Return the posterior mean of z."""

    @abstractmethod
    def divergence(self, mean: _Parameters, log_variance: _Parameters) -> Float[Tensor, "people _"]:
        """Return KL(posterior || prior): a column a latent (Gaussian), or one column (Dirichlet)."""

    @abstractmethod
    def sample(self, people: int, latents: int, rng: np.random.Generator) -> Float[np.ndarray, "people latents"]:
        """Draw z from the prior."""


class _GaussianPrior(Prior):
    """z ~ N(0, I); the posterior is N(mean, exp(log_variance)), independent latents."""

    def draw(self, mean: _Parameters, log_variance: _Parameters) -> _Parameters:
        """Draw by reparameterisation (Kingma & Welling 2014)."""
        return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)

    def expected(self, mean: _Parameters, log_variance: _Parameters) -> _Parameters:  # noqa: ARG002
        return mean

    def divergence(self, mean: _Parameters, log_variance: _Parameters) -> Float[Tensor, "people _"]:
        return gaussian_kl(mean, log_variance)

    def sample(self, people: int, latents: int, rng: np.random.Generator) -> Float[np.ndarray, "people latents"]:
        return rng.standard_normal((people, latents))


class _DirichletPrior(Prior):
    """z are shares of a mixture, centred and scaled to unit size: (latents * share - 1); the prior is Dirichlet(1, ..., 1).

    The concentration is softplus(mean); the log variance is not used.
    """

    def draw(self, mean: _Parameters, log_variance: _Parameters) -> _Parameters:  # noqa: ARG002
        """Draw shares by implicit reparameterisation (Figurnov 2018)."""
        shares = torch.distributions.Dirichlet(self._concentration(mean), validate_args=False).rsample()
        return shares * mean.shape[1] - 1

    def expected(self, mean: _Parameters, log_variance: _Parameters) -> _Parameters:  # noqa: ARG002
        concentration = self._concentration(mean)
        return concentration / concentration.sum(dim=1, keepdim=True) * mean.shape[1] - 1

    def divergence(self, mean: _Parameters, log_variance: _Parameters) -> Float[Tensor, "people _"]:  # noqa: ARG002
        concentration = self._concentration(mean)
        return dirichlet_kl(concentration, torch.ones_like(concentration[0]))[:, None]

    def sample(self, people: int, latents: int, rng: np.random.Generator) -> Float[np.ndarray, "people latents"]:
        return rng.dirichlet(np.ones(latents), people) * latents - 1

    @staticmethod
    def _concentration(mean: _Parameters) -> _Parameters:
        return torch.nn.functional.softplus(mean + 1.0) + 1e-2


PRIORS: dict[str, Prior] = {"gaussian": _GaussianPrior(), "dirichlet": _DirichletPrior()}
