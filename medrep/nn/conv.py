"""The body for voxels: a linear map plus a small 3-D convolutional correction, both conditioned on the covariates.

The linear map is the closed-form optimum and stays as it is: with more voxels than people it could only overfit. The
correction starts at zero.
"""

import itertools
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medrep.nn.conditioning import modulate, zero_linear
from medrep.nn.mlp import LOG_BOUND

_DOWN = 8


class ConvEncoder(nn.Module):
    """q(z | x, c) of a volume.

    Args:
        shape: Voxels along each axis; x has their product as columns, in C order.
        latents: Width of z.
        context: Width of c.
        channels: Channels after each of three halvings of the grid.
    """

    def __init__(self, shape: tuple[int, int, int], latents: int, context: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self._shape, self._coarse = shape, coarse_shape(shape)
        self.linear = _fixed(nn.Linear(prod(shape), latents))
        self.log_variance = nn.Parameter(torch.zeros(latents))
        widths = (1, *channels)
        self.layers = nn.ModuleList(nn.Conv3d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths))
        self.modulations = nn.ModuleList(zero_linear(context, 2 * width) for width in channels)
        self.head = zero_linear(channels[-1] * prod(self._coarse), 2 * latents)

    def forward(
        self, x: Float[Tensor, "people voxels"], context: Float[Tensor, "people context"]
    ) -> tuple[Float[Tensor, "people latents"], Float[Tensor, "people latents"]]:
        """Return mean and log variance."""
        volume = x.reshape(len(x), 1, *self._shape)
        margins = [(edge, _DOWN * coarse) for edge, coarse in zip(self._shape, self._coarse, strict=True)]
        features = nn.functional.pad(volume, [n for edge, wide in reversed(margins) for n in (0, wide - edge)])
        for layer, modulation in zip(self.layers, self.modulations, strict=True):
            features = nn.functional.silu(modulate(layer(features), modulation(context)))
        shift, log_ratio = self.head(features.flatten(1)).chunk(2, dim=1)
        log_variance = (self.log_variance + log_ratio).clamp(-2 * LOG_BOUND, 2 * LOG_BOUND)
        return self.linear(x) + shift, log_variance


class ConvDecoder(nn.Module):
    """p(x | z, c) of a volume.

    Args:
        shape: Voxels along each axis.
        latents: Width of z.
        context: Width of c.
        channels: Channels before each of three doublings of the grid.
        heteroscedastic: Whether the scale depends on z and c.
    """

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

    def forward(
        self, z: Float[Tensor, "people latents"], context: Float[Tensor, "people context"]
    ) -> tuple[Float[Tensor, "people voxels"], Float[Tensor, "people voxels"]]:
        """Return mean and log standard deviation."""
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
