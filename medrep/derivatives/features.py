"""Transformed feature tables: the input's columns, order and ids."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medrep._files import write_json
from medrep.cohort.features import column_order
from medrep.cohort.kinds import InputKind
from medrep.cohort.kinds.base import Visit, visit_frame, visit_rows
from medrep.derivatives.bids import Destination, line, write_latents, write_lines
from medrep.derivatives.tasks import Mover, Outcome, Step, block_size, in_places

_MOST_ROWS = 256


class MoveRows(Step):
    """Moves rows of a feature table; the moved row is part of each outcome, in the input's order of columns.

    Args:
        mover: The model and what to do with it.
        names: Of the table's features, in its order.
    """

    def __init__(self, mover: Mover, names: Sequence[str]) -> None:
        self._mover, self._order = mover, column_order(mover.model.columns.names, names)
        place = {name: position for position, name in enumerate(mover.model.columns.names)}
        self._back = [place[name] for name in names]
        self.together = block_size(len(names), _MOST_ROWS)

    def work(self, people: Sequence[Visit]) -> list[Outcome]:
        """Move a few rows; see `Step.work`."""
        rows = visit_rows(people)[:, self._order]
        block, standing, places = in_places(rows, people, self.together)
        moved, (latents, _) = self._mover.move_and_encode(self._mover.model.dataset(block, visit_frame(standing)))
        moved, before = moved[:, self._back], block[:, self._back]
        return [
            Outcome(one.key, lines={"features": line(moved[place], before[place]), "latents": line(latents[place])})
            for place, one in zip(places, people, strict=True)
        ]


def move_rows(mover: Mover, kind: InputKind[Any], to: Destination) -> Step:
    """Return the step that moves rows of a cohort's table."""
    del kind
    return MoveRows(mover, to.names)


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
