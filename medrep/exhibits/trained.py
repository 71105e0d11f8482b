"""What the report of a training shows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._persisted import to_json
from medrep.exhibits.average_effects import average_effects
from medrep.exhibits.cohort_summary import cohort_summary
from medrep.exhibits.moved_person import MOST_COMBINATIONS, moved_person
from medrep.exhibits.spread import known_spread
from medrep.exhibits.store import Exhibit
from medrep.exhibits.values_grid import axes_around
from medrep.models import Model, is_shape


def training_exhibits(
    model: Model,
    data: Float[np.ndarray, "people columns"],
    frame: pd.DataFrame,
    cohort: str,
    notes: Sequence[str],
    person: str | None,
    participants: Sequence[str] | None = None,
) -> dict[str, Exhibit]:
    """Return what was done, the cohort, what each covariate does, and a person to move.

    Args:
        model: As fitted.
        data: Of the people of training.
        frame: Their covariates.
        cohort: Its name.
        notes: What was interpreted while reading.
        person: Key of whom the slider shows; None leaves people out.
        participants: Whose each row is; by default each is a person.
    """
    about = {
        "command": "train",
        "model": model.kind,
        "cohort": cohort,
        "people": len(data) if participants is None else len(set(participants)),
        "columns": model.columns.count,
        "grid": to_json(model.columns.grid),
    }
    people = cohort_summary(frame, model.schema, notes, participants)
    found: dict[str, Exhibit | None] = {"about": Exhibit(about), "cohort": people}
    spread = known_spread(data)
    if not is_shape(model):
        found["effects"] = average_effects(model, data, frame, spread)
    if person is not None:
        found["person"] = shown_person(model, data[frame.index.get_loc(person)], frame.loc[[person]], spread)
    return {name: exhibit for name, exhibit in found.items() if exhibit is not None}


def shown_person(model: Model, row: np.ndarray, frame: pd.DataFrame, spread: np.ndarray) -> Exhibit | None:
    """Return a person who can be moved, with their name."""
    own = {str(name): value for name, value in frame.iloc[0].items()}
    axes = axes_around(model.schema, own, MOST_COMBINATIONS)
    moved = moved_person(model, np.asarray(row), frame, axes, spread)
    return None if moved is None else Exhibit({"person": str(frame.index[0]), **moved.content}, moved.arrays)
