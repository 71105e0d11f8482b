"""Going through a people x columns matrix a block of columns at a time, so that it is never held twice.

Blocks are worked on by as many threads as the linear algebra library may use, which is held to one thread a block meanwhile:
its own threads are of no use on matrices this small, and fight with each other on a busy machine.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from threadpoolctl import ThreadpoolController, threadpool_limits

from medrep.cohort.participants import release_pages

_BLOCK_BYTES = 6 * 2**20
_TIE = 1e-6

_Result = TypeVar("_Result")


def column_chunks(people: int, columns: int) -> Iterator[slice]:
    """Yield slices of columns whose float64 copy stays near 6 MB, so that it fits the caches."""
    width = max(16, _BLOCK_BYTES // (8 * max(people, 1)))
    for start in range(0, columns, width):
        yield slice(start, min(start + width, columns))


def map_chunks(people: int, columns: int, work: Callable[[slice], _Result]) -> Iterator[tuple[slice, _Result]]:
    """Apply ``work`` to every block of columns, several at a time in threads, and yield the results in order."""
    parts = list(column_chunks(people, columns))
    threads = min(len(parts), _blas_threads())
    if threads < 2:
        yield from ((part, work(part)) for part in parts)
        return
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[slice, Future[_Result]]] = deque()
        for part in parts:
            waiting.append((part, pool.submit(work, part)))
            if len(waiting) > threads + 1:
                done, future = waiting.popleft()
                yield done, future.result()
        yield from ((done, future.result()) for done, future in waiting)


def read_chunk(data: Float[np.ndarray, "people columns"], part: slice) -> Float[np.ndarray, "people block"]:
    """Return a float64 copy of a block; pages of a memory-mapped matrix are given back at once."""
    chunk = np.array(data[:, part], dtype=np.float64)
    release_pages(data)
    return chunk


def _blas_threads() -> int:
    return max((int(pool["num_threads"]) for pool in _libraries().info() if pool["user_api"] == "blas"), default=1)


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all that the process has loaded: milliseconds


def principal_components(
    matrix: "ChunkSource", count: int, seed: int
) -> tuple[Float[np.ndarray, "components columns"], Float[np.ndarray, "people components"]]:
    """Find leading components of a matrix given in blocks, by randomised subspace iteration.

    Halko, Martinsson, Tropp (2011), algorithm 4.4 with one power iteration: four passes, never more than a block and (count +
    oversampling) rows of columns in memory. The components are orthonormal, the largest entry of each positive, and fewer
    than ``count`` where the matrix has fewer rows or columns; with them come every person's scores.
    """
    people, columns = matrix.shape
    count = min(count, people, columns)
    width = min(2 * count + 8, people, columns)
    rng = np.random.default_rng(seed)
    sketch = np.zeros((people, width))
    start = rng.standard_normal((columns, width), dtype=np.float32)
    for _, product in matrix.map(lambda part, chunk: chunk @ start[part]):
        sketch += product
    sketch = _back(matrix, _forth(matrix, np.linalg.qr(sketch)[0]))
    basis = np.linalg.qr(sketch)[0]
    projected = _forth(matrix, basis)
    squares, left = np.linalg.eigh(projected @ projected.T)
    values, left = np.sqrt(np.maximum(squares[::-1][:count], 0)), left[:, ::-1][:, :count]
    usable = values > 1e-10 * max(float(values.max(initial=0)), 1e-300)
    values, left = values[usable], left[:, usable]
    right = (left / values).T @ projected
    # The first of entries that are as large but for rounding, so that a sign does not hang on it.
    sizes = np.abs(right)
    strongest = (sizes >= (1 - _TIE) * sizes.max(axis=1, initial=0, keepdims=True)).argmax(axis=1)
    signs = np.where(right[np.arange(len(right)), strongest] < 0, -1.0, 1.0)
    return right * signs[:, None], (basis @ left) * (values * signs)


class ChunkSource:
    """A people x columns matrix of which ``compute`` returns the float64 block of a slice of columns."""

    def __init__(self, shape: tuple[int, int], compute: Callable[[slice], np.ndarray]) -> None:
        self.shape = shape
        self._compute = compute

    def map(self, work: Callable[[slice, np.ndarray], _Result]) -> Iterator[tuple[slice, _Result]]:
        """Apply ``work`` to every slice of columns and its block, and yield the results in order."""
        return map_chunks(*self.shape, lambda part: work(part, self._compute(part)))


def _forth(matrix: ChunkSource, basis: Float[np.ndarray, "people width"]) -> Float[np.ndarray, "width columns"]:
    projected = np.empty((basis.shape[1], matrix.shape[1]))
    for part, product in matrix.map(lambda part, chunk: basis.T @ chunk):
        projected[:, part] = product
    return projected


def _back(matrix: ChunkSource, projected: Float[np.ndarray, "width columns"]) -> Float[np.ndarray, "people width"]:
    sketch = np.zeros((matrix.shape[0], len(projected)))
    for _, product in matrix.map(lambda part, chunk: chunk @ projected[:, part].T):
        sketch += product
    return sketch
