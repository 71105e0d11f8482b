"""What the report of an export or of counterfactuals shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medrep.cohort.cohort import Cohort
from medrep.cohort.inputs import Input
from medrep.exhibits.before_after import before_after_features, before_after_images, chosen_people
from medrep.exhibits.cohort_summary import cohort_summary
from medrep.exhibits.scans import placed_scan
from medrep.exhibits.spread import known_spread
from medrep.exhibits.store import Exhibit
from medrep.exhibits.trained import shown_person
from medrep.export.derivative import described_name
from medrep.export.features import align_features
from medrep.export.mover import Mover
from medrep.models import Model


def moved_exhibits(
    out: Path,
    mover: Mover,
    wanted: Input,
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
        wanted: The ``input`` section of training.
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
    if cohort.features is not None:
        found["before_after"] = before_after_features(mover, cohort, frame, removed)
    elif person is not None:
        files = {} if cohort.files is None else {str(key): Path(str(path)) for key, path in cohort.files.items()}
        pairs = {
            key: (files[key], out / str(described_name(files[key].relative_to(cohort.root).as_posix(), desc)))
            for key in chosen_people(frame, removed, cohort.table.index)
        }
        found["before_after"] = before_after_images(pairs, wanted, frame)
    if person is not None and len(frame.columns):
        row, spread = _data(model, wanted, cohort, person)
        found["person"] = shown_person(model, model.dataset(row[None], frame.loc[[person]]), spread)
    return {name: exhibit for name, exhibit in found.items() if exhibit is not None}


def _data(model: Model, wanted: Input, cohort: Cohort, person: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a person's row, and how much people differ in each column of a table (0 for images)."""
    if cohort.features is not None:
        features = align_features(model, cohort.features)
        return features.rows(pd.Index([person])).values[0], known_spread(features.values)
    nothing = np.zeros(model.columns.count)
    path = Path(str(cohort.files[person])) if cohort.files is not None else cohort.root
    if wanted.kind == "shape":
        from medrep.cohort.lattice import grid_lattice
        from medrep.cohort.shapes import place_shape, shape_grid

        points = grid_lattice(shape_grid(wanted)).nodes()
        return np.asarray(place_shape(path, wanted, points).row, float), nothing
    return placed_scan(path, wanted, model.columns.grid).values.ravel(), nothing
