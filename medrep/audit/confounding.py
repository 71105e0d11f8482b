"""Which covariates tell which: the strength of every pair's association, and small or empty levels."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from medrep.cohort.covariates import Categorical, Continuous, CovariateSchema

ALIASED, STRONG, MODERATE = 0.999, 0.7, 0.4


def confounding(
    frame: pd.DataFrame, schema: CovariateSchema, participants: Sequence[str] | None = None
) -> pd.DataFrame:
    """Measure the association of every pair of covariates.

    Args:
        frame: The people's covariates.
        schema: What they are.
        participants: Whose each row is, the first of which is looked at; by default each is a person.

    Returns:
        Tidy table, strongest first: first, second, measure (``|r|``, ``eta`` or ``V``, each 0 to 1; eta and V corrected for
        the number of levels), n, estimate, verdict (``aliased``, ``strong``, ``moderate``, ``weak``).
    """
    if participants is not None:
        frame = frame[~pd.Series(list(participants)).duplicated().to_numpy()]
    rows = []
    for first, second in combinations(schema.fitted, 2):
        a, b = frame[first.declared.name], frame[second.declared.name]
        if isinstance(first, Continuous) and isinstance(second, Continuous):
            measure, estimate = "|r|", correlation(a.to_numpy(float), b.to_numpy(float))
        elif isinstance(first, Categorical) and isinstance(second, Categorical):
            measure, estimate = "V", _cramers_v(a.astype(str), b.astype(str))
        else:
            numbers, levels = (a, b) if isinstance(first, Continuous) else (b, a)
            measure, estimate = "eta", correlation_ratio(numbers.to_numpy(float), levels.astype(str))
        names = (first.declared.name, second.declared.name)
        rows.append((*names, measure, len(frame), estimate, _verdict(estimate)))
    table = pd.DataFrame(rows, columns=["first", "second", "measure", "n", "estimate", "verdict"])
    return table.sort_values("estimate", ascending=False, ignore_index=True)


def small_levels(
    schema: CovariateSchema,
    least: int = 10,
    *,
    frame: pd.DataFrame | None = None,
    participants: Sequence[str] | None = None,
) -> list[str]:
    """Return one line for each level with fewer people than ``least``.

    Args:
        schema: The covariates, with how many rows have each level.
        least: Fewest people that are no worry.
        frame: Covariates of the rows, where a person can have several.
        participants: Whose each row is.
    """
    lines = []
    for covariate in schema.fitted:
        if not isinstance(covariate, Categorical):
            continue
        counts = dict(zip(covariate.levels, covariate.counts, strict=True))
        if frame is not None and participants is not None:
            who = pd.Series(list(participants)).groupby(frame[covariate.declared.name].astype(str).to_numpy()).nunique()
            counts = {level: int(who.get(level, 0)) for level in covariate.levels}
        lines += [
            f"{covariate.declared.name} {level!r} has {count} {'person' if count == 1 else 'people'}"
            for level, count in counts.items()
            if count < least
        ]
    return lines


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the absolute correlation; 0 where one of them has the same value for everybody."""
    return abs(float(np.corrcoef(a, b)[0, 1])) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


def correlation_ratio(numbers: np.ndarray, levels: pd.Series) -> float:
    """Return the correlation ratio, 0 to 1.

    Its square is adjusted like R2 (epsilon squared), so that many small levels do not inflate it.

    Args:
        numbers: One a person.
        levels: One a person.
    """
    if not np.ptp(numbers) > 0:
        return 0.0
    groups = pd.Series(numbers).groupby(levels.to_numpy())
    total = float(((numbers - numbers.mean()) ** 2).sum())
    within = float(((numbers - groups.transform("mean").to_numpy()) ** 2).sum())
    n, k = len(numbers), groups.ngroups
    if n <= k:
        return 1.0
    adjusted = 1 - (within / (n - k)) / (total / (n - 1))
    return float(np.sqrt(np.clip(adjusted, 0, 1)))


def _cramers_v(a: pd.Series, b: pd.Series) -> float:
    """Cramer's V with the bias correction of Bergsma (2013)."""
    counts = pd.crosstab(a.to_numpy(), b.to_numpy()).to_numpy(float)
    n, (r, k) = counts.sum(), counts.shape
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / n
    phi2 = float(((counts - expected) ** 2 / expected).sum() / n)
    if n <= 1 or min(r, k) < 2:
        return 0.0
    if np.isclose(phi2, min(r, k) - 1):
        return 1.0
    corrected = max(0.0, phi2 - (r - 1) * (k - 1) / (n - 1))
    rows, columns = r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)
    return float(np.sqrt(min(1.0, corrected / max(min(rows, columns) - 1, 1e-9))))


def _verdict(estimate: float) -> str:
    if estimate >= ALIASED:
        return "aliased"
    return "strong" if estimate >= STRONG else "moderate" if estimate >= MODERATE else "weak"
