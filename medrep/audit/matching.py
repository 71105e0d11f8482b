"""People of two outcomes who are alike in the covariates: pairs, so that covariates cannot tell the outcome.

Optimal pair matching (Rosenbaum 1989): as many pairs as the caliper allows, and among those the nearest ones in all. Levels
agree exactly; each number differs by the caliper at most. Who has no counterpart is left out, and so a question that the
cohort cannot answer (all patients scanned at one site, all controls at another) ends without pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy.optimize import linear_sum_assignment

from medrep.cohort.covariates import Continuous, CovariateSchema

CALIPER = 0.25
"""Largest difference of a pair in a number, in its standard deviation (0.2 to 0.25: Austin 2011, of a propensity's logit)."""


@dataclass(frozen=True, eq=False)
class Matched:
    """Pairs of people.

    Attributes:
        rows: Row of the one and of the other of each pair; nobody is in two pairs.
        covariates: What they agree in.
        imbalance: Largest standardised mean difference that is left in a number; 0 without numbers or pairs.
    """

    rows: Int[np.ndarray, "pairs 2"]
    covariates: tuple[str, ...]
    imbalance: float


def match_people(
    frame: pd.DataFrame,
    schema: CovariateSchema,
    ones: Int[np.ndarray, " ones"],
    others: Int[np.ndarray, " others"],
    *,
    leave_out: Sequence[str] = (),
    caliper: float = CALIPER,
) -> Matched:
    """Pair people of two groups.

    Args:
        frame: Covariates of everybody.
        schema: What they are.
        ones: Rows of one group.
        others: Rows of the other.
        leave_out: Covariates that need not agree (the outcome itself, where it is a covariate).
        caliper: Largest difference of a pair in each number, in its standard deviation among everybody.
    """
    used = [covariate for covariate in schema.fitted if covariate.declared.name not in leave_out]
    numbers = [covariate.declared.name for covariate in used if isinstance(covariate, Continuous)]
    levels = [covariate.declared.name for covariate in used if not isinstance(covariate, Continuous)]
    scaled = np.stack([_scaled(frame[name]) for name in numbers], axis=1) if numbers else np.zeros((len(frame), 0))
    strata = frame[levels].astype(str).apply("\x1f".join, axis=1).to_numpy(object) if levels else np.zeros(len(frame))
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for stratum in np.unique(strata[ones]):
        own, counterparts = ones[strata[ones] == stratum], others[strata[others] == stratum]
        pairs.append(_nearest_pairs(scaled, own, counterparts, caliper))
    rows = np.concatenate(pairs)
    gap = np.abs((scaled[rows[:, 0]] - scaled[rows[:, 1]]).mean(axis=0)) if len(rows) else np.zeros(0)
    return Matched(rows, tuple(covariate.declared.name for covariate in used), float(gap.max(initial=0.0)))


def first_rows(participants: Shaped[np.ndarray, " people"]) -> Int[np.ndarray, " participants"]:
    """Return the first row of each participant, in order: a participant is matched once."""
    return np.sort(np.unique(np.asarray(participants).astype(str), return_index=True)[1])


def _nearest_pairs(
    scaled: Float[np.ndarray, "people numbers"], ones: np.ndarray, others: np.ndarray, caliper: float
) -> Int[np.ndarray, "pairs 2"]:
    differences = np.abs(scaled[ones][:, None, :] - scaled[others][None, :, :])
    allowed = (differences <= caliper).all(axis=2)
    distance = np.sqrt((differences**2).sum(axis=2))
    # What is not allowed costs more than all allowed pairs together: as many pairs as possible come first.
    forbidden = 1.0 + caliper * (1 + scaled.shape[1] ** 0.5) * (1 + min(len(ones), len(others)))
    first, second = linear_sum_assignment(np.where(allowed, distance, forbidden))
    kept = allowed[first, second]
    return np.stack([ones[first[kept]], others[second[kept]]], axis=1).astype(np.int64)


def _scaled(values: pd.Series) -> Float[np.ndarray, " people"]:
    numbers = values.to_numpy(float)
    return (numbers - numbers.mean()) / max(float(numbers.std()), 1e-300)
