"""Removal from a feature table: the input's columns, order and ids, with the effects taken out."""

from collections.abc import Sequence
from typing import Any

from medrep.cohort.features import column_order
from medrep.cohort.kinds import InputKind
from medrep.cohort.visits import Visit, visit_frame, visit_rows
from medrep.export.blocks import block_size, in_places
from medrep.export.derivative import Destination
from medrep.export.digits import line
from medrep.export.mover import Mover
from medrep.export.outcomes import Outcome, Step

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
