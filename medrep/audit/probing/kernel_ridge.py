"""Predictions out of fold by kernel ridge, linear or RBF, of very many targets at once, so that permutations refit everything.

The kernel and its penalty are chosen for each target and each fold by squared errors over the other folds: nothing is chosen
on what is predicted. A class is the target 1, the other -1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

_WIDTHS = (0.1, 0.5, 2.5)  # of the RBF kernel, of rows whose mean squared length is 1
_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


def out_of_fold(
    rows: Float[np.ndarray, "people columns"],
    targets: Float[np.ndarray, "people targets"],
    folds: Int[np.ndarray, " people"],
) -> Float[np.ndarray, "people targets"]:
    """Predict each fold from the others.

    Args:
        rows: `profiles.compact`: mean squared length 1, columns centred.
        targets: Of mean 0.
        folds: Number of each person's fold, from 0 on without gaps, 3 at least; who belongs together shares one.
    """
    kernels = list(_kernels(rows))
    members = [np.flatnonzero(folds == fold) for fold in range(int(folds.max()) + 1)]
    missed = np.zeros((len(members), len(kernels) * len(_PENALTIES), targets.shape[1]))
    for first, second in combinations(range(len(members)), 2):
        train = np.flatnonzero((folds != first) & (folds != second))
        for choice, told in enumerate(_predictions(kernels, targets, train)):
            for judged, outer in ((first, second), (second, first)):
                missed[outer, choice] += ((told(members[judged]) - targets[members[judged]]) ** 2).sum(axis=0)
    chosen, predicted = missed.argmin(axis=1), np.zeros(targets.shape)
    for fold, test in enumerate(members):
        for choice, told in enumerate(_predictions(kernels, targets, np.flatnonzero(folds != fold))):
            if (own := chosen[fold] == choice).any():
                predicted[np.ix_(test, own)] = told(test, own)
    return predicted


@dataclass(frozen=True, eq=False)
class _Predictor:
    """One kernel and penalty, fitted to some people."""

    kernel: Float[np.ndarray, "people people"]
    train: Int[np.ndarray, " train"]
    weights: Float[np.ndarray, "train targets"]

    def __call__(self, test: np.ndarray, own: np.ndarray | slice = slice(None)) -> Float[np.ndarray, "test _"]:
        return self.kernel[np.ix_(test, self.train)] @ self.weights[:, own]


def _predictions(kernels: list[np.ndarray], targets: np.ndarray, train: np.ndarray) -> Iterator[_Predictor]:
    """Give the predictor of every kernel and penalty, in order; a kernel's penalties share its decomposition."""
    for kernel in kernels:
        values, vectors = np.linalg.eigh(kernel[np.ix_(train, train)])
        turned = vectors.T @ targets[train]
        for penalty in _PENALTIES:
            weights = vectors @ (turned / (np.maximum(values, 0.0) + penalty)[:, None])
            yield _Predictor(kernel, train, weights)


def _kernels(rows: Float[np.ndarray, "people columns"]) -> Iterator[Float[np.ndarray, "people people"]]:
    products = rows @ rows.T
    yield products
    lengths = np.diag(products)
    apart = np.maximum(lengths[:, None] + lengths[None, :] - 2 * products, 0.0)
    for width in _WIDTHS:
        yield np.exp(-width * apart)
