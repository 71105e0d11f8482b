"""The tables of a cohort whose covariates were moved: latents, and features where there are no images."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medrep.atomic import write_json
from medrep.export.derivative import write_latents, write_matrix
from medrep.export.outcomes import Outcome


def write_moved(
    folder: Path,
    outcomes: Iterable[Outcome],
    ids: pd.DataFrame,
    names: tuple[str, ...],
    content: Mapping[str, Any],
) -> None:
    """Write latents.tsv (latents_sd.tsv), and features.tsv with features.json where the data are a table.

    Args:
        folder: Where to.
        outcomes: Everybody's who could be moved; gone through several times, a person at a time.
        ids: Key columns, index: key; in the same order.
        names: Of the features; none for images, which are written already.
        content: For the sidecar of the table.
    """
    if names:
        write_matrix(folder / "features.tsv", ids, names, (one.arrays["row"] for one in outcomes))
        write_json(folder / "features.json", content)
    first = next(iter(outcomes)).arrays
    for name in ("latents", "latents_sd"):
        if name in first:
            write_latents(folder / f"{name}.tsv", ids, (one.arrays[name] for one in outcomes))
