"""Leakage against what is kept, over the number of directions that are handed out, drawn as a figure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.contenders import ALL_REMOVED, AS_MEASURED, LATENTS, SITE_REMOVED, Made, RetryState, medrep
from benchmarks.report import say
from medrep._files import atomic_file

DIRECTIONS = ("4", "8", "16", "32", "48")  # settings.directions; 0, the default, is by forecast
SWEPT = {"medrep-linear-latents": "linear_latents.yaml", "medrep-vae": "vae_features.yaml"}
COLOURS = {"medrep-linear-latents": "tab:orange", "medrep-vae": "tab:blue"}
LINES = {LATENTS: "-", ALL_REMOVED: "--"}
MARKERS = {AS_MEASURED: "*", SITE_REMOVED: "o", ALL_REMOVED: "s", LATENTS: "D"}
PANELS = {"diagnosis": "AUC of the planted diagnosis", "recognised": "share of people recognised"}
TARGET = 0.60  # site AUC
LEAST_KEPT: dict[str, Callable[[float], float]] = {
    "diagnosis": lambda raw: raw - 0.03,
    "recognised": lambda raw: 0.9 * raw,
}

Probes = Callable[[RetryState, Made, RetryState, Made | None], list[dict[str, object]]]


def sweep(plain: RetryState, planted: RetryState, probes: Probes) -> pd.DataFrame:
    """Fit both of SWEPT with every number of DIRECTIONS.

    Args:
        plain: The cohort.
        planted: The cohort with a planted diagnosis.
        probes: Finds the figures of what was made.

    Returns:
        One row a method, number and output, without the features from which only site was removed.
    """
    rows: list[dict[str, object]] = []
    for name, config in SWEPT.items():
        for directions in DIRECTIONS:
            say(f"frontier: {name}, {directions} directions")
            fit = partial(medrep, config, False, settings=(f"settings.directions={directions}",))
            made, ill = (_without_covariates(fit(trial)) for trial in (plain, planted))
            rows += [{"method": name, "directions": directions} | row for row in probes(plain, made, planted, ill)]
    return pd.DataFrame(rows)


def draw(path: Path, swept: pd.DataFrame, points: pd.DataFrame) -> None:
    """Write a PNG: site AUC to the right, what is kept upwards; best is at the top left.

    Args:
        path: The PNG.
        swept: Of `sweep`.
        points: One row a method and output, with site and what PANELS name; those of SWEPT, as they are by default, get a
            ring. A row without an output holds the site AUC from age and sex alone.
    """
    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(PANELS))
    peers = points[points["output"].notna() & ~points["method"].isin(list(SWEPT))]
    default = points[points["method"].isin(list(SWEPT))]
    names = [str(name) for name in peers["method"].unique()]
    for axis, (kept, label) in zip(panels, PANELS.items(), strict=True):
        for (method, output), rows in swept.groupby(["method", "output"], sort=False):
            axis.plot(
                rows["site"], rows[kept], LINES[output], marker=MARKERS[output], color=COLOURS[method],
                label=f"{method}, {output}", markersize=4,
            )  # fmt: skip
            _name_points(axis, rows, kept)
        for row in default[default["output"].isin(list(LINES))].to_dict("records"):
            style = {"markersize": 11, "markerfacecolor": "none", "linestyle": "none", "label": "as set by default"}
            axis.plot(row["site"], row[kept], MARKERS[row["output"]], color=COLOURS[row["method"]], **style)
        for row in peers.dropna(subset=["site", kept]).to_dict("records"):
            shade = "black" if row["method"] == "raw" else f"C{names.index(row['method']) + 2}"
            text = "raw" if row["method"] == "raw" else f"{row['method']}, {row['output']}"
            axis.plot(row["site"], row[kept], MARKERS[row["output"]], color=shade, label=text, markersize=7)
        axis.axvline(TARGET, color="grey", linewidth=0.8, linestyle=":", label="asked, all removed")
        for measured in points.loc[points["output"] == AS_MEASURED, kept].dropna():
            axis.axhline(LEAST_KEPT[kept](measured), color="grey", linewidth=0.8, linestyle=":")
        for alone in points.loc[points["output"].isna() & points["site"].notna(), "site"]:
            axis.axvline(
                alone, color="grey", linewidth=0.8, label="from age and sex alone: the floor where only site goes"
            )
        axis.set(xlabel="site AUC, strongest probe", ylabel=label)
    handles = {text: handle for axis in panels for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=7)
    figure.suptitle("People never seen: what tells the site against what is kept; numbers are settings.directions")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial_file:
        figure.savefig(partial_file, format="png", dpi=130)


def _without_covariates(made: Made) -> Made:
    return Made({part: made.parts[part] for part in (ALL_REMOVED, LATENTS)}, made.seconds_fit)


def _name_points(axis: Axes, rows: pd.DataFrame, kept: str) -> None:
    for row in rows.to_dict("records"):
        axis.annotate(
            row["directions"], (row["site"], row[kept]), xytext=(3, 3), textcoords="offset points", fontsize=6
        )
