"""Priors of the latents: what an encoder's two outputs mean, how z is drawn, and what it costs."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medrep.losses import dirichlet_kl, gaussian_kl

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


class GaussianPrior(Prior):
    """z ~ N(0, I); the posterior is N(mean, exp(log_variance)), independent latents."""

    def draw(self, mean: _Parameters, log_variance: _Parameters) -> _Parameters:
        """Draw by reparameterisation (Kingma & Welling 2014)."""
        return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)

    def expected(self, mean: _Parameters, log_variance: _Parameters) -> _Parameters:  # noqa: ARG002
        """Return the mean."""
        return mean

    def divergence(self, mean: _Parameters, log_variance: _Parameters) -> Float[Tensor, "people _"]:
        """Return the KL of each latent."""
        return gaussian_kl(mean, log_variance)

    def sample(self, people: int, latents: int, rng: np.random.Generator) -> Float[np.ndarray, "people latents"]:
        """Draw standard normal numbers."""
        return rng.standard_normal((people, latents))


class DirichletPrior(Prior):
    """z are shares of a mixture, centred and scaled to unit size: (latents * share - 1); the prior is Dirichlet(1, ..., 1).

    The concentration is softplus(mean); the log variance is not used.
    """

    def draw(self, mean: _Parameters, log_variance: _Parameters) -> _Parameters:  # noqa: ARG002
        """Draw shares by implicit reparameterisation (Figurnov 2018)."""
        shares = torch.distributions.Dirichlet(self._concentration(mean), validate_args=False).rsample()
        return shares * mean.shape[1] - 1

    def expected(self, mean: _Parameters, log_variance: _Parameters) -> _Parameters:  # noqa: ARG002
        """Return the mean shares, centred and scaled."""
        concentration = self._concentration(mean)
        return concentration / concentration.sum(dim=1, keepdim=True) * mean.shape[1] - 1

    def divergence(self, mean: _Parameters, log_variance: _Parameters) -> Float[Tensor, "people _"]:  # noqa: ARG002
        """Return the KL of the shares, one column."""
        concentration = self._concentration(mean)
        return dirichlet_kl(concentration, torch.ones_like(concentration[0]))[:, None]

    def sample(self, people: int, latents: int, rng: np.random.Generator) -> Float[np.ndarray, "people latents"]:
        """Draw equally likely shares, centred and scaled."""
        return rng.dirichlet(np.ones(latents), people) * latents - 1

    @staticmethod
    def _concentration(mean: _Parameters) -> _Parameters:
        return torch.nn.functional.softplus(mean + 1.0) + 1e-2


PRIORS: dict[str, Prior] = {"gaussian": GaussianPrior(), "dirichlet": DirichletPrior()}
