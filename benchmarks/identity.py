"""What is a person's own and no covariate's: a planted diagnosis, and being recognised in a second measurement."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

EFFECT = 0.35  # SD of a column, of a person of mean severity
THINNER = re.compile(r"temp.*thickness|^(Left|Right)-(Hippocampus|Amygdala)$")
WIDER = re.compile(r"^(Left|Right)-(Lateral|Inf-Lat)-Vent(ricle)?$")
NOISE = 0.5  # SD of a column
CONSTANT = 1e-9  # a column whose SD is under this share of its largest magnitude


def plant_diagnosis(
    features: pd.DataFrame, site: pd.Series, sd: np.ndarray, seed: int
) -> tuple[pd.DataFrame, pd.Series]:
    """Make half of the people of every site ill, whatever their age and sex.

    An ill person's temporal cortex is thinner, hippocampus and amygdala smaller and lateral ventricles wider, each by
    severity x EFFECT x SD, severity ~ Gamma(4, 1/4) of mean 1.

    Args:
        features: People x columns.
        site: Of the same people.
        sd: Of each column.
        seed: Of who is ill, and how severely.

    Returns:
        The features, and the diagnosis of each person, HC or AD.
    """
    rng = np.random.default_rng([seed, 2])  # not the draw that halves the sites, or all of one half would be ill
    ill = np.zeros(len(features), dtype=bool)
    for name in np.unique(site):
        people = rng.permutation(np.flatnonzero(site == name))
        ill[people[: (len(people) + rng.integers(2)) // 2]] = True
    severity = np.where(ill, rng.gamma(4.0, 0.25, len(features)), 0.0)
    signs = np.array([bool(WIDER.search(name)) - bool(THINNER.search(name)) for name in features.columns], dtype=float)
    transformed = features + EFFECT * np.outer(severity, signs * sd)
    return transformed, pd.Series(np.where(ill, "AD", "HC"), index=features.index)


def measure_again(X: np.ndarray, sd: np.ndarray, seed: int) -> np.ndarray:
    """Return the same people with measurement noise of NOISE SD in each column."""
    return X + NOISE * sd * np.random.default_rng([seed, 3]).standard_normal(X.shape)


def recognised(first: np.ndarray, second: np.ndarray) -> float:
    """Share of people whose second measurement is nearest to their own first one, among everybody's first.

    The distance is Euclidean over columns scaled by the SD of the first measurement; constant columns are left out.

    Args:
        first: People x columns.
        second: The same people in the same order, measured again.
    """
    sd = first.std(axis=0)
    varies = sd > CONSTANT * np.abs(first).max(axis=0)
    a, b = first[:, varies] / sd[varies], second[:, varies] / sd[varies]
    centre = a.mean(axis=0)  # differences of squares lose digits far from the origin
    a, b = a - centre, b - centre
    distance = (a**2).sum(axis=1)[None, :] - 2 * b @ a.T  # + |b|^2, the same for everybody in a row
    return float((distance.argmin(axis=1) == np.arange(len(a))).mean())
