"""The pictures of an audit as PNG, for slides and for the registry: what leaks, and who is drawn how well."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from medrep.atomic import atomic_file
from medrep.export.interval_plot import Interval, interval_plot

_LEAKAGE = ("leakage", "leakage_excess")


def write_audit_figures(folder: Path, findings: pd.DataFrame) -> None:
    """Write leakage.png, and one picture a metric that was measured by group.

    Args:
        folder: Where to; made.
        findings: audit.tsv.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gaps = findings.loc[findings["metric"].str.endswith("_gap"), "metric"]
    families = {gap.removesuffix("_gap"): (gap.removesuffix("_gap"),) for gap in dict.fromkeys(gaps)}
    for name, metrics in {"leakage": _LEAKAGE, **families}.items():
        # Levels without people enough are left out of leakage; by group they are drawn, so that nobody is overlooked.
        drawn = findings[findings["metric"].isin(metrics) & ((findings["status"] == "ok") | (name != "leakage"))]
        if drawn.empty:
            continue
        rows = [_interval(row, findings, with_metric=len(metrics) > 1) for row in drawn.to_dict("records")]
        floor = "what chance, or the kept covariates, give" if any(row.floor == row.floor for row in rows) else ""
        with atomic_file(folder / f"{name}.png") as partial:
            partial.write_bytes(interval_plot(rows, name.replace("_", " "), "estimate and 95% interval", floor))


def _interval(row: Mapping[str, object], findings: pd.DataFrame, *, with_metric: bool) -> Interval:
    label = f"{row['group']} ({row['n']})"
    name = f"{str(row['metric']).replace('_', ' ')} {label}" if with_metric else label
    if row["status"] != "ok":
        return Interval(name, float("nan"))
    figures = (float(str(row[column])) for column in ("estimate", "ci_low", "ci_high"))
    estimate, low, high = figures
    # What leakage is in excess of.
    same = (findings["metric"] == "leakage_excess") & (findings["group"] == row["group"])
    excess = findings.loc[same, "estimate"]
    floor = estimate - float(excess.iloc[0]) if row["metric"] == "leakage" and len(excess) else float("nan")
    return Interval(name, estimate, low, high, floor)
