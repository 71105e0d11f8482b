"""Going through a people x columns matrix a block of columns at a time, so that it is never held twice."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

_BLOCK_BYTES = 6 * 2**20


def column_blocks(people: int, columns: int) -> Iterator[slice]:
    """Yield slices of columns whose float64 copy stays near 6 MB, so that it fits the caches."""
    width = max(16, _BLOCK_BYTES // (8 * max(people, 1)))
    for start in range(0, columns, width):
        yield slice(start, min(start + width, columns))


def principal_components(
    matrix: "BlockSource", count: int, seed: int
) -> tuple[Float[np.ndarray, "components columns"], Float[np.ndarray, "people components"]]:
    """Find leading components of a matrix given in blocks, by randomised subspace iteration.

    Halko, Martinsson, Tropp (2011), algorithm 4.4 with one power iteration: four passes, never more than a block and
    (count + oversampling) rows of columns in memory.

    Args:
        matrix: Where blocks come from.
        count: Components wanted; fewer are returned where the matrix has fewer rows or columns.
        seed: Seed of the random start.

    Returns:
        Orthonormal components, the largest entry of each positive, and every person's scores.
    """
    people, columns = matrix.shape
    count = min(count, people, columns)
    width = min(2 * count + 8, people, columns)
    rng = np.random.default_rng(seed)
    sketch = np.zeros((people, width))
    for part, block in matrix.blocks():
        sketch += block @ rng.standard_normal((part.stop - part.start, width))
    sketch = _back(matrix, _forth(matrix, np.linalg.qr(sketch)[0]))
    basis = np.linalg.qr(sketch)[0]
    projected = _forth(matrix, basis)
    squares, left = np.linalg.eigh(projected @ projected.T)
    values, left = np.sqrt(np.maximum(squares[::-1][:count], 0)), left[:, ::-1][:, :count]
    usable = values > 1e-10 * max(float(values.max(initial=0)), 1e-300)
    values, left = values[usable], left[:, usable]
    right = (left / values).T @ projected
    strongest = np.abs(right).argmax(axis=1)
    signs = np.where(right[np.arange(len(right)), strongest] < 0, -1.0, 1.0)
    return right * signs[:, None], (basis @ left) * (values * signs)


class BlockSource:
    """A people x columns matrix that is computed a block at a time.

    Args:
        shape: People and columns.
        compute: Returns the float64 block of a slice of columns.
    """

    def __init__(self, shape: tuple[int, int], compute: Callable[[slice], np.ndarray]) -> None:
        self.shape = shape
        self._compute = compute

    def blocks(self) -> Iterator[tuple[slice, Float[np.ndarray, "people block"]]]:
        """Yield each slice of columns with its block."""
        for part in column_blocks(*self.shape):
            yield part, self._compute(part)


def _forth(matrix: BlockSource, basis: Float[np.ndarray, "people width"]) -> Float[np.ndarray, "width columns"]:
    projected = np.empty((basis.shape[1], matrix.shape[1]))
    for part, block in matrix.blocks():
        projected[:, part] = basis.T @ block
    return projected


def _back(matrix: BlockSource, projected: Float[np.ndarray, "width columns"]) -> Float[np.ndarray, "people width"]:
    sketch = np.zeros((matrix.shape[0], len(projected)))
    for part, block in matrix.blocks():
        sketch += block @ projected[:, part].T
    return sketch
