"""An encoder and a decoder of one body, as one network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from medrep.nn.choices import Conditioning
from medrep.nn.conv import ConvDecoder, ConvEncoder
from medrep.nn.mlp import MlpDecoder, MlpEncoder
from medrep.nn.priors import PRIORS

_AT_ONCE = 256


@dataclass(frozen=True)
class Body:
    """Body of an encoder and a decoder.

    Attributes:
        kind: ``linear`` has no correction and does not look at the covariates.
        hidden: Widths, or channels.
        conditioning: How covariates enter.
        shape: Voxels along each axis, for ``conv``.
    """

    kind: Literal["linear", "mlp", "conv"]
    hidden: Sequence[int]
    conditioning: Conditioning
    shape: tuple[int, int, int] | None = None


class Autoencoder(nn.Module):
    """q(z | x, c) and p(x | z, c).

    Args:
        columns: Width of x.
        latents: Width of z.
        context: Width of the covariate vector.
        body: Of encoder and decoder.
        heteroscedastic: Whether the decoder's scale depends on z and c.
        prior: Key of ``PRIORS``.
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
    ) -> None:
        super().__init__()
        self.prior = PRIORS[prior]
        self.encoder: MlpEncoder | ConvEncoder
        self.decoder: MlpDecoder | ConvDecoder
        if body.kind == "conv" and body.shape is not None:
            x, y, z = body.hidden
            self.encoder = ConvEncoder(body.shape, latents, context, (x, y, z))
            self.decoder = ConvDecoder(body.shape, latents, context, (z, y, x), heteroscedastic=heteroscedastic)
        else:
            widths = () if body.kind == "linear" else tuple(body.hidden)
            self.encoder = MlpEncoder(columns, latents, context, widths, body.conditioning)
            self.decoder = MlpDecoder(
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
