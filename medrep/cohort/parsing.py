"""Cells of a table as numbers and levels: values, spellings of levels, and units.

Tables in the wild hold ``n/a``, ``89+``, ``20-25``, ``26,9``, ``M,`` and ``"A"``. Nothing is guessed in silence: a cell is
exact, tidied (with a note), inexact (a range or a bound, used only if the covariate allows it), missing or unreadable.

Certain: letter case, Unicode form and width, blanks, quotes, and ``1`` with ``1.0``, which is what a program makes of whole
numbers beside an empty cell. Alike, and not certain: ``1`` with ``01``, ``True`` or ``1.50`` with ``1.5``; sites have been
numbered so. Neither is ever two levels without somebody having said so.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
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


_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0*")
_DECIMAL_COMMA = re.compile(r"([-+]?[0-9]+),([0-9]{1,2})")
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
    word = _DECIMAL_COMMA.sub(r"\1.\2", word) if _DECIMAL_COMMA.fullmatch(word) else _TRUTH.get(word, word)
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


_WORDS = {
    ("time", 365.25): "y yr yrs year years a ann annum annus",
    ("time", 365.25 / 12): "mo mos mon mth mths month months",
    ("time", 7.0): "w wk wks week weeks",
    ("time", 1.0): "d day days",
    ("time", 1 / 24): "h hr hrs hour hours",
    ("time", 1 / 1440): "min mins minute minutes",
    ("time", 1 / 86400): "s sec secs second seconds",
    ("time", 1 / 86400000): "ms msec millisecond milliseconds",
    ("length", 1.0): "m metre metres meter meters",
    ("length", 0.01): "cm centimetre centimetres centimeter centimeters",
    ("length", 0.001): "mm millimetre millimetres millimeter millimeters",
    ("length", 0.0254): "in inch inches",
    ("mass", 1.0): "kg kgs kilogram kilograms",
    ("mass", 0.001): "g gram grams",
    ("mass", 0.45359237): "lb lbs pound pounds",
    ("volume", 1.0): "l litre litres liter liters",
    ("volume", 0.001): "ml millilitre millilitres milliliter milliliters cc cm3 cm^3",
    ("volume", 1e-6): "mm3 mm^3 ul microlitre microlitres microliter microliters",
}
_UNITS = {word: unit for unit, words in _WORDS.items() for word in words.split()}
_AROUND = re.compile(r"[\[\](){}.,;]|^in (?=\w)| (?:of age|old)$")

YEAR, OLDEST = 365.25, 130


@dataclass(frozen=True)
class Unit:
    """A unit that is known.

    Attributes:
        quantity: What it measures: ``time``, ``length``, ``mass`` or ``volume``.
        size: In days, m, kg or l.
    """

    quantity: str
    size: float


def find_unit(text: str) -> Unit | None:
    """Return the unit that a text names (``yrs``, ``[years]``, ``Year(s)``, ``years of age``), or None."""
    word = _plain(text)
    found = _UNITS.get(word) or _UNITS.get(" ".join(_AROUND.sub(" ", word.replace("(s)", "s")).split()))
    return None if found is None else Unit(*found)


def same_unit(one: str, other: str) -> bool:
    """Return whether two texts name one unit; words that nobody knows have to agree, but for a plural."""
    first, second = find_unit(one), find_unit(other)
    if first is None or second is None:
        return _plain(one).rstrip("s") == _plain(other).rstrip("s")
    return first == second


def conversion(given: str, wanted: str) -> str:
    """Return how numbers of one unit become those of another (``divide by 12``); empty where nobody knows."""
    first, second = find_unit(given), find_unit(wanted)
    if first is None or second is None or first.quantity != second.quantity:
        return ""
    ratio = first.size / second.size
    return f"multiply by {ratio:.6g}" if ratio >= 1 else f"divide by {1 / ratio:.6g}"


def age_limits(unit: str) -> tuple[float, float] | None:
    """Return the lowest and highest age there can be, in a unit of time; None in any other, or none."""
    found = find_unit(unit)
    if found is None or found.quantity != "time":
        return None
    return 0.0, round(OLDEST * YEAR / found.size, 6)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
