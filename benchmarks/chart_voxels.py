"""Growth charts of 100 000 generated voxels x 1000 people: seconds and memory beside the linear fit, each in a fresh process.

A chart of a quarter of the voxels, of the same file, tells what a further voxel adds to the peak: what the chart keeps of it and
looks through, and none of its people's values.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.chart_methods import OURS
from benchmarks.report import Line, Options, Table, say
from benchmarks.scale import ARRAY_MB, GRID, MOST_MEMORY, PEOPLE, Contender, generate, run_contender

REPEATS = 3
LINEAR = "medrep linear"
QUARTER = f"{OURS}, a quarter of the voxels"
LONGER = 4.0
VOXELS = math.prod(GRID)
MOST_EACH = 0.5
"""Of a further voxel's values, what it may add to the peak."""


def contenders() -> dict[str, Contender]:
    """Return the linear model and the chart as images have them, every column as it is, and a chart of fewer columns."""
    own = Path(sys.executable)
    settings: dict[str, object] = {"settings": {"power": "none"}}
    return {
        LINEAR: Contender(own, "with_medrep", {"grid": None, "settings": {}}, streams=True),
        OURS: Contender(own, "with_chart", settings, streams=True),
        QUARTER: Contender(own, "with_chart", settings, streams=True, columns=VOXELS // 4),
    }


def tables_and_lines(options: Options) -> tuple[dict[str, Table], list[Line]]:
    """Run every contender in turn, as often as asked."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="bench-charts-") as name:
        job = Path(name)
        generate(job)
        for repeat in options.seeds(REPEATS):
            for contender, spec in contenders().items():
                say(f"charts: voxels, repeat {repeat}, {contender}")
                rows.append({"repeat": repeat, "method": contender} | run_contender(job, spec))
    frame = pd.DataFrame(rows)
    shown = (
        "repeat",
        "method",
        "seconds_fit",
        "seconds_apply",
        "cpu_fit",
        "cpu",
        "imports_mb",
        "fit_peak_mb",
        "peak_mb",
        "peak_multiple",
    )
    medians = frame.groupby("method")[["seconds_fit", "fit_peak_mb", "peak_multiple"]].median()
    ratio = float(medians.loc[OURS, "seconds_fit"] / medians.loc[LINEAR, "seconds_fit"])
    memory = float(medians.loc[OURS, "peak_multiple"])
    more = medians.loc[OURS, "fit_peak_mb"] - medians.loc[QUARTER, "fit_peak_mb"]
    each = float(more * 2**20 / (VOXELS - VOXELS // 4) / (4 * PEOPLE))
    lines = [
        Line("charts_voxels", f"fit at most {LONGER:g} times the linear one's", f"{ratio:.2f} times", ratio <= LONGER),
        Line(
            "charts_voxels", f"peak memory < {MOST_MEMORY:g} x the input array", f"{memory:.2f} x", memory < MOST_MEMORY
        ),
        Line(
            "charts_voxels",
            f"a further voxel adds to the fit's peak < {MOST_EACH:g} of its values",
            f"{each:.2f}",
            each < MOST_EACH,
        ),
    ]
    return {"charts_voxels": Table(frame, shown, f"Voxels: fit and z of all; input {ARRAY_MB:.0f} MiB")}, lines
