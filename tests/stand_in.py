"""A stand-in for `medrep` on the PATH: it notes its arguments and ends as it is told. The real parser reads them, too."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from medrep.cli import _parser

_SCRIPT = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$STAND_IN/arguments"
if [ -n "${STAND_IN_SLEEP:-}" ]; then
  trap 'echo TERM > "$STAND_IN/signal"; exit 130' TERM
  touch "$STAND_IN/started"
  while true; do sleep 0.05; done
fi
exit "$STAND_IN_CODE"
"""


def environment(folder: Path, code: int, more: Mapping[str, str]) -> dict[str, str]:
    """Return variables under which `medrep` is the stand-in."""
    script = folder / "medrep"
    script.write_text(_SCRIPT)
    script.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "STAND_IN": str(folder), "STAND_IN_CODE": str(code), "HOME": str(folder), **more}


def call(command: list[str], folder: Path, code: int = 0, **more: str) -> tuple[int, list[str]]:
    """Run a command with the stand-in; return its exit code and what the stand-in was given."""
    done = subprocess.run(command, env=environment(folder, code, more), capture_output=True, text=True, check=False)
    noted = folder / "arguments"
    return done.returncode, noted.read_text().splitlines() if noted.exists() else []


def accepted(arguments: list[str]) -> dict[str, object]:
    """Return what the real command line makes of arguments; it ends with an error where it would refuse them."""
    return vars(_parser().parse_args(arguments))
