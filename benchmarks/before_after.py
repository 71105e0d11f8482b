"""The same measurement on this checkout and on an earlier one: ``MEDREP_BEFORE=/path/to/checkout python -m benchmarks``.

A measurement is a function ``measure(seed) -> {figure: value}`` of a module of `benchmarks`, which uses nothing of medrep that
the earlier checkout lacks. Both sides get the same seeds, each in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from benchmarks.data import ROOT
from benchmarks.report import Table, say

BEFORE = "MEDREP_BEFORE"
Measure = Callable[[int], dict[str, float]]

# medrep of one checkout, benchmarks of this one: both checkouts hold packages of both names.
_CHILD = """
import json, sys
medrep_home, home, module, seeds = sys.argv[1:]
sys.path.insert(0, medrep_home)
import medrep
sys.path[0] = home
from importlib import import_module
measure = import_module(module).measure
for seed in json.loads(seeds):
    print("FIGURES " + json.dumps(measure(seed)), flush=True)
"""


def figures(module: str, seeds: Iterable[int]) -> pd.DataFrame:
    """Measure with each seed.

    Args:
        module: For instance ``benchmarks.repeated_scans``; its ``measure`` is called.
        seeds: What it is called with.

    Returns:
        Columns checkout (``before``, ``after``), seed, figure, value; ``before`` only where MEDREP_BEFORE names a checkout.

    Raises:
        RuntimeError: A measurement that failed.
    """
    seeds = list(seeds)
    before = os.environ.get(BEFORE, "")
    homes = {"before": Path(before)} if before else {}
    homes["after"] = ROOT
    rows: list[dict[str, object]] = []
    for checkout, home in homes.items():
        say(f"{module}: {checkout} ({len(seeds)} seeds)")
        command = [sys.executable, "-c", _CHILD, str(home), str(ROOT), module, json.dumps(seeds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"{module} on {home}: {done.stderr.strip()[-2000:]}")
        found = [
            json.loads(line.removeprefix("FIGURES ")) for line in done.stdout.splitlines() if line[:8] == "FIGURES "
        ]
        rows += [
            {"checkout": checkout, "seed": seed, "figure": name, "value": value}
            for seed, own in zip(seeds, found, strict=True)
            for name, value in own.items()
        ]
    return pd.DataFrame(rows)


def summary(found: pd.DataFrame, title: str) -> Table:
    """Return mean, lowest and highest of each figure, before and after, side by side."""
    grouped = (
        found.groupby(["figure", "checkout"], sort=False)["value"].agg(["mean", "min", "max", "count"]).reset_index()
    )
    return Table(grouped, ("figure", "checkout", "mean", "min", "max", "count"), title)


def mean(found: pd.DataFrame, figure: str, checkout: str = "after") -> float:
    """Return the mean of one figure over seeds."""
    own = found[(found["figure"] == figure) & (found["checkout"] == checkout)]
    return float(own["value"].mean())
