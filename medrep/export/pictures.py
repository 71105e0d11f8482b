"""Pictures of what removal does: the same slices, the same colour scale, before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medrep.atomic import atomic_file


@dataclass(frozen=True)
class Row:
    """One row of the picture: a person or a mean, as columns of slices.

    Attributes:
        label: What stands at the left.
        slices: One slice a column, axes (x, z) or (x, y) with the second pointing up.
    """

    label: str
    slices: tuple[Float[np.ndarray, "a b"], ...]


def before_and_after(path: Path, title: str, headings: Sequence[str], rows: Sequence[Row]) -> None:
    """Write a PNG with one row a person and one column a state, all on one grey scale.

    Args:
        path: The PNG.
        title: Above the picture.
        headings: One a column.
        rows: At least one; each with as many slices as there are headings.
    """
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
