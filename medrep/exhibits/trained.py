"""What the report of a training shows."""

from collections.abc import Sequence

import numpy as np

from medrep._persisted import to_json
from medrep.cohort.dataset import Dataset
from medrep.exhibits.average_effects import average_effects
from medrep.exhibits.cohort_summary import cohort_summary
from medrep.exhibits.moved_person import MOST_COMBINATIONS, moved_person
from medrep.exhibits.spread import known_spread
from medrep.exhibits.store import Exhibit
from medrep.exhibits.values_grid import axes_around
from medrep.models import Model


def training_exhibits(
    model: Model,
    dataset: Dataset,
    cohort: str,
    notes: Sequence[str],
    person: str | None,
) -> dict[str, Exhibit]:
    """Return what was done, the cohort, what each covariate does, and a person to move.

    Args:
        model: As fitted.
        dataset: The people of training.
        cohort: Its name.
        notes: What was interpreted while reading.
        person: Key of whom the slider shows; None leaves people out.
    """
    about = {
        "command": "train",
        "model": model.kind,
        "cohort": cohort,
        "people": dataset.people,
        "columns": model.columns.count,
        "grid": to_json(model.columns.grid),
    }
    people = cohort_summary(dataset.covariates, model.schema, notes, dataset.participants)
    found: dict[str, Exhibit | None] = {"about": Exhibit(about), "cohort": people}
    spread = known_spread(dataset.values)
    if "organs" not in model.capabilities:
        found["effects"] = average_effects(model, dataset, spread)
    if person is not None:
        found["person"] = shown_person(model, dataset.select([person]), spread)
    return {name: exhibit for name, exhibit in found.items() if exhibit is not None}


def shown_person(model: Model, person: Dataset, spread: np.ndarray) -> Exhibit | None:
    """Return a person (one row) who can be moved, with their name."""
    own = {str(name): value for name, value in person.covariates.iloc[0].items()}
    axes = axes_around(model.schema, own, MOST_COMBINATIONS)
    moved = moved_person(model, person.with_values(np.asarray(person.values)), axes, spread)
    return None if moved is None else Exhibit({"person": str(person.keys[0]), **moved.content}, moved.arrays)
