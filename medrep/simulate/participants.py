"""Simulated participants, whose covariates hang together as in pooled studies, and random streams by name."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import truncnorm

from medrep.errors import CohortError, CovariateError, listed


def stream(seed: int, *names: str) -> np.random.Generator:
    """Open the random stream that belongs to a seed and a path of names, such as ``"brain", "sub-0001"``.

    The same arguments give the same draws; another path gives an independent stream.
    """
    return np.random.default_rng([seed, *(int.from_bytes(name.encode(), "little") for name in names)])


CENTRE_YEARS = 50.0


def age_terms(age: Float[np.ndarray, " people"]) -> Float[np.ndarray, "people 2"]:
    """Compute the two terms of the curve ``a * t + b * max(0, t)^2`` with ``t = (age - 50) / 10``, age in years.

    Both columns are zero at fifty.
    """
    decades = (age - CENTRE_YEARS) / 10.0
    return np.stack([decades, np.maximum(decades, 0.0) ** 2], axis=1)


def age_curve(age: float, linear: float, quadratic: float) -> float:
    """Evaluate the age curve for one person: the change from age fifty, in the unit of the coefficients."""
    decades = (age - CENTRE_YEARS) / 10.0
    return linear * decades + quadratic * max(0.0, decades) ** 2


YOUNGEST, OLDEST = 20.0, 85.0
SITE_MEAN_AGES = (40.0, 64.0)
AGE_SD_WITHIN_SITE = 12.0
FEMALE_SHARES = (0.4, 0.6)
PATIENT_SHARE = 0.3
LEVELS = {"sex": ("F", "M"), "diagnosis": ("control", "patient")}


def simulate_participants(n: int, *, n_sites: int = 4, seed: int = 0) -> pd.DataFrame:
    """Draw a table of participants in which site and age are entangled.

    The sites' mean ages lie evenly between 40 and 64 years in an order that the seed decides; within a site the sd is
    12 years, so that the sites overlap. Their shares of women run from 0.4 to 0.6. About three in ten are patients, in
    every site of two or more.

    Args:
        n: Number of people.
        n_sites: Number of sites, named ``S0``, ``S1`` and so on. Each gets at least two people if n allows.
        seed: Any integer from 0; the same seed gives the same table.

    Returns:
        A table of n rows: participant_id (``sub-0001`` on), age (years, one decimal, 20 to 85), sex (F or M), site and
        diagnosis (control or patient).

    Raises:
        CohortError: If there are fewer people than sites, or no site.
    """
    if n_sites < 1 or n < n_sites:
        raise CohortError(f"{n} people cannot fill {n_sites} sites; ask for at least one site and one person for each")
    rng = stream(seed, "participants")
    sure = np.tile(np.arange(n_sites), min(2, n // n_sites))
    shares = rng.dirichlet(np.full(n_sites, 20.0))
    site = rng.permutation(np.concatenate([sure, rng.choice(n_sites, size=n - len(sure), p=shares)]))
    mean_age = rng.permutation(np.linspace(*SITE_MEAN_AGES, n_sites)) if n_sites > 1 else np.array([52.0])
    female = rng.permutation(np.linspace(*FEMALE_SHARES, n_sites)) if n_sites > 1 else np.array([0.5])
    low, high = ((edge - mean_age[site]) / AGE_SD_WITHIN_SITE for edge in (YOUNGEST, OLDEST))
    age = mean_age[site] + AGE_SD_WITHIN_SITE * truncnorm.ppf(rng.random(n), low, high)
    sex = np.where(rng.random(n) < female[site], "F", "M")
    patient = np.zeros(n, dtype=bool)
    for index in range(n_sites):
        people = np.flatnonzero(site == index)
        # Rounding at random keeps the share at 0.3 however small the sites are.
        wanted = int(np.floor(PATIENT_SHARE * len(people) + rng.random()))
        wanted = min(max(wanted, 1), len(people) - 1)
        patient[rng.choice(people, size=wanted, replace=False)] = True
    width = max(4, len(str(n)))
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{number:0{width}d}" for number in range(1, n + 1)],
            "age": np.round(age, 1),
            "sex": sex.astype(str).tolist(),
            "site": [f"S{index}" for index in site],
            "diagnosis": np.where(patient, "patient", "control").tolist(),
        }
    )


def require_columns(participants: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a table whose covariates a simulator could not use, with all reasons listed.

    The columns are some of participant_id, age, sex, site and diagnosis. Raises CovariateError if columns are missing,
    values are missing, ids repeat or a level is unknown.
    """
    absent = [f"column {column!r}" for column in columns if column not in participants.columns]
    if absent:
        present = ", ".join(map(str, participants.columns))
        raise CovariateError(listed("the participants table lacks", absent, f"its columns are: {present}"))
    ids = participants["participant_id"].astype(str)
    offenders = [f"{person}: more than one row" for person in ids[ids.duplicated()].unique()]
    for column in columns:
        values = participants[column]
        missing = values.isna()
        offenders += [f"{person}: no {column}" for person in ids[missing]]
        if column == "age" and not pd.api.types.is_numeric_dtype(values):
            offenders.append(f"age holds {values.dtype}, not numbers of years")
        for level in values[~missing].unique() if column in LEVELS else ():
            if level not in LEVELS[column]:
                offenders.append(f"{column} {level!r} is not one of {', '.join(LEVELS[column])}")
    if offenders:
        raise CovariateError(listed("these participants cannot be simulated", offenders, "mend or drop these rows"))
