"""Fisher scoring of many columns at once.

Each column's step is halved by itself until it is none for the worse, and a column that hardly moves is done: what is found for
it does not hang on which others it is searched with.
"""

from typing import Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import Float

Found = Float[np.ndarray, "rows columns"]

State = tuple[np.ndarray, ...]
"""Terms that loss and derivatives share; their last axis is columns."""
_HALVINGS, _SLACK = 6, 1e-9


@runtime_checkable
class Problem(Protocol):
    """Problems that each of some columns pose."""

    def look(self, at: Found) -> tuple[Float[np.ndarray, " columns"], State]:
        """Return what is made small, and the terms that it is made of."""

    def step(self, at: Found, state: State) -> Found:
        """Return a step in a direction of descent."""

    def some(self, columns: np.ndarray) -> Self:
        """Return the problems of some columns."""


def searched(problem: Problem, start: Found, searches: int, near: float) -> Found:
    """Return coefficients after some steps, fewer of columns whose step was shorter than ``near`` in each coefficient."""
    found, left = start.copy(), np.arange(start.shape[1])
    loss, state = problem.look(found)
    for _ in range(searches if len(left) else 0):
        at = found[:, left]
        step = problem.step(at, state)
        after, state = problem.look(at + step)
        for halving in range(1, _HALVINGS + 1):
            worse = np.flatnonzero(after > loss + _SLACK * np.abs(loss))
            if not len(worse):
                break
            step[:, worse] *= 0.5 if halving < _HALVINGS else 0
            after[worse], own = problem.some(worse).look(at[:, worse] + step[:, worse])
            for whole, part in zip(state, own, strict=True):
                whole[..., worse] = part
        found[:, left] += step
        going = np.abs(step).max(axis=0) >= near
        if not going.any():
            break
        if not going.all():
            left, problem = left[going], problem.some(going)
            after, state = after[going], tuple(part[..., going] for part in state)
        loss = after
    return found
