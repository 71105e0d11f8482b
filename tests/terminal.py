"""A process on a pseudo terminal, and what is left on its screen."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence

# The terminal has to be the process's own, or Ctrl-C does not reach it.
_OWN = (
    "import fcntl,os,sys,termios; os.setsid(); fcntl.ioctl(0,termios.TIOCSCTTY,0); os.execv(sys.argv[1],sys.argv[1:])"
)
_PATIENCE_S = 120.0
SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")
CTRL_C = b"\x03"


def on_terminal(
    arguments: Sequence[str],
    *,
    columns: int = 80,
    environment: Mapping[str, str] | None = None,
    press: bytes = b"",
    after: bytes = b"",
) -> tuple[int, str]:
    """Run Python with arguments; return its exit code and all that the terminal was sent.

    Args:
        arguments: Of the interpreter.
        columns: How wide the terminal is.
        environment: Variables beside the test's own.
        press: Keys that are pressed once ...
        after: ... this was sent.
    """
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    command = [sys.executable, "-c", _OWN, sys.executable, *arguments]
    sent = b""
    with subprocess.Popen(
        command,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**kept, "TERM": "xterm-256color", **(environment or {})},
    ) as process:
        os.close(follower)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            left = deadline - time.monotonic()
            if left < 0 or not select.select([leader], [], [], left)[0]:
                process.kill()
                raise TimeoutError(f"not at its end after {_PATIENCE_S:g} s: {sent[-200:]!r}")
            try:
                piece = os.read(leader, 1 << 16)
            except OSError:  # nobody writes any more
                break
            sent += piece
            if press and after in sent:
                os.write(leader, press)
                press = b""
            if not piece:
                break
    os.close(leader)
    return process.returncode, sent.decode("utf-8", "replace")


def screen(sent: str, columns: int) -> list[str]:
    """Return the lines that are left of what a terminal was sent, without empty ones at the end."""
    lines, row, column, position = [""], 0, 0, 0
    while position < len(sent):
        control = SEQUENCE.match(sent, position)
        if control:
            count, letter = control.groups()
            position = control.end()
            if letter == "A":
                row = max(0, row - int(count or 1))
            elif letter == "K":
                lines[row] = ""
            continue
        letter, position = sent[position], position + 1
        if letter == "\r":
            column = 0
        elif letter == "\n":
            row += 1
        else:
            if column == columns:
                row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row].ljust(column)[:column] + letter + lines[row][column + 1 :]
            column += 1
        lines += [""] * (row + 1 - len(lines))
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip() for line in lines]
