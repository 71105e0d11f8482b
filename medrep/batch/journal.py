"""A file that only grows, a line an event; what a dying process or a full disk left half-written is told by its checksum."""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

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
