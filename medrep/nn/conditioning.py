"""How covariates enter a network: they modulate features (FiLM, Perez 2018), or stand beside the input."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medrep.nn.choices import Conditioning


class ConditionedLayer(nn.Module):
    """A linear layer with a smooth activation whose output depends on the covariates.

    ``film``: silu((1 + g(c)) * (W x + b) + h(c)), with g and h zero at the start; ``concatenate``: silu(W [x, c] + b).

    Args:
        inputs: Width of x.
        outputs: Width of the result.
        context: Width of c.
        how: Film or concatenate.
    """

    def __init__(self, inputs: int, outputs: int, context: int, how: Conditioning) -> None:
        super().__init__()
        self._film = how == "film"
        self.linear = nn.Linear(inputs if self._film else inputs + context, outputs)
        self.modulation = zero_linear(context, 2 * outputs) if self._film else nn.Identity()

    def forward(
        self, x: Float[Tensor, "people inputs"], context: Float[Tensor, "people context"]
    ) -> Float[Tensor, "people outputs"]:
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
