"""The tables of a cohort whose covariates were moved: latents, and features where there are no images."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medrep.atomic import write_json
from medrep.export.derivative import write_latents, write_lines


def write_moved(
    folder: Path,
    lines: Mapping[str, Callable[[], Iterable[str]]],
    ids: pd.DataFrame,
    names: tuple[str, ...],
    content: Mapping[str, Any],
    written: "pd.DataFrame | None" = None,
    header: tuple[str, ...] = (),
) -> None:
    """Write latents.tsv (latents_sd.tsv), and features.tsv with features.json where the data are a table.

    Args:
        folder: Where to.
        lines: Names of rows, each with what yields everybody's who could be moved, a person at a time.
        ids: Key columns, index: key; in the same order.
        names: Of the features; none for images, which are written already.
        content: For the sidecar of the table.
        written: Key columns as they stand in the table of features, in the same order; by default ``ids``.
        header: All columns of the table of features in their order; by default the ids, then the features.
    """
    if names:
        own = ids if written is None else written
        write_lines(folder / "features.tsv", own, names, lines["features"](), header)
        write_json(folder / "features.json", content)
    for name in ("latents", "latents_sd"):
        if name in lines:
            write_latents(folder / f"{name}.tsv", ids, lines[name]())
