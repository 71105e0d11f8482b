"""Several processes that train one network (``torchrun``): each takes its share of every batch, gradients are averaged."""

import os

import torch
import torch.distributed as dist
from torch import nn


def rank() -> int:
    """Return the number of this process, 0 where there is only one."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> None:
    """Meet the other processes, over NCCL where there is CUDA, else over Gloo; nothing to do for a single one."""
    if world_size() == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


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


def leave() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.barrier()  # who leaves while another still speaks to it makes that one abort
        dist.destroy_process_group()
