"""Removal from a feature table: the input's columns, order and ids, with the effects taken out."""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.atomic import write_json
from medrep.cohort.features import FeatureTable
from medrep.errors import ModelError, listed
from medrep.export.derivative import Removal, write_latents, write_matrix
from medrep.export.mover import Mover
from medrep.models import Model


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
    return FeatureTable(features.ids, features.values[:, order], tuple(wanted), features.grid)


def export_features(
    folder: Path, mover: Mover, features: FeatureTable, frame: pd.DataFrame, done: Removal
) -> tuple[Float[np.ndarray, "people columns"], Float[np.ndarray, "people latents"]]:
    """Write features.tsv, features.json and latents.tsv.

    Args:
        folder: Where to.
        mover: The model and what to do with it.
        features: The people's features, in any column order.
        frame: Their covariates; not looked at where the mover is label-free.
        done: For the sidecar.

    Returns:
        What was written: features in the model's order, and latents.
    """
    aligned = align_features(mover.model, features)
    moved = mover.move(aligned.values, frame)
    place = {name: position for position, name in enumerate(aligned.names)}
    in_input_order = moved[:, [place[name] for name in features.names]]
    write_matrix(folder / "features.tsv", features.ids, features.names, in_input_order)
    grid = {} if features.grid is None else {"Grid": features.grid.to_json()}
    write_json(folder / "features.json", {**done.to_json(), **grid})
    latents = mover.encode(aligned.values, frame)
    write_latents(folder / "latents.tsv", features.ids, latents)
    return moved, latents
