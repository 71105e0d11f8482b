"""The covariate vector a network sees, and sets of covariates that count as known.

Training shows the network people of whom only some covariates are known. So one network serves any removal - what is kept
is unknown to it, and a kept label cannot be written into the data - and people whose covariates nobody knows.
"""

from collections.abc import Collection
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import POOLED, Continuous, CovariateSchema, membership


def context_width(schema: CovariateSchema) -> int:
    """Return the width of `context_vector`."""
    return sum(1 + max(1, len(schema.levels(name))) for name in schema.names)


def context_vector(
    schema: CovariateSchema, frame: pd.DataFrame, known: Collection[str]
) -> Float[np.ndarray, "people width"]:
    """Return scaled covariates, each behind a flag that says whether it is known; zeros where it is not.

    Continuous: (value - mean) / sd. Levels: one column each, in units of a level's own deviation, so that rare levels weigh
    as much as common ones. The pooled level is known and has zeros; a level that training did not have counts as unknown.
    """
    blocks = []
    for covariate in schema.fitted:
        name = covariate.declared.name
        width = 1 if isinstance(covariate, Continuous) else len(covariate.levels)
        if name not in known:
            blocks.append(np.zeros((len(frame), 1 + width)))
            continue
        if isinstance(covariate, Continuous):
            values = ((frame[name].to_numpy(float) - covariate.mean) / covariate.sd)[:, None]
            flag = np.ones((len(frame), 1))
        else:
            shares = np.asarray(covariate.counts, float) / sum(covariate.counts)
            rows = membership(frame[name], covariate)
            flag = rows.sum(axis=1, keepdims=True).round()
            centred = (rows - shares) / np.sqrt(np.maximum(shares * (1 - shares), 1e-6)) / width**0.5
            values = np.where((frame[name] == POOLED).to_numpy()[:, None], 0.0, centred) * flag
        blocks.append(np.concatenate([flag, values], axis=1))
    return np.concatenate(blocks, axis=1) if blocks else np.zeros((len(frame), 0))


def known_sets(schema: CovariateSchema, most: int) -> tuple[frozenset[str], ...]:
    """Return the sets of covariates that training goes through: all, none, one alone, all but one, then any others.

    Args:
        schema: The covariates.
        most: How many sets at most.
    """
    names = schema.names
    sizes = sorted(range(len(names) + 1), key=lambda size: (size not in {len(names), 0}, min(size, len(names) - size)))
    sets = [frozenset(names), frozenset[str]()]
    sets += [frozenset(chosen) for size in sizes for chosen in combinations(names, size)]
    return tuple(dict.fromkeys(sets))[:most]
