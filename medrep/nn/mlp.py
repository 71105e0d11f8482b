"""The body for columns without order: a linear map plus a conditioned perceptron that corrects it.

The linear map is set to the closed-form optimum of the linear model before training and the correction starts at zero, so
that training begins where a linear conditional VAE ends.
"""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medrep.nn.choices import Conditioning
from medrep.nn.conditioning import ConditionedLayer, zero_linear

LOG_BOUND = 5.0


class MlpEncoder(nn.Module):
    """q(z | x, c): mean and log variance of each latent.

    Args:
        columns: Width of x.
        latents: Width of z.
        context: Width of c.
        hidden: Widths of the layers of the correction; none leaves the linear map alone.
        conditioning: How c enters.
    """

    def __init__(
        self, columns: int, latents: int, context: int, hidden: Sequence[int], conditioning: Conditioning
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(columns, latents)
        self.log_variance = nn.Parameter(torch.zeros(latents))
        self.layers = stack(columns, context, hidden, conditioning)
        self.head = zero_linear(hidden[-1], 2 * latents) if hidden else None

    def forward(
        self, x: Float[Tensor, "people columns"], context: Float[Tensor, "people context"]
    ) -> tuple[Float[Tensor, "people latents"], Float[Tensor, "people latents"]]:
        """Return mean and log variance."""
        mean, log_variance = self.linear(x), self.log_variance.expand(len(x), -1)
        if self.head is None:
            return mean, log_variance
        shift, log_ratio = self.head(through(self.layers, x, context)).chunk(2, dim=1)
        return mean + shift, (log_variance + log_ratio).clamp(-2 * LOG_BOUND, 2 * LOG_BOUND)


class MlpDecoder(nn.Module):
    """p(x | z, c): mean and log standard deviation of each column.

    Args:
        columns: Width of x.
        latents: Width of z.
        context: Width of c.
        hidden: Widths of the layers of the correction; none leaves the linear map alone.
        conditioning: How c enters.
        heteroscedastic: Whether the scale depends on z and c.
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

    def forward(
        self, z: Float[Tensor, "people latents"], context: Float[Tensor, "people context"]
    ) -> tuple[Float[Tensor, "people columns"], Float[Tensor, "people columns"]]:
        """Return mean and log standard deviation."""
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
    layers: nn.ModuleList, x: Float[Tensor, "people inputs"], context: Float[Tensor, "people context"]
) -> Float[Tensor, "people outputs"]:
    """Send x through conditioned layers."""
    for layer in layers:
        x = layer(x, context)
    return x
