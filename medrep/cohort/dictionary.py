"""Data dictionaries (participants.json) and synonyms of column names."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from medrep._texts import read_json
from medrep.cohort.parsing import MISSING_WORDS, certain_key, plain_number, sex_word
from medrep.errors import CohortError, few

_Entry = TypeVar("_Entry")
_NO_VALUE = re.compile(
    r"(?:data |value )?(?:is )?(?:missing|unknown|unavailable|no data|n a|not (?:available|applicable|recorded|known|reported"
    r"|collected|assessed|measured))(?: data| values?| age| sex)?"
)


@dataclass(frozen=True)
class DataDictionary:
    """Content of a data dictionary.

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


def examples(spelled: Mapping[str, str]) -> str:
    """Return a few pairs as ``'1' as 'sub-01'``, and how many more there are."""
    return few([f"{one!r} as {other!r}" for one, other in spelled.items()], 3)


def _by_folded(ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in dict.fromkeys(ids):
        found.setdefault(folded(one), []).append(one)
    return found
