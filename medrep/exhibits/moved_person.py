"""One person at every value of a grid of covariates: what the slider of a report moves through.

Changes are stored, not pictures: whole numbers of a small step, coarser than the picture where there are many combinations.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._persisted import to_json
from medrep.cohort.dataset import Dataset
from medrep.cohort.lattice import grid_lattice
from medrep.exhibits.compact import as_bytes, resized, stepped
from medrep.exhibits.store import Exhibit
from medrep.exhibits.values_grid import Axis, combinations
from medrep.models import Model
from medrep.models.shape.template import LevelFunction

MOST_COMBINATIONS = 120
_MOST_CELLS = 5_000_000
_LONGEST_EDGE = 96
_MESH_CELLS = 48
_FEATURES = 24
_AT_ONCE = 8  # whole volumes


def moved_person(
    model: Model,
    person: Dataset,
    axes: Sequence[Axis],
    spread: Float[np.ndarray, " columns"],
) -> Exhibit | None:
    """Return a person as a volume, a mesh or features, and how each combination of covariates changes them.

    Args:
        model: That moves covariates.
        person: One row; covariates that are on no axis stay.
        axes: What is moved.
        spread: How much people differ in each column; features are shown in these units.

    Returns:
        None for a model of distances that does not say how points move.
    """
    if not axes:
        return None
    if "organs" in model.capabilities:
        return _organ(model, person, axes)
    targets = combinations(axes)
    if model.columns.grid is None:
        return _features(model, person, axes, spread)
    grid, row = model.columns.grid, person.values[0]
    shape = _limited(grid.shape, _LONGEST_EDGE**3)
    coarse = _limited(grid.shape, _MOST_CELLS // len(targets))
    changes = np.empty((len(targets), *coarse), np.float32)
    for start in range(0, len(targets), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        for change, moved in zip(changes[some], _everywhere(model, person, targets[some]), strict=True):
            change[...] = resized(np.nan_to_num(moved - row).reshape(grid.shape), coarse)
    base = resized(np.nan_to_num(row).reshape(grid.shape), shape)
    low, high = (float(value) for value in np.percentile(base, (1, 99.7)))
    step = stepped(changes)
    content = {
        **_shared("volume", axes),
        "shape": list(shape),
        "edges": [edge * whole / part for edge, whole, part in zip(grid.spacing, grid.shape, shape, strict=True)],
        "coarse": list(coarse),
        "low": low,
        "high": high,
        "step": step,
    }
    return Exhibit(content, {"base": as_bytes(base, low, high), "changes": np.rint(changes / step).astype(np.int8)})


def _limited(shape: tuple[int, int, int], cells: int) -> tuple[int, ...]:
    size = shape[0] * shape[1] * shape[2]
    factor = min(1.0, (cells / size) ** (1 / 3))
    return tuple(max(1, int(length * factor)) for length in shape)


def _shared(kind: str, axes: Sequence[Axis]) -> dict[str, Any]:
    return {"kind": kind, "axes": to_json(axes)}


def _features(model: Model, person: Dataset, axes: Sequence[Axis], spread: np.ndarray) -> Exhibit:
    unit = np.where(spread > 0, spread, 1.0)
    changes = np.nan_to_num((_everywhere(model, person, combinations(axes)) - person.values) / unit)
    most = np.argsort(-np.abs(changes).max(axis=0), kind="stable")[:_FEATURES]
    content = {**_shared("features", axes), "names": [model.columns.names[k] for k in most]}
    return Exhibit(content, {"changes": changes[:, most].astype(np.float32)})


def _everywhere(
    model: Model, person: Dataset, targets: Sequence[dict[str, float | str]]
) -> Float[np.ndarray, "targets columns"]:
    """Return the person at each target, all in one go: a move has to be prepared whether it is of one row or of many."""
    here = pd.concat([person.covariates] * len(targets), ignore_index=True)
    return model.move(model.dataset(np.repeat(person.values, len(targets), axis=0), here), pd.DataFrame(targets))


def _organ(model: Model, person: Dataset, axes: Sequence[Axis]) -> Exhibit | None:
    if "motion" not in model.capabilities or model.columns.grid is None:
        return None
    from medrep.cohort.meshing import mesh_lattice  # scikit-image, which only organs need

    lattice = grid_lattice(model.columns.grid)
    surface = mesh_lattice(LevelFunction.through(lattice, person.values[0]).values, lattice, _MESH_CELLS)
    moved = model.carry(person, surface.vertices, combinations(axes)) - surface.vertices
    step = stepped(moved, 32767)
    content = {**_shared("mesh", axes), "step": step, "vertices": len(surface.vertices)}
    arrays = {
        "base": (surface.vertices - surface.vertices.mean(axis=0)).astype(np.float32),
        "faces": surface.faces.astype(np.uint32),
        "changes": np.rint(moved / step).astype(np.int16),
    }
    return Exhibit(content, arrays)
