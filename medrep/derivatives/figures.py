"""Figures as PNG: slices before and after, and estimates with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medrep._files import atomic_file


@dataclass(frozen=True)
class Row:
    """One row of the picture: a person or a mean, as columns of slices, axes (x, z) or (x, y) with the second pointing up."""

    label: str
    slices: tuple[Float[np.ndarray, "a b"], ...]


def before_and_after(path: Path, title: str, headings: Sequence[str], rows: Sequence[Row]) -> None:
    """Write a PNG with one row a person and one column a state, all on one grey scale."""
    top = max(float(np.percentile(s, 99.5)) for row in rows for s in row.slices)
    figure = Figure(figsize=(2.1 * len(headings) + 0.6, 2.3 * len(rows) + 0.6), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(headings), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for column, (axis, heading, image) in enumerate(zip(line, headings, row.slices, strict=True)):
            axis.imshow(image.T, origin="lower", cmap="gray", vmin=0, vmax=top, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_title(heading if row is rows[0] else "", color="white", fontsize=10)
            axis.set_ylabel(row.label if column == 0 else "", color="white", fontsize=9)
    figure.suptitle(title, color="white", fontsize=11)
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110, facecolor="black")


_BLUE, _GREY, _ORANGE = "#0072B2", "#777777", "#D55E00"  # told apart by everybody (Okabe and Ito)
_MOST = 60


@dataclass(frozen=True)
class _Interval:
    """One line of the plot; an estimate that is NaN is drawn as ``insufficient``, an end or a floor that is NaN not at all.

    The floor is a figure to compare with, such as what chance gives.
    """

    label: str
    estimate: float
    low: float = float("nan")
    high: float = float("nan")
    floor: float = float("nan")


def _interval_plot(rows: Sequence[_Interval], title: str, floor: str) -> bytes:
    """Return a PNG; the first lines are at the top, and beyond 60 the rest is left to the table."""
    shown = list(rows)[:_MOST]
    figure = Figure(figsize=(5.5, 0.5 + 0.25 * len(shown)))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))  # labels lie outside, as wide as they are
    heights = range(len(shown))[::-1]
    known = [(height, row) for height, row in zip(heights, shown, strict=True) if row.estimate == row.estimate]
    axes.hlines(
        [height for height, _ in known], [row.low for _, row in known], [row.high for _, row in known], color=_BLUE
    )
    axes.plot([row.estimate for _, row in known], [height for height, _ in known], "o", color=_BLUE, ms=5)
    floors = [(height, row.floor) for height, row in zip(heights, shown, strict=True) if row.floor == row.floor]
    if floors:
        axes.plot([x for _, x in floors], [y for y, _ in floors], "|", color=_ORANGE, ms=12, mew=2.5, label=floor)
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2, frameon=False, fontsize=8)
    middle = sum(axes.get_xlim()) / 2 if known else 0.5
    for height, row in zip(heights, shown, strict=True):
        if row.estimate != row.estimate:
            axes.text(middle, height, "insufficient", color=_GREY, va="center", ha="center", style="italic", fontsize=8)
    axes.set_yticks(list(heights), [row.label for row in shown], fontsize=8)
    axes.set(ylim=(-0.7, len(shown) - 0.3), xlabel="estimate and 95% interval")
    more = f" (first {_MOST} of {len(rows)})" if len(rows) > _MOST else ""
    axes.set_title(title + more, loc="left", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    with BytesIO() as file:
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight", pad_inches=0.1)
        return file.getvalue()


_LEAKAGE = ("leakage", "leakage_excess")


def write_audit_figures(folder: Path, findings: pd.DataFrame) -> None:
    """Write leakage.png, and one picture a metric that was measured by group."""
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
            partial.write_bytes(_interval_plot(rows, name.replace("_", " "), floor))


def _interval(row: Mapping[str, object], findings: pd.DataFrame, *, with_metric: bool) -> _Interval:
    label = f"{row['group']} ({row['n']})"
    name = f"{str(row['metric']).replace('_', ' ')} {label}" if with_metric else label
    if row["status"] != "ok":
        return _Interval(name, float("nan"))
    estimate, low, high = (float(str(row[column])) for column in ("estimate", "ci_low", "ci_high"))
    # What leakage is in excess of.
    same = (findings["metric"] == "leakage_excess") & (findings["group"] == row["group"])
    excess = findings.loc[same, "estimate"]
    floor = estimate - float(excess.iloc[0]) if row["metric"] == "leakage" and len(excess) else float("nan")
    return _Interval(name, estimate, low, high, floor)
