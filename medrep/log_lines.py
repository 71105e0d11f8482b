"""Logs for machines: one JSON object a line. Whatever else a library writes becomes a line, too."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from io import TextIOBase
from typing import Any, Literal, TypeAlias

from medrep.masking import printable

Level: TypeAlias = Literal["info", "warning", "error"]
_Stream: TypeAlias = Any  # rich and pytest put objects in the place of standard error that are no TextIO


class LogLines:
    """Writes lines with ``time`` (UTC), ``level``, ``command``, ``message``, and what belongs to the message.

    Args:
        stream: Where to.
        command: Which command of medrep speaks.
    """

    def __init__(self, stream: _Stream, command: str) -> None:
        self._stream, self._command = stream, command

    def write(self, level: Level, message: str, fields: Mapping[str, Any] | None = None) -> None:
        """Write one line, whole.

        Args:
            level: How grave it is.
            message: What is said.
            fields: What belongs to it, in JSON's own types.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head = {"time": now, "level": level, "command": self._command, "message": printable(message)}
        self._stream.write(f"{json.dumps({**head, **_shown(fields or {})}, allow_nan=False)}\n")
        self._stream.flush()


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _shown(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(entry) for entry in value]
    return printable(value) if isinstance(value, str) else value


class CapturedLines(TextIOBase):
    """A stream for those who do not know of lines of JSON: each line that is written to it becomes one.

    Args:
        lines: Where they go.
    """

    def __init__(self, lines: LogLines) -> None:
        self._lines, self._rest = lines, ""

    def writable(self) -> bool:
        """Return that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Take text; what has no line feed yet waits for it."""
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            if line.strip():
                self._lines.write("info", line.strip("\r"), {"source": "library"})
        return len(text)

    def end(self) -> None:
        """Write what still waits."""
        self.write("\n")
