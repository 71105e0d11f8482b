"""A table of regional features (cortical thickness, say) whose every covariate effect is known."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.errors import CohortError
from medrep.simulate.participants import age_terms, require_columns, stream
from medrep.simulate.visits import Schedule, draw_own

UNIT_MM = 0.15
RANK = 6
REFERENCE_SITE = "S0"
STEADY = 0.75
"""Share of a column's own variance that stays the same between a person's visits."""
CHANGE_MM, CHANGE_SPREAD_MM, SLOPE_MM = -0.0075, 0.0045, 0.015
"""A year within people: mean and spread over columns of what all have in common, and the deviation of people's own slopes."""


@dataclass(frozen=True)
class SimulatedFeatures:
    """A simulated table, rows by participant_id and columns ``region_001`` on, in mm, together with what made it.

    `clean` has the same people's features had everybody been scanned at the reference site; `truth` every parameter, ready
    for JSON.
    """

    participants: pd.DataFrame
    features: pd.DataFrame
    clean: pd.DataFrame
    truth: dict[str, Any]


@dataclass(frozen=True)
class SimulatedVisits:
    """A simulated table, rows by participant_id and session_id.

    `clean` has the same visits had all been made at the reference site; `levels` and `slopes` what is a person's own, rows by
    participant_id: in mm, and in mm a year beyond what all people have in common.
    """

    features: pd.DataFrame
    clean: pd.DataFrame
    levels: pd.DataFrame
    slopes: pd.DataFrame
    truth: dict[str, Any]


@dataclass(frozen=True)
class _Effects:
    intercept: Float[np.ndarray, " columns"]
    age: Float[np.ndarray, "2 columns"]
    male: Float[np.ndarray, " columns"]
    patient: Float[np.ndarray, " columns"]
    loadings: Float[np.ndarray, "rank columns"]
    noise_sd: Float[np.ndarray, " columns"]


def simulate_features(participants: pd.DataFrame, *, n_features: int = 60, seed: int = 0) -> SimulatedFeatures:
    """Draw features for these people, with and without the effect of their sites.

    The generating process, for person i at site s and feature j::

        mean_ij     = intercept_j + age1_j t_i + age2_j max(0, t_i)^2 + male_j [M] + patient_j [patient]
        residual_ij = sum_k z_ik loadings_kj + noise_sd_j e_ij          z, e ~ N(0, 1)
        clean_ij    = mean_ij + residual_ij
        feature_ij  = mean_ij + location_sj + scale_sj residual_ij

    with t = (age - 50) / 10. Site ``S0`` has location 0 and scale 1 and is the reference. The z and e belong to the
    person's id and the seed alone: the same person at another age or site keeps them, which gives true counterfactuals.

    Args:
        participants: A table with participant_id, age (years), sex, site and diagnosis.
        n_features: Number of columns.
        seed: Any integer from 0.

    Returns:
        Tables of shape (people, n_features), and the truth.

    Raises:
        CohortError: If n_features is under one.
        CovariateError: If a column, a value or a level is not usable.
    """
    if n_features < 1:
        raise CohortError(f"n_features is {n_features}; ask for at least 1")
    require_columns(participants, ["participant_id", "age", "sex", "site", "diagnosis"])
    effects = _draw_effects(n_features, seed)
    ids = [str(person) for person in participants["participant_id"]]
    site = [str(name) for name in participants["site"]]
    site_effects = {name: _draw_site(name, n_features, seed) for name in sorted(set(site))}

    terms = age_terms(participants["age"].to_numpy(dtype=np.float64))
    mean = (
        effects.intercept
        + terms @ effects.age
        + np.outer(participants["sex"].to_numpy() == "M", effects.male)
        + np.outer(participants["diagnosis"].to_numpy() == "patient", effects.patient)
    )
    residual = np.stack([_draw_residual(person, effects, seed) for person in ids]) if ids else np.empty_like(mean)
    location = np.array([site_effects[name][0] for name in site]).reshape(mean.shape)
    scale = np.array([site_effects[name][1] for name in site]).reshape(mean.shape)

    columns = [f"region_{number:0{max(3, len(str(n_features)))}d}" for number in range(1, n_features + 1)]
    index = pd.Index(ids, name="participant_id")
    return SimulatedFeatures(
        participants=participants.copy(),
        features=pd.DataFrame(mean + location + scale * residual, index=index, columns=columns),
        clean=pd.DataFrame(mean + residual, index=index, columns=columns),
        truth=_truth(columns, effects, site_effects, seed),
    )


def simulate_visits(
    people: pd.DataFrame, schedule: Schedule, *, n_features: int = 60, seed: int = 0
) -> SimulatedVisits:
    """Draw features of people's visits, with and without the effect of their sites.

    For visit j of person i, years_ij after the first one, at site s and feature k::

        clean_ijk   = mean_ik + level_ik + (change_k + slope_ik) years_ij + noise_sd_k e_ijk
        feature_ijk = clean_ijk + location_sk + (scale_sk - 1) noise_sd_k e_ijk

    with the mean of `simulate_features` at the age of the first visit, so that people who differ in age differ otherwise than
    people change. Levels have the variance of its residual but for a quarter of noise_sd squared, which is the visits' noise.

    Args:
        people: As of `simulate_features`, as they come first.
        schedule: Their visits.
        n_features: Number of columns.
        seed: Any integer from 0.
    """
    first = simulate_features(people, n_features=n_features, seed=seed)
    effects, columns = _draw_effects(n_features, seed), list(first.clean.columns)
    ids = [str(person) for person in people["participant_id"]]
    levels = np.stack([_draw_residual(person, effects, seed, np.sqrt(STEADY)) for person in ids])
    mean = first.clean.to_numpy() - np.stack([_draw_residual(person, effects, seed) for person in ids])
    change = CHANGE_MM + CHANGE_SPREAD_MM * stream(seed, "features", "change").standard_normal(n_features)
    slopes, noise = draw_own(schedule, n_features, seed=seed)
    slopes *= SLOPE_MM
    noise_sd = np.sqrt(1 - STEADY) * effects.noise_sd
    noise *= noise_sd
    person, years = schedule.person, schedule.years[:, None]
    clean = (mean + levels)[person] + (change + slopes[person]) * years + noise
    sites = {name: _draw_site(name, n_features, seed) for name in sorted(set(schedule.table["site"]))}
    location, scale = (np.array([sites[name][part] for name in schedule.table["site"]]) for part in (0, 1))
    index, who = schedule.index, pd.Index(ids, name="participant_id")
    visits = {
        "formula": "mean(first age) + level + (change + slope) * years + location + scale * noise_sd * e",
        "change": change.tolist(),
        "slope_sd": SLOPE_MM,
        "noise_sd": noise_sd.tolist(),
    }
    return SimulatedVisits(
        pd.DataFrame(clean + location + (scale - 1) * noise, index, columns),
        pd.DataFrame(clean, index, columns),
        pd.DataFrame(levels, who, columns),
        pd.DataFrame(slopes, who, columns),
        {**first.truth, "visits": visits},
    )


def _draw_effects(n_features: int, seed: int) -> _Effects:
    rng = stream(seed, "features")
    focal = np.zeros(n_features)
    focal[rng.choice(n_features, size=max(1, n_features // 5), replace=False)] = 1.0
    return _Effects(
        intercept=rng.uniform(2.0, 3.2, n_features),
        age=UNIT_MM * np.stack([rng.normal(-0.25, 0.12, n_features), -rng.uniform(0.02, 0.16, n_features)]),
        male=UNIT_MM * rng.normal(0.0, 0.4, n_features),
        patient=-UNIT_MM * focal * rng.uniform(0.6, 1.2, n_features),
        loadings=UNIT_MM * rng.normal(0.0, 0.6 / np.sqrt(RANK), (RANK, n_features)),
        noise_sd=UNIT_MM * rng.uniform(0.4, 0.7, n_features),
    )


def _draw_residual(person: str, effects: _Effects, seed: int, own: float = 1.0) -> Float[np.ndarray, " columns"]:
    rng = stream(seed, "features", "person", person)
    identity = rng.standard_normal(len(effects.loadings)) @ effects.loadings
    return identity + own * effects.noise_sd * rng.standard_normal(len(effects.noise_sd))


def _draw_site(
    site: str, n_features: int, seed: int
) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
    if site == REFERENCE_SITE:
        return np.zeros(n_features), np.ones(n_features)
    rng = stream(seed, "features", "site", site)
    return UNIT_MM * rng.normal(0.0, 0.6, n_features), np.exp(rng.uniform(-0.35, 0.35, n_features))


def _truth(
    columns: list[str],
    effects: _Effects,
    sites: dict[str, tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]],
    seed: int,
) -> dict[str, Any]:
    return {
        "unit": "mm",
        "seed": seed,
        "columns": columns,
        "intercept": effects.intercept.tolist(),
        "age": {
            "curve": "linear * t + quadratic * max(0, t)^2, t = (age - 50) / 10",
            "linear": effects.age[0].tolist(),
            "quadratic": effects.age[1].tolist(),
        },
        "sex": {"reference": "F", "M": effects.male.tolist()},
        "diagnosis": {"reference": "control", "patient": effects.patient.tolist()},
        "site": {
            "reference": REFERENCE_SITE,
            "levels": {name: {"location": at.tolist(), "scale": by.tolist()} for name, (at, by) in sites.items()},
        },
        "noise_sd": effects.noise_sd.tolist(),
        "loadings": effects.loadings.tolist(),
    }
