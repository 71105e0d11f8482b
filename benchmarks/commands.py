"""medrep as a person runs it: the command line, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd


def medrep(*arguments: str | Path) -> float:
    """Run ``medrep ARGUMENTS --quiet``, logged nowhere.

    Returns:
        Wall time in seconds, start-up and files included.

    Raises:
        RuntimeError: It did not end with 0; with what it said.
    """
    start = time.perf_counter()
    command = [sys.executable, "-m", "medrep", *map(str, arguments), "--quiet"]
    environment = os.environ | {"MEDREP_TRACKING": "none"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"medrep {arguments[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a TSV with every digit of every number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, sep="\t", index=False, na_rep="n/a", lineterminator="\n")
