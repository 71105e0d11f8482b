"""Several spellings of one thing across tables: names of columns (``Age``, ``gender``), ids (``1``, ``sub-01``), cells."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from medrep.cohort.spellings import certain_key
from medrep.cohort.values import MISSING_WORDS, plain_number

SYNONYMS = {"sex": ("gender",), "site": ("center", "centre"), "diagnosis": ("dx", "diag")}
"""Covariate -> other names that its column may have."""

_MEANT = {word: name for name, words in SYNONYMS.items() for word in words}
_PLAIN = re.compile(r"[0-9]+")
"""Ids of as many digits each are the same to a looser reading only where they are the same."""


def meaning(column: str) -> str:
    """Return what a column is about: its name without case, and the covariate of a synonym (``Gender`` -> ``sex``)."""
    word = unicodedata.normalize("NFKC", column).strip().casefold()
    return _MEANT.get(word, word)


def same_cell(one: str, other: str) -> bool:
    """Return whether two cells say the same: as levels (`spellings.certain_key`), or as numbers."""
    first, second = plain_number(one), plain_number(other)
    return certain_key(one) == certain_key(other) or (first is not None and first == second)


def is_missing(cell: str) -> bool:
    """Return whether a cell says nothing."""
    return cell.strip().lower() in MISSING_WORDS


def folded(key: str) -> str:
    """Return an id or key as loosely as it can be read: without ``sub-`` and ``ses-``, case, and zeros before a number."""
    word = unicodedata.normalize("NFKC", key).strip().casefold().removeprefix("sub-").removeprefix("ses-")
    word = re.sub(r"\A(\d+)\.0+\Z", r"\1", word)  # an id that a spreadsheet took for a number
    return re.sub(r"(?<![0-9.])0+(?=[0-9])", "", word.replace("_ses-", "_"))


def certain_pairs(wanted: Sequence[str], there: Sequence[str]) -> dict[str, str]:
    """Return which ids of two lists are one in other spelling.

    Args:
        wanted: All ids that are asked for.
        there: All ids that there are.

    Returns:
        Wanted id -> the id that is there, without those of one spelling, and only where the looser reading leaves exactly one
        of either.
    """
    if set(wanted) <= set(there):
        return {}
    first, second = _by_folded(wanted), _by_folded(there)
    return {
        own[0]: second[key][0]
        for key, own in first.items()
        if len(own) == len(second.get(key, ())) == 1 and own[0] != second[key][0]
    }


def alike(ids: Sequence[str]) -> list[tuple[str, ...]]:
    """Return groups of different ids that a looser reading cannot tell apart, such as ``sub-1`` and ``sub-01``."""
    if len({len(one) for one in ids}) == 1 and all(map(_PLAIN.fullmatch, ids)):
        return []
    return [tuple(own) for own in _by_folded(ids).values() if len(own) > 1]


def examples(spelled: Mapping[str, str], most: int = 3) -> str:
    """Return a few pairs as ``'1' as 'sub-01'``, and how many more there are."""
    pairs = list(spelled.items())
    told = ", ".join(f"{one!r} as {other!r}" for one, other in pairs[:most])
    return told + (f", and {len(pairs) - most} more" if len(pairs) > most else "")


def _by_folded(ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in dict.fromkeys(ids):
        found.setdefault(folded(one), []).append(one)
    return found
