"""Quantised latents: each snaps to the nearest of a few learned values of its own (QLAE, Hsu et al. 2023, NeurIPS).

With e the encoder's mean and v_k1 ... v_kn the values of latent k:

    z_k = the nearest v_kj to e_k;    loss: + .01 |stop(e) - z|^2 + .01 |e - stop(z)|^2,    dz/de = 1 (straight through)

They stand in place of the KL term; weights decay by .1 (`AdamW`). A latent that can say only a few things says the same thing
of everybody who has a value, so that latents come to lie along what is discrete, or bounded, and independent in people.

**Start**: the closed form is the same for any rotation of its latents, so it is turned to the one in which latents are least
normal (FastICA, Hyvarinen 1999), and the values are the means of one-dimensional clusters of people (k-means, Lloyd 1982).
Where factors are normal no rotation is better than another.

**Moving**: location and scale of z are moved after it has snapped, and z is not snapped again: a person would jump where the
move is small. The decoder is smooth between values, and what snapping leaves of a person is in the residual, which is carried.
"""

import warnings

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from medrep.models.vae.components import FactorModel

Means = Float[Tensor, "people latents"]

DECAY = 0.1
_QUANTISE = _COMMIT = 0.01
_LLOYD = 50
_FEWEST = 20
_TRACY_WIDOM = 2.02  # 99% quantile


class Quantised(nn.Module):
    """The values of each latent, and the share of people who have them; takes the place of a prior."""

    def __init__(self, latents: int, values: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(latents, values))
        self.shares: Tensor
        self.register_buffer("shares", torch.full((latents, values), 1 / values))

    def nearest(self, mean: Means) -> Means:
        """Return the nearest value to each latent of each person."""
        place = (mean[:, :, None] - self.values).abs().argmin(dim=2)
        return torch.gather(self.values, 1, place.T).T

    def draw(self, mean: Means, log_variance: Means) -> Means:
        """Return the nearest values; gradients pass as if nothing had snapped."""
        return self.expected(mean, log_variance)

    def expected(self, mean: Means, log_variance: Means) -> Means:  # noqa: ARG002
        """Return the nearest values; gradients pass as if nothing had snapped."""
        snapped = self.nearest(mean).detach()
        return snapped + (mean - mean.detach()) if mean.requires_grad else snapped

    def divergence(self, mean: Means, log_variance: Means) -> Means:  # noqa: ARG002
        """Return what draws values to people and people to values."""
        snapped = self.nearest(mean)
        return _QUANTISE * (mean.detach() - snapped) ** 2 + _COMMIT * (mean - snapped.detach()) ** 2

    def sample(self, people: int, latents: int, rng: np.random.Generator) -> Float[np.ndarray, "people latents"]:
        """Draw values, each latent by itself, as often as people have them."""
        values, shares = (own.detach().double().cpu().numpy() for own in (self.values, self.shares))
        drawn = [rng.choice(values[k], people, p=shares[k] / shares[k].sum()) for k in range(latents)]
        return np.stack(drawn, axis=1)

    @torch.no_grad()
    def count(self, z: Float[np.ndarray, "people latents"]) -> None:
        """Learn how often people have each value."""
        snapped = torch.as_tensor(z, dtype=self.values.dtype, device=self.values.device)
        place = (snapped[:, :, None] - self.values).abs().argmin(dim=2)
        self.shares.copy_(nn.functional.one_hot(place, self.values.shape[1]).to(self.shares.dtype).mean(dim=0))

    def varying(self, least: float) -> int:
        """Return how many latents tell at least so many nats of people."""
        shares = self.shares.double()
        return int((-(shares * torch.log(shares.clamp_min(1e-300))).sum(dim=1) >= least).sum())


def told_latents(factors: FactorModel, latents: int, people: int) -> int:
    """Return how many latents of the closed form stand out from noise, the strongest first.

    Of the others a person's value would be a guess, and what they hold is left to the residual. Noise alone, in units of what
    is left of each column, has eigenvalues of up to (1 + sqrt(columns / people))^2 (Marchenko & Pastur 1967; the rule is the
    parallel analysis of Horn 1965, with that edge for draws).

    Args:
        factors: Factor model of what is below the network.
        latents: How many at most.
        people: How many it was fitted to.
    """
    squares, left = factors.loadings**2, (factors.loadings**2).sum(axis=0) + factors.noise
    varies = factors.noise > 0
    roots = np.sqrt([max(people - 1, 1), max(int(varies.sum()), 1)])
    edge = roots.sum() / people * (roots.sum() + _TRACY_WIDOM * (1 / roots).sum() ** (1 / 3))
    for told, own in enumerate(squares[:latents]):
        if float((own[varies] / left[varies]).sum()) <= edge:
            return told
        left = left - own
    return min(latents, len(squares))


def independent_axes(z: Float[np.ndarray, "people latents"], seed: int) -> Float[np.ndarray, "latents latents"]:
    """Return the rotation after which latents are least normal; none of few people or latents.

    Args:
        z: Latents of the closed form, which are uncorrelated.
        seed: Of the search's start.
    """
    latents = z.shape[1]
    if latents < 2 or len(z) < _FEWEST * latents:
        return np.eye(latents)
    search = FastICA(whiten=False, random_state=seed, max_iter=1000, tol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit((z - z.mean(axis=0)) / np.maximum(z.std(axis=0), 1e-12))
    left, _, right = np.linalg.svd(search.components_)
    return left @ right


def cluster_means(z: Float[np.ndarray, "people latents"], values: int) -> Float[np.ndarray, "latents values"]:
    """Return the means of one-dimensional clusters of each latent, which start at its quantiles."""
    found = np.quantile(z, (np.arange(values) + 0.5) / values, axis=0).T
    for _ in range(_LLOYD):
        place = np.abs(z[:, :, None] - found).argmin(axis=2)
        own = place[:, :, None] == np.arange(values)
        counts = own.sum(axis=0)
        means = (own * z[:, :, None]).sum(axis=0) / np.maximum(counts, 1)
        found = np.sort(np.where(counts > 0, means, found), axis=1)
    return found
