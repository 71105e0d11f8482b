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
from jaxtyping import Float, Int
from threadpoolctl import ThreadpoolController, threadpool_limits

from medrep._files import release_pages

_BLOCK_BYTES = 6 * 2**20
_ROW_CELLS = 2**25  # of people's rows that are at hand at once
_TIE = 1e-6
_USABLE = 1e-10  # of the largest singular value; less is rounding
_EXACT, _WIDE = 512, 2**18  # people at most and columns at least of whom products are taken

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


def read_chunk(
    data: Float[np.ndarray, "people columns"], part: slice, dtype: type[np.floating] | np.dtype = np.float64
) -> Float[np.ndarray, "people block"]:
    """Return a copy of a block in float64, or another type; pages of a memory-mapped matrix are given back at once."""
    chunk = np.array(data[:, part], dtype=dtype)
    release_pages(data)
    return chunk


def read_columns(
    data: Float[np.ndarray, "people columns"], columns: Int[np.ndarray, " some"]
) -> Float[np.ndarray, "people some"]:
    """Return some columns in float64, reading a memory-mapped matrix once, some rows at a time, whose pages are given back."""
    found = np.empty((len(data), len(columns)))
    step = max(1, _BLOCK_BYTES // (8 * max(data.shape[1], 1)))
    for start in range(0, len(data), step):
        found[start : start + step] = data[start : start + step][:, columns]
        release_pages(data)
    return found


def row_blocks_of(people: int, columns: int) -> list[slice]:
    """Return blocks of people that networks see at once: all, or fewer where their rows are long."""
    step = people if people * columns <= _ROW_CELLS else max(1, _ROW_CELLS // columns)
    return [slice(start, min(start + step, people)) for start in range(0, people, max(step, 1))]


def _blas_threads() -> int:
    return max((int(pool["num_threads"]) for pool in _libraries().info() if pool["user_api"] == "blas"), default=1)


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all that the process has loaded: milliseconds


def principal_components(
    matrix: "ChunkSource", count: int, seed: int
) -> tuple[Float[np.ndarray, "components columns"], Float[np.ndarray, "people components"]]:
    """Find leading components of a matrix given in blocks.

    By randomised subspace iteration (Halko, Martinsson, Tropp 2011, algorithm 4.4 with one power iteration): three passes, never
    more than a block and (count + oversampling) rows of columns in memory. Of some hundred people with images of many voxels
    the products of people are small, and two passes give the components exactly. The components are orthonormal, the largest
    entry of each positive, and fewer than ``count`` where the matrix has fewer rows or columns; with them come every person's
    scores.
    """
    people, columns = matrix.shape
    count = min(count, people, columns)
    if people <= _EXACT and columns > _WIDE:
        return _exact_components(matrix, count)
    width = min(2 * count + 8, people, columns)
    rng = np.random.default_rng(seed)
    start = rng.standard_normal((columns, width), dtype=np.float32)
    basis = _basis(matrix, width, lambda part, _: start[part])
    # A block goes forth and back at once, so that it is computed once.
    basis = _basis(matrix, width, lambda _, chunk: (basis.T @ chunk).T)
    projected = _forth(matrix, basis)
    squares, left = np.linalg.eigh(projected @ projected.T)
    values, left = np.sqrt(np.maximum(squares[::-1][:count], 0)), left[:, ::-1][:, :count]
    usable = values > _USABLE * max(float(values.max(initial=0)), 1e-300)
    values, left = values[usable], left[:, usable]
    right = (left / values).T @ projected
    signs = _signs(right)
    return right * signs[:, None], (basis @ left) * (values * signs)


def _exact_components(
    matrix: "ChunkSource", count: int
) -> tuple[Float[np.ndarray, "components columns"], Float[np.ndarray, "people components"]]:
    """Find components from the products of people; they are float32, since there are many columns."""
    people, columns = matrix.shape
    products = np.zeros((people, people))
    for _, product in matrix.map(lambda part, chunk: chunk @ chunk.T):
        products += product
    squares, left = np.linalg.eigh(products)
    values, left = np.sqrt(np.maximum(squares[::-1][:count], 0)), left[:, ::-1][:, :count]
    # Of products squares are rounded, in float32, so small values are told less well.
    usable = values > _USABLE**0.25 * max(float(values.max(initial=0)), 1e-300)
    values, left = values[usable], left[:, usable]
    right = np.empty((len(values), columns), np.float32)
    back = (left / values).T.astype(np.float32)

    def write(part: slice, chunk: np.ndarray) -> None:
        right[:, part] = back @ chunk

    deque(matrix.map(write), maxlen=0)
    signs = _signs(right)
    right *= signs[:, None].astype(np.float32)
    return right, left * (values * signs)


def _signs(right: Float[np.ndarray, "components columns"]) -> Float[np.ndarray, " components"]:
    """Return the sign of the largest entry of each; the first of those as large but for rounding, so that it hangs on none."""
    signs = np.ones(len(right))
    for k, row in enumerate(right):
        sizes = np.abs(row)
        strongest = (sizes >= (1 - _TIE) * sizes.max(initial=0)).argmax()
        signs[k] = -1.0 if row[strongest] < 0 else 1.0
    return signs


class ChunkSource:
    """A people x columns matrix of which ``compute`` returns the float64 block of a slice of columns."""

    def __init__(self, shape: tuple[int, int], compute: Callable[[slice], np.ndarray]) -> None:
        self.shape = shape
        self.compute = compute

    @classmethod
    def of(cls, matrix: Float[np.ndarray, "people columns"]) -> "ChunkSource":
        """Return a matrix that is at hand."""
        return cls(matrix.shape, lambda part: matrix[:, part])

    def map(self, work: Callable[[slice, np.ndarray], _Result]) -> Iterator[tuple[slice, _Result]]:
        """Apply ``work`` to every slice of columns and its block, and yield the results in order."""
        return map_chunks(*self.shape, lambda part: work(part, self.compute(part)))


def _forth(matrix: ChunkSource, basis: Float[np.ndarray, "people width"]) -> Float[np.ndarray, "width columns"]:
    projected = np.empty((basis.shape[1], matrix.shape[1]))
    for part, product in matrix.map(lambda part, chunk: basis.T @ chunk):
        projected[:, part] = product
    return projected


def _basis(
    matrix: ChunkSource, width: int, right: Callable[[slice, np.ndarray], np.ndarray]
) -> Float[np.ndarray, "people width"]:
    """Return an orthonormal basis of the matrix times columns x width, of which ``right`` gives a block's rows."""
    sketch = np.zeros((matrix.shape[0], width))
    for _, product in matrix.map(lambda part, chunk: chunk @ right(part, chunk)):
        sketch += product
    return np.linalg.qr(sketch)[0]
