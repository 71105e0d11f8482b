"""Removal from a feature table: the input's columns, order and ids, with the effects taken out."""

from collections.abc import Sequence
from dataclasses import replace

from medrep.cohort.features import FeatureTable
from medrep.cohort.visits import Visit, visit_frame, visit_rows
from medrep.errors import ModelError, listed
from medrep.export.blocks import block_size, in_places
from medrep.export.digits import line
from medrep.export.mover import Mover
from medrep.export.outcomes import Outcome, Step
from medrep.models import Model

_MOST_ROWS = 256


def align_features(model: Model, features: FeatureTable) -> FeatureTable:
    """Return the features in the order the model was fitted on.

    Raises:
        ModelError: Columns that the model knows and the table lacks, or the other way round.
    """
    order = column_order(model, features.names)
    if order == list(range(len(order))):
        return features
    return replace(features, values=features.values[:, order], names=model.columns.names)


def column_order(model: Model, names: Sequence[str]) -> list[int]:
    """Return where in a table the model's columns stand.

    Args:
        model: The model.
        names: Of the table's features, in its order.

    Raises:
        ModelError: Columns that the model knows and the table lacks; all are listed. Further columns are an error too,
            since nothing could be removed from them.
    """
    wanted, have = list(model.columns.names), list(names)
    if not wanted:
        raise ModelError(
            "the model was trained on volumes, the cohort is a feature table; set input.kind as in training"
        )
    place = {name: position for position, name in enumerate(have)}
    known = set(wanted)
    absent, extra = [name for name in wanted if name not in place], [name for name in have if name not in known]
    problems = [f"{name} is absent" for name in absent] + [f"{name} was not in training" for name in extra]
    if problems:
        raise ModelError(
            listed("feature columns that do not match the model", problems, "give the columns of training")
        )
    return [place[name] for name in wanted]


class MoveRows(Step):
    """Moves rows of a feature table; the moved row is part of each outcome, in the input's order of columns.

    Args:
        mover: The model and what to do with it.
        names: Of the table's features, in its order.
    """

    def __init__(self, mover: Mover, names: Sequence[str]) -> None:
        self._mover, self._order = mover, column_order(mover.model, names)
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
