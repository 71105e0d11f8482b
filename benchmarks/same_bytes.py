"""Which files of this checkout are those of an earlier one: ``MEDREP_BEFORE=/path python -m benchmarks --only same_bytes``.

Both get the same generated cohorts of every kind, train on them, and export, score and audit with what they trained, in a
folder of the same path. Without MEDREP_BEFORE this checkout is compared with itself, and every file has to be the same.
What was written stays in bench-out/same_bytes/ (before, after), to look at.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from benchmarks.before_after import BEFORE
from benchmarks.comparison import Compared, compare_folders
from benchmarks.data import ROOT
from benchmarks.report import Line, Options, Report, Table, say
from benchmarks.small_cohorts import SMALL_COHORTS

# A file, as the processes that export starts import it once more.
_RUNNER = """
import contextlib, io, json, pathlib, sys
from medrep.cli import main

if __name__ == "__main__":
    said = pathlib.Path("said")
    said.mkdir()
    for number, command in enumerate(json.loads(sys.argv[1])):
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            code = main([*command, "--quiet"])
        text = f"{' '.join(command)}\\nended with {code}\\n{errors.getvalue()}"
        (said / f"{number:02d}_{command[0]}.txt").write_text(text)
"""


def run(options: Options) -> Report:
    """Run both checkouts on every cohort (``--quick``: on tables only) and compare what they wrote."""
    folder = ROOT / "bench-out" / "same_bytes"
    shutil.rmtree(folder, ignore_errors=True)
    inputs, at_work = folder / "inputs", folder / "run"
    inputs.mkdir(parents=True)
    runner = folder / "runner.py"
    runner.write_text(_RUNNER)
    homes = {"before": Path(os.environ.get(BEFORE) or ROOT), "after": ROOT}
    names = ["features", "zero_inflated"] if options.quick else list(SMALL_COHORTS)
    rows: list[dict[str, object]] = []
    for name in names:
        small = SMALL_COHORTS[name]
        small.write(inputs / name)
        for side, home in homes.items():
            say(f"same_bytes: {name}, {side} ({home})")
            (at_work / name).mkdir(parents=True)
            _run(home, runner, at_work / name, small.commands(f"../../inputs/{name}"))
            (folder / side).mkdir(exist_ok=True)
            (at_work / name).rename(folder / side / name)
        rows += _rows(name, compare_folders(folder / "before" / name, folder / "after" / name))
    table = pd.DataFrame(rows)
    shown = ("cohort", "file", "files", "same", "difference", "note")
    changed = table[table["same"] < table["files"]]
    count, same = int(table["files"].sum()), int(table["same"].sum())
    asked = "the files of the earlier checkout" if os.environ.get(BEFORE) else "twice the same files"
    lines = [Line("same_bytes", asked, f"{same} of {count} files are", same == count)]
    tables = {
        "same_bytes": Table(
            table, shown, "Every file; difference: largest, as a share of the largest value of its column"
        ),
        "same_bytes_changed": Table(changed, shown, "Files that are not the same"),
    }
    return Report(tables, tuple(lines))


def _run(home: Path, runner: Path, folder: Path, commands: tuple[tuple[str, ...], ...]) -> None:
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MEDREP_TRACKING": "none", "MPLBACKEND": "agg"}
    environment = os.environ | threads | {"PYTHONPATH": str(home)}
    command = [sys.executable, str(runner), json.dumps(commands)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{home}: {done.stderr.strip()[-2000:]}")


def _rows(cohort: str, found: dict[str, Compared]) -> list[dict[str, object]]:
    """One row a file, or for all people's files of one kind."""
    kinds: dict[str, list[Compared]] = {}
    for name, compared in found.items():
        kinds.setdefault(re.sub(r"sub-[A-Za-z0-9]+", "sub-*", name), []).append(compared)
    rows: list[dict[str, object]] = []
    for name, each in kinds.items():
        others = [compared for compared in each if compared.verdict != "same"]
        unlike = [c.verdict for c in others if c.verdict != "differs"]
        notes = dict.fromkeys([*unlike, *(c.note for c in others if c.note)])
        rows.append(
            {
                "cohort": cohort,
                "file": name,
                "files": len(each),
                "same": len(each) - len(others),
                "difference": pd.Series([c.difference for c in others], dtype=float).max(skipna=False)
                if others
                else 0.0,
                "note": " / ".join(list(notes)[:3]),
            }
        )
    return rows
