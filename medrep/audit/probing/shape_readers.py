"""Readers of what a label does to a table besides moving its means: spreads, covariances, products and tails.

Means are taken out first, of every level (of a number: the line through it), as the labels at hand have them: what a model left
of them is another reader's to find, and would be seen in products and squares, too, where it is large or columns are many. The
same is done for exchanged labels, so that comparing the two stays exact.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from medrep.audit.probing.table_readers import (
    DEGREES,
    MOST_PAIRED,
    TableReaders,
    bends,
    clipped_squares,
    components,
    largest,
    ridge,
    standardised,
    strongest,
)

_MOST_TOGETHER = 300
_SMALL = 1e-12


@dataclass(frozen=True, eq=False)
class ShapeReaders:
    """The readers of one table.

    Attributes:
        columns: Standardised columns, or principal components of very many.
        inner: Inner products of people, over the number of columns.
        paired: The columns, or the first principal components, whose products are looked at.
        together: The columns, or the first principal components, whose spreads are looked at together.
    """

    columns: Float[np.ndarray, "people columns"]
    inner: Float[np.ndarray, "people people"]
    paired: Float[np.ndarray, "people paired"]
    together: Float[np.ndarray, "people together"]

    names = (
        "products",
        "length",
        "spread",
        "strongest of the squares",
        "5 strongest of the squares",
        "strongest of the pairs",
        "5 strongest of the pairs",
    )

    @classmethod
    def of(cls, readers: TableReaders) -> "ShapeReaders":
        """Take over what was prepared."""
        columns, inner = readers.columns["columns"], readers.inner
        first = components(inner) if columns.shape[1] > MOST_PAIRED else columns
        few = columns.shape[1] <= _MOST_TOGETHER
        together = columns if few else standardised(first[:, :_MOST_TOGETHER])
        return cls(columns, inner, standardised(first[:, :MOST_PAIRED]), together)

    def read(
        self, rest: Float[np.ndarray, "people outputs"], labels: Float[np.ndarray, "people width"]
    ) -> Float[np.ndarray, "readers outputs"]:
        """Return every reader's statistic for every column of ``rest``, which has to sum to 0.

        Args:
            rest: What is to be told.
            labels: Whose effect on means is taken out: one column a level, or a number.
        """
        axes, lengths, _ = np.linalg.svd(np.column_stack([np.ones(len(labels)), labels]), full_matrices=False)
        base = axes[:, lengths > 1e-9 * lengths[0]]
        half = self.inner - base @ (base.T @ self.inner)
        inner = half - (half @ base) @ base.T
        whole = np.maximum((rest**2).sum(axis=0), _SMALL)
        size = standardised(np.sqrt(np.maximum(np.diag(inner), 0))[:, None])
        spread = self._whitening.T @ (self._bent(_without(self.together, base), self._bends).T @ rest)
        found = [
            (rest * (inner**2 @ rest)).sum(axis=0) / whole,
            ((size.T @ rest) ** 2).sum(axis=0) / whole,
            (spread**2).sum(axis=0) / whole,
        ]
        squares = clipped_squares(_without(self.columns, base))
        found += strongest(standardised(squares), rest, whole)
        return np.stack([*found, *_strongest_pairs(_without(self.paired, base), rest, whole)])

    @cached_property
    def _bends(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the bent columns, by which they are standardised whoever has what label."""
        bent = bends(self.together)
        return bent.mean(axis=0), np.maximum(bent.std(axis=0), _SMALL)

    @staticmethod
    def _bent(columns: np.ndarray, scale: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return (bends(columns) - scale[0]) / scale[1]

    @cached_property
    def _whitening(self) -> Float[np.ndarray, "bent directions"]:
        """What makes a ridge regression on the bent columns of a sum of squares."""
        bent = self._bent(self.together, self._bends)
        width = max(bent.shape[1], 1)
        values, vectors, penalty = ridge(bent @ bent.T / width, len(bent) / DEGREES)
        used = values > 0
        axes = bent.T @ vectors[:, used] / np.sqrt(values[used] * width)
        directions: np.ndarray = axes / np.sqrt((values[used] + penalty) * width)
        return directions


def _strongest_pairs(
    columns: Float[np.ndarray, "people paired"],
    rest: Float[np.ndarray, "people outputs"],
    whole: Float[np.ndarray, " outputs"],
) -> list[Float[np.ndarray, " outputs"]]:
    """Return what `strongest` returns of products of two columns, without making them."""
    one, other = np.triu_indices(columns.shape[1], 1)
    people, square = len(columns), columns**2
    spread = (square.T @ square / people - (columns.T @ columns / people) ** 2)[one, other]
    varies = spread > 1e-12 * max(float(spread.max(initial=0.0)), _SMALL)
    told = np.stack([(columns.T @ (columns * own[:, None]))[one, other][varies] for own in rest.T], axis=1)
    return largest(told**2 / (people * spread[varies, None] * whole))


def _without(columns: np.ndarray, base: np.ndarray) -> np.ndarray:
    left: np.ndarray = columns - base @ (base.T @ columns)
    return left
