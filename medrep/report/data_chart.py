"""Data of the page of centiles: curves and people of all features, in whole numbers of a step of each feature's own."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int16

from medrep.derivatives.charts import POSITIONS, Chart, Placed, span
from medrep.report.data_store import ReportData, evenly

NOBODY = "nobody"
SIZE, CHANGE = "size", "change"
_ABSENT, _MOST = -32768, 32767
_CELLS, _VISITS = 2_000_000, 5000  # that a page holds and stays quick with
_Z = 1000.0  # steps in one z


def chart_report_data(chart: Chart) -> ReportData:
    """Return curves, people and their z; of very many people some, evenly taken, which ``left_out`` counts."""
    layout = chart.layout
    placed, left_out = (None, 0) if chart.placed is None else _fewer(chart.placed, len(chart.names))
    whole = [chart.curves.value, chart.curves.low, chart.curves.high]
    people = np.zeros((0, len(chart.names))) if placed is None else np.concatenate([placed.values, placed.expected])
    offsets, steps = _scaled(np.concatenate([*(one.reshape(-1, len(chart.names)) for one in whole), people]))
    curves = np.stack([_steps(one, offsets, steps) for one in whole])
    # feature, then value and ends, probability, group, position
    arrays = {"curves": curves.transpose(3, 0, 1, 2)}
    content: dict[str, Any] = {
        "kind": "chart",
        "axes": _axes(chart, placed),
        "back": "Back to the start",
        "along": layout.along,
        "unit": layout.unit,
        "positions": layout.positions.tolist(),
        "groups": [layout.heading(k) for k in range(len(layout.groups))],
        "places": POSITIONS,
        "at": layout.said,
        "probabilities": list(chart.probabilities),
        "offsets": offsets.tolist(),
        "steps": steps.tolist(),
        "spans": [
            list(span(chart, k)) if np.isfinite(chart.curves.value[:, :, k]).any() else []
            for k in range(len(chart.names))
        ],
        "left_out": left_out,
    }
    if placed is not None:
        arrays |= {
            "values": _steps(placed.values, offsets, steps).T,
            "expected": _steps(placed.expected, offsets, steps).T,
            "z": _steps(placed.z, np.zeros(1), np.full(1, 1 / _Z)).T,
        }
        content["people"] = {
            "times": placed.times.tolist(),
            "groups": placed.groups.tolist(),
            "before": placed.before.tolist(),
        }
    return ReportData(content, arrays)


def _axes(chart: Chart, placed: Placed | None) -> list[dict[str, Any]]:
    rows = [("feature", list(chart.names)), ("person", [NOBODY, *(() if placed is None else placed.keys)])]
    if placed is not None and (placed.before >= 0).any():
        rows.append(("shown", [SIZE, CHANGE]))
    return [
        {"name": name, "unit": "", "values": values, "own": 0, "low": None, "high": None, "plain": True}
        for name, values in rows
    ]


def _fewer(placed: Placed, features: int) -> tuple[Placed, int]:
    """Return as many people as a page holds, all visits of each, and how many visits are left out."""
    count, most = len(placed.keys), max(min(_VISITS, _CELLS // max(features, 1)), 1)
    if count <= most:
        return placed, 0
    first = np.arange(count)
    for _ in range(count):  # up to each person's first visit
        earlier = np.where(placed.before[first] >= 0, placed.before[first], first)
        if (earlier == first).all():
            break
        first = earlier
    persons = np.unique(first)
    rows = np.flatnonzero(np.isin(first, persons[evenly(len(persons), max(most * len(persons) // count, 1))]))
    place = np.full(count + 1, -1)
    place[rows] = np.arange(len(rows))
    return Placed(
        tuple(placed.keys[row] for row in rows),
        placed.times[rows],
        placed.groups[rows],
        placed.values[rows],
        placed.z[rows],
        place[placed.before[rows]],
        placed.expected[rows],
    ), count - len(rows)


def _scaled(
    values: Float[np.ndarray, "rows features"],
) -> tuple[Float[np.ndarray, " features"], Float[np.ndarray, " features"]]:
    """Return the middle of each feature, and the step in which all of its values fit into 16 bits."""
    known = np.isfinite(values)
    low = np.where(known, values, np.inf).min(axis=0)
    high = np.where(known, values, -np.inf).max(axis=0)
    some = known.any(axis=0)
    low, high = np.where(some, low, 0.0), np.where(some, high, 0.0)
    return (low + high) / 2, np.maximum((high - low) / (2 * _MOST), 1e-300)


def _steps(
    values: Float[np.ndarray, "*rows features"],
    offsets: Float[np.ndarray, " _"],
    steps: Float[np.ndarray, " _"],
) -> Int16[np.ndarray, "*rows features"]:
    known = np.isfinite(values)
    whole = np.round((np.where(known, values, 0.0) - offsets) / steps).clip(-_MOST, _MOST)
    return np.where(known, whole, _ABSENT).astype(np.int16)
