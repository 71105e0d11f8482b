"""Groups of participants: levels, bins and intersections of columns, and the estimate of one group.

A specification is a list of columns, ``sex,age:20/40/60/80,site``. After the colon stand the edges of bins, or ``levels``,
``quartiles`` or ``decades``. Without a colon a column of numbers with more than ten different values is cut into decades if it is
called age and into quartiles of the people audited otherwise; every other column is taken by its levels. A bin holds its
lower edge and not its upper one. People whose value is missing are a group of their own, ``sex=(missing)``; nobody is left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from medrep.audit.finding import Finding
from medrep.audit.intervals import (
    area_interval,
    expanded_interval,
    sample_weights,
    share_interval,
    studentised_interval,
)
from medrep.audit.metrics import ParticipantMean, ParticipantMetric
from medrep.cohort.parsing import merge_levels, parse_level, parse_number
from medrep.errors import ConfigError, CovariateError, listed

MISSING = "(missing)"
WAYS = ("levels", "quartiles", "decades")
_FEW_VALUES = 10
_MOST_GROUPS = 500
_FORM = "write for instance sex,age:20/40/60/80,site, or column:levels, column:quartiles, column:decades"


@dataclass(frozen=True)
class Split:
    """How one column divides people.

    Attributes:
        column: The column.
        edges: Of its bins, increasing; none leaves it to ``way``.
        way: One of `WAYS`; empty leaves it to the column's values.
    """

    column: str
    edges: tuple[float, ...] = ()
    way: str = ""


@dataclass(frozen=True, eq=False)
class Grouping:
    """Everybody's group.

    Attributes:
        name: Of the column, or of several joined by a comma.
        labels: The groups in order, ``sex=F``; also those that nobody is in, where edges or levels name them.
        codes: Each person's place in ``labels``.
        missing: The places of groups of people who lack a value; rows of the table, never part of a gap.
        numbers: The column's values where it is a column of numbers (NaN where missing), else None.
        note: How bins were chosen and what was read inexactly; empty for levels.
    """

    name: str
    labels: tuple[str, ...]
    codes: Int[np.ndarray, " people"]
    missing: frozenset[int]
    numbers: Float[np.ndarray, " people"] | None = None
    note: str = ""


def parse_by(text: str) -> tuple[Split, ...]:
    """Read a specification such as ``sex,age:20/40/60/80,site``.

    Raises:
        ConfigError: Parts that cannot be read, and columns named twice; all of them.
    """
    splits, offenders = [], []
    for part in (part.strip() for part in text.split(",")):
        column, colon, rest = (piece.strip() for piece in part.partition(":"))
        if not column:
            offenders.append(f"{part!r} names no column")
        elif not colon or rest in WAYS:
            splits.append(Split(column, way=rest))
        else:
            edges = [parse_number(edge) for edge in rest.split("/")]
            values = tuple(edge.value for edge in edges)
            if any(edge.reading != "exact" for edge in edges):
                offenders.append(f"{part!r}: {rest!r} is neither edges nor {', '.join(WAYS)}")
            elif any(low >= high for low, high in pairwise(values)):
                offenders.append(f"{part!r}: edges have to increase")
            else:
                splits.append(Split(column, values))
    names = [split.column for split in splits]
    offenders += [f"{name!r} is named twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    if offenders:
        raise ConfigError(listed(f"groups {text!r} cannot be read", offenders, _FORM))
    return tuple(splits)


def parse_intersect(text: str, by: Sequence[Split] = ()) -> tuple[Split, ...]:
    """Read the columns of one intersection; a column without edges takes those it has in ``by``.

    Raises:
        ConfigError: Parts that cannot be read, or fewer than two columns.
    """
    splits = parse_by(text)
    if len(splits) < 2:
        raise ConfigError(f"an intersection needs two columns or more, {text!r} names one; write for instance sex,site")
    known = {split.column: split for split in by}
    return tuple(split if split.edges or split.way else known.get(split.column, split) for split in splits)


def group_participants(
    frame: pd.DataFrame, by: Sequence[Split], intersections: Sequence[Sequence[Split]] = ()
) -> list[Grouping]:
    """Put everybody into a group of each column, and of each intersection.

    Args:
        frame: A row a person (or a session); numbers, or text as participants.tsv holds it.
        by: Columns to divide by (`parse_by`).
        intersections: Columns to divide by together (`parse_intersect`).

    Raises:
        CovariateError: Columns the table does not have, cells that are no numbers where bins are wanted, columns with too
            many levels; all of them.
    """
    wanted = [*by, *(split for splits in intersections for split in splits)]
    absent = dict.fromkeys(split.column for split in wanted if split.column not in frame)
    if absent:
        cure = f"the table has {', '.join(map(str, frame.columns))}"
        raise CovariateError(listed("columns to group by that are not there", list(absent), cure))
    offenders: list[str] = []
    made: dict[Split, Grouping] = {}
    for split in dict.fromkeys(wanted):
        try:
            made[split] = _group(frame[split.column], split)
        except CovariateError as error:
            offenders.append(str(error))
    if offenders:
        raise CovariateError(offenders[0] if len(offenders) == 1 else listed("columns to group by", offenders))
    return [
        *(made[split] for split in by),
        *(_intersect([made[split] for split in splits]) for splits in intersections),
    ]


def _intersect(groupings: Sequence[Grouping]) -> Grouping:
    """Divide people by several groupings at once.

    Every combination of groups without missing values is listed, also those that nobody is in; one with a missing value
    only where somebody is in it.

    Raises:
        CovariateError: More combinations than anybody would read.
    """
    name = ",".join(grouping.name for grouping in groupings)
    combined = np.stack([grouping.codes for grouping in groupings], axis=1)
    present = {tuple(row) for row in combined.tolist()}
    whole = [
        [place for place in range(len(grouping.labels)) if place not in grouping.missing] for grouping in groupings
    ]
    if math.prod(map(len, whole)) > _MOST_GROUPS:
        raise CovariateError(
            f"{name} has {math.prod(map(len, whole))} intersections, at most {_MOST_GROUPS} are audited"
        )
    complete = list(product(*whole))
    partial = sorted(present - set(complete))
    places = {cell: place for place, cell in enumerate([*complete, *partial])}
    return Grouping(
        name,
        tuple(" & ".join(g.labels[place] for g, place in zip(groupings, cell, strict=True)) for cell in places),
        np.array([places[tuple(row)] for row in combined.tolist()], dtype=np.int64),
        frozenset(range(len(complete), len(places))),
        note="; ".join(dict.fromkeys(f"{g.name}: {g.note}" for g in groupings if g.note)),
    )


def _group(values: pd.Series, split: Split) -> Grouping:
    texts = [_text(cell) for cell in values]
    readable = [parse_number(text) for text in texts]
    numeric = all(number.reading != "unreadable" for number in readable)
    # What is below 20 belongs below an edge at 20.
    below = np.array([text.strip().startswith("<") for text in texts], dtype=bool)
    numbers = np.array([number.value for number in readable], dtype=float)
    numbers = np.where(below, np.nextafter(numbers, -np.inf), numbers)
    many = len(np.unique(numbers[np.isfinite(numbers)])) > _FEW_VALUES
    if not split.edges and (split.way == "levels" or (not split.way and not (numeric and many))):
        return _by_level(values, split.column)
    bad = [
        f"{key}: {split.column} is {text!r}"
        for key, text, number in zip(values.index, texts, readable, strict=True)
        if number.reading == "unreadable"
    ]
    if bad:
        raise CovariateError(listed(f"{split.column} is cut into bins, but these are no numbers", bad, "correct them"))
    inexact = sum(number.reading in {"range", "bound"} for number in readable)
    edges, note = (split.edges, "edges as given") if split.edges else _edges(numbers, split)
    if inexact:
        note = f"{note}; {inexact} ranges read at their middle, or bounds at themselves"
    return _by_bin(numbers, split.column, edges, note)


def _by_level(values: pd.Series, column: str) -> Grouping:
    levels = [parse_level(text) for text in map(_text, values)]
    present = [level for level in levels if level is not None and level != MISSING]
    one_spelling = merge_levels(present)
    names = sorted(set(one_spelling.values()))
    if len(names) > _MOST_GROUPS:
        raise CovariateError(
            f"{column} has {len(names)} levels, at most {_MOST_GROUPS} are audited; group by another column or by bins"
        )
    places = {level: names.index(one_spelling[level]) for level in one_spelling}
    codes = np.array([places.get(level or MISSING, len(names)) for level in levels], dtype=np.int64)
    return _with_missing(column, [f"{column}={name}" for name in names], codes, None, "")


def _by_bin(numbers: np.ndarray, column: str, edges: tuple[float, ...], note: str) -> Grouping:
    if edges:
        dash = "-" if edges[0] >= 0 else " to "
        middle = [f"{column}={low:.10g}{dash}{high:.10g}" for low, high in pairwise(edges)]
        labels = [f"{column}<{edges[0]:.10g}", *middle, f"{column}>={edges[-1]:.10g}"]
    else:
        labels = [f"{column}=(one value)"]
    codes = np.searchsorted(np.asarray(edges), numbers, side="right").astype(np.int64)
    codes[np.isnan(numbers)] = len(labels)
    return _with_missing(column, labels, codes, numbers, note)


def _with_missing(column: str, labels: list[str], codes: np.ndarray, numbers: np.ndarray | None, note: str) -> Grouping:
    lacking = bool((codes == len(labels)).any())
    missing = frozenset({len(labels)} if lacking else ())
    return Grouping(column, (*labels, *([f"{column}={MISSING}"] if lacking else [])), codes, missing, numbers, note)


def _edges(numbers: np.ndarray, split: Split) -> tuple[tuple[float, ...], str]:
    present = numbers[np.isfinite(numbers)]
    if not len(present):
        return (), "nobody has a value"
    if split.way == "decades" or (not split.way and split.column.lower() == "age"):
        low, high = float(present.min()), float(present.max())
        tens = np.arange(math.floor(low / 10) + 1, math.floor(high / 10) + 1) * 10.0
        if 0 < len(tens) < _MOST_GROUPS:
            return tuple(float(ten) for ten in tens), "decades"
    # Edges are rounded before people are counted, so that a label says what was done.
    digits = 2 - math.floor(math.log10(np.ptp(present))) if np.ptp(present) > 0 else 0
    quartiles = {round(float(edge), digits) for edge in np.quantile(present, [0.25, 0.5, 0.75])}
    return tuple(sorted(edge for edge in quartiles if edge > present.min())), "quartiles of the people audited"


def _text(cell: object) -> str:
    if cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    return f"{cell:.12g}" if isinstance(cell, float) else str(cell)


@dataclass(frozen=True)
class Least:
    """How many participants a group needs.

    Attributes:
        people: In all.
        of_a_class: Of each class of a binary outcome.
    """

    people: int = 20
    of_a_class: int = 10


@dataclass(frozen=True, eq=False)
class MeasuredGroup:
    """A group's row of the table and what comparing it needs.

    Attributes:
        found: The row.
        error: Standard error of the estimate; NaN where there are too few people.
        deviations: Bootstrap deviations from the estimate, as they come.
        place: The group's place among its grouping's labels.
    """

    found: Finding
    error: float
    deviations: Float[np.ndarray, " draws"]
    place: int = 0

    @property
    def enough(self) -> bool:
        """True if the group has enough participants for an estimate."""
        return self.found.status == "ok"


def measure_group(
    metric: str,
    label: str,
    statistic: ParticipantMetric,
    rows: Int[np.ndarray, " group"],
    least: Least,
    draws: int,
    rng: np.random.Generator,
) -> MeasuredGroup:
    """Measure a statistic on some rows.

    Args:
        metric: Its name in the table.
        label: The group's.
        statistic: What is measured.
        rows: The group's, all of them with what the statistic needs.
        least: How many participants are needed.
        draws: Bootstrap samples of the group's participants.
        rng: Of these.
    """
    people = len(np.unique(statistic.participants[rows]))
    counts = (people, people)
    short = [f"{people} of the {least.people} participants needed"] if people < max(least.people, 2) else []
    outcome = statistic.outcome()
    if outcome is not None:
        owners, classes = statistic.participants[rows], outcome[rows]
        counts = (len(np.unique(owners[classes == 0])), len(np.unique(owners[classes == 1])))
        short += [
            f"{count} of the {least.of_a_class} participants needed with outcome {own}"
            for own, count in enumerate(counts)
            if count < max(least.of_a_class, 1)
        ]
    if short:
        row = Finding(metric, label, people, status="insufficient", note="; ".join(short))
        return MeasuredGroup(row, np.nan, np.empty(0))
    value, error = (float(part[0]) for part in statistic.measure(np.ones((1, len(rows))), rows))
    drawn = [statistic.measure(weights, rows) for weights in sample_weights(statistic.participants[rows], draws, rng)]
    values, errors = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    notes = [statistic.unit] if statistic.unit else []
    if people < len(rows):
        notes.append(f"{len(rows)} rows")
    if isinstance(statistic, ParticipantMean):
        low, high = _interval_of_mean(statistic, value, error, values, errors, people, len(rows))
    else:
        low, high = expanded_interval(values[np.isfinite(values)], people)
        formula = area_interval(value, counts[1], counts[0])
        low, high = min(low, formula[0]), max(high, formula[1])
    if np.isnan(low):
        notes.append("no interval: everybody has the same value")
    row = Finding(metric, label, people, value, low, high, note="; ".join(notes))
    return MeasuredGroup(row, error, np.nan_to_num(values - value))


def with_absent(row: Finding, statistic: ParticipantMetric, rows: Int[np.ndarray, " group"]) -> Finding:
    """Return a row that says how many of its group have no value."""
    absent = int(np.count_nonzero(~statistic.present()[rows]))
    return noted(row, f"{absent} of {len(rows)} rows have no value" if absent else "")


def noted(row: Finding, text: str) -> Finding:
    """Return a row whose note says one thing more."""
    return replace(row, note="; ".join(part for part in (row.note, text) if part))


def _interval_of_mean(
    statistic: ParticipantMean,
    value: float,
    error: float,
    values: np.ndarray,
    errors: np.ndarray,
    people: int,
    rows: int,
) -> tuple[float, float]:
    if statistic.is_share:
        return share_interval(value, error, people, rows)
    if not error > 0:
        return np.nan, np.nan
    return studentised_interval(value, error, values, errors, people)
