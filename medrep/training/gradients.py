"""What each process takes of a batch, and how they come to one gradient."""

import torch
import torch.distributed as dist
from torch import nn

from medrep.training.processes import rank, world_size


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
