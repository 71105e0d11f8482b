"""Splits by participant: stratified by a column, with families or repeated scans kept together."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

from medrep.cohort.values import MISSING_WORDS
from medrep.errors import CohortError, listed


def split_people(
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
