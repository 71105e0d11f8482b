"""Spellings of levels: which are certainly one level, and which only look like one.

Certain: letter case, Unicode form and width, blanks, quotes, and ``1`` with ``1.0``, which is what a program makes of whole
numbers beside an empty cell. Alike, and not certain: ``1`` with ``01``, ``True`` or ``1.50`` with ``1.5``; sites have been
numbered so. Neither is ever two levels without somebody having said so.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from medrep.cohort.values import parse_number, tidied

_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0*")
_COMMA = re.compile(r"([-+]?[0-9]+),([0-9]{1,2})")
_DECIMAL = re.compile(r"([-+]?)0*([0-9]*)(?:\.([0-9]*?)0*)?")
_PADDING = re.compile(r"(?<![0-9.,])0+(?=[0-9])")
_TRUTH = {"true": "1", "yes": "1", "false": "0", "no": "0"}


def certain_key(level: str) -> str:
    """Return a text that is the same for all spellings that are certainly one level."""
    word = _composed(tidied(_narrow(level)).casefold())
    whole = _WHOLE.fullmatch(word)
    return whole[1] if whole else word


def alike_key(level: str) -> str:
    """Return a text that is the same for all spellings that look like one level."""
    word = unicodedata.normalize("NFKC", certain_key(level)).casefold()
    word = " ".join(word.split())
    word = _COMMA.sub(r"\1.\2", word) if _COMMA.fullmatch(word) else _TRUTH.get(word, word)
    decimal = _DECIMAL.fullmatch(word)
    if decimal and any(letter.isdigit() for letter in word):
        sign = "-" if decimal[1] == "-" else ""
        return f"{sign}{decimal[2] or '0'}" + (f".{decimal[3]}" if decimal[3] else "")
    return _PADDING.sub("", word)


def merge_levels(levels: Sequence[str], known: Sequence[str] = ()) -> dict[str, str]:
    """Map levels that are certainly one onto one spelling.

    Args:
        levels: The levels of a column, one entry a person.
        known: Levels already fitted, or declared as they are written; their spelling wins.

    Returns:
        Every spelling in ``levels`` -> the one to use: a known spelling, else the plainest, else the most frequent (ties: first
        in order).
    """
    counts = Counter(levels)
    keys = {level: certain_key(level) for level in (*known, *counts)}
    spelling: dict[str, str] = {}
    for level in known:
        spelling.setdefault(keys[level], level)
    for level in sorted(counts, key=lambda level: (keys[level] != level.casefold(), -counts[level], level)):
        spelling.setdefault(keys[level], level)
    exact = set(known)
    return {level: level if level in exact else spelling[keys[level]] for level in counts}


def look_alikes(levels: Iterable[str], known: Collection[str] = ()) -> list[tuple[str, ...]]:
    """Return groups of levels that look like one, in order; groups of nothing but ``known`` levels are left out.

    Args:
        levels: Of people, after `merge_levels`.
        known: Levels that were told apart before, by a model or by a declaration.
    """
    present = set(levels)
    groups: dict[str, list[str]] = {}
    for level in sorted(present | set(known)):
        groups.setdefault(alike_key(level), []).append(level)
    return [tuple(group) for group in groups.values() if len(group) > 1 and (set(group) & present) - set(known)]


def find_level(text: str, levels: Sequence[str]) -> str | None:
    """Return the level that a text certainly names; None where there is none, or more than one."""
    if text in levels:
        return text
    found = [level for level in levels if certain_key(level) == certain_key(text)]
    return found[0] if len(found) == 1 else None


def is_code(text: str, codes: Collection[str]) -> bool:
    """Return whether a cell holds one of some codes, as a number or as a level."""
    if not codes:
        return False
    number = parse_number(text)
    numbers = [parse_number(code) for code in codes]
    if number.reading in {"exact", "tidied"} and any(number.value == code.value for code in numbers):
        return True
    return certain_key(text) in {certain_key(code) for code in codes}


def shown_spelling(text: str, level: str) -> str:
    """Return a cell in quotes, with its signs spelled out where it could not be told from ``level`` by looking."""
    same = _composed(text) == level or repr(text) == repr(level)
    return ascii(text) if same and text != level else repr(text)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _narrow(text: str) -> str:
    """Return full-width and half-width forms as the usual ones; NFKC would also make ``2`` of a superscript."""
    forms = ("<wide>", "<narrow>")
    return "".join(
        unicodedata.normalize("NFKC", letter) if unicodedata.decomposition(letter).startswith(forms) else letter
        for letter in text
    )
