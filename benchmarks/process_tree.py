"""What a command costs with all its descendants: seconds of wall and processor, and the most memory they held.

Workers are children of a server that outlives nobody; this process adopts whoever is orphaned, so that the kernel's own
accounts of processor time are complete. Its account of memory begins with what the process that starts a command holds, and is
not used: memory is the high-water mark of each process, looked up while it lives.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_SET_CHILD_SUBREAPER = 36
_LOOK_S, _SHARE_EVERY = 0.02, 25


@dataclass(frozen=True)
class Cost:
    """What a command cost.

    Attributes:
        code: Exit code.
        wall: Seconds.
        cpu: Seconds of processors, of all descendants.
        said: Standard error.
        parent_mb: Most resident memory of the command's own process, MiB; NaN where nobody watched.
        worker_mb: The same of the largest descendant.
        total_mb: Most that all held together, pages that several share counted once.
    """

    code: int
    wall: float
    cpu: float
    said: str
    parent_mb: float
    worker_mb: float
    total_mb: float


@dataclass
class _Watch:
    """Looks up the memory of a session of processes until it is told to end."""

    leader: int
    own: dict[int, float] = field(default_factory=dict)
    total: float = float("nan")
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        turn = 0
        while not self.over.wait(_LOOK_S):
            team = [one for one in Path("/proc").glob("[0-9]*") if _session(one) == self.leader]
            for one in team:
                self.own[int(one.name)] = max(self.own.get(int(one.name), 0.0), _mb(one / "status", "VmHWM"))
            if turn % _SHARE_EVERY == 0:
                self.total = max(sum(_mb(one / "smaps_rollup", "Pss") for one in team), self.total)
            turn += 1


def medrep(*arguments: object, watched: bool = False) -> Cost:
    """Run ``medrep ARGUMENTS --quiet`` and wait for everybody it left.

    Args:
        arguments: Of the command line.
        watched: Whether memory is looked up, which takes some processor time.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before, begun = _cpu(), time.perf_counter()
    process = started(*arguments)
    watch = _Watch(process.pid)
    watcher = threading.Thread(target=watch.run)
    if watched:
        watcher.start()
    said = process.stderr.read() if process.stderr else ""
    code = process.wait()
    wall = time.perf_counter() - begun
    with suppress(ChildProcessError):
        while True:
            os.wait()
    watch.over.set()
    if watched:
        watcher.join()
    parent = watch.own.pop(process.pid, float("nan"))
    largest = max(watch.own.values(), default=float("nan"))
    return Cost(code, wall, _cpu() - before, said, parent, largest, watch.total)


def _cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _session(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[3])
    except (OSError, IndexError):
        return 0


def _mb(path: Path, name: str) -> float:
    """Return a figure of /proc in MiB; 0 of a process that has gone."""
    with suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return 0.0


def started(*arguments: object, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start ``medrep ARGUMENTS --quiet`` in a session of its own, by which all its descendants can be told.

    Args:
        arguments: Of the command line.
        before: A program that runs it.
    """
    command = [*before, sys.executable, "-m", "medrep", *map(str, arguments), "--quiet"]
    environment = os.environ | {"MEDREP_TRACKING": "none"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process; return its exit code and what it said."""
    said = process.communicate()[1]
    return process.returncode, said


def together(code: str, arguments: Sequence[str], processes: int) -> list[list[str]]:
    """Run Python code in some processes that begin their work at the same moment; return what each printed, in words.

    The code calls ``ready()`` once it has loaded everything.
    """
    prelude = "import sys\ndef ready():\n    print('ready', flush=True)\n    sys.stdin.readline()\n"
    team = [
        subprocess.Popen(
            [sys.executable, "-c", prelude + code, *arguments, str(k), str(processes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in range(processes)
    ]
    for one in team:
        if one.stdout is None or one.stdout.readline().strip() != "ready":
            raise RuntimeError("a process of the comparison could not start")
    for one in team:
        if one.stdin is not None:
            one.stdin.write("go\n")
            one.stdin.flush()
    return [one.communicate()[0].split() for one in team]
