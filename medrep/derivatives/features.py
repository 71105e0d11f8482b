"""Transformed feature tables: the input's columns, order and ids."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medrep._files import write_json
from medrep.cohort.features import column_order
from medrep.cohort.kinds import InputKind
from medrep.cohort.kinds.base import Sample, Samples
from medrep.derivatives.bids import Destination, rows_text, write_latents, write_lines
from medrep.derivatives.tasks import RowResults, Task, Transform, block_size, in_places

_MOST_ROWS = 256


class TransformRows(Task):
    """Moves rows of a feature table; the moved row is part of each outcome, in the input's order of columns.

    Args:
        transform: The model and what to do with it.
        names: Of the table's features, in its order.
    """

    def __init__(self, transform: Transform, names: Sequence[str]) -> None:
        self._transform, self._order = transform, column_order(transform.model.columns.names, names)
        place = {name: position for position, name in enumerate(transform.model.columns.names)}
        self._back = [place[name] for name in names]
        self.block_size = block_size(len(names), _MOST_ROWS)

    def work(self, people: Sequence[Sample]) -> RowResults:
        """Move a few rows; see `Task.work`."""
        own = Samples.of(people)
        block, standing, places = in_places(own.rows[:, self._order], own, self.block_size)
        transformed, (latents, _) = self._transform.move_and_encode(
            self._transform.model.dataset(block, standing.covariates)
        )
        transformed, before = transformed[places][:, self._back], block[places][:, self._back]
        return RowResults(
            own.keys, (), {"features": rows_text(transformed, before), "latents": rows_text(latents[places])}
        )


def transform_rows(transform: Transform, kind: InputKind[Any], to: Destination) -> Task:
    """Return the step that moves rows of a cohort's table."""
    del kind
    return TransformRows(transform, to.names)


def write_transformed(
    folder: Path,
    rows: Mapping[str, Callable[[], Iterable[str]]],
    ids: pd.DataFrame,
    names: tuple[str, ...],
    content: Mapping[str, Any],
    written: "pd.DataFrame | None" = None,
    header: tuple[str, ...] = (),
) -> None:
    """Write latents.tsv (latents_sd.tsv), and features.tsv with features.json where the data are a table.

    Args:
        folder: Where to.
        rows: Names of rows, each with what yields everybody's who could be moved, a person at a time.
        ids: Key columns, index: key; in the same order.
        names: Of the features; none for images, which are written already.
        content: For the sidecar of the table.
        written: Key columns as they stand in the table of features, in the same order; by default ``ids``.
        header: All columns of the table of features in their order; by default the ids, then the features.
    """
    if names:
        own = ids if written is None else written
        write_lines(folder / "features.tsv", own, names, rows["features"](), header)
        write_json(folder / "features.json", content)
    for name in ("latents", "latents_sd"):
        if name in rows:
            write_latents(folder / f"{name}.tsv", ids, rows[name]())
