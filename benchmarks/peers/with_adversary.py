"""Adversarial conditional autoencoders, written for these benchmarks after the papers; they need torch alone, no environment.

An encoder of one hidden layer makes latents of standardised features, and a decoder that is told age, sex and site makes the
features of them again, so that the latents need not hold these. A network a covariate (site, sex, age in eight bins of equal
counts) reads it from the latents, and the encoder works against them:

- ``reversal``: gradients of the readers' cross-entropy are turned round on their way into the encoder, by a weight that rises
  from 0 over training as 2 / (1 + exp(-10 p)) - 1 (Ganin et al. 2016, JMLR 17, 59);
- ``alternating``: readers learn for three steps, then the encoder is updated with their loss subtracted (Xie et al. 2017,
  NeurIPS);
- ``unlearning``: a batch at a time, encoder and decoder learn to draw and readers to read; after a third of the epochs the
  encoder also learns to make what readers say uniform over the levels (Dinsdale, Jenkinson and Namburete 2021, NeuroImage 228,
  117689).

``weight`` is what the encoder's loss of the readers is multiplied with, beside a mean squared error a feature; of ``unlearning``,
where the encoder learns that by steps of its own, the rate of these. 0: no adversary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, mse_loss, one_hot

_AGE_BINS, _READER_STEPS, _FAR = 8, 3, 8.0


@dataclass(frozen=True)
class AdversarySettings:
    """How it is built and trained.

    Attributes:
        method: ``reversal``, ``alternating`` or ``unlearning``.
        weight: Of the readers in the encoder's loss.
        latents: How many.
        hidden: Units of every hidden layer.
        epochs: How often everybody is seen.
        batch: People a step.
        rate: Learning rate of Adam, of all networks.
    """

    method: str = "reversal"
    weight: float = 1.0
    latents: int = 10
    hidden: int = 64
    epochs: int = 200
    batch: int = 64
    rate: float = 1e-3


class _Reversed(torch.autograd.Function):
    """The latents on the way on; on the way back their gradients, turned round and weighed."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, z: Tensor, weight: float) -> Tensor:
        context.weight = weight  # type: ignore[attr-defined]
        return z.view_as(z)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.weight * gradients[0], None  # type: ignore[attr-defined]


def reversed_gradient(z: Tensor, weight: float) -> Tensor:
    """Return latents as they are, whose gradients come back turned round and weighed."""
    turned: Tensor = _Reversed.apply(z, weight)  # type: ignore[no-untyped-call]
    return turned


def _layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class Peer:
    """An adversarial conditional autoencoder, fitted on some people and applied to others.

    Args:
        settings: How.
        seed: Of the weights and of the order of people.
    """

    def __init__(self, settings: AdversarySettings, seed: int = 0) -> None:
        self._settings, self._seed = settings, seed

    def fit(self, features: np.ndarray, table: pd.DataFrame) -> Peer:
        """Train on people x features and their age, sex and site."""
        own, generator = self._settings, torch.Generator().manual_seed(self._seed)
        self._mean, sd = features.mean(axis=0), features.std(axis=0)
        self._sd = np.where(sd > 1e-9 * np.abs(features).max(axis=0, initial=1.0), sd, np.inf)
        x, condition, labels = self._scaled(features), *_covariates(table)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self._encoder = _layers(x.shape[1], own.hidden, own.latents)
            decoder = _layers(own.latents + condition.shape[1], own.hidden, x.shape[1])
            readers = nn.ModuleList([_layers(own.latents, own.hidden, int(one.max()) + 1) for one in labels])
        drawing = torch.optim.Adam([*self._encoder.parameters(), *decoder.parameters()], own.rate)
        reading = torch.optim.Adam(readers.parameters(), own.rate)
        # Adam does not care how large a loss is: where it is the only one, its weight is that of the steps.
        misleading = torch.optim.Adam(self._encoder.parameters(), own.rate * own.weight)

        def missed(rows: Tensor) -> Tensor:
            z = self._encoder(x[rows])
            return mse_loss(decoder(torch.cat([z, condition[rows]], 1)), x[rows])

        def read(z: Tensor, rows: Tensor) -> Tensor:
            return sum(
                (cross_entropy(net(z), one[rows]) for net, one in zip(readers, labels, strict=True)), torch.zeros(())
            )

        def step(loss: Tensor, *optimisers: torch.optim.Optimizer) -> None:
            for optimiser in (drawing, reading, misleading):
                optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for chosen in optimisers:
                chosen.step()

        for epoch in range(own.epochs):
            order = torch.randperm(len(x), generator=generator)
            for rows in torch.split(order, own.batch):
                if own.weight == 0:
                    step(missed(rows), drawing)
                elif own.method == "reversal":
                    rise = 2 / (1 + np.exp(-10 * epoch / own.epochs)) - 1
                    z = reversed_gradient(self._encoder(x[rows]), own.weight * rise)
                    step(missed(rows) + read(z, rows), drawing, reading)
                elif own.method == "alternating":
                    for _ in range(_READER_STEPS):
                        step(read(self._encoder(x[rows]).detach(), rows), reading)
                    step(missed(rows) - own.weight * read(self._encoder(x[rows]), rows), drawing)
                else:
                    step(missed(rows), drawing)
                    step(read(self._encoder(x[rows]).detach(), rows), reading)
                    if 3 * epoch >= own.epochs:
                        z = self._encoder(x[rows])
                        step(sum((confusion(net(z)) for net in readers), torch.zeros(())), misleading)
        return self

    def encode(self, features: np.ndarray) -> np.ndarray:
        """Return latents of people; nobody tells who they are."""
        with torch.no_grad():
            return self._encoder(self._scaled(features)).numpy().astype(float)

    def _scaled(self, features: np.ndarray) -> Tensor:
        return torch.as_tensor(np.clip((features - self._mean) / self._sd, -_FAR, _FAR), dtype=torch.float32)


def confusion(scores: Tensor) -> Tensor:
    """Return the cross-entropy of what a reader says to the uniform distribution."""
    return -log_softmax(scores, 1).mean()


def _covariates(table: pd.DataFrame) -> tuple[Tensor, list[Tensor]]:
    """Return what the decoder is told, and what readers are to tell."""
    age = table["age"].to_numpy(float)
    edges = np.quantile(age, np.arange(1, _AGE_BINS) / _AGE_BINS)
    codes = [np.searchsorted(np.unique(edges), age, side="right")]
    codes += [np.unique(table[name].astype(str), return_inverse=True)[1] for name in ("sex", "site")]
    labels = [torch.as_tensor(own, dtype=torch.int64) for own in codes]
    scaled = torch.as_tensor((age - age.mean()) / age.std(), dtype=torch.float32)[:, None]
    return torch.cat([scaled, *(one_hot(own).float() for own in labels[1:])], 1), labels
