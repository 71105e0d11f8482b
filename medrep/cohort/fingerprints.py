"""Fingerprints of data: whether two rows, or two cohorts, are the same, without saying whose they are."""

from collections.abc import Iterable
from hashlib import sha256

import numpy as np
from jaxtyping import Float

_DIGITS = 16


def row_fingerprint(row: Float[np.ndarray, " columns"]) -> str:
    """Return 16 hexadecimal digits that only the same numbers have."""
    return sha256(np.ascontiguousarray(row).tobytes()).hexdigest()[:_DIGITS]


def cohort_fingerprint(rows: Iterable[str]) -> str:
    """Return the SHA-256 of a cohort's row fingerprints, in hexadecimal; their order does not matter."""
    return sha256("\n".join(sorted(rows)).encode()).hexdigest()
