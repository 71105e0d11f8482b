"""Closed-form starts of latents with roles: turned, since the linear optimum is the same for any rotation of them."""

import numpy as np
import torch
from jaxtyping import Float

from medrep.models.vae.bodies import Autoencoder
from medrep.models.vae.quantised import Quantised, cluster_means, independent_axes
from medrep.models.vae.subtypes import Mixture, found_subtypes


def start_roles(network: Autoencoder, means: Float[np.ndarray, "people latents"], seed: int) -> None:
    """Turn latents of the closed form, and start what stands in the place of their prior; nothing to do for a plain one.

    Args:
        network: At the closed form.
        means: Latents of people there, which do not snap.
        seed: Of the searches.

    Raises:
        ModelError: Too few people for so many subtypes.
    """
    prior = network.prior
    if isinstance(prior, Quantised):
        turn = independent_axes(means, seed)
        _turn(network, turn)
        _set(prior.values, cluster_means(means @ turn.T, prior.values.shape[1]))
    elif isinstance(prior, Mixture):
        weights, centres, within = found_subtypes(means, len(prior.logits), seed)
        variances, axes = np.linalg.eigh(within)
        _turn(network, axes.T)
        _set(prior.logits, np.log(np.maximum(weights, 1e-6)))
        _set(prior.means, centres @ axes)
        # Posterior means vary less than z, by the posterior's own variance.
        left = np.exp(network.encoder.log_variance.detach().double().numpy())
        _set(prior.log_sd, 0.5 * np.log(np.maximum(variances, 0) + left))


def _turn(network: Autoencoder, turn: Float[np.ndarray, "latents latents"]) -> None:
    encoder, decoder = network.encoder, network.decoder
    left = np.exp(encoder.log_variance.detach().double().numpy())
    _set(encoder.linear.weight, turn @ encoder.linear.weight.detach().double().numpy())
    _set(decoder.linear.weight, decoder.linear.weight.detach().double().numpy() @ turn.T)
    _set(encoder.log_variance, np.log(turn**2 @ left))


@torch.no_grad()
def _set(parameter: torch.Tensor, value: np.ndarray) -> None:
    parameter.copy_(torch.as_tensor(value))
