"""Units as tables state them: which words stand for one unit, and how two units of one quantity go over into each other."""

import re
import unicodedata
from dataclasses import dataclass

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
