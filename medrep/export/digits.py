"""Numbers as text: what medrep computed has ten significant digits, what it left alone all that tell it apart."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float

DIGITS = 10
"""Far more than any measurement has, and two thirds of the bytes of all that a double holds."""

MISSING = "n/a"


def line(values: Float[np.ndarray, " columns"], before: Float[np.ndarray, " columns"] | None = None) -> str:
    """Return a row as cells with tabs between them.

    Args:
        values: The row; NaN is ``n/a``.
        before: The row as it was: cells that are the same come back to the last digit.
    """
    same = None if before is None else values == before
    if (same is None or not same.any()) and not np.isnan(values).any():
        return _pattern(len(values)) % tuple(values.tolist())
    kept = np.zeros(len(values), bool) if same is None else same
    return "\t".join(
        MISSING if cell != cell else repr(cell) if stays else f"{cell:.{DIGITS}g}"
        for cell, stays in zip(values.tolist(), kept.tolist(), strict=True)
    )


def exact_line(values: Float[np.ndarray, " columns"]) -> str:
    """Return a row with all digits that tell its numbers apart."""
    return "\t".join(MISSING if cell != cell else repr(cell) for cell in values.tolist())


def parsed(text: str) -> Float[np.ndarray, " columns"]:
    """Return the numbers of a line."""
    return np.array([float("nan") if cell == MISSING else float(cell) for cell in text.split("\t")])


@lru_cache(maxsize=8)
def _pattern(columns: int) -> str:
    return "\t".join([f"%.{DIGITS}g"] * columns)
