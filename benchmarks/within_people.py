"""The audit of change within people: how often its test finds a switch where there is none, and its intervals the truth.

People at four sites come two or three times, half of them changing site, each with a slope of their own or none; visits have
normal or lognormal noise in ten columns. Nothing is planted for the test's level; for the interval of a switch, sites differ by
a deviation of noise in the mean over columns, and the truth is in the unit of the finding, the mean length of deviations within
people over that of normal noise; for change kept, four fifths of it are left, with noise beside.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pandas as pd

from benchmarks.planted_errors import ERRORS
from benchmarks.report import Line, Options, Report, Table, say
from medrep.audit.finding import Finding
from medrep.audit.means import Sampling
from medrep.audit.visits import Visits
from medrep.audit.within_person import Switch, audit_within_people, switch_size
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.simulate.visits import FollowUp, plan_visits

_PEOPLE, _COLUMNS, _SEEDS, _DRAWS = (40, 120), 10, 200, 300
_DECLARED = (Covariate("age", "continuous"), Covariate("site", "categorical", role="batch"))
_CASES = tuple(
    (people, visits, slope, errors)
    for people in _PEOPLE
    for visits, slope in ((2, 0.0), (2, 0.3), (3, 0.0), (3, 0.3))
    for errors in ("normal", "lognormal")
)


def _cohort(people: int, visits: int, seed: int) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Return people without values, whose each visit is, and years since their first."""
    rng = np.random.default_rng([seed, people, visits])
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{k:03d}" for k in range(people)],
            "age": rng.uniform(20, 80, people),
            "site": [f"S{k % 4}" for k in range(people)],
        }
    )
    plan = plan_visits(table, FollowUp(visits), seed=seed)
    frame = plan.table[["age", "site"]].set_index(plan.table["participant_id"] + plan.table["session_id"])
    schema = CovariateSchema.fit(frame, _DECLARED)
    columns = Columns(tuple(f"c{k}" for k in range(_COLUMNS)), _COLUMNS, None)
    empty = np.zeros((len(frame), _COLUMNS))
    whose = plan.table["participant_id"].tolist()
    return Dataset(empty, schema.transfer(frame), schema, columns, whose), plan.person, plan.years


def _audit(dataset: Dataset, raw: np.ndarray, exported: np.ndarray, seed: int) -> dict[tuple[str, str], Finding]:
    tables = {"raw": raw, "exported": exported}
    found = audit_within_people(tables, dataset, ("site",), Sampling(seed, 10, _DRAWS))
    return {(one.metric, one.group): one for one in found}


def _size(dataset: Dataset, values: np.ndarray, seed: int) -> Finding:
    if (visits := Visits.of(dataset)) is None:
        raise RuntimeError("nobody came again")
    switch = Switch.of(visits.centred(values), visits, "site")
    return switch_size(Finding("within_switch", "raw/site", 0), switch, Sampling(seed, 10, _DRAWS))


def _apart(dataset: Dataset, person: np.ndarray, effects: np.ndarray) -> float:
    """Return the root mean square difference of two sites, over columns and over people seen in both."""
    site = dataset.covariates["site"].str[1:].astype(int).to_numpy()
    squares = [
        float(((effects[a] - effects[b]) ** 2).mean())
        for who in np.unique(person)
        for a in set(site[person == who].tolist())
        for b in set(site[person == who].tolist())
        if a < b
    ]
    return math.sqrt(float(np.mean(squares)))


@cache
def _unit(errors: str, visits: int) -> float:
    """Return the mean length of a person's deviations over that of normal noise."""
    of, normal = (ERRORS[one](np.random.default_rng(22), (1_000_000, visits)) for one in (errors, "normal"))
    lengths = [np.sqrt(((part - part.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)).mean() for part in (of, normal)]
    return float(lengths[0] / lengths[1])


def _case(people: int, visits: int, slope: float, errors: str, seed: int) -> dict[str, float]:
    dataset, person, years = _cohort(people, visits, seed)
    rng = np.random.default_rng([7, seed, people, visits])
    own = slope * rng.normal(size=(people, _COLUMNS))[person] * years[:, None]
    noise = ERRORS[errors](rng, own.shape)
    effects = rng.normal(size=(4, _COLUMNS)) / math.sqrt(2)
    site = dataset.covariates["site"].str[1:].astype(int).to_numpy()
    none = _audit(dataset, own + noise, 0.8 * (own + noise) + 0.4 * rng.normal(size=own.shape), seed)
    test, auc = none["within_switch", "raw/site"], none["within_switch_auc", "raw/site"]
    found = {
        "level": float(test.p <= 0.05),
        "within_switch of none": float(test.ci_low == 0),
        "within_switch_auc of none": float(auc.ci_low <= 0.5 <= auc.ci_high),
    }
    kept = none["change_slope", "exported"]
    found["change_slope"] = float(kept.ci_low <= 0.8 <= kept.ci_high)
    if not slope:
        switched = _size(dataset, noise + effects[site], seed)
        apart = _apart(dataset, person, effects) / _unit(errors, visits)
        found["within_switch"] = float(switched.ci_low <= apart <= switched.ci_high)
    correlation = none["change_correlation", "exported"]
    return found | {f"correlation {end}": getattr(correlation, end) for end in ("estimate", "ci_low", "ci_high")}


def run(options: Options) -> Report:
    """Measure level and coverage in every case (``--quick``: 20 seeds)."""
    rows, seeds = [], 20 if options.quick else _SEEDS
    for people, visits, slope, errors in _CASES:
        say(f"within_people: {people} people, {visits} visits, slopes {slope:g}, {errors}")
        found = pd.DataFrame([_case(people, visits, slope, errors, seed) for seed in range(seeds)])
        truth = found.pop("correlation estimate").mean()
        ends = found.pop("correlation ci_low"), found.pop("correlation ci_high")
        found["change_correlation"] = ((ends[0] <= truth) & (truth <= ends[1])).astype(float)
        case = {"people": people, "visits": visits, "slopes": slope, "errors": errors, "seeds": seeds}
        rows.append(case | found.mean().to_dict())
    table = pd.DataFrame(rows)
    slack = 2 * math.sqrt(0.05 * 0.95 / seeds)
    lines = [
        Line(
            "within_people",
            "turned signs: p <= .05 in 3.5 to 6.5% of cohorts without a switch, within two standard errors",
            f"{table['level'].min():.3f} to {table['level'].max():.3f}",
            bool(table["level"].between(0.035 - slack, 0.065 + slack).all()),
        )
    ]
    for name in (
        "within_switch of none",
        "within_switch",
        "within_switch_auc of none",
        "change_slope",
        "change_correlation",
    ):
        own = table[name].dropna()
        lines.append(
            Line(
                "within_people",
                f"{name}: at least 93% of intervals hold the truth, within two standard errors",
                f"{own.min():.3f} to {own.max():.3f}",
                bool((own >= 0.93 - slack).all()),
            )
        )
    title = "Change within people: level of the test, and how often 95% intervals hold the truth"
    return Report({"within_people": Table(table, tuple(table.columns), title)}, tuple(lines))
