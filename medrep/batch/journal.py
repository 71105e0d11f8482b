"""Journals that only grow, and the rows of participants kept beside them.

A journal says where its rows are and what their checksum is. Once the tables are written they hold the rows, and the files
beside the journals go: `Folded` remembers whose row stands where, and vouches for the tables by their digests.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import file_digest
from pathlib import Path
from typing import Any, BinaryIO

from medrep._files import write_json
from medrep._texts import read_json
from medrep.cohort.participants import KEY_COLUMNS

_DIGITS = 8


class Journal:
    """Appends events to a file that nobody else appends to.

    An event that is complete is kept: by the machine's memory at once, by its disk from `flush` on. Half a line that an earlier
    process left at the end is cut off.

    Args:
        path: The file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # A link in its place is not followed: what it leads to would be cut and written to.
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        os.ftruncate(self._handle, _end_of_lines(self._handle))

    def append(self, event: Mapping[str, Any]) -> int:
        """Add an event, whole or not at all; return where its line begins.

        Raises:
            OSError: The disk is full; what was written of the line is taken back.
        """
        body = json.dumps(event, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        return append_whole(self._handle, line)

    def flush(self) -> None:
        """Bring what was appended to the disk."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Bring everything to the disk and let go of the file."""
        os.fsync(self._handle)
        os.close(self._handle)


def append_whole(handle: int, body: bytes) -> int:
    """Add bytes to the end of a file, all or none; return where they begin.

    Raises:
        OSError: The disk is full; what was written is taken back.
    """
    start = os.lseek(handle, 0, os.SEEK_END)
    try:
        written = 0
        while written < len(body):
            written += os.write(handle, body[written:])
    except OSError:
        with suppress(OSError):
            os.ftruncate(handle, start)
        raise
    return start


def open_here(path: Path) -> BinaryIO:
    """Open a file of the job to read; a link in its place is not followed, and a pipe not waited for."""
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK))


def read_events(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield where each whole event begins, and the event; half a line, or a damaged one, is passed over."""
    with open_here(path) as file:
        start = 0
        for line in file:
            event = _parsed(line)
            if event is not None:
                yield start, event
            start += len(line)


class JournalReader:
    """Reads events at places that are known, and keeps the file open and the last event."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_here(path)
        self._last: tuple[int, dict[str, Any]] | None = None

    def read(self, start: int) -> dict[str, Any]:
        """Return the event that begins at a place.

        Raises:
            OSError: There is none any more.
        """
        if self._last is None or self._last[0] != start:
            self._file.seek(start)
            event = _parsed(self._file.readline())
            if event is None:
                raise OSError(f"{self._path}: changed while it was read")
            self._last = start, event
        return self._last[1]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read_event(path: Path, start: int) -> dict[str, Any]:
    """Return the event that begins at a place.

    Raises:
        OSError: There is none any more.
    """
    reader = JournalReader(path)
    try:
        return reader.read(start)
    finally:
        reader.close()


def _parsed(line: bytes) -> dict[str, Any] | None:
    body = line[_DIGITS + 1 : -1]
    if line != b"%08x %s\n" % (zlib.crc32(body), body):
        return None
    try:
        event: dict[str, Any] = json.loads(body)
    except (ValueError, RecursionError):  # a checksum that fits vouches for no content
        return None
    return event


def _end_of_lines(handle: int) -> int:
    """Return the size of a file without half a line at its end."""
    size = os.lseek(handle, 0, os.SEEK_END)
    step, end = 1 << 16, size
    while end > 0:
        start = max(0, end - step)
        place = os.pread(handle, end - start, start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        end = start
    return 0


ENDING = ".rows"
_FOLDED = "folded.json"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some people's rows of one name, a line each.

    Attributes:
        start: Where they begin in the file.
        size: Bytes.
        checksum: CRC-32 of them.
    """

    start: int
    size: int
    checksum: int


class RowsFile:
    """Appends chunks to a file of its own.

    Args:
        path: The file; made with the first chunk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def append(self, body: bytes) -> Chunk:
        """Add lines, each ended, whole or not at all.

        Raises:
            OSError: The disk is full; what was written is taken back.
        """
        if self._handle is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            self._handle = os.open(self.path, flags, 0o666)
        return Chunk(append_whole(self._handle, body), len(body), zlib.crc32(body))

    def flush(self) -> None:
        """Bring what was appended to the disk."""
        if self._handle is not None:
            os.fsync(self._handle)

    def close(self) -> None:
        """Bring everything to the disk and let go of the file."""
        if self._handle is not None:
            os.fsync(self._handle)
            os.close(self._handle)
            self._handle = None


def read_chunk(file: BinaryIO, chunk: Chunk) -> list[str] | None:
    """Return the lines of a chunk; None where they are not what was written."""
    body = _chunk(file, chunk)
    return None if body is None else body.decode().split("\n")[:-1]


def chunk_stands(file: BinaryIO, chunk: Chunk) -> bool:
    """Say whether the bytes of a chunk are what was written."""
    return _chunk(file, chunk) is not None


def _chunk(file: BinaryIO, chunk: Chunk) -> bytes | None:
    file.seek(chunk.start)
    body = file.read(chunk.size)
    return body if len(body) == chunk.size and zlib.crc32(body) == chunk.checksum else None


@dataclass(frozen=True)
class Folded:
    """Which rows stand in the tables of OUT, and nowhere else.

    Attributes:
        out: OUT.
        tables: Name of rows -> size and digest of the table, ``NAME.tsv``.
        beside: Name of every other file that was written with them -> the same.
        runs: Journal, place of the event, first position in it, and number of people, in the order of the tables' lines.
        state: Of the job that the tables were written of.
    """

    out: Path
    tables: Mapping[str, tuple[int, str]]
    beside: Mapping[str, tuple[int, str]]
    runs: tuple[tuple[str, int, int, int], ...]
    state: str

    @property
    def intact(self) -> bool:
        """True if the tables are unchanged."""
        return all(_state(self.out / f"{name}.tsv") == state for name, state in self.tables.items())

    @property
    def whole(self) -> bool:
        """True if the other files are unchanged, too."""
        return all(_state(self.out / name) == state for name, state in self.beside.items())

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(run[3] for run in self.runs)

    def line(self, journal: str, start: int, position: int) -> int | None:
        """Return which line of the tables, from 0, is a row of an event; None where it stands in none."""
        for first, count, line in self._by_event.get((journal, start), ()):
            if first <= position < first + count:
                return line + position - first
        return None

    @cached_property
    def _by_event(self) -> dict[tuple[str, int], list[tuple[int, int, int]]]:
        found: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
        line = 0
        for journal, start, first, count in self.runs:
            found.setdefault((journal, start), []).append((first, count, line))
            line += count
        return found


def fold(folder: Path, out: Path, names: Sequence[str], runs: Sequence[tuple[str, int, int, int]], state: str) -> None:
    """Note that OUT's tables hold the rows, and remove the files beside the journals.

    Args:
        folder: The job's own folder.
        out: OUT.
        names: Of the rows.
        runs: See `Folded`.
        state: Of the job that the tables were written of.
    """
    tables = {name: _state(out / f"{name}.tsv") for name in names}
    written = sorted(path.name for path in out.iterdir() if path.suffix in (".tsv", ".json") and path.is_file())
    beside = {name: _state(out / name) for name in written if name.removesuffix(".tsv") not in tables}
    write_json(folder / _FOLDED, {"state": state, "tables": tables, "beside": beside, "runs": runs})
    for path in folder.glob(f"*{ENDING}"):
        path.unlink()


def read_folded(folder: Path, out: Path) -> Folded | None:
    """Return which rows stand in OUT's tables; None where none do, or tables are not what they were."""
    path = folder / _FOLDED
    if not path.is_file():
        return None
    try:
        content = read_json(path.read_text(encoding="utf-8"))
        tables, beside = (
            {str(name): (int(size), str(digest)) for name, (size, digest) in content[files].items()}
            for files in ("tables", "beside")
        )
        runs = tuple(
            (str(journal), int(start), int(first), int(count)) for journal, start, first, count in content["runs"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    found = Folded(out, tables, beside, runs, str(content["state"]))
    return found if found.intact else None


class TableRows:
    """Reads rows back from a table of OUT.

    Args:
        path: The table.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_here(path)
        header = self._file.readline().decode().rstrip("\n").split("\t")
        self._cells = [k for k, name in enumerate(header) if name.casefold() not in KEY_COLUMNS]
        self._starts = [self._file.tell()]

    def line(self, number: int) -> str:
        """Return the cells of a line, from 0, but for the ids."""
        while len(self._starts) <= number + 1:
            self._file.seek(self._starts[-1])
            self._starts.append(self._starts[-1] + len(self._file.readline()))
        self._file.seek(self._starts[number])
        cells = self._file.readline().decode().rstrip("\n").split("\t")
        return "\t".join([cells[k] for k in self._cells])

    def close(self) -> None:
        """Let go of the table."""
        self._file.close()


def _state(path: Path) -> tuple[int, str]:
    """Return size and digest of a file; of one that is not there, nothing that any file has."""
    try:
        found = path.stat()
        return found.st_size, _digest(path, found.st_size, found.st_mtime_ns, found.st_ino)
    except OSError:
        return -1, ""


@lru_cache(maxsize=64)
def _digest(path: Path, *_state: int) -> str:
    """Return a digest; of a file that did not change since, the one that was found then."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()[:32]
