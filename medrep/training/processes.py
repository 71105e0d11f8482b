"""Several processes that train one network (``torchrun``): each takes its share of every batch, gradients are averaged."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def rank() -> int:
    """Return the number of this process, 0 where there is only one."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def together() -> Iterator[None]:
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
