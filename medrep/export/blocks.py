"""Blocks of rows that always have the same size, so that a person's figures are the same to the last bit in any company.

Matrix products of one row and of sixteen round differently. Work that is split, interrupted and repeated must not show in its
results: so each row stands at its person's own place in the block, and whoever is absent is stood in for by somebody present.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from medrep.cohort.visits import Visit

_CELLS = 2**21


def block_size(columns: int, most: int) -> int:
    """Return how many people are worked on together: a power of two, fewer where rows are long.

    Args:
        columns: Of the model.
        most: Where rows are short.
    """
    size = 1
    while size < most and 2 * size * columns <= _CELLS:
        size *= 2
    return size


def in_places(
    rows: Float[np.ndarray, "people columns"], people: Sequence[Visit], size: int
) -> tuple[Float[np.ndarray, "size columns"], list[Visit], list[int]]:
    """Return a full block, who stands at each place, and the places of the people.

    Args:
        rows: Of the people.
        people: At most one for each place of the block.
        size: Of the block.
    """
    places = [one.place % size for one in people]
    standing = np.zeros(size, dtype=int)
    standing[places] = np.arange(len(people))
    return rows[standing], [people[k] for k in standing], places
