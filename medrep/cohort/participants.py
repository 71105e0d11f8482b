"""The table of participants: participants.tsv and participants.json, read and checked.

Cells stay text here: a column becomes numbers or levels only when a covariate asks for it (`covariates.py`). What was
tidied on the way in (a byte order mark, an unnamed column, a doubled row) is kept as notes for the person to read.
"""

import csv
import io
import mmap
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from medrep._files import release_pages
from medrep.cohort.dictionary import alike, read_dictionary
from medrep.cohort.parsing import MISSING_WORDS
from medrep.errors import CohortError, few, listed

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
    header, numbers, columns, notes = _read_lines(path)
    names, notes = _named_columns(path, header, notes)
    table = pd.DataFrame({name: columns[position] for position, name in names.items()}, dtype=str)
    del columns
    table["participant_id"] = table["participant_id"].str.strip()
    if "session_id" in table:
        table["session_id"] = table["session_id"].str.strip()
    if table.empty:
        raise CohortError(f"{path}: a header and no people; add one line a person")
    check_ids(path, table, [f"line {number}" for number in numbers])
    table, repeated = _merge_repeats(path, table)
    refuse_doubles(path, table)
    close = [" and ".join(ids) for ids in alike(labels(table["participant_id"].tolist(), "sub"))]
    if close:
        notes.append(f"{path.name}: ids that look like one, read as different people: {few(close)}")
    table.index = pd.Index(keys(table), name="key")
    stated = read_dictionary(path.with_suffix(".json"))
    return Participants(table, tuple(notes + repeated), dict(stated.units), stated.levels)


def read_tsv(path: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """Read a tab-separated text file into a header, rows of equal length, and notes.

    Raises:
        CohortError: Missing, empty, not UTF-8, separated by something else, or ragged (all lines are listed).
    """
    header, _, columns, notes = _read_lines(path)
    return header, [list(row) for row in zip(*columns, strict=True)], notes


def _read_lines(path: Path) -> tuple[list[str], list[int], list[list[str]], list[str]]:
    """Return the header, the numbers of the lines below it, the cells of each column, and notes."""
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
    numbers, columns = _plain_columns(text) or ([], [])
    if not numbers:
        numbers, columns = _careful_columns(path, text)
    header = [own[0].strip() for own in columns]
    _refuse_header(path, header)
    return header, numbers[1:], [own[1:] for own in columns], notes


def _plain_columns(text: str) -> tuple[list[int], list[list[str]]] | None:
    """Return numbers of lines and the cells of each column of a table; None of one that needs a careful reader."""
    if "\r" in text or "\0" in text:
        return None
    lines = text.split("\n")
    numbers = [number for number, line in enumerate(lines, 1) if line.strip("\t")]
    lines = [line for line in lines if line.strip("\t")]
    tabs = lines[0].count("\t") if lines else 0
    if any(line.count("\t") != tabs or len(line) > csv.field_size_limit() for line in lines):
        return None
    cells = "\t".join(lines).split("\t")
    return numbers, [cells[position :: tabs + 1] for position in range(tabs + 1)]


def _careful_columns(path: Path, text: str) -> tuple[list[int], list[list[str]]]:
    """Return numbers of lines and the cells of each column, whatever ends lines; else say what is wrong with a table."""
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
    header = [name.strip() for name in numbered[min(numbered)]]
    _refuse_header(path, header)
    ragged = [f"line {n}: {len(row)} cells ({row[0]!r} ...)" for n, row in numbered.items() if len(row) != len(header)]
    if ragged:
        cure = "one tab between two cells, n/a in an empty one"
        raise CohortError(listed(f"{path}: rows that do not have the header's {len(header)} cells", ragged, cure))
    return list(numbered), [list(cells) for cells in zip(*numbered.values(), strict=True)]


def _refuse_header(path: Path, header: Sequence[str]) -> None:
    if len(header) == 1 and re.search(r"[,;\s]", header[0]):
        raise CohortError(f"{path}: the header {header[0]!r} is not separated by tabs; save the table as tab-separated")
    if any(name.startswith('"') for name in header):
        raise CohortError(f"{path}: the header is in quotes ({', '.join(header[:3])}); save the table without quotes")


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


def _named_columns(path: Path, header: list[str], notes: list[str]) -> tuple[dict[int, str], list[str]]:
    """Return the position and the name of each column that has one, and notes."""
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
    return {position: name for position, name in enumerate(names) if name}, notes


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
_AT_ONCE = 2**20  # bytes, which are held as text, as columns and as rows
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

    Returns:
        The columns of ids, and the numbers, of a large table in a `scratch_matrix`.
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
    convert = csv.ConvertOptions(column_types=types, null_values=_MISSING, strings_can_be_null=False)
    ids: list[list[str]] = [[] for _ in keys]
    values, done = scratch_matrix(rows, len(numbers), np.dtype(float)), 0
    try:
        for text in _blocks(path):
            table = csv.read_csv(
                pa.BufferReader(text),
                csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
                csv.ParseOptions(delimiter="\t", quote_char=False),
                convert,
            )
            columns = [table.column(position) for position in numbers]
            block = np.array([column.to_numpy() for column in columns])
            if np.isinf(block).any() or int(np.isnan(block).sum()) != sum(column.null_count for column in columns):
                return None
            values[done : done + len(table)] = block.T
            for own, k in zip(ids, keys, strict=True):
                own += [cell.strip() or "n/a" for cell in table.column(k).to_pylist()]
            done += len(table)
            release_pages(values)
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    pa.default_memory_pool().release_unused()
    return (ids, values[:done]) if done else None


def _lines(path: Path) -> int | None:
    """Return how many lines there are below the names at most; None where lines are not ended as usual, or bytes are no text."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(_AT_ONCE):
            if b"\0" in block or b"\r" in block:
                return None
            found += block.count(b"\n")
    return found


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield some whole lines at a time, without the first, and without blocks of empty ones."""
    with path.open("rb") as file:
        file.readline()
        rest = b""
        while block := file.read(_AT_ONCE):
            end = block.rfind(b"\n") + 1
            whole, rest = (rest + block[:end], block[end:]) if end else (b"", rest + block)
            if whole.strip(b"\n"):
                yield whole
        if rest:
            yield rest


_SCRATCH = 2**25
_ROWS_AT_ONCE, _PICKED_AT_ONCE = 2048, 8


def scratch_matrix(rows: int, columns: int, dtype: np.dtype) -> Shaped[np.ndarray, "rows columns"]:
    """Return a matrix to be filled; a large one is mapped to a file without a name, so that it need not be held in memory.

    The file lies where temporary files do (TMPDIR) and goes with the matrix; where there is no room, memory is taken.
    """
    size = dtype.itemsize * rows * columns
    if size >= _SCRATCH and sys.platform == "linux":
        with suppress(OSError), TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)  # writing to a mapped page of a full disk would kill the process
            # No np.memmap: joblib would send the name of its file to workers, and there is none.
            return np.ndarray((rows, columns), dtype, buffer=mmap.mmap(file.fileno(), size))
    return np.empty((rows, columns), dtype)


def shared_mapping(data: np.ndarray) -> mmap.mmap | None:
    """Return the mapped file that holds an array, where changes go to the file; None of other arrays."""
    base: object = data
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.mode == "c":
            return None
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def row_blocks(matrix: Shaped[np.ndarray, "rows columns"]) -> Iterator[tuple[int, Shaped[np.ndarray, "some columns"]]]:
    """Yield where some rows begin, and the rows, in order; pages of a mapped matrix are given back as the next are asked for."""
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        yield start, matrix[start : start + _ROWS_AT_ONCE]
        release_pages(matrix)


def taken_rows(
    matrix: Shaped[np.ndarray, "rows columns"], positions: Int[np.ndarray, " some"]
) -> Shaped[np.ndarray, "some columns"]:
    """Return some rows in an order; a mapped matrix is not brought into memory for it."""
    if shared_mapping(matrix) is None:
        return matrix[positions]
    taken = scratch_matrix(len(positions), matrix.shape[1], matrix.dtype)
    for start in range(0, len(positions), _PICKED_AT_ONCE):  # each row may bring the pages beside its own
        some = positions[start : start + _PICKED_AT_ONCE]
        taken[start : start + len(some)] = matrix[some]
        release_pages(matrix)
        release_pages(taken)
    return taken
