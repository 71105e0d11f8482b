"""The training loop: a network and an objective -> the best weights on validation people, and the history."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from medrep.errors import ModelError
from medrep.training.devices import autocast
from medrep.training.gradients import average_gradients, own_share
from medrep.training.processes import rank, world_size
from medrep.training.schedule import Schedule
from medrep.training.state import TrainingState, load_state, optimiser_tensors, restore, save_state

TOTAL = "loss"
_SAVE_EVERY = 5

Objective = Callable[[Int[Tensor, " people"], int], dict[str, Tensor]]
"""People (positions) and the epoch, whose beta counts -> the parts of the loss, their sum under ``loss``."""


@dataclass(frozen=True)
class Trainee:
    """What is trained, and on whom.

    Attributes:
        network: Its weights are changed in place, and hold the best ones at the end.
        objective: Loss of some people in an epoch; it may draw from torch's generator.
        train: Positions of the people to fit.
        validation: Positions of the people to judge by; none: the last epoch counts as the best.
    """

    network: nn.Module
    objective: Objective
    train: Int[Tensor, " people"]
    validation: Int[Tensor, " others"]


@dataclass(frozen=True)
class Bench:
    """Where a training keeps its state and speaks.

    Attributes:
        folder: For the state; None keeps none.
        resume: Whether to go on from a state that is there.
        fingerprint: What the training depends on.
        report: Called after each epoch with the epoch and the mean loss parts.
    """

    folder: Path | None = None
    resume: bool = False
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    report: Callable[[int, Mapping[str, float]], None] = lambda epoch, parts: None


def fit_loop(
    trainee: Trainee, schedule: Schedule, seed: int, bench: Bench | None = None, until: int | None = None
) -> TrainingState:
    """Train until validation people stop gaining.

    On a CPU a run that was killed and resumed ends with the same weights as one that was not: all draws of an epoch follow
    from ``seed`` and its number.

    Args:
        trainee: What is trained.
        schedule: How long and how fast.
        seed: Seed of the order of people and of what the objective draws.
        bench: Where to keep the state and to report.
        until: Epochs to train where that is known already; the learning rate falls as it would over the whole schedule.

    Returns:
        The final state; its rows are the history.

    Raises:
        ModelError: A loss that is not finite, or a state that does not belong to this training.
    """
    bench = bench or Bench()
    network, device = trainee.network, next(trainee.network.parameters()).device
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(weights, lr=schedule.learning_rate)
    state = TrainingState()
    if bench.resume and bench.folder is not None:
        state = load_state(bench.folder, bench.fingerprint) or state
        if state.epoch:
            restore(bench.folder, state, network, optimiser)
    threads = torch.get_num_threads()
    torch.set_num_threads(schedule.threads or threads)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if not state.epoch and len(trainee.validation):
                _judge(trainee, schedule, seed, state, device)  # the start is a candidate too
            last = schedule.epochs if until is None else min(until, schedule.epochs)
            while state.epoch < last and state.epoch - state.best_epoch < schedule.patience:
                _epoch(trainee, schedule, optimiser, seed, state, device)
                bench.report(state.epoch, {name: v for epoch, name, v in state.rows if epoch == state.epoch})
                if bench.folder is not None and rank() == 0 and state.epoch % _SAVE_EVERY == 0:
                    state.weights, state.optimiser = _copied(network), optimiser_tensors(optimiser)
                    save_state(bench.folder, state, bench.fingerprint)
    finally:
        torch.set_num_threads(threads)
    if state.best:
        network.load_state_dict(state.best)
    return state


def _epoch(
    trainee: Trainee,
    schedule: Schedule,
    optimiser: torch.optim.Optimizer,
    seed: int,
    state: TrainingState,
    device: torch.device,
) -> None:
    epoch, network = state.epoch, trainee.network
    torch.manual_seed(_mixed(seed, epoch))
    share = 0.5 * (1 + math.cos(math.pi * epoch / max(schedule.epochs, 1)))
    for group in optimiser.param_groups:
        group["lr"] = schedule.learning_rate * (0.1 + 0.9 * share)
    order = trainee.train[torch.randperm(len(trainee.train))]
    batches = max(1, round(len(order) / schedule.batch))
    if world_size() > 1:
        torch.manual_seed(_mixed(seed, epoch) + rank())
    found: dict[str, list[float]] = {}
    network.train()
    for people in torch.tensor_split(order, batches):
        optimiser.zero_grad(set_to_none=True)
        with autocast(schedule, device):
            parts = trainee.objective(own_share(people).to(device), epoch)
        if not torch.isfinite(parts[TOTAL]):
            what = ", ".join(f"{name} {float(value.detach()):.3g}" for name, value in parts.items())
            raise ModelError(
                f"the loss is not finite in epoch {epoch + 1} ({what}); lower settings.training.learning_rate"
            )
        parts[TOTAL].backward()  # type: ignore[no-untyped-call]
        average_gradients(network)
        nn.utils.clip_grad_norm_(network.parameters(), schedule.clip)
        optimiser.step()
        for name, value in parts.items():
            found.setdefault(name, []).append(float(value.detach()))
    state.epoch += 1
    # Not every batch has every part.
    state.rows += [(state.epoch, f"train/{name}", sum(values) / len(values)) for name, values in found.items()]
    _judge(trainee, schedule, seed, state, device)


def _judge(trainee: Trainee, schedule: Schedule, seed: int, state: TrainingState, device: torch.device) -> None:
    """Judge the epoch on validation people with the full beta and the same draws every time."""
    loss = -float(state.epoch)
    if len(trainee.validation):
        trainee.network.eval()
        torch.manual_seed(_mixed(seed, -1))
        with torch.no_grad(), autocast(schedule, device):
            parts = trainee.objective(trainee.validation.to(device), schedule.epochs + schedule.warmup)
        state.rows += [(state.epoch, f"validation/{name}", float(value)) for name, value in parts.items()]
        loss = float(parts[TOTAL])
    if loss < state.best_loss:
        state.best_loss, state.best_epoch, state.best = loss, state.epoch, _copied(trainee.network)


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _mixed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + (epoch + 1) * 7919) % (2**63)
