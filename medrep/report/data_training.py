"""Data of the report of a training: average effects, and one participant at every value of a grid.

For organs the model's own maps of millimetres serve (`export.effects`).

Changes are stored, not pictures: whole numbers of a small step, coarser than the picture where there are many combinations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._persisted import to_json
from medrep.cohort.covariates import POOLED, Categorical, Continuous, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import grid_lattice
from medrep.models import Model
from medrep.models.linear.design import Contrast, contrasts
from medrep.report.data_forecast import fan_report_data
from medrep.report.data_store import (
    ReportData,
    as_bytes,
    cohort_summary,
    evenly,
    known_mean,
    known_spread,
    resized,
    stepped,
)

_PEOPLE, _FEW_PEOPLE, _MOST_CONTRASTS, _MOST_FEATURES = 8, 4, 8, 20
_MANY = 2**19  # voxels: fewer people and combinations are shown of whole heads
_MAP_EDGE = 80


def _average_effects(model: Model, dataset: Dataset, spread: Float[np.ndarray, " columns"]) -> ReportData | None:
    """Move a few people, evenly spread over the cohort, from one value of each covariate to another, and average the change.

    Features are shown in units of how much people differ in each (`spread`). None where the model has no contrast.
    """
    few = _FEW_PEOPLE if model.columns.count > _MANY else _PEOPLE
    people = dataset.take(evenly(len(dataset), few))
    people = people.with_values(np.asarray(people.values))
    shown = contrasts(model.schema)[:_MOST_CONTRASTS]
    if not shown:
        return None
    effects = [_change(model, people, contrast) for contrast in shown]
    described: list[dict[str, Any]] = [{"name": contrast.name} for contrast in shown]
    if model.columns.grid is None:
        return ReportData(
            {"kind": "features", "contrasts": _strongest(model.columns.names, effects, described, spread)}
        )
    shape = [min(length, _MAP_EDGE) for length in model.columns.grid.shape]
    anatomy = resized(model.columns.box(known_mean(people.values)), shape)
    low, high = (float(value) for value in np.percentile(anatomy, (1, 99.7)))
    arrays = {"anatomy": as_bytes(anatomy, low, high)}
    for number, effect in enumerate(effects):
        image = resized(model.columns.box(effect), shape)
        described[number] |= {"step": stepped(image)}
        arrays[f"effect{number}"] = np.rint(image / stepped(image)).astype(np.int8)
    return ReportData({"kind": "volume", "people": len(people), "contrasts": described}, arrays)


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
        most = np.argsort(-np.abs(relative), kind="stable")[:_MOST_FEATURES]
        rows = [[names[k], float(relative[k])] for k in most]
        shown.append({**about, "features": rows, "median": float(np.median(np.abs(relative)))})
    return shown


_STEPS, _FEWER_STEPS = 13, 5
_BEYOND = 0.15


@dataclass(frozen=True)
class Axis:
    """One covariate of the slider: what it can be set to, in order, and which value is the person's own.

    `low` and `high` are the range of training; None for a categorical covariate.
    """

    name: str
    unit: str
    values: tuple[float | str, ...]
    own: int
    low: float | None = None
    high: float | None = None


def axes_around(schema: CovariateSchema, own: Mapping[str, str | float], most: int) -> tuple[Axis, ...]:
    """Return one axis a covariate, with so many combinations at most.

    Effects come before batches, and what does not fit is left out or made coarser.
    """
    axes: list[Axis] = []
    left = most
    for covariate in sorted(schema.fitted, key=lambda one: one.declared.role == "batch"):
        value = own[covariate.declared.name]
        if isinstance(covariate, Continuous):
            axis = _numbers(covariate, float(value), _STEPS if left >= 4 * _STEPS else _FEWER_STEPS)
        else:
            axis = _levels(covariate, str(value), left)
        if 1 < len(axis.values) <= left:
            axes.append(axis)
            left //= len(axis.values)
    return tuple(axes)


def combinations(axes: Sequence[Axis]) -> list[dict[str, float | str]]:
    """Return every combination of values, the last axis running fastest."""
    return [dict(zip([a.name for a in axes], some, strict=True)) for some in product(*(a.values for a in axes))]


def _numbers(covariate: Continuous, own: float, steps: int) -> Axis:
    beyond = _BEYOND * (covariate.high - covariate.low)
    start = covariate.low - beyond if covariate.low < 0 else max(covariate.low - beyond, 0.0)
    values = np.linspace(start, covariate.high + beyond, steps)
    values[int(np.argmin(np.abs(values - own)))] = own
    place = int(np.flatnonzero(values == own)[0])
    numbers = tuple(float(value) for value in values)
    return Axis(covariate.declared.name, covariate.declared.unit, numbers, place, covariate.low, covariate.high)


def _levels(covariate: Categorical, own: str, most: int) -> Axis:
    often = sorted(covariate.levels, key=lambda level: -covariate.counts[covariate.levels.index(level)])
    pooled = (POOLED,) if covariate.declared.role == "batch" else ()
    chosen = dict.fromkeys((own, covariate.reference, *pooled, *often))
    kept = set(list(chosen)[:most])
    values = tuple(level for level in dict.fromkeys((*pooled, *covariate.levels, own)) if level in kept)
    return Axis(covariate.declared.name, "", values, values.index(own))


MOST_COMBINATIONS, _FEWER_COMBINATIONS = 120, 30
_MOST_CELLS = 5_000_000
_LONGEST_EDGE = 96
_MESH_CELLS = 48
_FEATURES = 24
_AT_ONCE, _CELLS_AT_ONCE = 8, 2**23  # whole volumes, and their voxels together


def transformed_participant(
    model: Model,
    person: Dataset,
    axes: Sequence[Axis],
    spread: Float[np.ndarray, " columns"],
) -> ReportData | None:
    """Return a person as a volume, a mesh or features, and how each combination of covariates changes them.

    Covariates that are on no axis stay; features are shown in units of how much people differ in each (`spread`). None for a
    model of distances that does not say how points move.
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
    together = min(_AT_ONCE, max(1, _CELLS_AT_ONCE // model.columns.count))
    for start in range(0, len(targets), together):
        some = slice(start, start + together)
        for change, transformed in zip(changes[some], _everywhere(model, person, targets[some]), strict=True):
            change[...] = resized(model.columns.box(np.nan_to_num(transformed - row)), coarse)
    base = resized(model.columns.box(np.nan_to_num(row)), shape)
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
    return ReportData(content, {"base": as_bytes(base, low, high), "changes": np.rint(changes / step).astype(np.int8)})


def _limited(shape: tuple[int, int, int], cells: int) -> tuple[int, ...]:
    size = shape[0] * shape[1] * shape[2]
    factor = min(1.0, (cells / size) ** (1 / 3))
    return tuple(max(1, int(length * factor)) for length in shape)


def _shared(kind: str, axes: Sequence[Axis]) -> dict[str, Any]:
    return {"kind": kind, "axes": to_json(axes)}


def _features(model: Model, person: Dataset, axes: Sequence[Axis], spread: np.ndarray) -> ReportData:
    unit = np.where(spread > 0, spread, 1.0)
    changes = np.nan_to_num((_everywhere(model, person, combinations(axes)) - person.values) / unit)
    most = np.argsort(-np.abs(changes).max(axis=0), kind="stable")[:_FEATURES]
    content = {**_shared("features", axes), "names": [model.columns.names[k] for k in most]}
    return ReportData(content, {"changes": changes[:, most].astype(np.float32)})


def _everywhere(
    model: Model, person: Dataset, targets: Sequence[dict[str, float | str]]
) -> Float[np.ndarray, "targets columns"]:
    """Return the person at each target, all in one go: a move has to be prepared whether it is of one row or of many."""
    here = pd.concat([person.covariates] * len(targets), ignore_index=True)
    return model.transform(model.dataset(np.repeat(person.values, len(targets), axis=0), here), pd.DataFrame(targets))


def _organ(model: Model, person: Dataset, axes: Sequence[Axis]) -> ReportData | None:
    if "motion" not in model.capabilities or model.columns.grid is None:
        return None
    from medrep.cohort.meshing import mesh_lattice  # scikit-image, which only organs need
    from medrep.cohort.surfaces import joined_surface
    from medrep.models.shape.mean_shape import LevelFunction, clear_level  # half a second, which only organs need

    level = LevelFunction.through(grid_lattice(model.columns.grid), person.values[0])
    surface = joined_surface(
        [mesh_lattice(clear_level(level, one), level.lattice, _MESH_CELLS) for one in range(level.count)]
    )
    transformed = model.carry(person, surface.vertices, combinations(axes)) - surface.vertices
    step = stepped(transformed, 32767)
    content = {**_shared("mesh", axes), "step": step, "vertices": len(surface.vertices)}
    arrays = {
        "base": (surface.vertices - surface.vertices.mean(axis=0)).astype(np.float32),
        "faces": surface.faces.astype(np.uint32),
        "changes": np.rint(transformed / step).astype(np.int16),
    }
    return ReportData(content, arrays)


def training_report_data(
    model: Model,
    dataset: Dataset,
    cohort: str,
    notes: Sequence[str],
    person: str | None,
) -> dict[str, ReportData]:
    """Return what was done, the cohort, what each covariate does, and a person to move; without one people are left out."""
    grid = model.columns.grid
    about = {
        "command": "train",
        "model": model.kind,
        "cohort": cohort,
        "people": dataset.people,
        "columns": model.columns.count,
        **({} if grid is None or model.columns.mask is None else {"voxels": grid.size}),
        "grid": to_json(grid),
    }
    people = cohort_summary(dataset.covariates, model.schema, notes, dataset.participants)
    found: dict[str, ReportData | None] = {"about": ReportData(about), "cohort": people}
    spread = known_spread(dataset.values) if model.columns.grid is None else np.zeros(0)
    if "organs" not in model.capabilities:
        found["effects"] = _average_effects(model, dataset, spread)
    if person is not None:
        found["person"] = shown_person(model, dataset.select([person]), spread)
        found["fan"] = fan_report_data(model, dataset, person)
    return {name: exhibit for name, exhibit in found.items() if exhibit is not None}


def shown_person(model: Model, person: Dataset, spread: np.ndarray) -> ReportData | None:
    """Return a person (one row) who can be moved, with their name."""
    own = {str(name): value for name, value in person.covariates.iloc[0].items()}
    many = model.columns.names == () and model.columns.count > _MANY
    axes = axes_around(model.schema, own, _FEWER_COMBINATIONS if many else MOST_COMBINATIONS)
    transformed = transformed_participant(model, person.with_values(np.asarray(person.values)), axes, spread)
    return (
        None
        if transformed is None
        else ReportData({"person": str(person.keys[0]), **transformed.content}, transformed.arrays)
    )
