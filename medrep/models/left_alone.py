"""Values that a model leaves as they are: point masses, columns without a fit, levels without a measurement."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import Categorical, CovariateSchema, membership
from medrep.cohort.dataset import Dataset
from medrep.cohort.image_quality import background, looked_at
from medrep.models.base import Model
from medrep.models.exceptions import FEW, NEVER, PointMasses, find, sample_of, shown_cell, told

_MOST_SAID = 20


class _Unmeasured(NamedTuple):
    """A value that nobody of a level, a cell as ``site=S3``, had when the model was trained."""

    person: str
    column: str
    cell: str

    def __str__(self) -> str:
        return f"{self.person}: {self.column}, which nobody of {self.cell} had in training"


def unmeasured(
    model: Model,
    dataset: Dataset,
    target: "Mapping[str, str | float] | None" = None,
) -> list[_Unmeasured]:
    """List the values of new people of which the model knows no effect, where they are or are moved to; none of images."""
    support, names = model.exceptions.support, model.columns.names
    if model.columns.grid is not None or not len(support.columns):
        return []
    data, frame = dataset.values, dataset.covariates
    transformed = frame if target is None else model.schema.transformed(frame, target)
    member = support.of(frame) | support.of(transformed)
    if target is not None:
        member &= ~(frame[list(target)] == transformed[list(target)]).all(axis=1).to_numpy()[:, None]
    columns = support.columns
    values = np.asarray(data[:, columns], dtype=np.float64)
    masses = model.exceptions.masses.within(np.asarray(data, dtype=np.float64), slice(0, data.shape[1]))
    has = np.isfinite(values) & (True if masses is None else ~masses[:, columns])
    found = []
    for cell, codes, own in zip(support.cells, support.codes, member.T, strict=True):
        for row, column in np.argwhere(has & own[:, None] & (codes == NEVER)):
            found.append(_Unmeasured(str(frame.index[row]), names[columns[column]], shown_cell(cell)))
    return found


def summed(cells: Sequence[_Unmeasured]) -> list[str]:
    """Return one line a column and level: ``f0 of site=S3 (12 people)``."""
    people: dict[tuple[str, str], set[str]] = {}
    for one in cells:
        people.setdefault((one.column, one.cell), set()).add(one.person)
    return [f"{column} of {cell} ({len(own)} people)" for (column, cell), own in people.items()]


def left_alone(model: Model) -> dict[str, Any]:
    """Return what a model leaves alone as the content of a sidecar: no key for what it does not have.

    ``PointMasses``: values that stay, with their share of the training people; of images the value and how many voxels held it.
    ``NotMeasured``, ``HardlyMeasured``: levels, and the columns that nobody, or all but one or two, of theirs had; of images how
    many. ``LeftAsTheyAre``: columns without a fit.
    """
    left, images, names = model.exceptions, model.columns.grid is not None, model.columns.names
    content: dict[str, Any] = {}
    if images and len(left.masses.values):
        values, counts = np.unique(left.masses.values[left.masses.shares > 0], return_counts=True)
        masses = [{"value": float(v), "voxels": int(n)} for v, n in zip(values, counts, strict=True)]
    else:
        masses = [] if images else told(left.masses, names)
    content |= {"PointMasses": masses} if masses else {}
    for key, code in (("NotMeasured", NEVER), ("HardlyMeasured", FEW)):
        found: dict[str, Any] = {}
        for cell, codes in zip(left.support.cells, left.support.codes, strict=True):
            columns = left.support.columns[codes == code]
            if len(columns):
                found[shown_cell(cell)] = len(columns) if images else [names[column] for column in columns]
        content |= {key: found} if found else {}
    if len(left.unfitted) and not images:
        content["LeftAsTheyAre"] = [names[column] for column in left.unfitted]
    return content


def notes_on(content: Mapping[str, Any]) -> list[str]:
    """Return what `left_alone` found as sentences."""
    notes = []
    if "PointMasses" in content:
        notes.append(f"stay as they are: {_few([_mass(one) for one in content['PointMasses']])}")
    for key, said in (
        ("NotMeasured", "has no effect in columns that nobody of it had"),
        ("HardlyMeasured", "stays as it is where all but one or two of its people have such a value"),
    ):
        for cell, columns in content.get(key, {}).items():
            notes.append(f"{cell} {said}: {f'{columns} voxels' if isinstance(columns, int) else _few(columns)}")
    if "LeftAsTheyAre" in content:
        notes.append(
            f"columns without a fit (constant, mostly one value, too few values): {_few(content['LeftAsTheyAre'])}"
        )
    return notes


def table_notes(
    values: Float[np.ndarray, "people columns"], names: tuple[str, ...], frame: pd.DataFrame, schema: CovariateSchema
) -> list[str]:
    """Say which values of a table stand for nothing, before anything is fitted."""
    data = np.where(np.isfinite(values), values, np.nan)
    batches = [covariate for name in schema.batches if isinstance(covariate := schema[name], Categorical)]
    chunks = [membership(frame[covariate.declared.name], covariate) for covariate in batches]
    levels = np.concatenate([np.zeros((len(frame), 0)), *chunks], axis=1)
    ordered = np.sort(data[sample_of(frame.index, data.shape[1])], axis=0)
    found = find(data, ordered, levels)
    count = np.maximum(np.isfinite(data).sum(axis=0), 1)
    masses = PointMasses(found, np.array([(data == row).sum(axis=0) / count for row in found]).reshape(found.shape))
    content = told(masses, names)
    return notes_on({"PointMasses": content} if content else {})


def image_notes(rows: Iterable[Float[np.ndarray, " voxels"]]) -> list[str]:
    """Say which value is background of some images' voxels, before anything is fitted."""
    images = np.stack(list(rows))
    ground = background([images[row] for row in looked_at(pd.Index(range(len(images))))])
    if ground is None:
        return []
    return [f"background: voxels that are exactly {ground:g} ({np.mean(images == ground):.0%} of all) stay as they are"]


def _few(shown: Sequence[str]) -> str:
    more = f" and {len(shown) - _MOST_SAID} more" if len(shown) > _MOST_SAID else ""
    return ", ".join(shown[:_MOST_SAID]) + more


def _mass(one: Mapping[str, Any]) -> str:
    if "voxels" in one:
        return f"exactly {one['value']:g} (background, in {one['voxels']} voxels of somebody)"
    return f"{one['column']} where it is exactly {one['value']:g} ({one['share']:.0%} of people)"
