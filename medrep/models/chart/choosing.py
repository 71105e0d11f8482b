"""Choice of each column's power: by the log score of people who are left out."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from medrep.cohort.covariates import Categorical
from medrep.cohort.dataset import Dataset
from medrep.models.chart.powers import CHOICES

Fit = Callable[[Dataset, np.ndarray], Callable[[Dataset], np.ndarray]]
"""From people and the power of each column, what gives log densities of others, people x columns, in units of the data."""

_FOLDS = 3
_SAME = 1e-6  # of log densities
_WORST = -30.0  # what a log density counts at least


def chosen_powers(dataset: Dataset, fit: Fit, seed: int) -> Float[np.ndarray, " columns"]:
    """Return the power of each column that gives people who are left out the highest log density.

    Args:
        dataset: People of training; columns with values that are not positive keep 1.
        fit: Fits charts.
        seed: Of the folds.
    """
    fold = _folds(dataset, seed)
    values = np.asarray(dataset.values, dtype=np.float64)
    positive = (np.where(np.isfinite(values), values, np.inf) > 0).all(axis=0)
    found = np.zeros((len(CHOICES), dataset.columns.count))
    if not positive.any() or fold.max(initial=-1) < _FOLDS - 1:
        return np.ones(dataset.columns.count)
    for choice, power in enumerate(CHOICES):
        for own in range(_FOLDS):
            out = fold == own
            log_density = fit(dataset.take(~out), np.where(positive, power, 1.0))
            found[choice] += np.nan_to_num(np.maximum(log_density(dataset.take(out)), _WORST)).sum(axis=0)
    # The first that is as good as the best, but for rounding.
    good = found >= found.max(axis=0) - _SAME * len(dataset)
    return np.where(positive, np.asarray(CHOICES)[good.argmax(axis=0)], 1.0)


def _folds(dataset: Dataset, seed: int) -> Int[np.ndarray, " rows"]:
    """Deal people of each combination of levels into folds; who is alone in theirs is never left out: -1."""
    names = [one.declared.name for one in dataset.schema.fitted if isinstance(one, Categorical)]
    cell = (
        dataset.covariates.groupby(names, observed=True).ngroup().to_numpy() if names else np.zeros(len(dataset), int)
    )
    units, first = np.unique(dataset.units, return_index=True)
    order = np.random.default_rng([seed, 61]).permutation(len(units))
    dealt = order[np.argsort(cell[first][order], kind="stable")]
    own = cell[first][dealt]
    place = np.arange(len(own)) - np.searchsorted(own, own)
    fold = np.empty(len(units), dtype=np.int64)
    fold[dealt] = np.where(np.bincount(own)[own] > 1, (place + own) % _FOLDS, -1)
    return fold[np.searchsorted(units, dataset.units)]
