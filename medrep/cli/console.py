"""Console: progress and tables for people, plain lines for logs, one JSON document for scripts.

Commands only say what happened. Standard error is for people; standard output is for results: tables, or under ``--json``
exactly one document. Nothing is shown but by way of `printable`: names and headers can hold anything.
"""

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import timedelta
from io import TextIOWrapper
from typing import Any, Literal, TypeAlias

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from medrep.errors import mask, printable
from medrep.monitoring import CapturedLines, Level, LogLines

LOG_EVERY_S = 10.0
_REFRESHES_PER_S = 4.0
_BAR, _WIDE = 20, 80
_Stream: TypeAlias = Any  # rich and pytest put objects in the place of standard error that are no TextIO


class Console:
    """Speaks to the person, and keeps what the end of the command needs: warnings, notes, summary and result.

    If quiet, it says nothing but errors. With ``json`` it writes one JSON document to standard output at the end, and
    everything else to standard error; with ``log="json"`` that gets a line of JSON each time, which names the command.
    """

    def __init__(
        self, *, quiet: bool = False, json: bool = False, log: Literal["text", "json"] = "text", command: str = ""
    ) -> None:
        self._quiet, self._json = quiet, json
        self._lines = LogLines(sys.stderr, command) if log == "json" else None
        self._begun = time.monotonic()
        self._output = sys.stdout
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a name is shown, whatever the terminal can write
        self._rich = _rich(sys.stderr)
        self._live = self._rich.is_terminal and not self._rich.is_dumb_terminal and not quiet
        self._live = self._live and self._lines is None
        self._warnings: list[str] = []
        self._notes: list[str] = []
        self._summary: list[tuple[str, str]] = []
        self._result: dict[str, object] = {}
        self._counts: dict[str, int] = {}
        self._paces: dict[str, tuple[int, float]] = {}
        self._pulse = Pulse(self.say)

    def say(self, text: str) -> None:
        """Say one thing."""
        self._say("info", text)

    def warn(self, text: str) -> None:
        """Say what a person should look at before they trust the result."""
        self._warnings.append(text)
        self._say("warning", text, lead="  warning: ")

    def notes(self, notes: Sequence[str], most: int = 8) -> None:
        """Say what was interpreted while reading; the rest is counted."""
        self._notes += notes
        for note in notes[:most]:
            self._say("info", note, lead="  note: ")
        if len(notes) > most:
            self._say("info", f"... and {len(notes) - most} more", lead="  note: ")

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
        """Show a small table of texts; on standard output, since it is the result.

        A header of empty texts is none. As many columns as `left` are aligned to the left; the others to the right.
        """
        if self._quiet:
            return
        title, header = printable(title), [_cell(name) for name in header]
        rows = [[_cell(cell) for cell in row] for row in rows]
        if self._json and self._lines is not None:
            self._lines.write("info", title, {"header": list(header), "rows": rows})
            return
        stream = sys.stderr if self._json else sys.stdout
        console = _rich(stream)
        if not console.is_terminal:
            stream.write(_aligned(title, header, rows, left))
            return
        table = Table(title=escape(title), title_justify="left", show_header=any(header))
        for position, name in enumerate(header):
            # Not the default ellipsis, which cuts paths and is not in every terminal's letters.
            table.add_column(escape(name), justify="left" if position < left else "right", overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)

    @contextmanager
    def alive(self, phase: str) -> Iterator[None]:
        """Say at least every `LOG_EVERY_S` seconds what is being done and for how long, however long a step takes."""
        self.phase(phase)
        done = threading.Event()
        beating = threading.Thread(target=self._pulse.until, args=(done,), name="pulse", daemon=True)
        beating.start()
        try:
            yield
        finally:
            done.set()
            beating.join()

    def phase(self, name: str) -> None:
        """Keep what is done from now on; it is said where nothing else is for long, under `alive`."""
        self._pulse.enter(name)

    @contextmanager
    def track(self, what: str, total: int, unit: str = "people") -> Iterator[Callable[[int], None]]:
        """Yield a function to call with the number of steps done; a step is a `unit`, in the plural."""
        what = printable(what)
        self.phase(what)
        steps = _Steps(what, total, unit)
        try:
            if self._live:
                yield from self._shown(steps)
            else:
                yield self._logged(steps)
        finally:
            self._paces[what] = (steps.done, steps.seconds())
            if self._lines is not None:
                self._say("info", f"{what}: {steps.done}/{total}", fields=steps.fields())

    def summary(self, done: str, people: str, results: Mapping[str, object]) -> None:
        """Keep what the table at the end says: what was done to how many, and where results lie.

        Of a command that calls others, the last one counts.
        """
        rows = {"done": done, "people": people, **results}
        self._summary = [(name, str(value)) for name, value in rows.items() if value != ""]

    def count(self, delivered: int, failed: int) -> None:
        """Keep how many people could be delivered and how many not, by all calls so far."""
        self._counts = {"delivered": delivered, "failed": failed}

    @property
    def counts(self) -> Mapping[str, int]:
        """Counts that `count` was told; empty before."""
        return self._counts

    def pace(self, what: str) -> tuple[int, float]:
        """Return how many steps of `track` were done, and in how many seconds."""
        return self._paces.get(what, (0, 0.0))

    def result(self, **fields: object) -> None:
        """Keep what the JSON document holds beside warnings, notes and the exit code."""
        self._result |= fields

    @contextmanager
    def holding_output(self) -> Iterator[None]:
        """Keep standard output free for the one document, and standard error for lines of JSON, whatever libraries print."""
        with ExitStack() as held:
            if self._lines is not None:
                captured = CapturedLines(self._lines)
                held.callback(captured.end)
                held.enter_context(redirect_stderr(captured))
            if self._json:
                held.enter_context(redirect_stdout(sys.stderr))
            yield

    def finish(self, exit_code: int) -> None:
        """End a command that came to its end: the table, and the document."""
        if self._summary:
            self.table("Summary", ("", ""), self._summary, left=2)
        if self._lines is not None:
            fields = {"exit_code": exit_code, "seconds": round(time.monotonic() - self._begun, 3)}
            self._say("info", "finished", fields={**fields, "summary": dict(self._summary), **self._counts})
        kept = {"warnings": self._warnings, "notes": self._notes}
        self._document({**self._result, **kept, "exit_code": exit_code})

    def fail(self, command: str, error: str, exit_code: int) -> None:
        """End a command with an error, which is said even under ``--quiet``."""
        if self._lines is None:
            self.tell(f"medrep {command}: {error}")
        else:
            self._lines.write("error", error, {"exit_code": exit_code})
        self._document({"error": error, "exit_code": exit_code})

    def tell(self, text: str) -> None:
        """Say how a command ended, which is said even under ``--quiet``."""
        if self._lines is None:
            sys.stderr.write(f"{printable(text)}\n")
        else:
            self._lines.write("error", text)

    def _document(self, content: Mapping[str, object]) -> None:
        if self._json:
            write_document(content, self._output)

    def _say(self, level: Level, text: str, *, lead: str = "", fields: Mapping[str, object] | None = None) -> None:
        self._pulse.spoke()
        if self._quiet:
            return
        if self._lines is not None:
            self._lines.write(level, text, fields)
        else:
            self._rich.print(escape(printable(f"{lead}{text}")), soft_wrap=True)

    def _shown(self, steps: "_Steps") -> Iterator[Callable[[int], None]]:
        bar = (BarColumn(bar_width=_BAR),) if self._rich.width >= _WIDE else ()
        columns = (*bar, _Pace(self._rich, steps.unit, _BAR + 1 if bar else 0))
        with Progress(*columns, console=self._rich, transient=True, refresh_per_second=_REFRESHES_PER_S) as progress:
            task = progress.add_task(steps.what, total=steps.total)

            def advance(count: int) -> None:
                self._pulse.spoke()  # the bar moves
                steps.done += count
                progress.advance(task, count)

            yield advance

    def _logged(self, steps: "_Steps") -> Callable[[int], None]:
        spoken = steps.begun

        def advance(count: int) -> None:
            nonlocal spoken
            steps.done += count
            now = time.monotonic()
            if now - spoken >= LOG_EVERY_S:
                spoken = now
                figures = _pace(steps.done, steps.total, now - steps.begun, f" {steps.unit}")
                self._say("info", f"{steps.what}: {figures}", fields=steps.fields())

        return advance


@dataclass
class _Steps:
    what: str
    total: int
    unit: str
    done: int = 0
    begun: float = field(default_factory=lambda: time.monotonic())

    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def fields(self) -> dict[str, object]:
        seconds = self.seconds()
        rate = round(self.done / seconds, 3) if seconds > 0 else 0.0
        return {
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "seconds": round(seconds, 3),
            "per_second": rate,
        }


class Pulse:
    """When something was last said, and what is being done; whatever says a line calls `spoke`."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._phase, self._begun, self._spoken = "", clock(), clock()

    def enter(self, phase: str) -> None:
        """Begin something else."""
        self._phase, self._begun = phase, self._clock()

    def spoke(self) -> None:
        """Keep that something was said just now."""
        self._spoken = self._clock()

    def beat(self) -> float:
        """Say what is done and for how long, if nothing was said for `LOG_EVERY_S`; return the seconds until that is next due."""
        now = self._clock()
        if now - self._spoken >= LOG_EVERY_S:
            self._say(f"{self._phase} ... {now - self._begun:.0f} s")
            self._spoken = now
        return self._spoken + LOG_EVERY_S - now

    def until(self, done: threading.Event) -> None:
        """Go on until that is set."""
        while not done.wait(self.beat()):
            pass


def _cell(text: str) -> str:
    """Return what a cell of a table shows; a line feed would break the row."""
    return printable(text).replace("\n", "\\n")


def write_document(content: Mapping[str, object], output: _Stream) -> None:
    """Write one JSON document, a line; in ASCII, which every terminal can write."""
    output.write(f"{json.dumps(_plain(content), allow_nan=False)}\n")
    output.flush()


class _Pace(ProgressColumn):
    """One line of text that fits the terminal, however narrow: what, how many, how fast, how long."""

    def __init__(self, console: RichConsole, unit: str, taken: int) -> None:
        super().__init__()
        self._console, self._unit, self._taken = console, unit, taken

    def render(self, task: Task) -> Text:
        """Return the line."""
        room = self._console.width - self._taken - 3  # what the terminal shows of Ctrl-C stays on the line
        done, total, seconds = int(task.completed), int(task.total or 0), task.elapsed or 0.0
        figures = _pace(done, total, seconds, f" {self._unit}")
        if len(figures) + len(task.description) + 2 > room:
            figures = _pace(done, total, seconds)
        what = task.description[: max(0, room - len(figures) - 2)]
        return Text(f"{what}: {figures}" if what else figures[: max(0, room)], no_wrap=True, overflow="crop")


def _rich(stream: _Stream) -> RichConsole:
    # Only a terminal gets control characters, whatever FORCE_COLOR says; NO_COLOR is rich's own affair.
    return RichConsole(file=stream, force_terminal=stream.isatty(), highlight=False)


def _pace(done: int, total: int, seconds: float, unit: str = "") -> str:
    if not done or seconds <= 0:
        return f"{done}/{total}"
    rate = done / seconds
    left = timedelta(seconds=math.ceil((total - done) / rate))
    return f"{done}/{total}, {f'{rate:.0f}' if rate >= 100 else f'{rate:.3g}'}{unit}/s, {left} left"


def _aligned(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Return a table in plain letters."""
    lines = [header, *rows] if any(header) else rows
    widths = [max((len(line[column]) for line in lines), default=0) for column in range(len(header))]
    told = [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([title, *(f"  {line}" for line in told)]) + "\n"


def _plain(value: Any) -> Any:
    """Return a value in JSON's own types: NaN and infinity are null, a path is its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return mask(value)
    if value is None or isinstance(value, bool | int):
        return value
    return _plain(value.item()) if hasattr(value, "item") else mask(str(value))
