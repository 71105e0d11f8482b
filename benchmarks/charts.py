"""Growth charts: real people, generated people, new sites and voxels, ours beside PCNtoolkit, ComBat and quantile regression.

``--quick``: one split of the real people, two seeds of the generated ones. ``--slow``: PCNtoolkit's hierarchical model for every
split, and for one seed of the generated people and of new sites.
"""

from __future__ import annotations

from benchmarks import chart_generated, chart_real, chart_voxels
from benchmarks.report import Line, Options, Report, Table


def run(options: Options) -> Report:
    """Run all four parts."""
    parts = (
        chart_real.tables_and_lines,
        chart_generated.truth_tables,
        chart_generated.new_site_tables,
        chart_voxels.tables_and_lines,
    )
    tables: dict[str, Table] = {}
    lines: list[Line] = []
    for part in parts:
        own, judged = part(options)
        tables |= own
        lines += judged
    return Report(tables, tuple(lines))
