"""The training loop, its state when interrupted, and how its settings resolve on this machine.

All that is random in an epoch follows from the seed and the number of the epoch, so weights, the optimiser's averages and a
few numbers are the whole state.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medrep._files import atomic_folder, write_json
from medrep._texts import read_json
from medrep.errors import ModelError
from medrep.training.schedule import Schedule, rank, world_size


def placed(schedule: Schedule) -> torch.device:
    """Return the device to train on."""
    cuda = schedule.device == "cuda" or (schedule.device == "auto" and torch.cuda.is_available())
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def autocast(schedule: Schedule, device: torch.device) -> torch.autocast:
    """Return the context in which losses are computed."""
    half = schedule.precision == "bfloat16" or (
        schedule.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def own_share(people: torch.Tensor) -> torch.Tensor:
    """Return this process's share of a batch."""
    return people[rank() :: world_size()]


def average_gradients(network: nn.Module) -> None:
    """Give every process the mean of all gradients."""
    if world_size() == 1:
        return
    for parameter in network.parameters():
        if parameter.requires_grad:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(gradient)
            parameter.grad = gradient / world_size()


_ANEW = "train without --resume to start anew"


@dataclass
class TrainingState:
    """Where a training stands: epochs done, the history so far (epoch, name, value), and weights.

    The best epoch has the lowest validation loss; the optimiser's state goes by parameter number and name.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    rows: list[tuple[int, str, float]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Tensor] = field(default_factory=dict)


def save_state(folder: Path, state: TrainingState, fingerprint: Mapping[str, Any]) -> None:
    """Write the state as a folder, atomically, with what the training depends on; `load_state` refuses another one."""
    groups = {"weights": state.weights, "best": state.best, "optimiser": state.optimiser}
    tensors = {f"{group}/{name}": t.contiguous() for group, own in groups.items() for name, t in own.items()}
    with atomic_folder(folder) as partial:
        save_file(tensors, partial / "state.safetensors")
        best = state.best_loss if math.isfinite(state.best_loss) else str(state.best_loss)
        content = {"epoch": state.epoch, "best_epoch": state.best_epoch, "best_loss": best}
        # JSON has no numbers that are not finite: a validation loss that is none is written as text.
        rows = [(epoch, name, value if math.isfinite(value) else str(value)) for epoch, name, value in state.rows]
        write_json(partial / "state.json", {**content, "rows": rows, "fingerprint": dict(fingerprint)})


def load_state(folder: Path, fingerprint: Mapping[str, Any]) -> TrainingState | None:
    """Read a state; None where there is none.

    Raises ModelError for a damaged state, or one of a training with other data or settings.
    """
    if not (folder / "state.json").is_file():
        return None
    try:
        content = read_json((folder / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "state.safetensors")
        other = [
            f"{name} was {content['fingerprint'].get(name)!r} and is {value!r}"
            for name, value in json.loads(json.dumps(dict(fingerprint))).items()
            if content["fingerprint"].get(name) != value
        ]
        rows = [(int(epoch), str(name), float(value)) for epoch, name, value in content["rows"]]
        state = TrainingState(int(content["epoch"]), int(content["best_epoch"]), float(content["best_loss"]), rows)
        for name, tensor in tensors.items():
            group, _, own = name.partition("/")
            {"weights": state.weights, "best": state.best, "optimiser": state.optimiser}[group][own] = tensor
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, SafetensorError) as error:
        raise ModelError(f"{folder}: damaged ({type(error).__name__}: {error}); {_ANEW}") from None
    if other:
        cure = f"give what it was started with, or {_ANEW}"
        raise ModelError(f"{folder}: is of another training: {'; '.join(other)}; {cure}")
    return state


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors."""
    return {
        f"{number}/{name}": torch.as_tensor(value).detach().clone()
        for number, own in optimiser.state_dict()["state"].items()
        for name, value in own.items()
    }


def restore(folder: Path, state: TrainingState, network: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put the state's tensors back into the network and its optimiser; ModelError for those of another network."""
    content = optimiser.state_dict()
    states: dict[int, dict[str, Tensor]] = {}
    try:
        for weights in (state.best or state.weights, state.weights):
            network.load_state_dict(weights)
        for name, tensor in state.optimiser.items():
            number, _, own = name.partition("/")
            states.setdefault(int(number), {})[own] = tensor
        optimiser.load_state_dict({**content, "state": states})
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: is of another network ({' '.join(str(error).split())}); {_ANEW}") from None


TOTAL = "loss"
_SAVE_EVERY = 5

Objective = Callable[[Int[Tensor, " people"], int], dict[str, Tensor]]
"""People (positions) and the epoch, whose beta counts -> the parts of the loss, their sum under ``loss``."""


@dataclass(frozen=True)
class TrainingProblem:
    """A training problem: network, objective, and positions of the people to fit and to judge by.

    The network's weights are changed in place, and hold the best ones at the end; the objective may draw from torch's
    generator. With nobody to judge by, the last epoch counts as the best. `decay` is the share of the learning rate by which
    weights shrink at each step (AdamW, Loshchilov & Hutter 2019).
    """

    network: nn.Module
    objective: Objective
    train: Int[Tensor, " people"]
    validation: Int[Tensor, " others"]
    decay: float = 0.0


@dataclass(frozen=True)
class TrainingRun:
    """Where a training keeps its state (None keeps none) and speaks, after each epoch, with the mean loss parts.

    If `resume`, it goes on from a state that is there, of a training that depended on the same.
    """

    folder: Path | None = None
    resume: bool = False
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    report: Callable[[int, Mapping[str, float]], None] = lambda epoch, parts: None


def fit_loop(
    problem: TrainingProblem,
    schedule: Schedule,
    seed: int,
    training_run: TrainingRun | None = None,
    until: int | None = None,
) -> TrainingState:
    """Train until validation people stop gaining; the rows of the final state are the history.

    On a CPU a run that was killed and resumed ends with the same weights as one that was not: all draws of an epoch follow
    from ``seed`` and its number. Where the epochs are known already (``until``), the learning rate falls as it would over the
    whole schedule. Raises ModelError for a loss that is not finite, or a state that does not belong to this training.
    """
    training_run = training_run or TrainingRun()
    network, device = problem.network, next(problem.network.parameters()).device
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser: torch.optim.Optimizer = torch.optim.Adam(weights, lr=schedule.learning_rate)
    if problem.decay:
        optimiser = torch.optim.AdamW(weights, lr=schedule.learning_rate, weight_decay=problem.decay)
    state = TrainingState()
    if training_run.resume and training_run.folder is not None:
        state = load_state(training_run.folder, training_run.fingerprint) or state
        if state.epoch:
            restore(training_run.folder, state, network, optimiser)
    threads = torch.get_num_threads()
    torch.set_num_threads(schedule.threads or threads)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if not state.epoch and len(problem.validation):
                _judge(problem, schedule, seed, state, device)  # the start is a candidate too
            last = schedule.epochs if until is None else min(until, schedule.epochs)
            while state.epoch < last and state.epoch - state.best_epoch < schedule.patience:
                _epoch(problem, schedule, optimiser, seed, state, device)
                training_run.report(state.epoch, {name: v for epoch, name, v in state.rows if epoch == state.epoch})
                if training_run.folder is not None and rank() == 0 and state.epoch % _SAVE_EVERY == 0:
                    state.weights, state.optimiser = _copied(network), _optimiser_tensors(optimiser)
                    save_state(training_run.folder, state, training_run.fingerprint)
    finally:
        torch.set_num_threads(threads)
    if state.best:
        network.load_state_dict(state.best)
    return state


def _epoch(
    problem: TrainingProblem,
    schedule: Schedule,
    optimiser: torch.optim.Optimizer,
    seed: int,
    state: TrainingState,
    device: torch.device,
) -> None:
    epoch, network = state.epoch, problem.network
    torch.manual_seed(_mixed(seed, epoch))
    share = 0.5 * (1 + math.cos(math.pi * epoch / max(schedule.epochs, 1)))
    for group in optimiser.param_groups:
        group["lr"] = schedule.learning_rate * (0.1 + 0.9 * share)
    order = problem.train[torch.randperm(len(problem.train))]
    batches = max(1, round(len(order) / schedule.batch))
    if world_size() > 1:
        torch.manual_seed(_mixed(seed, epoch) + rank())
    found: dict[str, list[float]] = {}
    network.train()
    for people in torch.tensor_split(order, batches):
        optimiser.zero_grad(set_to_none=True)
        with autocast(schedule, device):
            parts = problem.objective(own_share(people).to(device), epoch)
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
    _judge(problem, schedule, seed, state, device)


def _judge(problem: TrainingProblem, schedule: Schedule, seed: int, state: TrainingState, device: torch.device) -> None:
    """Judge the epoch on validation people with the full beta and the same draws every time."""
    loss = -float(state.epoch)
    if len(problem.validation):
        problem.network.eval()
        torch.manual_seed(_mixed(seed, -1))
        with torch.no_grad(), autocast(schedule, device):
            parts = problem.objective(problem.validation.to(device), schedule.epochs + schedule.warmup)
        state.rows += [(state.epoch, f"validation/{name}", float(value)) for name, value in parts.items()]
        loss = float(parts[TOTAL])
    if loss < state.best_loss:
        state.best_loss, state.best_epoch, state.best = loss, state.epoch, _copied(problem.network)


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _mixed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + (epoch + 1) * 7919) % (2**63)
