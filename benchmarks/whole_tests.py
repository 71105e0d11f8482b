"""What `make test` shortens, whole: false alarms, coverage and power over all seeds, the README's trainings as they stand.

A fifth of the seeds finds what is broken; what is a little off shows here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from benchmarks.data import ROOT
from benchmarks.report import Line, Options, Report, Table
from tests.shortened import WHOLE


def run(options: Options) -> Report:
    """Run them whole (``--quick``: as `make test` does)."""
    environment = dict(os.environ) if options.quick else os.environ | {WHOLE: "1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", "shortened", "tests", f"--junitxml={path}"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if not path.exists():
            raise RuntimeError(f"whole_tests: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        cases = list(ElementTree.parse(path).iter("testcase"))  # noqa: S314  written a moment ago
    rows = []
    for case in cases:
        why = next((child.get("message", "") for child in case if child.tag in {"failure", "error"}), "")
        name = f"{case.get('classname', '').removeprefix('tests.')}: {str(case.get('name')).removeprefix('test_')}"
        rows.append({"test": name.replace("_", " "), "passed": not why, "why": why.partition("\n")[0]})
    table = pd.DataFrame(rows, columns=["test", "passed", "why"])
    lines = [Line("whole_tests", row.test, row.why or "holds", bool(row.passed)) for row in table.itertuples()]
    shown = Table(table, ("test", "passed", "why"), "Tests that were not shortened")
    return Report({"whole_tests": shown}, tuple(lines))
