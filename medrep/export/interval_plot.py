"""Estimates with their intervals, one line each: what leaks, and who is drawn how well."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_BLUE, _GREY, _ORANGE = "#0072B2", "#777777", "#D55E00"  # told apart by everybody (Okabe and Ito)
_MOST = 60


@dataclass(frozen=True)
class Interval:
    """One line of the plot.

    Attributes:
        label: What stands at the left.
        estimate: The figure; NaN draws none and says ``insufficient``.
        low: Lower end of the interval; NaN draws none.
        high: Upper end.
        floor: A figure to compare with, such as what chance gives; NaN draws none.
    """

    label: str
    estimate: float
    low: float = float("nan")
    high: float = float("nan")
    floor: float = float("nan")


def interval_plot(rows: Sequence[Interval], title: str, axis: str, floor: str = "") -> bytes:
    """Return a PNG; the first lines are at the top, and beyond 60 the rest is left to the table.

    Args:
        rows: At least one.
        title: Above the plot.
        axis: What the figures are.
        floor: What the floors are, for the legend; empty without.
    """
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
    if floors and floor:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2, frameon=False, fontsize=8)
    middle = sum(axes.get_xlim()) / 2 if known else 0.5
    for height, row in zip(heights, shown, strict=True):
        if row.estimate != row.estimate:
            axes.text(middle, height, "insufficient", color=_GREY, va="center", ha="center", style="italic", fontsize=8)
    axes.set_yticks(list(heights), [row.label for row in shown], fontsize=8)
    axes.set(ylim=(-0.7, len(shown) - 0.3), xlabel=axis)
    more = f" (first {_MOST} of {len(rows)})" if len(rows) > _MOST else ""
    axes.set_title(title + more, loc="left", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    with BytesIO() as file:
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight", pad_inches=0.1)
        return file.getvalue()
