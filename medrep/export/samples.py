"""Drawn people: a table, or one image each on the model's own grid."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medrep._persisted import to_json
from medrep.atomic import write_json
from medrep.cohort.nifti import Volume, write_image
from medrep.export.derivative import write_description, write_matrix, write_tsv
from medrep.models import Model


def write_samples(
    folder: Path,
    model: Model,
    people: pd.DataFrame,
    frame: pd.DataFrame,
    seed: int,
    suffix: str,
    content: Mapping[str, Any],
    advance: Callable[[int], None] = lambda people: None,
) -> None:
    """Write participants.tsv and features.tsv, or images with ``desc-sampled``.

    Args:
        folder: Where to.
        model: One that can ``sample``.
        people: Table to write, with participant_id.
        frame: Their covariates.
        seed: Of every draw; each image has a seed of its own, by its place in the table.
        suffix: BIDS suffix of images.
        content: For the sidecars.
        advance: Called with the number of people done.
    """
    ids = people["participant_id"].to_list()
    grid = model.columns.grid
    if model.columns.names:
        data = model.sample(frame, seed=seed)
        advance(len(ids))
        write_matrix(folder / "features.tsv", pd.DataFrame({"participant_id": ids}), model.columns.names, data)
        extra = {} if grid is None else {"Grid": to_json(grid)}
        write_json(folder / "features.json", {**content, **extra})
    elif grid is not None:
        for position, who in enumerate(ids):
            own = int(np.random.SeedSequence([seed, position]).generate_state(1)[0])
            row = model.sample(frame.iloc[position : position + 1], seed=own)[0]
            stem = folder / str(who) / "anat" / f"{who}_desc-sampled_{suffix}"
            write_image(
                stem.with_name(f"{stem.name}.nii.gz"),
                Volume(row.astype(np.float32).reshape(grid.shape), grid.affine()),
            )
            write_json(stem.with_name(f"{stem.name}.json"), dict(content))
            advance(1)
    write_tsv(folder / "participants.tsv", people)
    write_description(folder, "people drawn by a model", [], content)
