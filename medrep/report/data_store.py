"""Data that reports show and no table of a run holds, as files; the summary of a cohort."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from medrep._files import atomic_folder, write_json
from medrep._texts import read_json
from medrep.audit.confounding import confounding, small_levels
from medrep.cohort.covariates import Categorical, Continuous, CovariateSchema, describe_covariates
from medrep.cohort.participants import taken_rows
from medrep.errors import MedrepError

_MOST_SMOOTHED = 2**20  # voxels


def resized(image: Float[np.ndarray, "x y z"], shape: Sequence[int]) -> Float[np.ndarray, "a b c"]:
    """Return an image on fewer voxels of the same box, smoothed first, so that nothing is missed between them."""
    if tuple(shape) == image.shape:
        return image.astype(np.float32)
    if image.size > _MOST_SMOOTHED and all(few <= length for few, length in zip(shape, image.shape, strict=True)):
        return _averaged(image, shape)
    from scipy.ndimage import gaussian_filter, zoom  # half a second, which tables do not need

    factors = np.array(image.shape) / np.array(shape)
    smooth = gaussian_filter(image.astype(np.float32), np.maximum(0, (factors - 1) / 2))
    fewer = zoom(smooth, 1 / factors, order=1, mode="nearest", grid_mode=True)
    return np.asarray(np.clip(fewer, smooth.min(), smooth.max()), np.float32)


def _averaged(image: Float[np.ndarray, "x y z"], shape: Sequence[int]) -> Float[np.ndarray, "a b c"]:
    """Return the means over boxes of voxels, which whole heads are resized by in a tenth of the time."""
    found: np.ndarray = image.astype(np.float32, copy=False)
    for axis, few in enumerate(shape):
        starts = np.linspace(0, image.shape[axis], few, endpoint=False).round().astype(int)
        counts = np.diff(np.append(starts, image.shape[axis])).astype(np.float32)
        found = np.add.reduceat(found, starts, axis=axis) / counts.reshape([-1 if k == axis else 1 for k in range(3)])
    return found


def as_bytes(image: Float[np.ndarray, "..."], low: float, high: float) -> np.ndarray:
    """Return grey values 0 to 255 for intensities from low to high."""
    return np.clip((image - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)


def stepped(changes: Float[np.ndarray, "..."], levels: int = 127) -> float:
    """Return the step in which changes fit into whole numbers from -levels to levels."""
    return max(float(np.abs(changes).max(initial=0.0)) / levels, 1e-12)


_PEOPLE = 500


def evenly(count: int, most: int) -> Int[np.ndarray, " chosen"]:
    """Return positions from 0 to count - 1, all of them or evenly taken."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(most, count)).astype(int))


def known_mean(data: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, " columns"]:
    """Return the mean of what is known of each column; 0 where nothing is."""
    known = np.isfinite(data)
    return np.where(known, data, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)


def known_spread(data: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, " columns"]:
    """Return the standard deviation of each column: of 500 people at most, evenly taken; 0 where nothing is known."""
    some = taken_rows(data, evenly(len(data), _PEOPLE))
    return np.sqrt(known_mean((some - known_mean(some)) ** 2))


FOLDER = "report"


@dataclass(frozen=True, eq=False)
class ReportData:
    """One thing to show: JSON content, and arrays by name."""

    content: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def write_report_data(out: Path, exhibits: Mapping[str, ReportData]) -> None:
    """Replace what OUT/report holds; the same data give the same bytes."""
    with atomic_folder(out / FOLDER) as partial:
        for name, exhibit in exhibits.items():
            if exhibit.arrays:
                arrays = {key: np.ascontiguousarray(array) for key, array in exhibit.arrays.items()}
                save_file(arrays, partial / f"{name}.safetensors")
            write_json(partial / f"{name}.json", exhibit.content)


def read_report_data(out: Path, name: str) -> ReportData | None:
    """Return an exhibit; None where a command had nothing to show. Raises MedrepError for a damaged file."""
    path = out / FOLDER / f"{name}.json"
    arrays = path.with_suffix(".safetensors")
    if not path.is_file():
        return None
    try:
        content = read_json(path.read_text(encoding="utf-8"))
        return ReportData(dict(content), load_file(arrays) if arrays.is_file() else {})
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise MedrepError(f"{path}: damaged ({reason}); call the command that wrote {out} again") from None


_BINS = 24
_EVERYBODY = "everybody"


def cohort_summary(
    frame: pd.DataFrame,
    schema: CovariateSchema,
    notes: Sequence[str] = (),
    participants: Sequence[str] | None = None,
) -> ReportData:
    """Summarise the covariates of people, with notes of what was read with care; without `participants` each row is a person."""
    grouped_by = next(iter(schema.batches), "") or next(
        (c.declared.name for c in schema.fitted if isinstance(c, Categorical)), ""
    )
    groups = frame[grouped_by].astype(str) if grouped_by else pd.Series(_EVERYBODY, index=frame.index)
    numbers = [_spread(frame, covariate, groups) for covariate in schema.fitted if isinstance(covariate, Continuous)]
    levels = [
        {"name": c.declared.name, "levels": [[level, int(n)] for level, n in counts.items()]}
        for c in schema.fitted
        if isinstance(c, Categorical)
        for counts in [frame[c.declared.name].astype(str).value_counts().sort_index()]
    ]
    content = {
        "people": len(frame) if participants is None else len(set(participants)),
        "grouped_by": grouped_by,
        "covariates": describe_covariates(schema).to_dict("records"),
        "numbers": numbers,
        "levels": levels,
        "confounding": confounding(frame, schema, participants).to_dict("records"),
        "small": small_levels(schema, frame=frame, participants=participants),
        "notes": list(notes),
    }
    return ReportData(content)


def _spread(frame: pd.DataFrame, covariate: Continuous, groups: pd.Series) -> dict[str, object]:
    """Return a histogram for each group, all over the same edges."""
    values = frame[covariate.declared.name].astype(float)
    edges = np.linspace(float(values.min()), float(max(values.max(), values.min() + 1e-9)), _BINS + 1)
    rows = []
    for level, own in values.groupby(groups.to_numpy(), sort=True):
        counts = np.histogram(own, edges)[0]
        sd = float(own.std()) if len(own) > 1 else 0.0
        rows.append(
            {
                "group": str(level),
                "n": len(own),
                "mean": float(own.mean()),
                "sd": sd,
                "counts": [int(count) for count in counts],
            }
        )
    return {
        "name": covariate.declared.name,
        "unit": covariate.declared.unit,
        "edges": [float(edge) for edge in edges],
        "groups": rows,
    }
