"""Monitoring of a run: JSON log lines, and metrics for Prometheus."""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOBase
from pathlib import Path
from typing import Any, Literal, TypeAlias

from medrep._files import write_text
from medrep.errors import ConfigError, printable

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


ENDING = ".prom"
_SUCCESS = "medrep_last_success_timestamp_seconds"
_FINISHED = (0, 3)  # exit codes of a run that came to its end; with 3, some people failed


@dataclass(frozen=True)
class Run:
    """One call of a command.

    Attributes:
        command: Which.
        out: The name of the folder that it wrote to.
        part: ``all``, or ``K/N``.
        exit_code: How it ended.
        seconds: How long it took.
        people: State (``delivered``, ``failed``) -> how many are in it now, in this part; empty where nobody knows.
        worked: How many were worked on by this call, those of earlier calls left out.
        working: Seconds of that.
    """

    command: str
    out: str
    part: str
    exit_code: int
    seconds: float
    people: Mapping[str, int]
    worked: int = 0
    working: float = 0.0


def check_metrics(path: Path) -> None:
    """Refuse a file that the collector would not read, or that cannot be written, before hours of work.

    Raises:
        ConfigError: What is wrong with it.
    """
    if path.suffix != ENDING:
        raise ConfigError(f"--metrics {path}: the textfile collector reads files that end in {ENDING}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK) or path.is_dir():
        raise ConfigError(f"--metrics {path}: cannot be written there; give a file in a folder that is there")


def write_metrics(path: Path, run: Run) -> None:
    """Replace the file by what one run says; when a run last went well is kept from the file before.

    Raises:
        OSError: It cannot be written.
    """
    text = exposed(run, time.time(), _last_success(path, run))
    # The collector reads whatever ends in .prom, half-written files among it.
    made = path.with_name(f".{path.name}.new")
    write_text(made, text)
    made.replace(path)


def exposed(run: Run, now: float, last: float) -> str:
    """Return a run in Prometheus' text format.

    Args:
        run: The run.
        now: Seconds since 1970.
        last: When an earlier run last went well, seconds since 1970; 0 for never.
    """
    who = _labels(run)
    rate = run.worked / run.working if run.working > 0 else 0.0
    success = now if run.exit_code in _FINISHED else last
    people: list[tuple[str, float]] = [(f'{who},state="{state}"', count) for state, count in run.people.items()]
    families: list[tuple[str, str, list[tuple[str, float]]]] = [
        ("medrep_people", "People (scans, where somebody has several) by what became of them, of all runs.", people),
        ("medrep_run_people", "People that the last run worked on.", [(who, run.worked)]),
        ("medrep_run_people_per_second", "How fast it worked on them.", [(who, rate)]),
        ("medrep_run_seconds", "How long the last run took, reading and writing included.", [(who, run.seconds)]),
        ("medrep_run_exit_code", "How it ended: 0 well, 3 some people failed.", [(who, run.exit_code)]),
        ("medrep_run_timestamp_seconds", "When it ended, since 1970.", [(who, now)]),
        (_SUCCESS, "When a run last came to its end (exit code 0 or 3), since 1970; 0: never.", [(who, success)]),
    ]
    lines = []
    for name, text, samples in families:
        if samples:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
            lines += [f"{name}{{{labels}}} {value!r}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _labels(run: Run) -> str:
    return ",".join(f'{name}="{_escaped(getattr(run, name))}"' for name in ("command", "out", "part"))


def _escaped(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _last_success(path: Path, run: Run) -> float:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return 0.0
    found = re.search(rf"^{re.escape(f'{_SUCCESS}{{{_labels(run)}}}')} ([0-9.e+]+)$", text, re.MULTILINE)
    try:
        return float(found[1]) if found else 0.0
    except ValueError:
        return 0.0
