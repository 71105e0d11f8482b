"""Unknown subtypes: a mixture of normal distributions as the prior of the latents.

    z_i ~ sum_k w_k N(m_k, diag(s^2)),    w, m and s learned

The KL term is the closed-form bound of Hershey & Olsen (2007), with its share of each subtype for a person:

    KL(q || p) <= -log sum_k w_k exp(-KL(q || N(m_k, s^2))),    share_k ~ w_k exp(-KL(q || N(m_k, s^2)))

Latents are those of people without what the network is told of them, so that subtypes are not sites, or ages.

**Start**: a mixture with one covariance within all subtypes, by expectation maximisation on the latents of the closed form, which
are turned to the axes of that covariance. **Limitations**: how many there are is told, not found, and any number is given people:
of a population without subtypes it divides a cloud. Subtypes that differ in spread alone are not looked for.
"""

import numpy as np
import torch
from jaxtyping import Float
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from medrep.errors import ModelError

_FEWEST = 10
_STARTS, _FEWEST_STARTS, _MOST_PEOPLE = 200, 20, 200_000  # people times starts

Parameters = Float[Tensor, "people latents"]


class Mixture(nn.Module):
    """The subtypes, the commonest first; takes the place of a prior."""

    def __init__(self, latents: int, subtypes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(subtypes))
        self.means = nn.Parameter(torch.zeros(subtypes, latents))
        self.log_sd = nn.Parameter(torch.zeros(latents))

    def draw(self, mean: Parameters, log_variance: Parameters) -> Parameters:
        """Draw z once for each person, so that gradients pass."""
        return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)

    def expected(self, mean: Parameters, log_variance: Parameters) -> Parameters:  # noqa: ARG002
        """Return the posterior mean of z."""
        return mean

    def divergence(self, mean: Parameters, log_variance: Parameters) -> Float[Tensor, "people _"]:
        """Return the bound on KL(posterior || prior), one column."""
        return -torch.logsumexp(self._logs(mean, log_variance), dim=1)[:, None]

    def shares(self, mean: Parameters, log_variance: Parameters) -> Float[Tensor, "people subtypes"]:
        """Return how probable each subtype is for each person."""
        return torch.softmax(self._logs(mean, log_variance), dim=1)

    def sample(self, people: int, latents: int, rng: np.random.Generator) -> Float[np.ndarray, "people latents"]:
        """Draw subtypes by their weights, then z of each."""
        weights, means, sd = (
            own.detach().double().cpu().numpy()
            for own in (torch.softmax(self.logits, dim=0), self.means, torch.exp(self.log_sd))
        )
        whose = rng.choice(len(weights), people, p=weights / weights.sum())
        return means[whose] + sd * rng.standard_normal((people, latents))

    def _logs(self, mean: Parameters, log_variance: Parameters) -> Float[Tensor, "people subtypes"]:
        apart = ((mean[:, None, :] - self.means) * torch.exp(-self.log_sd)) ** 2
        ratio = log_variance - 2 * self.log_sd
        spread = (torch.expm1(ratio) - ratio).sum(dim=1, keepdim=True)
        return torch.log_softmax(self.logits, dim=0) - 0.5 * (apart.sum(dim=2) + spread)


def found_subtypes(
    z: Float[np.ndarray, "people latents"], subtypes: int, seed: int
) -> tuple[Float[np.ndarray, " subtypes"], Float[np.ndarray, "subtypes latents"], Float[np.ndarray, "latents latents"]]:
    """Return weights and means of subtypes, the commonest first, and the covariance within them.

    Raises:
        ModelError: Fewer than ten people a subtype.
    """
    if len(z) < _FEWEST * subtypes:
        most = len(z) // _FEWEST
        raise ModelError(
            f"settings.roles.subtypes is {subtypes}, for which {len(z)} people are too few; give {most} at most"
        )
    # Most starts end in halves of a cloud: the likeliest of many is taken.
    starts = int(np.clip(_MOST_PEOPLE // len(z), _FEWEST_STARTS, _STARTS))
    mixture = GaussianMixture(subtypes, covariance_type="tied", n_init=starts, random_state=seed, max_iter=500).fit(z)
    order = np.argsort(-mixture.weights_, kind="stable")
    return mixture.weights_[order], mixture.means_[order], np.asarray(mixture.covariances_)
