"""One cell of a participants table -> a number or a level, and what had to be interpreted to read it.

Tables in the wild hold ``n/a``, ``89+``, ``20-25``, ``26,9``, ``M,`` and ``"A"``. Nothing is guessed in silence: a cell is
exact, tidied (with a note), inexact (a range or a bound, used only if the covariate allows it), missing or unreadable.
"""

import math
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

MISSING_WORDS = frozenset(
    {"", "n/a", "na", "nan", "none", "null", "-", "?", "missing", "unknown", ".", "#n/a", "<na>", "nat"}
)

Reading = Literal["exact", "tidied", "range", "bound", "missing", "unreadable"]

# Digits are spelled out: \d also takes those of other scripts and full-width ones.
_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_PLAIN = re.compile(_NUMBER)
_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]{1,2}")
_RANGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:-|\u2013|to|\.\.)\s*([0-9]+(?:\.[0-9]+)?)")
_BOUND = re.compile(rf"(?:({_NUMBER})\s*\+|[<>]=?\s*({_NUMBER})|≥\s*({_NUMBER})|≤\s*({_NUMBER}))")
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")
_SEX_WORDS = {"m": "M", "male": "M", "man": "M", "f": "F", "female": "F", "woman": "F"}


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
        The value and how it was read: ``26,9`` and ``"26.9"`` in quotes are a tidied 26.9, ``20-25`` a range (its midpoint),
        ``89+`` a bound (89, a censored value), ``n/a`` missing, anything else that is no finite number unreadable
        (``1_000``, ``inf``, digits of full width).
    """
    word = text.strip()
    if word.lower() in MISSING_WORDS:
        return Number(math.nan, "missing")
    if _PLAIN.fullmatch(word):
        return _finite(float(word), "exact")
    bare = unquoted(word)
    if bare.lower() in MISSING_WORDS:
        return Number(math.nan, "missing")
    trimmed = bare.rstrip(",;")
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


def plain_number(text: str) -> float | None:
    """Return a finite number written as one, blanks around it allowed; None for anything else, missing words too.

    ``float`` by itself also takes ``1_000``, ``inf``, ``nan`` and digits of any script.
    """
    word = text.strip()
    value = float(word) if _PLAIN.fullmatch(word) else math.nan
    return value if math.isfinite(value) else None


def _finite(value: float, reading: Reading) -> Number:
    return Number(value, reading) if math.isfinite(value) else Number(math.nan, "unreadable")


def parse_level(text: str, verbatim: Collection[str] = ()) -> str | None:
    """Read a cell as a level of a category; None where it is missing.

    Quotes around it, stray commas and semicolons, doubled blanks and signs that nobody sees are cut, a blank of any kind is a
    blank, and letters with accents are composed (Unicode NFC). Case is kept: whether ``m`` and ``M`` are one level is seen only
    over the whole column (`spellings.merge_levels`).

    Args:
        text: The cell as written.
        verbatim: Levels that are taken as they are written, ``NA`` for instance.
    """
    plain = text.strip()
    if plain in verbatim:
        return plain
    word = tidied(text)
    return word if word in verbatim or word.lower() not in MISSING_WORDS else None


def tidied(text: str) -> str:
    """Return a text without what stands around a level, or in it unseen; see `parse_level`."""
    word = " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())
    return unquoted(word.strip(",;").strip()).strip(",;").strip()


def unquoted(word: str) -> str:
    """Return a word without the pair of quotes around it, where there is one."""
    paired = len(word) > 1 and _QUOTES.get(word[0]) == word[-1]
    return word[1:-1].strip() if paired else word


def sex_word(level: str) -> str:
    """Return ``M`` or ``F`` for the words that stand for it, and any other level as it is."""
    return _SEX_WORDS.get(level.casefold(), level)


def shown(value: object) -> str:
    """Return a value of a covariate, or any other cell, as people read it: numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
