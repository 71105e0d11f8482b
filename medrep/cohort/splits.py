"""Splits by participant, fingerprints of data, and keyed digests of the rows a model was trained on.

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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b, sha256, shake_256
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Int64, Shaped

from medrep._persisted import given, persisted, stored
from medrep._structuring import from_json
from medrep.cohort.parsing import MISSING_WORDS
from medrep.errors import CohortError, ModelError, listed


def split_participants(
    table: pd.DataFrame,
    fractions: Sequence[float],
    *,
    stratify: str | None = None,
    group: str | None = None,
    seed: int = 0,
) -> Int[np.ndarray, " rows"]:
    """Assign every row to a part; a participant's rows, and a group's, are never in two parts.

    Args:
        table: Rows with ``participant_id``; the order of rows does not change who goes where.
        fractions: Share of each part, summing to 1.
        stratify: Column whose levels (sites) are shared out in the same proportions; a person in several levels counts
            for the most frequent one.
        group: Column that ties participants together (family).
        seed: Seed of the draw.

    Returns:
        The part of each row, 0 to ``len(fractions) - 1``.

    Raises:
        CohortError: Fractions that do not sum to 1, an unknown column, or parts that nobody falls into.
    """
    if not (min(fractions, default=0) > 0 and abs(sum(fractions) - 1) <= 1e-9):
        raise CohortError(f"fractions {list(fractions)} must be positive and sum to 1")
    absent = [column for column in (stratify, group) if column and column not in table]
    if absent:
        raise CohortError(listed("split columns that the table does not have", absent, f"columns: {', '.join(table)}"))
    unit = _units(table, group)
    strata = table[stratify].astype(str) if stratify else pd.Series("", index=table.index)
    stratum_of = {str(name): _most_frequent(rows) for name, rows in strata.groupby(unit.to_numpy())}
    if len(stratum_of) < len(fractions):
        raise CohortError(f"{len(stratum_of)} participants or groups cannot fill {len(fractions)} parts")
    part_of = _assign(stratum_of, np.cumsum(fractions), np.random.default_rng(seed))
    vacant = [f"part {k} of {share:g}" for k, share in enumerate(fractions) if k not in part_of.values()]
    if vacant:
        cure = "give it a larger share, try another seed, or stratify by less"
        raise CohortError(listed(f"{len(stratum_of)} participants or groups leave a part empty", vacant, cure))
    return np.array([part_of[name] for name in unit], dtype=np.int64)


def _most_frequent(levels: pd.Series) -> str:
    counts = levels.value_counts()
    return min(str(level) for level in counts.index[counts == counts.max()])


def _units(table: pd.DataFrame, group: str | None) -> pd.Series:
    """Return the tied unit of each row: connected through shared participants and shared groups."""
    people = table["participant_id"].astype(str)
    if group is None:
        return people
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root.setdefault(name, name) != name:
            name = root[name]
        return name

    missing = table[group].isna() | table[group].astype(str).str.strip().str.lower().isin(MISSING_WORDS)
    for person, tie, alone in zip(people, table[group].astype(str), missing, strict=True):
        a, b = find(f"person {person}"), find(f"person {person}" if alone else f"group {tie}")
        root[max(a, b)] = min(a, b)
    return people.map(lambda person: find(f"person {person}"))


def _assign(stratum_of: dict[str, str], edges: np.ndarray, rng: np.random.Generator) -> dict[str, int]:
    part_of: dict[str, int] = {}
    for stratum in sorted(set(stratum_of.values())):
        units = sorted(name for name, own in stratum_of.items() if own == stratum)
        shuffled = [units[k] for k in rng.permutation(len(units))]
        # A random offset shares out the remainder of small strata instead of giving it always to the same part.
        places = (np.arange(len(units)) + rng.uniform()) / len(units)
        for name, place in zip(shuffled, places, strict=True):
            part_of[name] = int(min(np.searchsorted(edges, place, side="right"), len(edges) - 1))
    return part_of


MARK_DIGITS = 16
"""Of a row's fingerprint."""


def row_fingerprint(row: Float[np.ndarray, " columns"]) -> str:
    """Return 16 hexadecimal digits that only the same numbers have."""
    return sha256(np.ascontiguousarray(row).tobytes()).hexdigest()[:MARK_DIGITS]


def cohort_fingerprint(rows: Iterable[str]) -> str:
    """Return the SHA-256 of a cohort's row fingerprints, in hexadecimal; their order does not matter."""
    return sha256("\n".join(sorted(rows)).encode()).hexdigest()


_STEP = 1e-4
_NEAR = 0.25  # of a step: rounding carries an outline no further over the edge of its cell
_SUMS = 8
_FEWEST = 3  # different values of a row that has an outline
_MOST = 4096  # columns of an outline; an image is sampled
_BLOCK = 2**18
_DIGEST, _KEY = 8, 16  # bytes


@dataclass(frozen=True, eq=False)
class RowTrace:
    """Trace of a row that is kept while a model is trained.

    Attributes:
        exact: Digest of its canonical bytes, without a key.
        outline: Its sums and the logarithm of its size, in steps; None where a row tells too little.
    """

    exact: bytes
    outline: Float[np.ndarray, " sums"] | None


def _refuse_no_key(rows: "TrainingRows") -> None:
    if not rows.key and not rows.others:
        raise ValueError("digests without a key")


@persisted(check=_refuse_no_key)
@dataclass(frozen=True)
class TrainingRows:
    """The rows that a model was trained on.

    Attributes:
        key: Of the model, hexadecimal; empty where it carries no digests.
        exact: Keyed digests of exact rows, hexadecimal.
        outline: Keyed digests of outlines.
        others: Of charts that were merged: those of each, under keys of their own.
        marks: Fingerprints from people.tsv, see `row_fingerprint`, where it is at hand.
    """

    key: str
    exact: frozenset[str]
    outline: frozenset[str]
    others: tuple["TrainingRows", ...] = field(default=(), metadata=stored(omitted=lambda rows: not rows.others))
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
        if any(part.holds(row) for part in self.others):
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
