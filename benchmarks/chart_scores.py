"""Scores of predictive distributions, computed alike for everybody from z, log densities and quantiles.

Scores of features are in units of each feature's deviation among the training people, so that a mean over features means
something. PIT is the normal distribution function of z.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata

LEVELS = (np.arange(200) + 0.5) / 200
"""Probabilities whose mean is an integral over (0, 1)."""
MIN_GROUP = 10
AGE_BINS = 3
SMALLEST_DENSITY = -20.0
"""What a log score counts at least: one person where a density is 0 would decide a mean."""


def log_score(log_density: np.ndarray, unit: np.ndarray) -> float:
    """Mean log density, higher is better; each value counts at least SMALLEST_DENSITY.

    Args:
        log_density: People x features, of what was observed, natural logarithm.
        unit: Deviation of each feature.
    """
    return float(np.maximum(log_density + np.log(unit), SMALLEST_DENSITY).mean())


def crps(quantiles: np.ndarray, observed: np.ndarray, unit: np.ndarray) -> float:
    """Mean continuous ranked probability score, lower is better: twice the mean pinball loss over LEVELS.

    Args:
        quantiles: LEVELS x people x features.
        observed: People x features.
        unit: Deviation of each feature.
    """
    total = np.zeros(observed.shape)
    for level, quantile in zip(LEVELS, quantiles, strict=True):
        error = observed - quantile
        total += 2 * np.maximum(level * error, (level - 1) * error)
    return float((total / len(LEVELS) / unit).mean())


def pit_error(z: np.ndarray) -> float:
    """Mean distance of the distribution function of PIT from that of a uniform one, over LEVELS and features.

    Args:
        z: People x features.
    """
    pit = norm.cdf(z)
    return float(np.mean([np.abs((pit <= level).mean(axis=0) - level).mean() for level in LEVELS]))


def pit_floor(people: int) -> float:
    """Error that a calibrated chart has with so many people: E|share - level| integrated over levels, nearly."""
    return float(np.sqrt(2 / np.pi) * np.pi / 8 / np.sqrt(people))


def pit_errors(z: np.ndarray, people: pd.DataFrame) -> dict[str, float]:
    """PIT errors overall, and their means over sites, ages in thirds and sexes of at least MIN_GROUP people.

    Args:
        z: People x features.
        people: Their age, sex and site.

    Returns:
        By ``pit``, ``pit_site``, ``pit_age`` and ``pit_sex``; each ``_floor`` is what calibrated charts would have.
    """
    thirds = pd.qcut(people["age"], AGE_BINS, labels=False, duplicates="drop").to_numpy()
    found = {"pit": pit_error(z), "pit_floor": pit_floor(len(z))}
    for name, groups in (("site", people["site"].to_numpy()), ("age", thirds), ("sex", people["sex"].to_numpy())):
        rows = [row for row in _members(groups) if row.sum() >= MIN_GROUP]
        if rows:
            found[f"pit_{name}"] = float(np.mean([pit_error(z[row]) for row in rows]))
            found[f"pit_{name}_floor"] = float(np.mean([pit_floor(int(row.sum())) for row in rows]))
    return found


def scored(
    z: np.ndarray, log_density: np.ndarray, quantiles: np.ndarray, observed: np.ndarray, unit: np.ndarray
) -> dict[str, float]:
    """Log score, CRPS, the share of z beyond 1.96, which should be .05, and how far shares below quantiles are from levels.

    The last is `pit_error` with quantiles in the place of z: a chart whose z are not those of its quantiles has two errors.

    Args:
        z: People x features.
        log_density: Of what was observed, people x features.
        quantiles: LEVELS x people x features.
        observed: People x features.
        unit: Deviation of each feature among the training people.
    """
    return {
        "log_score": log_score(log_density, unit),
        "crps": crps(quantiles, observed, unit),
        "beyond": float((np.abs(z) > 1.96).mean()),
        "coverage": float(np.abs((observed <= quantiles).mean(axis=1) - LEVELS[:, None]).mean()),
    }


def separation(ill: np.ndarray, others: np.ndarray, signs: np.ndarray) -> float:
    """Mean over features of the AUC with which z in the direction of the shift tells shifted people from others.

    Args:
        ill: z of the shifted people, people x features.
        others: z of the others, people x features.
        signs: Direction of the shift of each feature; features with 0 are left out.
    """
    found = []
    for k in np.flatnonzero(signs):
        ranks = rankdata(np.concatenate([ill[:, k], others[:, k]]) * signs[k])[: len(ill)]
        found.append((ranks.sum() - len(ill) * (len(ill) + 1) / 2) / (len(ill) * len(others)))
    return float(np.mean(found))


def plant(observed: np.ndarray, sd: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shift a fifth of the people in half of the features by 1 to 2 residual deviations, each feature in one direction.

    Args:
        observed: People x features.
        sd: Residual deviation of each feature, or of each person's.
        seed: Of who is shifted, by how much, and in which features.

    Returns:
        The shifted people's features (only theirs), their rows, and the direction of each feature: 1, -1, or 0 for none.
    """
    rng = np.random.default_rng([seed, 7])
    people, features = observed.shape
    rows = np.sort(rng.permutation(people)[: max(1, people // 5)])
    signs = np.zeros(features)
    signs[rng.permutation(features)[: (features + 1) // 2]] = 1
    signs *= rng.choice([-1.0, 1.0], features)
    size = rng.uniform(1, 2, len(rows))[:, None]
    spread = np.broadcast_to(sd, observed.shape)[rows]
    return observed[rows] + size * signs * spread, rows, signs


def _members(groups: np.ndarray) -> Iterator[np.ndarray]:
    for name in np.unique(groups):
        yield groups == name
