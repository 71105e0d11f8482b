"""Data of the report of an export or of counterfactuals: a few participants before and after."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from medrep.cohort.cohort import Cohort
from medrep.cohort.features import in_columns
from medrep.cohort.grid import Columns
from medrep.cohort.kinds import InputKind
from medrep.cohort.parsing import shown
from medrep.derivatives.bids import described_name
from medrep.derivatives.transform import Transform
from medrep.models.linear.random_effects import changing_covariates, time_of
from medrep.report.data_forecast import fan_report_data
from medrep.report.data_store import ReportData, as_bytes, cohort_summary, evenly, known_mean, known_spread, stepped
from medrep.report.data_training import shown_person

_ROWS, _MOST_TABLE, _FEATURES, _GROUPS = 4, 2000, 6, 24
_TRACKS, _TRACKED = 40, 2  # people whose visits are drawn, and features
_MOST_CELLS = 2**22  # of rows that come from files


def chosen_participants(frame: pd.DataFrame, removed: Sequence[str], able: pd.Index) -> list[str]:
    """Return a few people of those who have something to show: one a level of what was removed, else evenly spread."""
    own = frame[frame.index.isin(able)]
    levels = [name for name in removed if name in own and own[name].dtype.kind not in "fiu"]
    if levels:
        firsts = own[levels[0]].astype(str).drop_duplicates()
        keys = [*firsts.index, *own.index.difference(firsts.index, sort=False)]
    else:
        keys = list(own.index[evenly(len(own), _ROWS)])
    return [str(key) for key in keys[:_ROWS]]


def _before_after_images(
    files: Mapping[str, tuple[Path, Path]], wanted: InputKind[Any], frame: pd.DataFrame
) -> ReportData:
    """Return three slices a person through the middle of the common grid, before, after, and what changed."""
    arrays: dict[str, np.ndarray] = {}
    people = []
    pictures, window = wanted.pictures([path for pair in files.values() for path in pair])
    images = {key: (pictures[2 * k], pictures[2 * k + 1]) for k, key in enumerate(files)}
    differences = {key: np.nan_to_num(after - before) for key, (before, after) in images.items()}
    change = stepped(np.array([np.abs(difference).max(initial=0.0) for difference in differences.values()]))
    for number, (key, (before, after)) in enumerate(images.items()):
        labels = ", ".join(f"{name} {shown(frame.loc[key, name])}" for name in frame.columns)
        people.append({"name": key, "covariates": labels})
        for plane in range(3):
            middle = _middle(before, plane)
            pair = [np.nan_to_num(np.take(image, middle, axis=plane)) for image in (before, after)]
            scaled = [image.astype(np.uint8) if window is None else as_bytes(image, *window) for image in pair]
            arrays[f"{number}_{plane}_before"], arrays[f"{number}_{plane}_after"] = scaled
            slice_ = np.take(differences[key], middle, axis=plane)
            arrays[f"{number}_{plane}_change"] = np.rint(slice_ / change).astype(np.int8)
    return ReportData({"kind": wanted.kind, "people": people, "step": change}, arrays)


def _before_after_features(
    mover: Transform, cohort: Cohort, frame: pd.DataFrame, removed: Sequence[str]
) -> ReportData | None:
    """Return means and deviations of groups, of the features that differed most between groups before.

    At most 2000 people are looked at, fewer where wide rows come from files; groups are levels of the first covariate that was
    moved, or halves of a continuous one.
    """
    group = next((name for name in removed if name in frame), "")
    if not group:
        return None
    before, keys = _rows(cohort.select(frame.index), mover.model.columns)
    own = frame.loc[keys]
    after = mover.transform(
        mover.model.dataset(before, own, cohort.table.loc[keys, "participant_id"].astype(str).tolist())
    )
    groups = _halves(own[group]) if own[group].dtype.kind in "fiu" else own[group].astype(str)
    levels = [str(level) for level in groups.value_counts().index[:_GROUPS]]
    means = np.stack([known_mean(before[(groups == level).to_numpy()]) for level in levels])
    spread = known_spread(before)
    apart = means.std(axis=0) / np.where(spread > 0, spread, np.inf)
    rows = [
        {
            "feature": mover.model.columns.names[k],
            "groups": [
                {
                    "group": level,
                    "n": int(own.sum()),
                    "before": _moments(before[own, k]),
                    "after": _moments(after[own, k]),
                }
                for level in sorted(levels)
                for own in [(groups == level).to_numpy()]
            ],
        }
        for k in np.argsort(-apart, kind="stable")[:_FEATURES]
    ]
    return ReportData({"kind": "features", "group": group, "people": len(keys), "rows": rows})


def _visits(mover: Transform, cohort: Cohort, frame: pd.DataFrame, removed: Sequence[str]) -> ReportData | None:
    """Return people who came again, before and after, over the time that changes within them; None where nobody did.

    Those who changed what was removed come first, and features that differ most between its levels.
    """
    group = next((name for name in removed if name in mover.model.schema.batches and name in frame), "")
    whose = cohort.table.loc[frame.index, "participant_id"].astype(str)
    several = whose[whose.duplicated(keep=False)]
    time = time_of(changing_covariates(mover.model.schema, frame, whose.to_numpy(object))) if len(several) else ""
    if not (group and time):
        return None
    changes = frame.loc[several.index, group].astype(str).groupby(several).nunique()
    chosen = changes.sort_values(ascending=False, kind="stable").index[:_TRACKS]
    keys = several.index[several.isin(chosen)]
    before = in_columns(cohort.source.features.rows(keys), mover.model.columns.names).values
    own, names = frame.loc[keys], whose.loc[keys]
    after = mover.transform(mover.model.dataset(before, own, names.tolist()))
    levels = own[group].astype(str)
    means = pd.DataFrame(before).groupby(levels.to_numpy()).mean().to_numpy()
    spread = known_spread(before)
    apart = np.nan_to_num(means.std(axis=0) / np.where(spread > 0, spread, np.inf))
    rows = []
    for k in np.argsort(-apart, kind="stable")[:_TRACKED]:
        people = []
        for person in chosen:
            mine = np.flatnonzero(names.to_numpy() == person)
            mine = mine[np.argsort(own[time].to_numpy(float)[mine], kind="stable")]
            mine = mine[np.isfinite(before[mine, k]) & np.isfinite(after[mine, k])]
            people.append(
                {
                    "times": own[time].to_numpy(float)[mine].tolist(),
                    "before": before[mine, k].tolist(),
                    "after": after[mine, k].tolist(),
                    "levels": levels.to_numpy()[mine].tolist(),
                }
            )
        rows.append({"feature": mover.model.columns.names[k], "people": people})
    return ReportData({"time": time, "group": group, "people": len(changes), "rows": rows})


def _middle(image: Float[np.ndarray, "x y z"], axis: int) -> int:
    """Return the middle of what is there."""
    inside = np.flatnonzero(np.nan_to_num(image).any(axis=tuple(k for k in range(3) if k != axis)))
    return int((inside[0] + inside[-1]) // 2) if len(inside) else image.shape[axis] // 2


def _halves(values: pd.Series) -> pd.Series:
    middle = float(values.median())
    return values.map(lambda value: f"above {middle:.4g}" if value > middle else f"up to {middle:.4g}")


def _moments(values: Shaped[np.ndarray, " people"]) -> list[float]:
    known = values[np.isfinite(values)]
    return [float(known.mean()), float(known.std())] if len(known) else [0.0, 0.0]


def transform_report_data(
    out: Path,
    mover: Transform,
    cohort: Cohort,
    frame: pd.DataFrame,
    about: Mapping[str, Any],
    desc: str,
    person: str | None,
) -> dict[str, ReportData]:
    """Return what was done, the cohort of the people who were delivered, a few before and after, and a person to move.

    `about` is what the sidecars say, and `frame` has no columns where nobody looked at covariates. Without a person nobody
    may be shown.
    """
    model, removed = mover.model, list(mover.target)
    found: dict[str, ReportData | None] = {"about": ReportData(dict(about))}
    if len(frame.columns):
        whose = cohort.table.loc[frame.index, "participant_id"].astype(str).tolist()
        found["cohort"] = cohort_summary(frame, model.schema, cohort.notes, whose)
    if not cohort.input.on_grid:
        found["before_after"] = _before_after_features(mover, cohort, frame, removed)
        if person is not None and cohort.input.tabular and len(frame.columns):
            found["visits"] = _visits(mover, cohort, frame, removed)
    elif person is not None:
        files = {str(key): Path(str(path)) for key, path in cohort.source.files.items()}
        pairs = {
            key: (files[key], out / str(described_name(files[key].relative_to(cohort.root).as_posix(), desc)))
            for key in chosen_participants(frame, removed, cohort.table.index)
        }
        found["before_after"] = _before_after_images(pairs, cohort.input, frame)
    if person is not None and len(frame.columns):
        row = cohort.input.row(cohort.source, person, model.columns)
        found["person"] = shown_person(model, model.dataset(row[None], frame.loc[[person]]), _spread(mover, cohort))
        if cohort.input.tabular:
            rows = in_columns(cohort.source.features.rows(frame.index), model.columns.names).values
            whose = cohort.table.loc[frame.index, "participant_id"].astype(str).tolist()
            found["fan"] = fan_report_data(model, model.dataset(rows, frame, whose), person)
    return {name: exhibit for name, exhibit in found.items() if exhibit is not None}


def _spread(mover: Transform, cohort: Cohort) -> np.ndarray:
    """Return how much people differ in each column; 0 where columns are points of a grid."""
    columns = mover.model.columns
    if cohort.input.on_grid:
        return np.zeros(columns.count)
    if cohort.input.tabular:
        return known_spread(in_columns(cohort.source.features, columns.names).values)
    return known_spread(_rows(cohort, columns)[0])


def _rows(cohort: Cohort, columns: Columns) -> tuple[Shaped[np.ndarray, "people columns"], pd.Index]:
    """Return rows of some people, evenly spread, in the columns of a model, and whose they are."""
    everybody = cohort.table.index
    if cohort.input.tabular:
        keys = everybody[evenly(len(everybody), _MOST_TABLE)]
        return in_columns(cohort.source.features.rows(keys), columns.names).values, keys
    keys = everybody[evenly(len(everybody), max(1, min(_MOST_TABLE, _MOST_CELLS // columns.count)))]
    return np.stack([cohort.input.row(cohort.source, str(key), columns) for key in keys]), keys
