"""Networks: bodies for unordered columns and for voxels, conditioned on covariates.

The linear map is set to the closed-form optimum of the linear model before training and the correction starts at zero, so
that training begins where a linear conditional VAE ends. On volumes the linear map stays as it is: with more voxels than
people it could only overfit.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from medrep.models.vae.losses import PRIORS, Prior
from medrep.models.vae.quantised import Quantised
from medrep.models.vae.roles import PLAIN, Roles
from medrep.models.vae.settings import Conditioning
from medrep.models.vae.subtypes import Mixture

Context = Float[Tensor, "people context"]
Latents = Float[Tensor, "people latents"]
Data = Float[Tensor, "people columns"]
Voxels = Float[Tensor, "people voxels"]


class ConditionedLayer(nn.Module):
    """A linear layer with a smooth activation whose output depends on the covariates c, the context.

    ``film``: silu((1 + g(c)) * (W x + b) + h(c)), with g and h zero at the start; ``concatenate``: silu(W [x, c] + b).
    """

    def __init__(self, inputs: int, outputs: int, context: int, how: Conditioning) -> None:
        super().__init__()
        self._film = how == "film"
        self.linear = nn.Linear(inputs if self._film else inputs + context, outputs)
        self.modulation = zero_linear(context, 2 * outputs) if self._film else nn.Identity()

    def forward(self, x: Float[Tensor, "people inputs"], context: Context) -> Float[Tensor, "people outputs"]:
        """Return the activations."""
        if not self._film:
            return nn.functional.silu(self.linear(torch.cat([x, context], dim=1)))
        return nn.functional.silu(modulate(self.linear(x), self.modulation(context)))


def modulate(features: Tensor, modulation: Float[Tensor, "people twice"]) -> Tensor:
    """Return (1 + g) * features + h, with g and h the halves of ``modulation``, a value a person and channel (axis 1)."""
    gain, shift = modulation.chunk(2, dim=1)
    wide = (..., *(None,) * (features.ndim - 2))
    return (1 + gain[wide]) * features + shift[wide]


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer that starts at zero, so that what it adds has to be earned."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


LOG_BOUND = 5.0


class _MlpEncoder(nn.Module):
    """q(z | x, c): mean and log variance of each latent; without hidden layers, the linear map alone."""

    def __init__(
        self, columns: int, latents: int, context: int, hidden: Sequence[int], conditioning: Conditioning
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(columns, latents)
        self.log_variance = nn.Parameter(torch.zeros(latents))
        self.layers = stack(columns, context, hidden, conditioning)
        self.head = zero_linear(hidden[-1], 2 * latents) if hidden else None

    def forward(self, x: Data, context: Context) -> tuple[Latents, Latents]:
        mean, log_variance = self.linear(x), self.log_variance.expand(len(x), -1)
        if self.head is None:
            return mean, log_variance
        shift, log_ratio = self.head(through(self.layers, x, context)).chunk(2, dim=1)
        return mean + shift, (log_variance + log_ratio).clamp(-2 * LOG_BOUND, 2 * LOG_BOUND)


class _MlpDecoder(nn.Module):
    """p(x | z, c): mean and log standard deviation of each column; without hidden layers, the linear map alone.

    ``heteroscedastic``: the scale depends on z and c.
    """

    def __init__(
        self,
        columns: int,
        latents: int,
        context: int,
        hidden: Sequence[int],
        conditioning: Conditioning,
        *,
        heteroscedastic: bool,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(latents, columns)
        self.log_scale = nn.Parameter(torch.zeros(columns))
        self.layers = stack(latents, context, hidden, conditioning)
        self.head = zero_linear(hidden[-1], columns) if hidden else None
        self.scale_head = zero_linear(hidden[-1], columns) if hidden and heteroscedastic else None

    def forward(self, z: Latents, context: Context) -> tuple[Data, Data]:
        mean, log_scale = self.linear(z), self.log_scale.expand(len(z), -1)
        if self.head is None:
            return mean, log_scale
        features = through(self.layers, z, context)
        if self.scale_head is not None:
            log_scale = (log_scale + self.scale_head(features)).clamp(-LOG_BOUND, LOG_BOUND)
        return mean + self.head(features), log_scale


def stack(inputs: int, context: int, hidden: Sequence[int], conditioning: Conditioning) -> nn.ModuleList:
    """Return conditioned layers of the given widths."""
    widths = [inputs, *hidden]
    return nn.ModuleList(ConditionedLayer(a, b, context, conditioning) for a, b in itertools.pairwise(widths))


def through(
    layers: nn.ModuleList, x: Float[Tensor, "people inputs"], context: Context
) -> Float[Tensor, "people outputs"]:
    """Send x through conditioned layers."""
    for layer in layers:
        x = layer(x, context)
    return x


_DOWN = 8


class ConvEncoder(nn.Module):
    """q(z | x, c) of a volume, whose voxels are columns in C order; ``channels`` are those after each halving of the grid."""

    def __init__(self, shape: tuple[int, int, int], latents: int, context: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self._shape, self._coarse = shape, coarse_shape(shape)
        self.linear = _fixed(nn.Linear(prod(shape), latents))
        self.log_variance = nn.Parameter(torch.zeros(latents))
        widths = (1, *channels)
        self.layers = nn.ModuleList(nn.Conv3d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths))
        self.modulations = nn.ModuleList(zero_linear(context, 2 * width) for width in channels)
        self.head = zero_linear(channels[-1] * prod(self._coarse), 2 * latents)

    def forward(self, x: Voxels, context: Context) -> tuple[Latents, Latents]:
        """Return mean and log variance."""
        volume = x.reshape(len(x), 1, *self._shape)
        margins = [(edge, _DOWN * coarse) for edge, coarse in zip(self._shape, self._coarse, strict=True)]
        features = nn.functional.pad(volume, [n for edge, wide in reversed(margins) for n in (0, wide - edge)])
        for layer, modulation in zip(self.layers, self.modulations, strict=True):
            features = nn.functional.silu(modulate(layer(features), modulation(context)))
        shift, log_ratio = self.head(features.flatten(1)).chunk(2, dim=1)
        log_variance = (self.log_variance + log_ratio).clamp(-2 * LOG_BOUND, 2 * LOG_BOUND)
        return self.linear(x) + shift, log_variance


class _ConvDecoder(nn.Module):
    """p(x | z, c) of a volume; ``channels`` are those before each of three doublings of the grid."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        latents: int,
        context: int,
        channels: tuple[int, int, int],
        *,
        heteroscedastic: bool,
    ) -> None:
        super().__init__()
        self._shape, self._coarse = shape, coarse_shape(shape)
        self.linear = _fixed(nn.Linear(latents, prod(shape)))
        self.log_scale = nn.Parameter(torch.zeros(prod(shape)))
        self._width = channels[0]
        self.start = nn.Linear(latents + context, channels[0] * prod(self._coarse))
        widths = (*channels, 2)
        self.layers = nn.ModuleList(nn.Conv3d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.modulations = nn.ModuleList(zero_linear(context, 2 * width) for width in channels[1:])
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)
        self._heteroscedastic = heteroscedastic

    def forward(self, z: Latents, context: Context) -> tuple[Voxels, Voxels]:
        features = self.start(torch.cat([z, context], dim=1)).reshape(len(z), self._width, *self._coarse)
        for position, layer in enumerate(self.layers):
            features = layer(nn.functional.interpolate(nn.functional.silu(features), scale_factor=2, mode="nearest"))
            if position < len(self.modulations):
                features = modulate(features, self.modulations[position](context))
        x, y, w = self._shape
        correction = features[:, :, :x, :y, :w].flatten(2)
        log_scale = self.log_scale.expand(len(z), -1)
        if self._heteroscedastic:
            log_scale = (log_scale + correction[:, 1]).clamp(-LOG_BOUND, LOG_BOUND)
        return self.linear(z) + correction[:, 0], log_scale


def coarse_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the grid after three halvings, rounded up."""
    x, y, z = (-(-edge // _DOWN) for edge in shape)
    return x, y, z


def _fixed(layer: nn.Linear) -> nn.Linear:
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    return layer


_AT_ONCE = 256


@dataclass(frozen=True)
class Body:
    """Body of an encoder and a decoder: widths or channels, and the voxels along each axis, for ``conv``.

    ``linear`` has no correction and does not look at the covariates.
    """

    kind: Literal["linear", "mlp", "conv"]
    hidden: Sequence[int]
    conditioning: Conditioning
    shape: tuple[int, int, int] | None = None


class Autoencoder(nn.Module):
    """q(z | x, c) and p(x | z, c).

    ``context`` is the width of c, and ``prior`` a key of ``PRIORS``; by their roles latents may have another prior.
    """

    def __init__(
        self,
        columns: int,
        latents: int,
        context: int,
        body: Body,
        *,
        heteroscedastic: bool,
        prior: str,
        roles: Roles = PLAIN,
    ) -> None:
        super().__init__()
        self.prior: Prior | Quantised | Mixture = PRIORS[prior]
        if roles.values:
            self.prior = Quantised(latents, roles.values)
        elif roles.subtypes > 1:
            self.prior = Mixture(latents, roles.subtypes)
        self.encoder: _MlpEncoder | ConvEncoder
        self.decoder: _MlpDecoder | _ConvDecoder
        if body.kind == "conv" and body.shape is not None:
            x, y, z = body.hidden
            self.encoder = ConvEncoder(body.shape, latents, context, (x, y, z))
            self.decoder = _ConvDecoder(body.shape, latents, context, (z, y, x), heteroscedastic=heteroscedastic)
        else:
            widths = () if body.kind == "linear" else tuple(body.hidden)
            self.encoder = _MlpEncoder(columns, latents, context, widths, body.conditioning)
            self.decoder = _MlpDecoder(
                columns, latents, context, widths, body.conditioning, heteroscedastic=heteroscedastic
            )

    @torch.no_grad()
    def encode(
        self, x: Float[np.ndarray, "people columns"], context: Float[np.ndarray, "people context"]
    ) -> Float[np.ndarray, "people latents"]:
        """Return the posterior mean of z, float64."""
        parts = [
            self.prior.expected(*self.encoder(own, c)).double().cpu().numpy() for own, c in self._batches(x, context)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.encoder.log_variance)))

    @torch.no_grad()
    def subtypes(
        self, x: Float[np.ndarray, "people columns"], context: Float[np.ndarray, "people context"]
    ) -> "Float[np.ndarray, 'people subtypes'] | None":
        """Return how probable each subtype is for each person, float64; None of a prior without any."""
        prior = self.prior
        if not isinstance(prior, Mixture):
            return None
        parts = [prior.shares(*self.encoder(own, c)).double().cpu().numpy() for own, c in self._batches(x, context)]
        return np.concatenate(parts) if parts else np.zeros((0, len(prior.logits)))

    @torch.no_grad()
    def deviations(
        self, x: Float[np.ndarray, "people columns"], context: Float[np.ndarray, "people context"]
    ) -> Float[np.ndarray, "people latents"]:
        """Return the posterior standard deviations of z, float64."""
        parts = [
            torch.exp(0.5 * self.encoder(own, c)[1]).double().cpu().numpy() for own, c in self._batches(x, context)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.encoder.log_variance)))

    @torch.no_grad()
    def decode(
        self, z: Float[np.ndarray, "people latents"], context: Float[np.ndarray, "people context"]
    ) -> tuple[Float[np.ndarray, "people columns"], Float[np.ndarray, "people columns"]]:
        """Return mean and log standard deviation of x, float32."""
        parts = [self.decoder(own, c) for own, c in self._batches(z, context)]
        if not parts:
            empty = np.zeros((0, len(self.decoder.log_scale)), np.float32)
            return empty, empty
        mean, log_scale = (torch.cat([part[k] for part in parts]).cpu().numpy() for k in (0, 1))
        return mean, log_scale

    def _batches(self, rows: np.ndarray, context: np.ndarray) -> list[tuple[Tensor, Tensor]]:
        weight = self.encoder.linear.weight
        return [
            (
                torch.as_tensor(rows[k : k + _AT_ONCE], dtype=weight.dtype, device=weight.device),
                torch.as_tensor(context[k : k + _AT_ONCE], dtype=weight.dtype, device=weight.device),
            )
            for k in range(0, len(rows), _AT_ONCE)
        ]
