"""Which rows of data a model was trained on, as keyed digests that travel with it: a row is recognised, and none is told.

Each row leaves two traces. The first is of its exact numbers (float64, one zero, one NaN). The second is of its outline:
with v the row's values, m their median size and t = asinh(v / m), eight sums of t under fixed random signs, divided by the
square root of their number, and log m, each known to `_STEP`. A row whose values were rounded to six significant digits, or
resampled by other rounding, keeps its outline; rows of two people share one with a chance of about (1.5 `_STEP` / s)^8, s
being by how much people differ relatively. Rows of fewer than three different values have no outline.

A digest is 64 bits of BLAKE2b under a key of the model. The key lies beside the digests and is no secret: it keeps lists of
two models from being joined, and tables of digests from being made beforehand. Who holds a row can ask whether it was in
training, which is what the digests are for; who can list all rows that might be, as of a few columns of few values, can ask
for each of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b, shake_256
from itertools import product

import numpy as np
from jaxtyping import Float, Int64, Shaped

from medrep._persisted import given, persisted
from medrep._structuring import from_json
from medrep.cohort.fingerprints import row_fingerprint
from medrep.errors import ModelError

_STEP = 1e-4
_NEAR = 0.25  # of a step: rounding carries an outline no further over the edge of its cell
_SUMS = 8
_FEWEST = 3  # different values of a row that has an outline
_MOST = 4096  # columns of an outline; an image is sampled
_BLOCK = 2**18
_DIGEST, _KEY = 8, 16  # bytes


@dataclass(frozen=True, eq=False)
class RowTrace:
    """What is kept of a row while a model is trained.

    Attributes:
        exact: Digest of its canonical bytes, without a key.
        outline: Its sums and the logarithm of its size, in steps; None where a row tells too little.
    """

    exact: bytes
    outline: Float[np.ndarray, " sums"] | None


def _refuse_no_key(rows: "TrainingRows") -> None:
    if not rows.key:
        raise ValueError("digests without a key")


@persisted(check=_refuse_no_key)
@dataclass(frozen=True)
class TrainingRows:
    """The rows that a model was trained on.

    Attributes:
        key: Of the model, hexadecimal; empty where it carries no digests.
        exact: Keyed digests of exact rows, hexadecimal.
        outline: Keyed digests of outlines.
        marks: Fingerprints from people.tsv, see `row_fingerprint`, where it is at hand.
    """

    key: str
    exact: frozenset[str]
    outline: frozenset[str]
    marks: frozenset[str] = field(default=frozenset(), repr=False, metadata=given(lambda read: frozenset()))

    @classmethod
    def of(cls, traces: Iterable[RowTrace], fingerprint: str, seed: int) -> "TrainingRows":
        """Return the digests of a training.

        Args:
            traces: Of all its rows.
            fingerprint: Of the cohort, see `cohort_fingerprint`; with the seed it makes the key, so that the same training
                gives the same model.
            seed: Of the training.
        """
        key = blake2b(f"{fingerprint}\n{seed}".encode(), digest_size=_KEY, person=b"medrep rows key").hexdigest()
        kept = list(traces)
        outlines = [trace.outline for trace in kept if trace.outline is not None]
        return cls(
            key,
            frozenset(_keyed(key, b"exact", trace.exact) for trace in kept),
            frozenset(_keyed(key, b"outline", _packed(np.floor(outline))) for outline in outlines),
        )

    def holds(self, row: Shaped[np.ndarray, " columns"]) -> bool:
        """Say whether the model was trained on a row, or on one that rounds to it."""
        if self.marks and row_fingerprint(row) in self.marks:
            return True
        if not self.key:
            return False
        trace = row_trace(row)
        if _keyed(self.key, b"exact", trace.exact) in self.exact:
            return True
        return trace.outline is not None and any(
            _keyed(self.key, b"outline", _packed(np.array(cells))) in self.outline for cells in _cells(trace.outline)
        )


def saved_rows(content: object) -> TrainingRows:
    """Read what a model folder says of its rows.

    Raises:
        ModelError: Anything else than digests.
    """
    try:
        return from_json(TrainingRows, content)
    except ValueError:
        raise ModelError(
            "the model's digests of its training rows are damaged; train again or fetch it again"
        ) from None


def known_rows(carried: TrainingRows | None, marks: Iterable[str] | None) -> TrainingRows | None:
    """Return which rows a model was trained on; None where nobody says.

    Args:
        carried: What the model folder says; those of earlier versions say nothing.
        marks: Fingerprints from people.tsv; None without one.
    """
    if carried is None and marks is None:
        return None
    rows = TrainingRows("", frozenset(), frozenset()) if carried is None else carried
    return replace(rows, marks=frozenset(() if marks is None else marks))


def row_trace(row: Shaped[np.ndarray, " columns"]) -> RowTrace:
    """Return the trace of a row: of a table, or of an image's voxels."""
    found = blake2b(digest_size=32)
    for start in range(0, len(row), _BLOCK):
        block = np.asarray(row[start : start + _BLOCK]).astype("<f8") + 0.0  # no negative zero
        block[np.isnan(block)] = np.nan
        found.update(block.tobytes())
    return RowTrace(found.digest(), _outline(np.asarray(row[_sampled(len(row))], dtype=np.float64)))


def _outline(values: Float[np.ndarray, " columns"]) -> Float[np.ndarray, " sums"] | None:
    """Return the outline of a row in steps; None where its values tell too little."""
    known = np.isfinite(values)
    sizes = np.abs(values[known & (values != 0)])
    if not len(sizes):
        return None
    size = float(np.median(sizes))
    curved = np.arcsinh(np.where(known, values, 0.0) / size)
    if len(np.unique(curved)) < _FEWEST:
        return None
    sums = _signs(len(values)) @ curved / np.sqrt(len(values))
    return np.append(sums, np.log(size)) / _STEP


def _cells(outline: Float[np.ndarray, " sums"]) -> Iterator[tuple[float, ...]]:
    """Yield the cells that a row may have lain in before it was rounded."""
    inside = np.floor(outline)
    within = outline - inside
    choices = [
        (cell, *([cell - 1] if part < _NEAR else []), *([cell + 1] if part > 1 - _NEAR else []))
        for cell, part in zip(inside, within, strict=True)
    ]
    return product(*choices)


@lru_cache(maxsize=8)
def _sampled(columns: int) -> Int64[np.ndarray, " sampled"]:
    """Return the columns of an outline: all, or some of an image's, the same in every release of NumPy."""
    if columns <= _MOST:
        return np.arange(columns)
    drawn = np.frombuffer(shake_256(b"medrep columns").digest(8 * _MOST), dtype="<u8")
    return np.unique(drawn % columns).astype(np.int64)


@lru_cache(maxsize=8)
def _signs(columns: int) -> Float[np.ndarray, "sums columns"]:
    drawn = np.frombuffer(shake_256(b"medrep signs").digest(_SUMS * columns), dtype=np.uint8)
    return (2.0 * (drawn & 1) - 1).reshape(columns, _SUMS).T


def _packed(cells: np.ndarray) -> bytes:
    return cells.astype("<i8").tobytes()


def _keyed(key: str, kind: bytes, content: bytes) -> str:
    return blake2b(content, digest_size=_DIGEST, key=bytes.fromhex(key), person=b"medrep " + kind).hexdigest()
