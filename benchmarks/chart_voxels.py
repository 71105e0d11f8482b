"""Growth charts of 100 000 generated voxels x 1000 people: seconds and memory beside the linear fit, each in a fresh process."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.chart_methods import OURS
from benchmarks.report import Line, Options, Table, say
from benchmarks.scale import ARRAY_MB, MOST_MEMORY, Contender, generate, run_contender

REPEATS = 3
LINEAR = "medrep linear"
LONGER = 4.0


def contenders() -> dict[str, Contender]:
    """Return the linear model and the chart as images have them: every column as it is."""
    own = Path(sys.executable)
    return {
        LINEAR: Contender(own, "with_medrep", {"grid": None, "settings": {}}, streams=True),
        OURS: Contender(own, "with_chart", {"settings": {"power": "none"}}, streams=True),
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
        "cpu",
        "imports_mb",
        "fit_peak_mb",
        "peak_mb",
        "peak_multiple",
    )
    medians = frame.groupby("method")[["seconds_fit", "peak_multiple"]].median()
    ratio = float(medians.loc[OURS, "seconds_fit"] / medians.loc[LINEAR, "seconds_fit"])
    memory = float(medians.loc[OURS, "peak_multiple"])
    lines = [
        Line("charts_voxels", f"fit at most {LONGER:g} times the linear one's", f"{ratio:.2f} times", ratio <= LONGER),
        Line(
            "charts_voxels", f"peak memory < {MOST_MEMORY:g} x the input array", f"{memory:.2f} x", memory < MOST_MEMORY
        ),
    ]
    return {"charts_voxels": Table(frame, shown, f"Voxels: fit and z of all; input {ARRAY_MB:.0f} MiB")}, lines
