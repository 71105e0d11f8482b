"""Random streams that belong to a name, so that adding a person or a site changes nobody else's draws."""

import numpy as np


def stream(seed: int, *names: str) -> np.random.Generator:
    """Open the random stream that belongs to a seed and a path of names.

    Args:
        seed: Any integer from 0.
        names: What the draws are for, such as ``"brain", "sub-0001"``. Another path gives an independent stream.

    Returns:
        A fresh generator; the same arguments give the same draws.
    """
    return np.random.default_rng([seed, *(int.from_bytes(name.encode(), "little") for name in names)])
