"""Removal from a feature table: the input's columns, order and ids, with the effects taken out."""

from collections.abc import Sequence
from dataclasses import replace

from medrep.cohort.features import FeatureTable
from medrep.cohort.visits import Visit, visit_frame
from medrep.errors import ModelError, listed
from medrep.export.blocks import block_size, in_places
from medrep.export.mover import Mover
from medrep.export.outcomes import Outcome, Step
from medrep.models import Model

_MOST_ROWS = 256


def align_features(model: Model, features: FeatureTable) -> FeatureTable:
    """Return the features in the order the model was fitted on.

    Raises:
        ModelError: Columns that the model knows and the table lacks; all are listed. Further columns are an error too,
            since nothing could be removed from them.
    """
    wanted, have = list(model.columns.names), list(features.names)
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
    order = [place[name] for name in wanted]
    return replace(features, values=features.values[:, order], names=tuple(wanted))


class MoveRows(Step):
    """Moves rows of a feature table; the moved row is part of each outcome, in the input's order of columns.

    Args:
        mover: The model and what to do with it.
        features: Of everybody who will be asked for, in any column order.
    """

    def __init__(self, mover: Mover, features: FeatureTable) -> None:
        self._mover, self._features = mover, align_features(mover.model, features)
        place = {name: position for position, name in enumerate(self._features.names)}
        self._order = [place[name] for name in features.names]
        self.together = block_size(len(features.names), _MOST_ROWS)

    def work(self, people: Sequence[Visit]) -> list[Outcome]:
        """Move a few rows; see `Step.work`."""
        rows = self._features.rows(visit_frame(people).index).values
        block, standing, places = in_places(rows, people, self.together)
        frame = visit_frame(standing)
        moved, latents = self._mover.move(block, frame)[:, self._order], self._mover.encode(block, frame)
        return [
            Outcome(one.key, arrays={"row": moved[place], "latents": latents[place]})
            for place, one in zip(places, people, strict=True)
        ]
