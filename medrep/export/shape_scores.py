"""Scores of organs, a person at a time: how well the model draws them, and how unusual they are for their covariates."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.inputs import Input
from medrep.cohort.shapes import load_shapes, shape_grid
from medrep.errors import ModelError
from medrep.export.derivative import Failure, write_latents, write_tsv
from medrep.models import AdditiveShape
from medrep.models.shape.person import Person
from medrep.models.shape.template import LevelFunction

SCORED, FAILED = "scored", "failed"
COLUMNS = ("status", "reconstruction_error_mm", "deviation", "volume_mm3")


def score_shapes(
    folder: Path,
    root: Path,
    model: AdditiveShape,
    files: pd.Series,
    frame: pd.DataFrame,
    wanted: Input,
    ids: pd.DataFrame,
    *,
    advance: Callable[[int], None] = lambda people: None,
) -> tuple[pd.DataFrame, list[Failure]]:
    """Write scores.tsv, and latents.tsv and latents_sd.tsv of those who could be scored.

    Args:
        folder: Where to.
        root: The cohort's folder.
        model: The model.
        files: Index: key; values: paths of label maps.
        frame: Covariates, index: key.
        wanted: The measured ``input`` section of training.
        ids: Key columns of the people, index: key.
        advance: Called with the number of people done.

    Returns:
        What stands in scores.tsv, and the people who could not be scored.
    """
    if model.columns.grid != shape_grid(wanted):
        raise ModelError("the model was not trained on shapes of this grid; set input.kind as in training")
    rows: dict[str, tuple[object, ...]] = {}
    latents: dict[str, np.ndarray] = {}
    spread: dict[str, np.ndarray] = {}
    failures: list[Failure] = []
    for loaded in load_shapes(files, wanted):
        if loaded.placed is None:
            rows[loaded.key] = (FAILED, np.nan, np.nan, np.nan)
            failures.append(Failure(loaded.key, loaded.path.relative_to(root).as_posix(), "read", loaded.error))
        else:
            person = model.person(loaded.placed.row, frame.loc[[loaded.key]])
            z, sd = model.latents(person)
            latents[loaded.key], spread[loaded.key] = z, sd
            affine, voxels = loaded.placed.labels.affine, int(loaded.placed.organ.mask.sum())
            volume = voxels * abs(float(np.linalg.det(affine[:3, :3])))
            rows[loaded.key] = (SCORED, reconstruction_error(person), deviation(z, sd), round(volume, 3))
        advance(1)
    keys = list(rows)
    table = pd.concat([ids.loc[keys], pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS)], axis=1)
    write_tsv(folder / "scores.tsv", table)
    for name, values in (("latents.tsv", latents), ("latents_sd.tsv", spread)):
        if values:
            write_latents(folder / name, ids.loc[list(values)], np.stack(list(values.values())))
    return table, failures


def reconstruction_error(person: Person) -> float:
    """Return the mean distance between a person's surface and the one that the model alone draws of them, mm.

    Both ways, along the normal, which is exact for surfaces that are near each other.
    """
    own = person.own
    nodes = own.lattice.nodes()
    made = LevelFunction.through(own.lattice, person.decoded(nodes, person.mean))
    step = max(own.lattice.spacing)
    there = [
        _distances(other, level.onto_surface(nodes[np.abs(level.values(nodes)) < step]))
        for level, other in ((own, made), (made, own))
    ]
    return float(np.mean([part.mean() for part in there]))


def deviation(z: Float[np.ndarray, " latents"], sd: Float[np.ndarray, " latents"]) -> float:
    """Return how unusual a person is at their covariates: about 1 for a typical one, in standard deviations.

    The latents' size, over what a person's is expected to be where each latent is known as well as here.

    Args:
        z: What is known of the person's identity, N(0, 1) among people.
        sd: How well.
    """
    if not len(z):
        return float("nan")
    return float(np.sqrt((z**2).sum() / max(float(np.maximum(1 - sd**2, 0).sum()), 1e-9)))


def _distances(level: LevelFunction, points: Float[np.ndarray, "points dims"]) -> Float[np.ndarray, " points"]:
    value, slope = level.slopes(points)
    return np.abs(value) / np.maximum(np.linalg.norm(slope, axis=1), 0.5)
