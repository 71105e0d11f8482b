"""What the report of an export or of counterfactuals shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medrep.cohort.cohort import Cohort
from medrep.cohort.features import in_columns
from medrep.exhibits.before_after import before_after_features, before_after_images, chosen_people
from medrep.exhibits.cohort_summary import cohort_summary
from medrep.exhibits.spread import known_spread
from medrep.exhibits.store import Exhibit
from medrep.exhibits.trained import shown_person
from medrep.export.derivative import described_name
from medrep.export.mover import Mover


def moved_exhibits(
    out: Path,
    mover: Mover,
    cohort: Cohort,
    frame: pd.DataFrame,
    about: Mapping[str, Any],
    desc: str,
    person: str | None,
) -> dict[str, Exhibit]:
    """Return what was done, the cohort, a few people before and after, and a person to move.

    Args:
        out: Where the moved cohort lies.
        mover: The model and what was done.
        cohort: The people who were delivered, as they were.
        frame: Their covariates; without columns where nobody looked at them.
        about: What was done, as the sidecars say.
        desc: BIDS ``desc`` of what was written.
        person: Key of whom the slider shows; None where nobody may be shown.
    """
    model, removed = mover.model, list(mover.target)
    found: dict[str, Exhibit | None] = {"about": Exhibit(dict(about))}
    if len(frame.columns):
        whose = cohort.table.loc[frame.index, "participant_id"].astype(str).tolist()
        found["cohort"] = cohort_summary(frame, model.schema, cohort.notes, whose)
    if cohort.input.tabular:
        found["before_after"] = before_after_features(mover, cohort, frame, removed)
    elif person is not None:
        files = {str(key): Path(str(path)) for key, path in cohort.source.files.items()}
        pairs = {
            key: (files[key], out / str(described_name(files[key].relative_to(cohort.root).as_posix(), desc)))
            for key in chosen_people(frame, removed, cohort.table.index)
        }
        found["before_after"] = before_after_images(pairs, cohort.input, frame)
    if person is not None and len(frame.columns):
        row = cohort.input.row(cohort.source, person, model.columns)
        found["person"] = shown_person(model, model.dataset(row[None], frame.loc[[person]]), _spread(mover, cohort))
    return {name: exhibit for name, exhibit in found.items() if exhibit is not None}


def _spread(mover: Mover, cohort: Cohort) -> np.ndarray:
    """Return how much people differ in each column of a table; 0 where data are files."""
    columns = mover.model.columns
    if not cohort.input.tabular:
        return np.zeros(columns.count)
    return known_spread(in_columns(cohort.source.features, columns.names).values)
