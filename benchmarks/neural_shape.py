"""The additive implicit network for shapes as published (NAISR, ICLR 2024), its known faults mended, on the benchmark's organs.

A template T and one displacement net a covariate and one for the identity, all of sine layers (omega 30):

    s(p) = T(p + h(p, z) + sum_k f_k(p, c_k, z) - f_k(p, 0, z)),    h(p, z) = f_0(p, z) - f_0(p, 0)

An autodecoder: each organ of training has a code z; an unseen one's is found by gradient steps with its covariates given, and a
counterfactual is decoded with the same z at other covariates. Covariates run from -1 to 1 over the ages of training. Losses are
those of the paper (surface 300, normals 100, off the surface 1000, gradient of length one 100, prior of z with a ramp), with
points in a band on both sides of the surface too, and a learning rate that falls.

Published: width 256, seven layers, codes of 256, 3100 epochs on a graphics card. `Net` is by default small enough for forty
minutes of one core: width 96, four layers, codes of 64.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.organs import Organs
from medrep.cohort.grid import grid_lattice
from medrep.cohort.shapes import shape_grid
from medrep.cohort.surfaces import sample_surface
from medrep.models.shape.mean_shape import LevelFunction

_POOL = 4000
_TILE = 4096


@dataclass(frozen=True)
class Net:
    """Sizes and times.

    Attributes:
        width: Of each layer.
        layers: How many sine layers each net has.
        code: Length of z.
        organs: How many in a step.
        points: On the surface of each, as many in a band about it, and half as many anywhere.
        seconds: How long training takes.
        steps: Gradient steps for an unseen organ's code.
    """

    width: int = 96
    layers: int = 4
    code: int = 64
    organs: int = 12
    points: int = 60
    seconds: float = 2400.0
    steps: int = 250


class Sine(nn.Module):
    """Layers x -> sin(30 (W x + b)), initialised as Sitzmann et al. 2020 say, and a linear one."""

    def __init__(self, inputs: int, outputs: int, net: Net, scale: float) -> None:
        super().__init__()
        sizes = [inputs, *[net.width] * net.layers]
        layers = [nn.Linear(one, other) for one, other in pairwise(sizes)]
        self.hidden = nn.ModuleList(layers)
        self.last = nn.Linear(net.width, outputs)
        with torch.no_grad():
            for number, layer in enumerate(layers):
                bound = 1 / layer.in_features if number == 0 else (6 / layer.in_features) ** 0.5 / 30
                layer.weight.uniform_(-bound, bound)
            self.last.weight.uniform_(-scale, scale)
            self.last.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        for layer in self.hidden:
            x = torch.sin(30 * layer(x))
        found: Tensor = self.last(x)
        return found


class NeuralAdditive(nn.Module):
    """Template, identity, and one displacement a covariate."""

    def __init__(self, covariates: int, people: int, net: Net) -> None:
        super().__init__()
        self.template = Sine(3, 1, net, (6 / net.width) ** 0.5 / 30)
        self.own = Sine(3 + net.code, 3, net, 1e-4)
        self.effects = nn.ModuleList(Sine(4 + net.code, 3, net, 1e-4) for _ in range(covariates))
        self.codes = nn.Embedding(people, net.code)
        nn.init.normal_(self.codes.weight, std=0.01)

    def moved(self, points: Tensor, covariates: Tensor, z: Tensor) -> Tensor:
        """Return where points are in the template; a row of covariates and z a point."""
        nobody = torch.zeros_like(z)
        found = points + self.own(torch.cat([points, z], 1)) - self.own(torch.cat([points, nobody], 1))
        for k, net in enumerate(self.effects):
            value = covariates[:, k : k + 1]
            here, home = (torch.cat([points, c, z], 1) for c in (value, torch.zeros_like(value)))
            found = found + net(here) - net(home)
        return found

    def forward(self, points: Tensor, covariates: Tensor, z: Tensor) -> Tensor:
        """Return levels, in units of the organ's size."""
        found: Tensor = self.template(self.moved(points, covariates, z))[:, 0]
        return found


@dataclass(frozen=True, eq=False)
class Pool:
    """Points of one organ, in units of its size: on the surface with normals, near it and anywhere with distances."""

    surface: Tensor
    normals: Tensor
    near: Tensor
    near_level: Tensor
    space: Tensor
    space_level: Tensor

    @classmethod
    def of(cls, organs: Organs, k: int, seed: int) -> Pool:
        """Draw points of an organ."""
        size, rng = organs.section.size, np.random.default_rng([seed, k])
        lattice = grid_lattice(shape_grid(organs.section))
        level = LevelFunction.through(lattice, organs.rows[k])
        points, normals = sample_surface(organs.surfaces[k], _POOL, seed)
        near = points + normals * rng.normal(scale=0.12 * size, size=(_POOL, 1))
        nodes = lattice.nodes()
        space = rng.uniform(nodes[0], nodes[-1], size=(_POOL, 3))
        parts = points / size, normals, near / size, level.values(near) / size, space / size, level.values(space) / size
        return cls(*(torch.as_tensor(part, dtype=torch.float32) for part in parts))

    def draw(self, count: int, generator: torch.Generator) -> Pool:
        """Return some of the points."""
        rows = [torch.randint(_POOL, (many,), generator=generator) for many in (count, count, count // 2)]
        return Pool(
            self.surface[rows[0]], self.normals[rows[0]], self.near[rows[1]], self.near_level[rows[1]],
            self.space[rows[2]], self.space_level[rows[2]],
        )  # fmt: skip


def losses(model: NeuralAdditive, pools: list[Pool], covariates: Tensor, codes: Tensor, ramp: float) -> Tensor:
    """Return the loss of some organs, a row of covariates and of codes each."""

    def rows(parts: list[Tensor], of: Tensor) -> Tensor:
        return torch.cat([own.expand(len(part), -1) for part, own in zip(parts, of, strict=True)])

    surface = [pool.surface for pool in pools]
    on = torch.cat(surface).requires_grad_(True)
    level = model(on, rows(surface, covariates), rows(surface, codes))
    (slope,) = torch.autograd.grad(level.sum(), on, create_graph=True)
    off = [torch.cat([pool.near, pool.space]) for pool in pools]
    wanted = torch.cat([torch.cat([pool.near_level, pool.space_level]) for pool in pools])
    found = model(torch.cat(off), rows(off, covariates), rows(off, codes))
    normals = torch.cat([pool.normals for pool in pools])
    aligned = nn.functional.cosine_similarity(slope, normals, dim=1)
    return (
        300 * level.abs().mean()
        + 100 * (1 - aligned).mean()
        + 1000 * (found.clamp(-0.5, 0.5) - wanted.clamp(-0.5, 0.5)).abs().mean()
        + 100 * (slope.norm(dim=1) - 1).abs().mean()
        + 10 * ramp * (codes**2).sum(dim=1).mean()
    )


def train(organs: Organs, covariates: np.ndarray, net: Net, seed: int) -> NeuralAdditive:
    """Train on organs; covariates from -1 to 1, 0 at their reference."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    people = len(organs.rows)
    model = NeuralAdditive(covariates.shape[1], people, net)
    pools = [Pool.of(organs, k, seed) for k in range(people)]
    values = torch.as_tensor(covariates, dtype=torch.float32)
    nets = [parameter for name, parameter in model.named_parameters() if not name.startswith("codes")]
    optimiser = torch.optim.Adam([{"params": nets, "lr": 2e-4}, {"params": model.codes.parameters(), "lr": 2e-3}])
    rates = [group["lr"] for group in optimiser.param_groups]
    begun, step = time.process_time(), 0
    while (share := (time.process_time() - begun) / net.seconds) < 1:
        some = torch.randperm(people, generator=generator)[: net.organs]
        drawn = [pools[k].draw(net.points, generator) for k in some.tolist()]
        loss = losses(model, drawn, values[some], model.codes(some), min(1.0, 4 * share))
        optimiser.zero_grad()
        torch.autograd.backward([loss])
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * share))
        optimiser.step()
        step += 1
        if step % 200 == 0:
            print(f"neural: step {step}, {100 * share:.0f} %, loss {loss.item():.1f}", flush=True)
    return model


def code_of(model: NeuralAdditive, organs: Organs, k: int, covariates: np.ndarray, net: Net) -> Tensor:
    """Find the code of an unseen organ at its covariates."""
    pool, generator = Pool.of(organs, k, 1), torch.Generator().manual_seed(int(k))
    z = torch.zeros(1, net.code, requires_grad=True)
    optimiser = torch.optim.Adam([z], lr=5e-3)
    own = torch.as_tensor(covariates[None], dtype=torch.float32)
    for _ in range(net.steps):
        optimiser.zero_grad()
        torch.autograd.backward([losses(model, [pool.draw(4 * net.points, generator)], own, z, 1.0)])
        optimiser.step()
    return z.detach()


@torch.no_grad()
def decoded(model: NeuralAdditive, organs: Organs, covariates: np.ndarray, z: Tensor) -> np.ndarray:
    """Return levels at the nodes of the grid, mm."""
    size = organs.section.size
    nodes = torch.as_tensor(grid_lattice(shape_grid(organs.section)).nodes() / size, dtype=torch.float32)
    own = torch.as_tensor(covariates[None], dtype=torch.float32)
    parts = [model(part, own.expand(len(part), -1), z.expand(len(part), -1)) for part in torch.split(nodes, _TILE)]
    return np.asarray(torch.cat(parts).double().numpy() * size)
