"""Scores of people, one after another: how well the model draws each, how unusual they are, and their latents."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.features import FeatureTable
from medrep.cohort.inputs import Input
from medrep.errors import ModelError
from medrep.export.features import align_features
from medrep.models import AdditiveShape, Model
from medrep.models.shape.scores import deviation, reconstruction_error

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Scored:
    """One person's scores, or why there are none.

    Attributes:
        key: The person (and session).
        path: The file; None for rows of a table.
        error: One line, empty if all went well.
        reconstruction_error: In the model's ``error_unit``.
        deviation: About 1 for a typical person.
        latents: What is the person's own.
        latents_sd: How well each is known; None where the model does not say.
        volume_mm3: Of an organ; NaN for other data.
    """

    key: str
    path: Path | None = None
    error: str = ""
    reconstruction_error: float = float("nan")
    deviation: float = float("nan")
    latents: Float[np.ndarray, " latents"] | None = None
    latents_sd: Float[np.ndarray, " latents"] | None = None
    volume_mm3: float = float("nan")


def score_rows(model: Model, data: Float[np.ndarray, "people columns"], frame: pd.DataFrame) -> pd.DataFrame:
    """Return reconstruction_error and deviation of rows in memory, index as ``frame``.

    Args:
        model: The model.
        data: In the model's columns and units.
        frame: The people's covariates (`CovariateSchema.transfer`).
    """
    found = model.scores(data, frame)
    return pd.DataFrame(
        {"reconstruction_error": found.reconstruction_error, "deviation": found.deviation}, index=frame.index
    )


def score_features(model: Model, features: FeatureTable, frame: pd.DataFrame) -> Iterator[Scored]:
    """Score the people of a feature table."""
    aligned = align_features(model, features)
    for start in range(0, len(frame), _ROWS_AT_ONCE):
        data, own = aligned.values[start : start + _ROWS_AT_ONCE], frame.iloc[start : start + _ROWS_AT_ONCE]
        scores, latents = score_rows(model, data, own), model.encode(data, own)
        for key, z, (error, unusual) in zip(own.index, latents, scores.to_numpy(), strict=True):
            yield Scored(str(key), reconstruction_error=float(error), deviation=float(unusual), latents=z)


def score_images(model: Model, files: pd.Series, frame: pd.DataFrame, wanted: Input) -> Iterator[Scored]:
    """Score the people of a cohort of volumes or organs.

    Args:
        model: The model.
        files: Index: key; values: paths.
        frame: Covariates, index: key.
        wanted: The ``input`` section of training.
    """
    return (_shapes if wanted.kind == "shape" else _volumes)(model, files, frame, wanted)


def _volumes(model: Model, files: pd.Series, frame: pd.DataFrame, wanted: Input) -> Iterator[Scored]:
    from medrep.cohort.loaders import grid_problem, load_volumes  # MONAI takes seconds to import

    if model.columns.grid is None:
        raise ModelError("the model was trained on a feature table; set input.kind as in training")
    for loaded in load_volumes(files, wanted):
        if loaded.placed is None:
            yield Scored(loaded.key, loaded.path, loaded.error)
        elif problem := grid_problem(loaded.placed.grid, model.columns.grid):
            yield Scored(loaded.key, loaded.path, problem)
        else:
            row, own = loaded.placed.values.reshape(1, -1), frame.loc[[loaded.key]]
            error, unusual = score_rows(model, row, own).to_numpy()[0]
            yield Scored(loaded.key, loaded.path, "", float(error), float(unusual), model.encode(row, own)[0])


def _shapes(model: Model, files: pd.Series, frame: pd.DataFrame, wanted: Input) -> Iterator[Scored]:
    from medrep.cohort.shapes import load_shapes, shape_grid  # libigl and scikit-image, which only shapes need

    if model.columns.grid != shape_grid(wanted):
        raise ModelError("the model was not trained on shapes of this grid; set input.kind as in training")
    shapes = model if isinstance(model, AdditiveShape) else None
    for loaded in load_shapes(files, wanted):
        if loaded.placed is None:
            yield Scored(loaded.key, loaded.path, loaded.error)
            continue
        affine, voxels = loaded.placed.labels.affine, int(loaded.placed.organ.mask.sum())
        volume = round(voxels * abs(float(np.linalg.det(affine[:3, :3]))), 3)
        row, own = loaded.placed.row, frame.loc[[loaded.key]]
        if shapes is None:
            error, unusual = score_rows(model, row[None], own).to_numpy()[0]
            latents, sd = model.encode(row[None], own)[0], None
        else:
            person = shapes.person(row, own)
            latents, sd = shapes.latents(person)
            error, unusual = reconstruction_error(person), deviation(latents, sd)
        yield Scored(loaded.key, loaded.path, "", float(error), float(unusual), latents, sd, volume)
