"""The table of participants: participants.tsv and participants.json, read and checked.

Cells stay text here: a column becomes numbers or levels only when a covariate asks for it (`covariates.py`). What was
tidied on the way in (a byte order mark, an unnamed column, a doubled row) is kept as notes for the person to read.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from medrep.cohort.dictionary import alike, read_dictionary
from medrep.cohort.parsing import MISSING_WORDS
from medrep.errors import CohortError, listed

KEY_COLUMNS = ("participant_id", "session_id")
MOST_CHARACTERS = 200
"""Of ``sub-ID_ses-ID``; entities, suffix, ``desc-counterfactual`` and ending of a file name follow it."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_SHOWN = 80  # characters of an id


@dataclass(frozen=True)
class Participants:
    """A table with one row a person (or a person's session).

    Attributes:
        table: Text cells; the index is the key (``sub-01`` or ``sub-01_ses-2``), ``participant_id`` is always a column.
        notes: What was tidied while reading, for the person to see.
        units: Column -> unit as participants.json states it.
        levels: Column -> level -> what it means, as participants.json states it.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]
    units: dict[str, str]
    levels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read_participants(path: Path) -> Participants:
    """Read a BIDS participants.tsv.

    Args:
        path: The file; a participants.json beside it is read for units and for what levels mean.

    Returns:
        The checked table.

    Raises:
        CohortError: The file is missing, is not a UTF-8 tab-separated table, has no ``participant_id``, has ragged rows,
            unusable ids, or one person in several rows that disagree.
    """
    header, numbered, notes = _read_lines(path)
    columns, rows, notes = _named_columns(path, header, list(numbered.values()), notes)
    table = pd.DataFrame(rows, columns=columns, dtype=str)
    table["participant_id"] = table["participant_id"].str.strip()
    if "session_id" in table:
        table["session_id"] = table["session_id"].str.strip()
    if table.empty:
        raise CohortError(f"{path}: a header and no people; add one line a person")
    check_ids(path, table, [f"line {number}" for number in numbered])
    table, repeated = _merge_repeats(path, table)
    refuse_doubles(path, table)
    close = [" and ".join(ids) for ids in alike(labels(table["participant_id"].tolist(), "sub"))]
    if close:
        more = f", and {len(close) - 5} more" if len(close) > 5 else ""
        notes.append(f"{path.name}: ids that look like one, read as different people: {', '.join(close[:5])}{more}")
    table.index = pd.Index(keys(table), name="key")
    stated = read_dictionary(path.with_suffix(".json"))
    return Participants(table, tuple(notes + repeated), dict(stated.units), stated.levels)


def read_tsv(path: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """Read a tab-separated text file into a header, rows of equal length, and notes.

    Raises:
        CohortError: Missing, empty, not UTF-8, separated by something else, or ragged (all lines are listed).
    """
    header, numbered, notes = _read_lines(path)
    return header, list(numbered.values()), notes


def _read_lines(path: Path) -> tuple[list[str], dict[int, list[str]], list[str]]:
    """Return the header, line number -> cells, and notes."""
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
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    numbered: dict[int, list[str]] = {}
    try:
        for row in reader:
            numbered |= {reader.line_num: row} if any(row) else {}
    except csv.Error as error:
        raise CohortError(f"{path}: line {reader.line_num}: {error}; save the table as tab-separated text") from None
    refuse_nuls(path, {number: row[0] for number, row in numbered.items() if any("\0" in cell for cell in row)})
    if not numbered:
        raise CohortError(f"{path}: the file is empty; it needs a header line and one line a person")
    header = [name.strip() for name in numbered.pop(min(numbered))]
    if len(header) == 1 and re.search(r"[,;\s]", header[0]):
        raise CohortError(f"{path}: the header {header[0]!r} is not separated by tabs; save the table as tab-separated")
    if any(name.startswith('"') for name in header):
        raise CohortError(f"{path}: the header is in quotes ({', '.join(header[:3])}); save the table without quotes")
    ragged = [f"line {n}: {len(row)} cells ({row[0]!r} ...)" for n, row in numbered.items() if len(row) != len(header)]
    if ragged:
        cure = "one tab between two cells, n/a in an empty one"
        raise CohortError(listed(f"{path}: rows that do not have the header's {len(header)} cells", ragged, cure))
    return header, numbered, notes


def refuse_nuls(path: Path, lines: Mapping[int, str]) -> None:
    """Refuse lines that hold NUL bytes, which no text has: a table in UTF-16, or a file that was cut while it was copied.

    Args:
        path: The file.
        lines: Number of each such line -> its first cell.

    Raises:
        CohortError: All such lines.
    """
    if lines:
        places = [f"line {number}: {first[:40]!r} ..." for number, first in lines.items()]
        raise CohortError(
            listed(f"{path}: lines that hold NUL bytes", places, "save the table as UTF-8 text without them")
        )


def keys(table: pd.DataFrame) -> list[str]:
    """Return the key of each row: the participant, and the session where there is one."""
    if "session_id" not in table:
        return [str(participant) for participant in table["participant_id"].tolist()]
    pairs = zip(table["participant_id"].tolist(), table["session_id"].tolist(), strict=True)
    return [
        f"{who}_ses-{label(str(session), 'ses')}" if label(str(session), "ses") else str(who) for who, session in pairs
    ]


def count_participants(table: pd.DataFrame) -> str:
    """Return how many people there are, and how many scans where somebody has several: ``60 people, 240 scans``."""
    people = len(set(labels(table["participant_id"].tolist(), "sub")))
    return f"{people} people" if people == len(table) else f"{people} people, {len(table)} scans"


def labels(texts: Iterable[str], prefix: str) -> list[str]:
    """Return the `label` of each text; of a hundred thousand people in a fraction of the time."""
    start = f"{prefix}-"
    bare = [text.strip().removeprefix(start) for text in texts]
    return ["" if len(one) == 3 and one.lower() == "n/a" else one for one in bare]


def label(text: str, prefix: str) -> str:
    """Return a BIDS label without its prefix (``sub-01`` -> ``01``); ``n/a`` is no label."""
    return labels([text], prefix)[0]


def chosen_rows(participants: Sequence[str], only: Sequence[str], exclude: Sequence[str]) -> Bool[np.ndarray, " rows"]:
    """Return which rows are of the people who are asked for, by ids with or without ``sub-``.

    Args:
        participants: Whose each row is.
        only: Participants to take; all if empty.
        exclude: Participants to leave out.

    Raises:
        CohortError: Ids that nobody has, all of them, or nobody is left.
    """
    if not only and not exclude:
        return np.ones(len(participants), bool)
    bare = labels(participants, "sub")
    asked = {label(who, "sub") for who in only}
    left_out = {label(who, "sub") for who in exclude}
    unknown = sorted((asked | left_out) - set(bare))
    if unknown:
        raise CohortError(listed("participants that the table does not have", unknown, "check the ids"))
    kept = np.array([(who in asked if asked else True) and who not in left_out for who in bare])
    if not kept.any():
        raise CohortError("nobody is left after --participant-label and --exclude")
    return kept


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


def check_ids(path: Path, table: pd.DataFrame, places: list[str]) -> None:
    """Refuse participant and session ids that cannot be part of a file name.

    Args:
        path: The file, for the message.
        table: Text cells with the key columns.
        places: Where each row stands in the file, for instance ``line 2``.

    Raises:
        CohortError: All such ids.
    """
    for column in KEY_COLUMNS:
        if column not in table:
            continue
        allowed = {"n/a"} if column == "session_id" else set()
        bad = [
            f"{place}: {_shortened(str(text))}"
            for place, text in zip(places, table[column].tolist(), strict=True)
            if not _ID.fullmatch(str(text)) and text not in allowed
        ]
        if bad:
            cure = "use letters, digits and _ . + - only, for instance sub-01"
            raise CohortError(listed(f"{path}: {column} that cannot name a file", bad, cure))
    named = [f"sub-{key}" for key in labels(keys(table), "sub")]
    long = [
        f"{place}: {key[:40]!r}... ({len(key)} characters)"
        for place, key in zip(places, named, strict=True)
        if len(key) > MOST_CHARACTERS
    ]
    if long:
        cure = (
            f"a file name has room for 255 bytes, {255 - MOST_CHARACTERS} of them for what follows the id; shorten it"
        )
        raise CohortError(listed(f"{path}: ids of more than {MOST_CHARACTERS} characters", long, cure))


def _shortened(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text)} characters)"


def refuse_doubles(path: Path, table: pd.DataFrame) -> None:
    """Refuse rows that one key or one folder would stand for: ``01`` and ``sub-01``, ``1`` and ``ses-1``.

    Raises:
        CohortError: All of them.
    """
    bare = labels(keys(table), "sub")
    if len(set(bare)) == len(bare):
        return
    written = [
        " ".join(map(str, row))
        for row in zip(*(table[column].tolist() for column in KEY_COLUMNS if column in table), strict=True)
    ]
    rows: dict[str, list[str]] = {}
    for key, text in zip(bare, written, strict=True):
        rows.setdefault(key, []).append(text)
    doubles = [", ".join(map(repr, texts)) for texts in rows.values() if len(texts) > 1]
    if doubles:
        cure = "keep one row a person, or tell visits apart with a session_id column"
        raise CohortError(listed(f"{path}: rows that stand for the same person or session", doubles, cure))


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


_LARGE = 2**22  # bytes: smaller files are read as fast without
_MOST_COLUMNS = 5000
_AT_ONCE = 2**21  # bytes; Arrow reads some of these ahead, and holds each as text and as numbers
_MISSING = sorted(
    {form for word in MISSING_WORDS for form in (word, word.upper(), word.capitalize())} | {"NaN", "<NA>"}
)


def read_plain(
    path: Path, header: Sequence[str], keys: Sequence[int]
) -> tuple[list[list[str]], Float[np.ndarray, "people features"]] | None:
    """Read ids and numbers of a table of tabs; None of a small table, and of one that holds anything but plain numbers.

    The numbers are those that Python reads, to the last bit.

    Args:
        path: UTF-8 text with a line of names.
        header: The names, a cell each.
        keys: Positions of the columns of ids; all others are numbers.
    """
    if path.stat().st_size < _LARGE or len(header) > _MOST_COLUMNS:
        return None
    import pyarrow as pa  # MLflow brings it
    from pyarrow import csv

    rows = _lines(path)
    if rows is None:
        return None
    names = [str(position) for position in range(len(header))]
    numbers = [position for position in range(len(header)) if position not in keys]
    types = {names[position]: pa.float64() for position in numbers} | {names[k]: pa.string() for k in keys}
    people: list[list[str]] = []
    values = np.empty((rows, len(numbers)))
    try:
        with csv.open_csv(
            path,
            csv.ReadOptions(use_threads=False, block_size=_AT_ONCE, skip_rows=1, column_names=names),
            csv.ParseOptions(delimiter="\t", quote_char=False),
            csv.ConvertOptions(column_types=types, null_values=_MISSING, strings_can_be_null=False),
        ) as reader:
            for batch in reader:
                block = values[len(people) : len(people) + batch.num_rows]
                empty = 0
                for place, position in enumerate(numbers):
                    column = batch.column(position)
                    empty += column.null_count
                    block[:, place] = column.to_numpy(zero_copy_only=False)
                if np.isinf(block).any() or int(np.isnan(block).sum()) != empty:
                    return None
                ids = [batch.column(k).to_pylist() for k in keys]
                people += [[cell.strip() or "n/a" for cell in row] for row in zip(*ids, strict=True)]
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    pa.default_memory_pool().release_unused()
    return (people, values[: len(people)]) if people else None


def _lines(path: Path) -> int | None:
    """Return how many lines there are below the names at most; None where lines are not ended as usual, or bytes are no text."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(_AT_ONCE):
            if b"\0" in block or b"\r" in block:
                return None
            found += block.count(b"\n")
    return found
