"""One group's figure: the statistic on its people, its interval, or why there are too few of them."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from medrep.audit.findings import Finding
from medrep.audit.person_metrics import PersonMean, PersonMetric
from medrep.audit.resampling.relabelling import sample_weights
from medrep.audit.resampling.small_samples import (
    area_interval,
    expanded_interval,
    share_interval,
    studentised_interval,
)


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
        """Whether there are people enough to say something."""
        return self.found.status == "ok"


def measure_group(
    metric: str,
    label: str,
    statistic: PersonMetric,
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
    if isinstance(statistic, PersonMean):
        low, high = _interval_of_mean(statistic, value, error, values, errors, people, len(rows))
    else:
        low, high = expanded_interval(values[np.isfinite(values)], people)
        formula = area_interval(value, counts[1], counts[0])
        low, high = min(low, formula[0]), max(high, formula[1])
    if np.isnan(low):
        notes.append("no interval: everybody has the same value")
    row = Finding(metric, label, people, value, low, high, note="; ".join(notes))
    return MeasuredGroup(row, error, np.nan_to_num(values - value))


def with_absent(row: Finding, statistic: PersonMetric, rows: Int[np.ndarray, " group"]) -> Finding:
    """Return a row that says how many of its group have no value."""
    absent = int(np.count_nonzero(~statistic.present()[rows]))
    return noted(row, f"{absent} of {len(rows)} rows have no value" if absent else "")


def noted(row: Finding, text: str) -> Finding:
    """Return a row whose note says one thing more."""
    return replace(row, note="; ".join(part for part in (row.note, text) if part))


def _interval_of_mean(
    statistic: PersonMean,
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
