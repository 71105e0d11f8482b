"""Prior of salient latents in training, by each person's level, and exchanges of them between people.

With l the level of a person, and everything in units of u (`salient.py`):

    u = m_l + Phi_l^1/2 w,    w ~ N(0, I),    for controls u = 0

The encoder is not told l. What it says, N(mean, variance) under a prior N(0, I), is a reading r of u with noise of variance n;
multiplied with the prior of the level it gives the posterior that training draws from, and that the bound takes, in closed form:

    r = mean (q + 1) / q,    n = variance (q + 1) / q,    w | r, l ~ N(A^-1 b, A^-1),
    A = I + Phi_l^1/2 diag(1 / n) Phi_l^1/2,    b = Phi_l^1/2 diag(1 / n) (r - m_l)

At the closed form this is the exact posterior. Controls say nothing of r by it: their q^1/2 r is drawn to N(0, I) (`moment_gap`).

**Swap**: of people i and j, with m the decoder's mean, h_i + m(z_i, r_j) - m(z_i, r_i) is read again, and z_i and r_j should be
found, in prior deviations. In closed form they are; a network that bends one side has to bend the other.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medrep.models.vae.bodies import Autoencoder
from medrep.models.vae.losses import gaussian_kl, moment_gap

Parameters = Float[Tensor, "people latents"]
_FEWEST = 4


@dataclass(frozen=True)
class SalientPrior:
    """The prior of some people; it takes the place of a prior of all latents.

    Attributes:
        common: Common latents; the salient ones stand behind these.
        codes: Level of each person.
        control: The level without salient part.
        second: q.
        means: m_l.
        roots: Phi_l^1/2, symmetric.
    """

    common: int
    codes: Int[Tensor, " people"]
    control: int
    second: Float[Tensor, " salient"]
    means: Float[Tensor, "levels salient"]
    roots: Float[Tensor, "levels salient salient"]

    def of(self, people: Int[Tensor, " some"]) -> "SalientPrior":
        """Return the prior of some of the people."""
        return replace(self, codes=self.codes[people])

    def readings(self, mean: Parameters) -> Float[Tensor, "people salient"]:
        """Return r."""
        return mean[:, self.common :] * ((self.second + 1) / self.second)

    def draw(self, mean: Parameters, log_variance: Parameters) -> Parameters:
        """Draw all latents once for each person, so that gradients pass."""
        drawn = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        with torch.autocast(mean.device.type, enabled=False):
            lower, centre = self._posterior(mean.float(), log_variance.float())
            noise = drawn.new_zeros(centre.shape, dtype=centre.dtype).normal_()
            w = centre + torch.linalg.solve_triangular(lower.mT, noise[..., None], upper=True)[..., 0]
            u = self.means[self.codes] + torch.einsum("pij,pj->pi", self.roots[self.codes], w)
        return torch.cat([drawn[:, : self.common], u.to(drawn.dtype)], dim=1)

    def divergence(self, mean: Parameters, log_variance: Parameters) -> Float[Tensor, "people _"]:
        """Return KL(posterior || prior): a column a common latent, and one of the salient ones."""
        own = gaussian_kl(mean[:, : self.common], log_variance[:, : self.common])
        with torch.autocast(mean.device.type, enabled=False):
            lower, centre = self._posterior(mean.float(), log_variance.float())
            trace = torch.cholesky_inverse(lower).diagonal(dim1=1, dim2=2).sum(dim=1)
            logs = torch.log(lower.diagonal(dim1=1, dim2=2)).sum(dim=1)
            kl = 0.5 * (trace + (centre**2).sum(dim=1) - centre.shape[1]) + logs
        return torch.cat([own, kl[:, None]], dim=1)

    def expected(self, mean: Parameters, log_variance: Parameters) -> Float[Tensor, "people common"]:  # noqa: ARG002
        """Return the posterior means of the common latents, which are to tell nothing."""
        return mean[:, : self.common]

    def gap(self, mean: Parameters, z: Parameters) -> Float[Tensor, ""]:
        """Return how far common latents are from N(0, I), and controls' readings from theirs, per latent."""
        gap = moment_gap(z[:, : self.common]) * self.common
        controls = self.readings(mean)[self.codes == self.control] * self.second.sqrt()
        if len(controls) >= _FEWEST:
            gap = gap + moment_gap(controls) * controls.shape[1]
        return gap / z.shape[1]

    def swap(
        self,
        network: Autoencoder,
        h: Float[Tensor, "people columns"],
        context: Float[Tensor, "people context"],
        mean: Parameters,
    ) -> Float[Tensor, ""]:
        """Return the squared error, summed over latents, with which parts exchanged at random are found again."""
        z, own = mean[:, : self.common], self.readings(mean)
        other = own[torch.randperm(len(own)).to(own.device)]
        there, here = (network.decoder(torch.cat([z, part], dim=1), context)[0] for part in (other, own))
        again, _ = network.encoder(h + there - here, context)
        missed = (again[:, : self.common] - z) ** 2, (self.readings(again) - other) ** 2
        return torch.cat(missed, dim=1).sum(dim=1).mean()

    def _posterior(
        self, mean: Parameters, log_variance: Parameters
    ) -> tuple[Float[Tensor, "people salient salient"], Float[Tensor, "people salient"]]:
        """Return the Cholesky factor of A, and the mean of w."""
        root = self.roots[self.codes]
        noise = torch.exp(log_variance[:, self.common :]) * ((self.second + 1) / self.second)
        weighed = root / noise[:, None, :]
        lower = torch.linalg.cholesky(weighed @ root + torch.eye(root.shape[1], device=root.device))
        told = torch.einsum("pij,pj->pi", weighed, self.readings(mean) - self.means[self.codes])
        return lower, torch.cholesky_solve(told[..., None], lower)[..., 0]
