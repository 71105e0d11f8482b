"""Charts: centiles of features over a covariate, with people among them, as a table and as pictures.

Whatever is not drawn is the same for all: curves are at one value of it (the model's reference, the pooled site), and people are
moved there from quantile to quantile, as a removal moves them, so that where they lie among the curves is how unusual they are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medrep._files import atomic_file
from medrep.cohort.covariates import Categorical, Continuous, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.parsing import shown
from medrep.derivatives.bids import MISSING, rows_text
from medrep.errors import CovariateError
from medrep.models import Model
from medrep.models.base import Curves

POSITIONS = 50
MOST_GROUPS = 12
COLUMNS = ("probability", "value", "ci_low", "ci_high")
_ROOM = 0.6  # of the height of the curves, above and below, within which people are drawn at their place


@dataclass(frozen=True, eq=False)
class Layout:
    """Layout of a chart: what curves are drawn over, by, and at.

    Attributes:
        along: The covariate that curves are drawn over.
        unit: Of it.
        positions: Values of it, over the range of training.
        by: Covariates of which each combination of levels has curves of its own.
        groups: These combinations.
        at: The other covariates, and the value that everybody has.
        frame: Covariates of all places, those of a group side by side.
    """

    along: str
    unit: str
    positions: Float[np.ndarray, " positions"]
    by: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    at: Mapping[str, str | float]
    frame: pd.DataFrame

    @classmethod
    def of(
        cls, schema: CovariateSchema, along: str, by: Sequence[str] | None, wanted: Mapping[str, str | float]
    ) -> "Layout":
        """Lay out a chart.

        Args:
            schema: The covariates of the model.
            along: Empty for age, or else the first continuous covariate.
            by: None for sex, or else the first categorical covariate of few levels that is no batch.
            wanted: Values of covariates that are not at their reference.

        Raises:
            CovariateError: Covariates that the model does not know or that curves cannot be drawn over or by.
        """
        effects = [c for c in schema.fitted if c.declared.role != "batch"]
        numbers = {c.declared.name: c for c in effects if isinstance(c, Continuous)}
        levels = {c.declared.name: c.levels for c in schema.fitted if isinstance(c, Categorical)}
        if not numbers:
            raise CovariateError("curves are drawn over a continuous covariate, and the model has none")
        along = along or ("age" if "age" in numbers else next(iter(numbers)))
        if along not in numbers:
            raise CovariateError(f"--along {along}: curves are drawn over {' or '.join(numbers)}")
        if along in wanted:
            raise CovariateError(f"--set {along}: curves are drawn over it; give another covariate with --along")
        free = {name: own for name, own in levels.items() if name not in wanted}
        if by is None:
            few = [name for name, own in free.items() if len(own) <= MOST_GROUPS and name not in schema.batches]
            by = ("sex",) if "sex" in few else few[:1]
        wrong = [name for name in by if name not in free]
        if wrong:
            allowed = ", ".join(free) or "nothing: the model has no such covariate that --set does not name"
            raise CovariateError(f"--by {', '.join(wrong)}: curves are drawn by {allowed}")
        groups = tuple(product(*(free[name] for name in by)))
        if len(groups) > MOST_GROUPS:
            raise CovariateError(
                f"--by {', '.join(by)}: {len(groups)} groups are too many for a picture (at most {MOST_GROUPS}); name fewer"
                " covariates, or fix one with --set"
            )
        fixed = {name: wanted.get(name, schema[name].reference) for name in schema.names if name not in (along, *by)}
        own = numbers[along]
        positions = np.linspace(own.low, own.high, POSITIONS)
        frame = pd.DataFrame({along: np.tile(positions, len(groups))})
        for place, name in enumerate(by):
            frame[name] = np.repeat([group[place] for group in groups], POSITIONS)
        for name, value in fixed.items():
            frame[name] = [value] * len(frame)
        return cls(along, own.declared.unit, positions, tuple(by), groups, fixed, frame[list(schema.names)])

    def group(self, frame: pd.DataFrame) -> Int[np.ndarray, " people"]:
        """Return the group that each of some people belongs to."""
        place = {group: k for k, group in enumerate(self.groups)}
        cells = zip(*(frame[name].astype(str) for name in self.by), strict=True) if self.by else [()] * len(frame)
        return np.array([place[tuple(cell)] for cell in cells], int)

    def heading(self, group: int) -> str:
        """Return what a group is called."""
        return ", ".join(f"{name} {level}" for name, level in zip(self.by, self.groups[group], strict=True))

    @property
    def said(self) -> str:
        """The same for all, in words."""
        return ", ".join(f"{name} {shown(value)}" for name, value in self.at.items())


@dataclass(frozen=True, eq=False)
class Placed:
    """Placed among curves: visits of people, in the columns of the chart.

    Attributes:
        keys: Of visits.
        times: The covariate that curves are drawn over.
        groups: Which curves are theirs.
        values: As they are drawn, in units of the data.
        z: How unusual they are.
        before: Row of the person's visit before; -1 at first visits.
        expected: What the visit before is where z stays as it was; NaN at first visits.
    """

    keys: tuple[str, ...]
    times: Float[np.ndarray, " visits"]
    groups: Int[np.ndarray, " visits"]
    values: Float[np.ndarray, "visits features"]
    z: Float[np.ndarray, "visits features"]
    before: Int[np.ndarray, " visits"]
    expected: Float[np.ndarray, "visits features"]

    @classmethod
    def of(cls, model: Model, dataset: Dataset, layout: Layout, *, transformed: bool) -> "Placed":
        """Place people.

        Args:
            model: The chart.
            dataset: The people.
            layout: Of the curves.
            transformed: Whether they are moved to what curves are at; else they are as they were measured.
        """
        frame, drawn = dataset.covariates, dataset
        if transformed and layout.at:
            there = frame.assign(**{name: [value] * len(frame) for name, value in layout.at.items()})
            drawn = model.dataset(model.transform(dataset, there[list(layout.at)]), there, dataset.participants)
        times = frame[layout.along].to_numpy(float)
        before = previous_visits(dataset.whose.tolist(), times)
        values = np.asarray(drawn.values, float)
        expected = np.full(values.shape, np.nan)
        later = np.flatnonzero(before >= 0)
        if len(later):
            earlier = drawn.take(before[later])
            to = drawn.covariates.iloc[later].set_axis(earlier.covariates.index)
            expected[later] = model.transform(earlier, to)
        keys = tuple(str(key) for key in dataset.keys)
        return cls(
            keys,
            times,
            layout.group(frame),
            values,
            model.deviations(dataset).compute(slice(0, model.columns.count)),
            before,
            expected,
        )


def previous_visits(whose: Sequence[str], times: Float[np.ndarray, " visits"]) -> Int[np.ndarray, " visits"]:
    """Return the row of each person's visit before; -1 at first visits."""
    found, last = np.full(len(times), -1), dict[str, int]()
    for row in np.argsort(times, kind="stable").tolist():
        found[row] = last.get(whose[row], -1)
        last[whose[row]] = row
    return found


@dataclass(frozen=True, eq=False)
class Chart:
    """Centiles of features, and people among them.

    Attributes:
        layout: What they are drawn over, by and at.
        probabilities: Of the curves.
        names: Of the features.
        curves: At the places of the layout.
        placed: The people; None to show nobody.
    """

    layout: Layout
    probabilities: tuple[float, ...]
    names: tuple[str, ...]
    curves: Curves
    placed: Placed | None


def write_centiles(path: Path, chart: Chart) -> None:
    """Write a row a feature, place and probability: covariates, ``probability``, ``value`` and its 95 % interval."""
    frame, found = chart.layout.frame, chart.curves
    places = list(zip(*(_cells(frame[name]) for name in frame), strict=True))
    ids = ["\t".join((*place, f"{p:g}")) for place in places for p in chart.probabilities]
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write(("\t".join(("feature", *frame.columns, *COLUMNS)) + "\n").encode())
        for k, name in enumerate(chart.names):
            numbers = np.stack([one[:, :, k].T.ravel() for one in (found.value, found.low, found.high)], axis=1)
            lines = rows_text(numbers).decode().splitlines()
            file.write("".join(f"{name}\t{one}\t{line}\n" for one, line in zip(ids, lines, strict=True)).encode())


def _cells(column: pd.Series) -> list[str]:
    return [f"{cell:.10g}" if isinstance(cell, float) else str(cell) for cell in column.tolist()]


def write_pictures(folder: Path, chart: Chart) -> Iterator[tuple[str, str]]:
    """Draw a PNG of each feature that has curves; yield name and file as each is done. Nobody is named in it."""
    taken = set[str]()
    for k, name in enumerate(chart.names):
        if not np.isfinite(chart.curves.value[:, :, k]).any():
            yield name, MISSING
            continue
        plain = (
            "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[:100].strip(".")
            or "feature"
        )
        file, number = f"{plain}.png", 1
        while file.casefold() in taken:
            number += 1
            file = f"{plain}-{number}.png"
        taken.add(file.casefold())
        _draw(folder / file, chart, k)
        yield name, file


_BLUE, _INK = "#0072B2", "#222222"


def span(chart: Chart, feature: int) -> tuple[float, float]:
    """Return the lowest and highest value that a picture shows: all curves, and people who are not far beyond them."""
    ends = np.stack([chart.curves.low[:, :, feature], chart.curves.high[:, :, feature]])
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    room = _ROOM * (high - low)
    own = np.zeros(0) if chart.placed is None else chart.placed.values[:, feature]
    own = own[np.isfinite(own)]
    if len(own):
        return max(min(low, float(own.min())), low - room), min(max(high, float(own.max())), high + room)
    return low, high


def _draw(path: Path, chart: Chart, feature: int) -> None:
    layout, count = chart.layout, len(chart.layout.groups)
    across = min(count, 3)
    down = -(-count // across)
    wide, tall = 4.0 * across + 1.0, 3.3 * down + 1.1
    figure = Figure(figsize=(wide, tall))
    FigureCanvasAgg(figure)
    # Laid out by hand, which takes half of the time.
    figure.subplots_adjust(0.8 / wide, 0.65 / tall, 1 - 0.35 / wide, 1 - 0.65 / tall, 0.12, 0.22)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    low, high = span(chart, feature)
    beyond = 0
    for group, axes in enumerate(panels[:count]):
        beyond += _draw_panel(axes, chart, feature, group, (low, high))
        axes.set_title(layout.heading(group), fontsize=9)
    for axes in panels[count:]:
        axes.set_visible(False)
    room = 0.03 * (high - low) or 1.0
    panels[0].set_ylim(low - room, high + room)
    unit = f" ({layout.unit})" if layout.unit else ""
    figure.supxlabel(f"{layout.along}{unit}", fontsize=9, y=0.12 / tall)
    more = f"; {beyond} beyond the picture, at its edge" if beyond else ""
    at = f" at {layout.said}" if layout.at else ""
    title = f"{chart.names[feature]}: centiles with 95 % bands{at}{more}"
    figure.suptitle(fill(title, int(13 * wide)), fontsize=10, y=1 - 0.08 / tall)
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _draw_panel(axes: Axes, chart: Chart, feature: int, group: int, ends: tuple[float, float]) -> int:
    """Draw people and curves of a group; return how many are beyond the picture."""
    layout, placed = chart.layout, chart.placed
    beyond = 0
    if placed is not None:
        own = np.flatnonzero((placed.groups == group) & np.isfinite(placed.values[:, feature]))
        values = placed.values[own, feature]
        far = (values < ends[0]) | (values > ends[1])
        beyond = int(far.sum())
        later = own[(placed.before[own] >= 0) & (placed.groups[placed.before[own]] == group)]
        if len(later):  # one line that is broken between people
            pairs = np.stack([placed.before[later], later], axis=1)
            steps = np.pad(placed.values[pairs, feature].clip(*ends), ((0, 0), (0, 1)), constant_values=np.nan)
            times = np.pad(placed.times[pairs], ((0, 0), (0, 1)), constant_values=np.nan)
            axes.plot(times.ravel(), steps.ravel(), color=_INK, lw=0.5, alpha=0.4)
        axes.plot(placed.times[own[~far]], values[~far], ".", color=_INK, ms=4.5, alpha=0.4, mew=0)
        axes.plot(placed.times[own[far]], values[far].clip(*ends), "x", color=_INK, ms=4, alpha=0.6)
    rows = slice(group * POSITIONS, (group + 1) * POSITIONS)
    middle = np.argmin(np.abs(np.asarray(chart.probabilities) - 0.5))
    for k, probability in enumerate(chart.probabilities):
        value, low, high = (one[k, rows, feature] for one in (chart.curves.value, chart.curves.low, chart.curves.high))
        axes.fill_between(layout.positions, low, high, color=_BLUE, alpha=0.18, lw=0)
        axes.plot(layout.positions, value, color=_BLUE, lw=1.8 if k == middle else 0.9)
        label = f"{100 * probability:g}"
        axes.annotate(
            label, (layout.positions[-1], value[-1]), (3, 0), textcoords="offset points", va="center", fontsize=7
        )
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return beyond


def about_columns(layout: Layout) -> dict[str, Any]:
    """Return what the columns of centiles.tsv are, as the content of a sidecar."""
    over = {"Description": "covariate that curves are drawn over, over the range of training"}
    return {
        "feature": {"Description": "column of the table of features"},
        layout.along: over | ({"Units": layout.unit} if layout.unit else {}),
        **{name: {"Description": "covariate; each of its levels has curves of its own"} for name in layout.by},
        **{name: {"Description": "covariate; the same for all curves"} for name in layout.at},
        "probability": {"Description": "share of people of these covariates who lie below"},
        "value": {"Description": "the centile, in units of the feature; n/a where the model says nothing"},
        "ci_low": {"Description": "lower end of its 95 % interval"},
        "ci_high": {"Description": "upper end of its 95 % interval"},
    }
