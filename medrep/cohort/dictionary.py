"""A data dictionary, participants.json: the unit of a column, what its levels mean, and which codes stand for no value."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from medrep.cohort.spellings import certain_key
from medrep.cohort.values import MISSING_WORDS, sex_word
from medrep.errors import CohortError
from medrep.json_texts import read_json

_Entry = TypeVar("_Entry")
_NO_VALUE = re.compile(
    r"(?:data |value )?(?:is )?(?:missing|unknown|unavailable|no data|n a|not (?:available|applicable|recorded|known|reported"
    r"|collected|assessed|measured))(?: data| values?| age| sex)?"
)


@dataclass(frozen=True)
class DataDictionary:
    """What a data dictionary says.

    Attributes:
        units: Column -> unit.
        levels: Column -> level -> what it means.
    """

    units: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def unit(self, column: str) -> str:
        """Return the unit of a column; empty where none is stated."""
        return _entry(self.units, column, "").strip()

    def meanings(self, column: str) -> dict[str, str]:
        """Return what the levels of a column mean, but for those that stand for no value."""
        stated: Mapping[str, str] = _entry(self.levels, column, {})
        return {code: text for code, text in stated.items() if not _no_value(text)}

    def no_value(self, column: str) -> tuple[str, ...]:
        """Return the codes that stand for no value in a column."""
        stated: Mapping[str, str] = _entry(self.levels, column, {})
        return tuple(code for code, text in stated.items() if _no_value(text))


def read_dictionary(path: Path) -> DataDictionary:
    """Read participants.json, if it is there.

    Raises:
        CohortError: Not a JSON object.
    """
    if not path.is_file():
        return DataDictionary()
    try:
        described = read_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CohortError(f"{path}: not a JSON file ({error}); mend it or remove it") from None
    if not isinstance(described, dict):
        raise CohortError(f"{path}: holds a {type(described).__name__}, not an object of columns; mend it or remove it")
    entries = {str(column): entry for column, entry in described.items() if isinstance(entry, dict)}
    units = {column: str(entry["Units"]) for column, entry in entries.items() if isinstance(entry.get("Units"), str)}
    levels = {column: _levels(entry["Levels"]) for column, entry in entries.items() if "Levels" in entry}
    return DataDictionary(units, {column: own for column, own in levels.items() if own})


def contradictions(trained: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """Compare what levels mean in two cohorts.

    A meaning contradicts another if it has no word in common with it, or more in common with what another level meant.
    ``male``, ``man`` and ``M`` are one word.

    Args:
        trained: Level -> what it means in the cohort of training.
        given: Level -> what it means in another cohort.

    Returns:
        One line for each level that means something else.
    """
    known = {certain_key(code): (text, _words(text)) for code, text in trained.items()}
    found = []
    for code, text in given.items():
        own_text, own = known.get(certain_key(code), ("", frozenset[str]()))
        words = _words(text)
        if not own or not words or own == words:
            continue
        shared = _overlap(words, own)
        nearest = max(
            (_overlap(words, other) for key, (_, other) in known.items() if key != certain_key(code)), default=0
        )
        if not shared or nearest > shared:
            found.append(f"{code!r} is {text!r} here and {own_text!r} in training")
    return found


def _levels(content: object) -> dict[str, str]:
    """Return level -> text; an entry is a text, or an object with a ``Description``."""
    if not isinstance(content, dict):
        return {}
    texts = {
        str(code): entry.get("Description", entry.get("LongName")) if isinstance(entry, dict) else entry
        for code, entry in content.items()
    }
    return {code: text for code, text in texts.items() if isinstance(text, str) and text.strip()}


def _entry(entries: Mapping[str, _Entry], column: str, default: _Entry) -> _Entry:
    """Return the entry of a column; one that differs in letter case counts where there is no other."""
    if column in entries:
        return entries[column]
    close = [entry for name, entry in entries.items() if name.strip().casefold() == column.strip().casefold()]
    return close[0] if len(close) == 1 else default


def _no_value(text: str) -> bool:
    plain = " ".join(re.findall(r"\w+", text.casefold()))
    return text.strip().casefold() in MISSING_WORDS or bool(_NO_VALUE.fullmatch(plain))


def _words(text: str) -> frozenset[str]:
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return frozenset(sex_word(word) for word in words)


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))
