"""The state of an interrupted training: safetensors and JSON, from which it goes on as if nothing had happened.

All that is random in an epoch follows from the seed and the number of the epoch, so weights, the optimiser's averages and a
few numbers are the whole state.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medrep.atomic import atomic_folder, write_json
from medrep.errors import ModelError
from medrep.json_texts import read_json

_ANEW = "train without --resume to start anew"


@dataclass
class TrainingState:
    """Where a training stands.

    Attributes:
        epoch: Epochs done.
        best_epoch: The epoch with the lowest validation loss so far.
        best_loss: That loss.
        rows: The history so far: epoch, part, name, value.
        weights: Of the network.
        best: Of the network after the best epoch.
        optimiser: State of the optimiser: parameter number and name -> tensor.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    rows: list[tuple[int, str, float]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Tensor] = field(default_factory=dict)


def save_state(folder: Path, state: TrainingState, fingerprint: Mapping[str, Any]) -> None:
    """Write the state as a folder, atomically.

    Args:
        folder: Where to.
        state: The state.
        fingerprint: What the training depends on; `load_state` refuses another one.
    """
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

    Raises:
        ModelError: A damaged state, or one of a training with other data or settings.
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


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors."""
    return {
        f"{number}/{name}": torch.as_tensor(value).detach().clone()
        for number, own in optimiser.state_dict()["state"].items()
        for name, value in own.items()
    }


def restore(folder: Path, state: TrainingState, network: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put the state's tensors back into the network and its optimiser.

    Raises:
        ModelError: Tensors of another network.
    """
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
