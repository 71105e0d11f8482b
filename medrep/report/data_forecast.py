"""Data of the fan of a report: visits of a few people, and what further ones are expected to measure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import Continuous
from medrep.cohort.dataset import Dataset
from medrep.models import Model
from medrep.models.linear.trajectories import last_visits
from medrep.report.data_store import ReportData, known_mean, known_spread

SHARES = (0.5, 0.8, 0.95)
"""Of what may be measured that the bands hold."""
_PEOPLE, _FEATURES, _YEARS = 8, 8, 25
_VAGUE = 1000.0  # times how much people differ: such an interval says nothing
_LEAST = 0.1  # of training's range of ages: how far is shown of people who were followed for less


def fan_report_data(model: Model, dataset: Dataset, person: str) -> ReportData | None:
    """Return visits of a few people and fans of what further ones are expected to measure; None of a model that says nothing.

    The person whom the report shows comes first, then those who were followed longest. Nobody else is named. Features are
    those that are expected to change most, relative to how much people differ.

    Args:
        model: The model.
        dataset: Visits of people.
        person: Key of whom the report shows.
    """
    if "forecast" not in model.capabilities or not model.columns.names:
        return None
    followed = model.schema[model.followed]
    chosen = _chosen(dataset, model, person)
    visits = dataset.take(np.flatnonzero(pd.Index(dataset.whose).isin(chosen)))
    names, times = visits.whose, visits.covariates[model.followed].to_numpy(float)
    place = {str(names[row]): int(row) for row in last_visits(times, names.tolist())}
    last = [place[who] for who in chosen]
    years = np.linspace(0, _horizon(dataset, model), _YEARS)
    fans, features = _fans(model, visits, last, chosen, years)
    if not len(features):
        return None
    levels = visits.covariates[list(model.schema.batches)].astype(str).agg("|".join, axis=1).to_numpy(object)
    people = []
    for who in chosen:
        own = np.flatnonzero(names == who)
        own = own[np.argsort(times[own], kind="stable")]
        values = np.asarray(visits.values[own][:, features]).astype(float)
        people.append(
            {
                "times": times[own].tolist(),
                "values": [[float(one) if np.isfinite(one) else None for one in column] for column in values.T],
                "switched": (levels[own][1:] != levels[own][:-1]).tolist(),
            }
        )
    labels = [str(visits.keys[last[0]]), *(f"person {k + 2}" for k in range(len(chosen) - 1))]
    columns = [str(model.columns.names[k]) for k in features]
    unit = followed.declared.unit
    after = f"{model.followed} after the last visit"
    axes: list[dict[str, Any]] = [
        {"name": name, "unit": "", "values": values, "own": 0, "low": None, "high": None, "plain": True}
        for name, values in (("person", labels), ("feature", columns))
    ]
    axes.append({**axes[0], "name": after, "unit": unit, "values": years.tolist(), "own": _YEARS - 1})
    axes[-1] |= {"low": 0.0, "high": float(years[-1])}
    content: dict[str, Any] = {
        "kind": "fan",
        "axes": axes,
        "back": "Back to the start",
        "time": model.followed,
        "unit": unit,
        "range": [followed.low, followed.high] if isinstance(followed, Continuous) else [],
        "people": people,
    }
    return ReportData(content, {"fans": fans.astype(np.float32)})


def _chosen(dataset: Dataset, model: Model, person: str) -> list[str]:
    """Return participants: whom the report shows, then those who were followed longest."""
    own = str(dataset.whose[dataset.keys.get_loc(person)])
    longest = _spans(dataset, model).sort_values(ascending=False, kind="stable").index
    return [own, *(str(who) for who in longest if who != own)][:_PEOPLE]


def _spans(dataset: Dataset, model: Model) -> pd.Series:
    """Return how long each person was followed."""
    times = dataset.covariates[model.followed].astype(float).groupby(dataset.whose, sort=False)
    return times.max() - times.min()


def _horizon(dataset: Dataset, model: Model) -> float:
    """Return how far is shown: as long as anybody was followed, and a tenth of training's range of ages at least."""
    followed = model.schema[model.followed]
    least = _LEAST * (followed.high - followed.low) if isinstance(followed, Continuous) else 0.0
    return float(max(_spans(dataset, model).max(), least)) or 1.0


def _fans(
    model: Model, visits: Dataset, last: Sequence[int], whose: Sequence[str], years: Float[np.ndarray, " years"]
) -> tuple[Float[np.ndarray, "people features years 4"], list[int]]:
    """Return the mean and halves of the bands, a year at a time, since all columns are forecast at once; and the columns."""
    here = visits.covariates.iloc[list(last)]
    spread = known_spread(visits.values)
    features: list[int] = []
    found = np.zeros((0, 0, 0, 1 + len(SHARES)))
    for place in (len(years) - 1, *range(len(years) - 1)):
        there = here.assign(**{model.followed: here[model.followed].astype(float) + years[place]})
        told = model.forecast(visits, there, list(whose))
        if not len(found):
            apart = known_mean(np.abs(told.estimate - np.asarray(visits.values[list(last)], float)))
            told_of = np.isfinite(told.estimate).any(axis=0) & (spread > 0)
            change = np.where(told_of, apart / np.where(spread > 0, spread, 1), -1)
            features = [int(k) for k in np.argsort(-change, kind="stable")[:_FEATURES] if change[k] >= 0]
            found = np.zeros((len(last), len(features), len(years), 1 + len(SHARES)))
        found[:, :, place, 0] = told.estimate[:, features]
        for k, share in enumerate(SHARES, 1):
            half = (told.interval(share)[1] - told.estimate)[:, features]
            found[:, :, place, k] = np.where(half > _VAGUE * spread[features], np.inf, half)
    return found, features
