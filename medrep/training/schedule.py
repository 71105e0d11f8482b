"""Settings of a training run, and the processes that share it (``torchrun``)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from medrep.errors import ModelError


def rank() -> int:
    """Return the number of this process, 0 where there is only one."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group() -> Iterator[None]:
    """Meet the other processes, over NCCL where there is CUDA, else over Gloo, and part from them at the end.

    Nothing to do for a single process, or where the caller's processes have met already.
    """
    if world_size() == 1:
        yield
        return
    import torch  # seconds, which a single process may not need
    import torch.distributed as dist

    if dist.is_initialized():
        yield
        return
    # Defaults of its functions keep the group of the moment of their import, and optimizers import it: imported after
    # the meeting it would keep Gloo's threads alive into the end of the interpreter, which aborts on them.
    from torch.distributed.nn import functional  # noqa: F401

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
        dist.barrier()  # who leaves while another still speaks to it makes that one abort
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: At most; training stops earlier when validation people stop gaining.
        batch: People a step; also how many the independence penalty sees at once.
        learning_rate: Of Adam, falling to a tenth along a cosine.
        clip: Largest norm of the gradient; larger ones are scaled down before the step.
        patience: Epochs without a better validation loss before training stops.
        warmup: Epochs over which beta rises from 0 in a straight line; a closed-form start needs none.
        threads: CPU threads; 0 leaves the machine's default.
        device: ``auto`` takes CUDA where there is one.
        precision: ``auto`` is bfloat16 on CUDA that has it, else float32.
    """

    epochs: int = 120
    batch: int = 128
    learning_rate: float = 3e-4
    clip: float = 5.0
    patience: int = 15
    warmup: int = 0
    threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def check(self) -> None:
        """Refuse numbers that cannot be, and a device that this machine does not have; all of them."""
        least = {"epochs": 0, "batch": 8, "patience": 1, "warmup": 0, "threads": 0}
        wrong = [
            f"{name} is {getattr(self, name)}; give {low} or more"
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        wrong += [
            f"{name} is {getattr(self, name)}; give more than 0"
            for name in ("learning_rate", "clip")
            if not getattr(self, name) > 0
        ]
        if self.device == "cuda" and not has_cuda():
            wrong.append("device is cuda, but this machine has none; give auto or cpu")
        if wrong:
            raise ModelError("settings.training: " + "; ".join(wrong))

    def beta_share(self, epoch: int) -> float:
        """Return the share of beta that counts in an epoch (from 0): a straight line that reaches 1 after `warmup`."""
        return min(1.0, (epoch + 1) / (self.warmup + 1))


def has_cuda() -> bool:
    """Say whether torch, which takes seconds to import, can use CUDA here."""
    import torch

    return torch.cuda.is_available()
