"""Statistics over many seeds (false alarms, coverage, power): the tests marked ``statistics``, over all of their seeds.

`make test` takes a fifth of the seeds, which finds what is broken; what is a little off shows here.
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
from tests.many_seeds import ALL


def run(options: Options) -> Report:
    """Run the tests over all seeds (``--quick``: over those of `make test`)."""
    environment = dict(os.environ) if options.quick else os.environ | {ALL: "1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", "statistics", "tests", f"--junitxml={path}"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if not path.exists():
            raise RuntimeError(f"many_seeds: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        cases = list(ElementTree.parse(path).iter("testcase"))  # noqa: S314  written a moment ago
    rows = []
    for case in cases:
        why = next((child.get("message", "") for child in case if child.tag in {"failure", "error"}), "")
        name = f"{case.get('classname', '').removeprefix('tests.')}: {str(case.get('name')).removeprefix('test_')}"
        rows.append({"statistic": name.replace("_", " "), "passed": not why, "why": why.partition("\n")[0]})
    table = pd.DataFrame(rows, columns=["statistic", "passed", "why"])
    lines = [Line("many_seeds", row.statistic, row.why or "holds", bool(row.passed)) for row in table.itertuples()]
    shown = Table(table, ("statistic", "passed", "why"), "Statistics over all seeds")
    return Report({"many_seeds": shown}, tuple(lines))
