"""People in the space that the probe-training half spans: what is invariant to rotation loses nothing there.

Columns are standardised by the training half's means and deviations (labels are not looked at), those that do not vary there
are left out, and rows are scaled so that their mean squared length is 1. A linear probe with a squared penalty and a kernel of
distances only see inner products with training people, and these are kept exactly: the coordinates of everybody along the
training half's principal components, and how far outside of their span a person lies. 2000 columns of 250 people are 249.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_COLUMNS_AT_ONCE = 4096
_CONSTANT = 1e-9  # of a column's size
_SPANNED = 1e-12  # of the largest eigenvalue


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Coordinates of training and test people.

    Attributes:
        train: Along the principal components, the one of largest variance first.
        test: The same of test people.
        outside: Distance of each test person from the span of the training half.
        length: Mean square of each person's standardised columns, training people first.
    """

    train: Float[np.ndarray, "train components"]
    test: Float[np.ndarray, "test components"]
    outside: Float[np.ndarray, " test"]
    length: Float[np.ndarray, " people"]

    @classmethod
    def of(
        cls,
        table: Float[np.ndarray, "people columns"],
        train: Int[np.ndarray, " train"],
        test: Int[np.ndarray, " test"],
    ) -> "Coordinates":
        """Find the coordinates; the table is read a few columns at a time.

        Args:
            table: Rows of people, without missing cells.
            train: The rows whose means, deviations and components are used.
            test: Other rows.
        """
        rows, count = np.concatenate([train, test]), len(train)
        if table.shape[1] < count:
            return cls._of_columns(table, rows, count)
        inner, used = np.zeros((len(rows), count)), 0
        length = np.zeros(len(rows))
        for _, block in standardised_blocks(table, rows, count):
            inner += block @ block[:count].T
            length += np.einsum("pc,pc->p", block, block)
            used += block.shape[1]
        inner, length = inner / max(used, 1), length / max(used, 1)
        values, vectors = np.linalg.eigh(inner[:count])
        spanned = np.flatnonzero(values > _SPANNED * max(values.max(initial=0.0), 1e-300))[::-1]
        coordinates = inner @ (vectors[:, spanned] / np.sqrt(values[spanned]))
        return cls._split(coordinates, length, count)

    @classmethod
    def _of_columns(cls, table: np.ndarray, rows: np.ndarray, count: int) -> "Coordinates":
        """As `of`, by the covariance of columns where these are fewer than people."""
        blocks = [block for _, block in standardised_blocks(table, rows, count)]
        whole = np.concatenate(blocks, axis=1) if blocks else np.zeros((len(rows), 0))
        whole /= max(whole.shape[1], 1) ** 0.5
        values, vectors = np.linalg.eigh(whole[:count].T @ whole[:count])
        spanned = np.flatnonzero(values > _SPANNED * max(values.max(initial=0.0), 1e-300))[::-1]
        return cls._split(whole @ vectors[:, spanned], np.einsum("pc,pc->p", whole, whole), count)

    @classmethod
    def _split(cls, coordinates: np.ndarray, length: np.ndarray, count: int) -> "Coordinates":
        inside = np.einsum("pc,pc->p", coordinates, coordinates)
        outside = np.sqrt(np.maximum(length - inside, 0.0))[count:]
        return cls(coordinates[:count], coordinates[count:], outside, length)


def standardised_blocks(
    table: Float[np.ndarray, "people columns"], rows: Int[np.ndarray, " rows"], count: int
) -> Iterator[tuple[Int[np.ndarray, " some"], Float[np.ndarray, "rows some"]]]:
    """Yield column numbers and these columns of some rows, standardised by the first ``count``; constant ones are skipped."""
    for start in range(0, table.shape[1], _COLUMNS_AT_ONCE):
        block = np.asarray(table[rows, start : start + _COLUMNS_AT_ONCE], dtype=float)
        own = block[:count]
        mean, sd = own.mean(axis=0), own.std(axis=0)
        varies = sd > _CONSTANT * np.maximum(np.abs(own).max(axis=0, initial=0.0), 1e-300)
        if varies.any():
            yield start + np.flatnonzero(varies), (block[:, varies] - mean[varies]) / sd[varies]
