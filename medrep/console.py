"""What a person sees: a progress bar on a terminal, log lines otherwise, and one table at the end."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

_LOG_EVERY_S = 10.0


class Console:
    """Speaks on standard error, so that standard output stays free for what a script would read.

    Args:
        quiet: Say nothing but errors.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._rich = RichConsole(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Say one thing."""
        self._rich.print(escape(text))

    def notes(self, notes: Sequence[str], most: int = 8) -> None:
        """Say what was interpreted while reading; the rest is counted."""
        for note in notes[:most]:
            self.say(f"  note: {note}")
        if len(notes) > most:
            self.say(f"  note: ... and {len(notes) - most} more")

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a small table; on standard output, since it is the result."""
        table = Table(title=title, title_justify="left")
        for position, name in enumerate(header):
            table.add_column(name, justify="left" if position == 0 else "right")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        if not self._quiet:
            RichConsole(file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty()).print(table)

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Yield a function to call with the number of steps done."""
        if self._rich.is_terminal and not self._quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=self._rich, transient=True) as progress:
                task = progress.add_task(what, total=total)
                yield lambda steps: progress.advance(task, steps)
            return
        yield self._logged(what, total)

    def _logged(self, what: str, total: int) -> Callable[[int], None]:
        done, spoken = 0, time.monotonic()

        def advance(steps: int) -> None:
            nonlocal done, spoken
            done += steps
            if time.monotonic() - spoken > _LOG_EVERY_S:
                spoken = time.monotonic()
                self.say(f"{what}: {done}/{total}")

        return advance
