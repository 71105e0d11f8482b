"""Run the benchmarks one after another: ``python -m benchmarks [--only NAME] [--quick] [--slow]``.

Each prints its tables and writes them to bench-out/; at the end stands what was asked, what was measured, and whether
that passed. The exit code is 1 where a line did not pass.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from benchmarks import (
    adversary,
    audit_cost,
    audit_coverage,
    audit_truth,
    batch_lost,
    batch_parts,
    batch_ray,
    batch_scale,
    batch_speed,
    centile_bands,
    certificate,
    chart_calibration,
    chart_gates,
    chart_merging,
    chart_shapes,
    charts,
    compare_models,
    compositions,
    connectomes,
    corruptions,
    cues,
    disentangle,
    equality,
    families,
    fcon1000,
    follow_up,
    follow_up_organs,
    forecast,
    hippocampus,
    image_forecast,
    interactions,
    landmarks,
    linear_left,
    new_site,
    ordered,
    point_masses,
    quantised,
    regions,
    repeated_scans,
    report_size,
    roles,
    same_bytes,
    scale,
    shape_coverage,
    shape_fields,
    shapes,
    shift_gate,
    stress,
    structures,
    subtypes,
    surface_borrowing,
    table_costs,
    traversals,
    visits,
    whole_heads,
    whole_tests,
    within_people,
)
from benchmarks.data import ROOT
from benchmarks.report import Line, Options, Report, say, write_lines, write_report

BENCHMARKS: dict[str, Callable[[Options], Report]] = {
    "adversary": adversary.run,
    "audit_cost": audit_cost.run,
    "audit_coverage": audit_coverage.run,
    "audit_truth": audit_truth.run,
    "batch_lost": batch_lost.run,
    "batch_parts": batch_parts.run,
    "batch_ray": batch_ray.run,
    "batch_scale": batch_scale.run,
    "batch_speed": batch_speed.run,
    "centile_bands": centile_bands.run,
    "certificate": certificate.run,
    "chart_calibration": chart_calibration.run,
    "chart_gates": chart_gates.run,
    "chart_merging": chart_merging.run,
    "chart_shapes": chart_shapes.run,
    "charts": charts.run,
    "compare_models": compare_models.run,
    "compositions": compositions.run,
    "connectomes": connectomes.run,
    "corruptions": corruptions.run,
    "cues": cues.run,
    "disentangle": disentangle.run,
    "equality": equality.run,
    "families": families.run,
    "fcon1000": fcon1000.run,
    "follow_up": follow_up.run,
    "follow_up_organs": follow_up_organs.run,
    "forecast": forecast.run,
    "hippocampus": hippocampus.run,
    "image_forecast": image_forecast.run,
    "interactions": interactions.run,
    "landmarks": landmarks.run,
    "linear_left": linear_left.run,
    "new_site": new_site.run,
    "ordered": ordered.run,
    "point_masses": point_masses.run,
    "quantised": quantised.run,
    "regions": regions.run,
    "repeated_scans": repeated_scans.run,
    "report_size": report_size.run,
    "roles": roles.run,
    "same_bytes": same_bytes.run,
    "scale": scale.run,
    "shape_coverage": shape_coverage.run,
    "shape_fields": shape_fields.run,
    "shapes": shapes.run,
    "shift_gate": shift_gate.run,
    "stress": stress.run,
    "structures": structures.run,
    "subtypes": subtypes.run,
    "surface_borrowing": surface_borrowing.run,
    "table_costs": table_costs.run,
    "traversals": traversals.run,
    "visits": visits.run,
    "whole_heads": whole_heads.run,
    "whole_tests": whole_tests.run,
    "within_people": within_people.run,
}


def main() -> int:
    """Run what was asked for; return 0 if every line passed, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), help="only these")
    parser.add_argument("--quick", action="store_true", help="one seed, one repeat")
    parser.add_argument("--slow", action="store_true", help="peers that take minutes a seed too")
    arguments = parser.parse_args()
    lines: list[Line] = []
    for name in arguments.only:
        say(f"{name} ...")
        try:
            report = BENCHMARKS[name](Options(quick=arguments.quick, slow=arguments.slow))
        except RuntimeError as error:
            say(str(error))
            lines.append(Line(name, "runs to its end", str(error).strip().splitlines()[-1], False))
            continue
        write_report(report, ROOT / "bench-out")
        lines += report.lines
    return 0 if write_lines(lines, ROOT / "bench-out" / "asked.tsv") else 1


if __name__ == "__main__":
    sys.exit(main())
