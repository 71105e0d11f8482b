"""One cell of a participants table -> a number or a level, and what had to be interpreted to read it.

Tables in the wild hold ``n/a``, ``89+``, ``20-25``, ``26,9``, ``M,`` and ``m``. Nothing is guessed in silence: a cell is
exact, tidied (with a note), inexact (a range or a bound, used only if the covariate allows it), missing or unreadable.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

MISSING_WORDS = frozenset({"", "n/a", "na", "nan", "none", "null", "-", "?", "missing", "unknown"})

Reading = Literal["exact", "tidied", "range", "bound", "missing", "unreadable"]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_PLAIN = re.compile(_NUMBER)
_COMMA = re.compile(r"[-+]?\d+,\d{1,2}")
_RANGE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:-|\u2013|to|\.\.)\s*(\d+(?:\.\d+)?)")
_BOUND = re.compile(rf"(?:({_NUMBER})\s*\+|[<>]=?\s*({_NUMBER})|≥\s*({_NUMBER})|≤\s*({_NUMBER}))")


@dataclass(frozen=True)
class Number:
    """A cell read as a number: the value (NaN where there is none) and how it was read."""

    value: float
    reading: Reading


def parse_number(text: str) -> Number:
    """Read a cell as a number.

    Args:
        text: The cell as written.

    Returns:
        The value and how it was read: ``26,9`` is a tidied 26.9, ``20-25`` a range (its midpoint), ``89+`` a bound (89, a
        censored value), ``n/a`` missing, anything else that is no finite number unreadable.
    """
    word = text.strip()
    if word.lower() in MISSING_WORDS:
        return Number(math.nan, "missing")
    if _PLAIN.fullmatch(word):
        return _finite(float(word), "exact")
    trimmed = word.rstrip(",;")
    if trimmed != word and _PLAIN.fullmatch(trimmed):
        return _finite(float(trimmed), "tidied")
    if _COMMA.fullmatch(word):
        return _finite(float(word.replace(",", ".")), "tidied")
    if match := _RANGE.fullmatch(word):
        low, high = float(match[1]), float(match[2])
        return _finite((low + high) / 2, "range") if low <= high else Number(math.nan, "unreadable")
    if match := _BOUND.fullmatch(word):
        return _finite(float(next(group for group in match.groups() if group)), "bound")
    return Number(math.nan, "unreadable")


def _finite(value: float, reading: Reading) -> Number:
    return Number(value, reading) if math.isfinite(value) else Number(math.nan, "unreadable")


def parse_level(text: str) -> str | None:
    """Read a cell as a level of a category: stray blanks, commas and semicolons are cut; None where it is missing.

    Case is kept: whether ``m`` and ``M`` are one level is seen only over the whole column (`merge_levels`).
    """
    word = text.strip().strip(",;").strip()
    return None if word.lower() in MISSING_WORDS else word


def merge_levels(levels: list[str], known: tuple[str, ...] = ()) -> dict[str, str]:
    """Map levels that differ only in case onto one spelling.

    Args:
        levels: The levels of a column, one entry a person.
        known: Levels already fitted; their spelling wins.

    Returns:
        Every spelling in ``levels`` -> the one to use: a known spelling, else the most frequent (ties: first in order).
    """
    spelling = {level.casefold(): level for level in known}
    for level in sorted(set(levels), key=lambda level: (-levels.count(level), level)):
        spelling.setdefault(level.casefold(), level)
    exact = set(known)
    return {level: level if level in exact else spelling[level.casefold()] for level in set(levels)}


def shown(value: object) -> str:
    """Return a value of a covariate, or any other cell, as people read it: numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
