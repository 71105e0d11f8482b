"""The loss of the conditional VAE on some people: likelihood, prior, independence of z and covariates, shape of z."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medrep.losses import (
    concatenated_distance_covariance,
    distance_correlation,
    gaussian_nll,
    hsic,
    joint_distance_covariance,
    moment_gap,
)
from medrep.models.vae_settings import VaeSettings
from medrep.models.vae_task import Task
from medrep.nn.autoencoder import Autoencoder
from medrep.training.loop import TOTAL

_FEWEST = 4


class VaeObjective:
    """Loss parts of the evidence bound and its penalties, per column.

    In training every batch counts a set of covariates as known, more than half of the time all of them; in validation all.

    Args:
        network: The network.
        task: Training data.
        settings: Weights.
        strength: Weight of the independence penalty.
    """

    def __init__(self, network: Autoencoder, task: Task, settings: VaeSettings, strength: float) -> None:
        self._network, self._task, self._settings, self._strength = network, task, settings, strength

    def __call__(self, people: Int[Tensor, " some"], epoch: int) -> dict[str, Tensor]:
        """Return the loss parts; nats and penalties are per column, so that weights mean the same for any width."""
        settings, chosen = self._settings, 0
        if self._network.training and float(torch.rand(())) < 0.5:
            chosen = int(torch.randint(len(self._task.residuals), ()))
        h, context = self._task.residuals[chosen][people], self._task.contexts[chosen][people]
        mean, log_variance = self._network.encoder(h, context)
        z = self._network.prior.draw(mean, log_variance)
        expected, log_scale = self._network.decoder(z, context)
        if settings.noise > 0:
            log_scale = torch.full_like(log_scale, settings.noise).log()
        per_column = 1 / max(int(self._task.used.sum()), 1)
        beta = settings.beta * settings.training.beta_share(epoch)
        parts = {
            "reconstruction": gaussian_nll(h, expected, log_scale)[:, self._task.used].sum(dim=1).mean() * per_column,
            "divergence": self._network.prior.divergence(mean, log_variance).sum(dim=1).mean() * per_column,
        }
        total = parts["reconstruction"] + beta * parts["divergence"]
        if len(people) >= _FEWEST:
            centre = self._network.prior.expected(mean, log_variance)
            parts["dependence"] = self._dependence(
                centre, [self._task.parts[k][people] for k in self._task.known[chosen]]
            )
            total = total + self._strength * parts["dependence"]
            # Of people some of whose covariates are unknown the latents hold these too: they are not N(0, I).
            if settings.prior == "gaussian" and chosen == 0:
                parts["aggregate"] = moment_gap(z)
                total = total + settings.aggregate * parts["aggregate"] * per_column * z.shape[1]
        return {**parts, TOTAL: total}

    def _dependence(
        self, z: Float[Tensor, "people latents"], parts: Sequence[Float[Tensor, "people _"]]
    ) -> Float[Tensor, ""]:
        kind = self._settings.independence
        if kind == "none" or not parts:
            return z.new_zeros(())
        scaled = z / z.shape[1] ** 0.5
        if kind == "joint":
            return joint_distance_covariance(scaled, parts)
        if kind == "concatenated":
            return concatenated_distance_covariance(scaled, parts)
        measure = hsic if kind == "hsic" else distance_correlation
        return torch.stack([measure(scaled, part) for part in parts]).mean()
