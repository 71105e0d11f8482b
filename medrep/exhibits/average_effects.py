"""What each covariate does to people on average, as the model says: a map on the anatomy, or the features that change most.

For organs the model's own maps of millimetres serve (`export.effects`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from medrep.cohort.dataset import Dataset
from medrep.exhibits.compact import as_bytes, resized, stepped
from medrep.exhibits.spread import evenly, known_mean
from medrep.exhibits.store import Exhibit
from medrep.models import Model
from medrep.models.contrasts import Contrast, contrasts

_PEOPLE, _MOST_CONTRASTS, _FEATURES = 8, 8, 20
_LONGEST_EDGE = 80


def average_effects(model: Model, dataset: Dataset, spread: Float[np.ndarray, " columns"]) -> Exhibit | None:
    """Move a few people from one value of each covariate to another, and average the change.

    Args:
        model: Fitted on columns of features or voxels.
        dataset: People; some are taken, evenly spread over the cohort.
        spread: How much people differ in each column; features are shown in these units.

    Returns:
        None where the model has no contrast.
    """
    people = dataset.take(evenly(len(dataset), _PEOPLE))
    people = people.with_values(np.asarray(people.values))
    shown = contrasts(model.schema)[:_MOST_CONTRASTS]
    if not shown:
        return None
    effects = [_change(model, people, contrast) for contrast in shown]
    described: list[dict[str, Any]] = [{"name": contrast.name} for contrast in shown]
    if model.columns.grid is None:
        return Exhibit({"kind": "features", "contrasts": _strongest(model.columns.names, effects, described, spread)})
    shape = [min(length, _LONGEST_EDGE) for length in model.columns.grid.shape]
    anatomy = resized(known_mean(people.values).reshape(model.columns.grid.shape), shape)
    low, high = (float(value) for value in np.percentile(anatomy, (1, 99.7)))
    arrays = {"anatomy": as_bytes(anatomy, low, high)}
    for number, effect in enumerate(effects):
        image = resized(effect.reshape(model.columns.grid.shape), shape)
        described[number] |= {"step": stepped(image)}
        arrays[f"effect{number}"] = np.rint(image / stepped(image)).astype(np.int8)
    return Exhibit({"kind": "volume", "people": len(people), "contrasts": described}, arrays)


def _change(model: Model, people: Dataset, contrast: Contrast) -> Float[np.ndarray, " columns"]:
    before, after = (model.remove(people, {contrast.covariate: value}) for value in (contrast.before, contrast.after))
    return np.asarray(np.nan_to_num(after - before).mean(axis=0), float)


def _strongest(
    names: Sequence[str], effects: Sequence[np.ndarray], described: Sequence[dict[str, Any]], spread: np.ndarray
) -> list[dict[str, object]]:
    unit = np.where(spread > 0, spread, 1.0)
    shown = []
    for effect, about in zip(effects, described, strict=True):
        relative = effect / unit
        most = np.argsort(-np.abs(relative), kind="stable")[:_FEATURES]
        rows = [[names[k], float(relative[k])] for k in most]
        shown.append({**about, "features": rows, "median": float(np.median(np.abs(relative)))})
    return shown
