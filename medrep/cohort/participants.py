"""participants.tsv (+ .json) -> a checked table of text cells.

Cells stay text here: a column becomes numbers or levels only when a covariate asks for it (`covariates.py`). What was
tidied on the way in (a byte order mark, an unnamed column, a doubled row) is kept as notes for the person to read.
"""

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medrep.errors import CohortError, listed

KEY_COLUMNS = ("participant_id", "session_id")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Participants:
    """A table with one row a person (or a person's session).

    Attributes:
        table: Text cells; the index is the key (``sub-01`` or ``sub-01_ses-2``), ``participant_id`` is always a column.
        notes: What was tidied while reading, for the person to see.
        units: Column -> unit as participants.json states it.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]
    units: dict[str, str]


def read_participants(path: Path) -> Participants:
    """Read a BIDS participants.tsv.

    Args:
        path: The file; a participants.json beside it is read for units.

    Returns:
        The checked table.

    Raises:
        CohortError: The file is missing, is not a UTF-8 tab-separated table, has no ``participant_id``, has ragged rows,
            unusable ids, or one person in several rows that disagree.
    """
    header, rows, notes = read_tsv(path)
    columns, rows, notes = _named_columns(path, header, rows, notes)
    table = pd.DataFrame(rows, columns=columns, dtype=str)
    table["participant_id"] = table["participant_id"].str.strip()
    if "session_id" in table:
        table["session_id"] = table["session_id"].str.strip()
    _check_ids(path, table)
    table, repeated = _merge_repeats(path, table)
    table.index = pd.Index(keys(table), name="key")
    return Participants(table, tuple(notes + repeated), _units(path.with_suffix(".json")))


def read_tsv(path: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """Read a tab-separated text file into a header, rows of equal length, and notes.

    Raises:
        CohortError: Missing, empty, not UTF-8, separated by something else, or ragged (all lines are listed).
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CohortError(f"{path}: cannot be read ({error.strerror}); a cohort folder needs it") from None
    notes = [f"{path.name}: byte order mark skipped"] if raw.startswith(b"\xef\xbb\xbf") else []
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise CohortError(f"{path}: line {line} is not UTF-8 text; save the table as UTF-8") from None
    lines = [
        row for row in csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE) if any(row)
    ]
    if not lines:
        raise CohortError(f"{path}: the file is empty; it needs a header line and one line a person")
    header, rows = [name.strip() for name in lines[0]], lines[1:]
    if len(header) == 1 and re.search(r"[,;]", header[0]):
        raise CohortError(f"{path}: the header {header[0]!r} is not separated by tabs; save the table as tab-separated")
    ragged = [f"line {n}: {len(row)} cells" for n, row in enumerate(rows, 2) if len(row) != len(header)]
    if ragged:
        raise CohortError(listed(f"{path}: rows that do not have the header's {len(header)} cells", ragged))
    return header, rows, notes


def keys(table: pd.DataFrame) -> list[str]:
    """Return the key of each row: the participant, and the session where there is one."""
    if "session_id" not in table:
        return [str(participant) for participant in table["participant_id"]]
    pairs = zip(table["participant_id"], table["session_id"], strict=True)
    return [
        f"{who}_ses-{label(str(session), 'ses')}" if label(str(session), "ses") else str(who) for who, session in pairs
    ]


def label(text: str, prefix: str) -> str:
    """Return a BIDS label without its prefix (``sub-01`` -> ``01``); ``n/a`` is no label."""
    bare = text.strip().removeprefix(f"{prefix}-")
    return "" if bare.lower() == "n/a" else bare


def _named_columns(
    path: Path, header: list[str], rows: list[list[str]], notes: list[str]
) -> tuple[list[str], list[list[str]], list[str]]:
    exact = [name.casefold() for name in header]
    if "participant_id" not in exact:
        columns = ", ".join(repr(name) for name in header)
        raise CohortError(f"{path}: no column participant_id among {columns}; name the column of ids participant_id")
    names = [name.casefold() if name.casefold() in KEY_COLUMNS else name for name in header]
    unnamed = [position for position, name in enumerate(names) if not name]
    if unnamed:
        where = ", ".join(str(position + 1) for position in unnamed)
        notes = [*notes, f"{path.name}: column {where} has no name and is ignored"]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise CohortError(listed(f"{path}: column names that occur twice", twice, "name each column once"))
    kept = [position for position, name in enumerate(names) if name]
    return [names[position] for position in kept], [[row[position] for position in kept] for row in rows], notes


def _check_ids(path: Path, table: pd.DataFrame) -> None:
    if table.empty:
        raise CohortError(f"{path}: a header and no people")
    for column in KEY_COLUMNS:
        texts = [str(text) for text in table.get(column, ())]
        allowed = {"n/a"} if column == "session_id" else set()
        bad = [
            f"line {n}: {text!r}" for n, text in enumerate(texts, 2) if not _ID.fullmatch(text) and text not in allowed
        ]
        if bad:
            cure = "use letters, digits and _ . + - only, for instance sub-01"
            raise CohortError(listed(f"{path}: {column} that cannot name a file", bad, cure))


def _merge_repeats(path: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    key = [column for column in KEY_COLUMNS if column in table]
    repeated = table[table.duplicated(key, keep=False)]
    if repeated.empty:
        return table, []
    clashes = []
    for who, group in repeated.groupby(key, sort=False):
        differing = [column for column in group if group[column].nunique() > 1]
        if differing:
            cells = "; ".join(f"{column}: {', '.join(repr(v) for v in group[column])}" for column in differing)
            clashes.append(f"{' '.join(str(part) for part in who)} ({cells})")
    if clashes:
        cure = "keep one row a person, or tell visits apart with a session_id column"
        raise CohortError(listed(f"{path}: people with several rows that disagree", clashes, cure))
    merged = table.drop_duplicates(key).reset_index(drop=True)
    return merged, [f"{path.name}: {len(table) - len(merged)} repeated identical row(s) merged"]


def _units(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        described = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CohortError(f"{path}: not a JSON file ({error}); mend it or remove it") from None
    if not isinstance(described, dict):
        raise CohortError(f"{path}: holds a {type(described).__name__}, not an object of columns; mend it or remove it")
    return {
        str(column): str(entry["Units"])
        for column, entry in described.items()
        if isinstance(entry, dict) and isinstance(entry.get("Units"), str)
    }
