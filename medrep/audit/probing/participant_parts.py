"""Dealing people into parts that are alike in a label, with all rows of a participant in one part."""

import numpy as np
from jaxtyping import Int, Shaped


def deal(
    participants: Shaped[np.ndarray, " rows"],
    labels: Shaped[np.ndarray, " rows"],
    parts: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, " rows"]:
    """Return the part of each row, 0 to ``parts`` - 1.

    Participants are ordered by the label of their first row, at random where it is the same, and dealt out in turn: every
    level, and every stretch of a number, comes in equal shares. Who gets into a part depends on how often each label occurs
    and on nothing else of the labels, so that it takes nothing from a permutation test within a part.

    Args:
        participants: Whose each row is.
        labels: A number or a level a row.
        parts: How many parts.
        rng: Of the order.
    """
    _, first, codes = np.unique(participants, return_index=True, return_inverse=True)
    order = rng.permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]
    part = np.empty(len(order), dtype=int)
    part[order] = (np.arange(len(order)) + rng.integers(parts)) % parts
    return part[codes]
