"""How the settings of a training resolve on this machine."""

import torch

from medrep.training.schedule import Schedule


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
