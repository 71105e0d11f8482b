"""Maps from one representation's latents to another's: orthogonal with a scale, or affine; and how well they tell unseen people.

With X, Y the latents of the same people in deviations from their means:

    orthogonal: min ||s X R - Y||, R'R = 1: U S V' = svd(X'Y), R = U V', s = tr(S) / ||X R||^2   (Procrustes)
    affine:     W = (X'X + a 1)^-1 X'Y, a of least squared error of leaving one person out

An orthogonal map keeps angles and distances, so that neighbours and clusters stay; an affine one need not.
"""

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Shaped

First = Float[np.ndarray, "people first"]
Second = Float[np.ndarray, "people second"]
LinearMap: TypeAlias = tuple[Float[np.ndarray, "first second"], Float[np.ndarray, " second"]]
"""Matrix and offset: y = x @ matrix + offset."""
Form = Literal["orthogonal", "affine"]

FOLDS = 5
_PENALTIES = 10.0 ** np.arange(-10, 1)  # of the largest eigenvalue


def fit_orthogonal(first: First, second: Second) -> LinearMap:
    """Return the rotation (or reflection) with a scale that brings one representation nearest to the other.

    Where they have different numbers of latents, further ones stay at their mean, or are left out.
    """
    mean, other = first.mean(axis=0), second.mean(axis=0)
    x = first - mean
    left, sizes, right = np.linalg.svd(x.T @ (second - other), full_matrices=False)
    rotation = left @ right
    spread = float(((x @ rotation) ** 2).sum())
    matrix = rotation * (sizes.sum() / spread if spread > 0 else 0.0)
    return matrix, other - mean @ matrix


def fit_affine(first: First, second: Second) -> LinearMap:
    """Return ridge regression of one representation on the other."""
    mean, other = first.mean(axis=0), second.mean(axis=0)
    x, y = first - mean, second - other
    values, vectors = np.linalg.eigh(x.T @ x)
    largest = float(values.max(initial=0.0))
    if largest <= 0:
        return np.zeros((first.shape[1], second.shape[1])), other
    scores = x @ vectors
    products = scores.T @ y
    least, matrix = np.inf, np.zeros((first.shape[1], second.shape[1]))
    for penalty in _PENALTIES * largest:
        weights = 1 / (np.maximum(values, 0.0) + penalty)
        leverage = np.minimum((scores**2) @ weights + 1 / len(x), 1 - 1e-9)
        left = (y - scores @ (weights[:, None] * products)) / (1 - leverage)[:, None]
        error = float((left**2).sum())
        if error < least:
            least, matrix = error, vectors @ (weights[:, None] * products)
    return matrix, other - mean @ matrix


FITS: Mapping[Form, Callable[[First, Second], LinearMap]] = {"orthogonal": fit_orthogonal, "affine": fit_affine}


def folds_of(
    units: Shaped[np.ndarray, " people"], rng: np.random.Generator, count: int = FOLDS
) -> Int[np.ndarray, " people"]:
    """Return the fold of each row; rows of one unit (a family) are in the same."""
    _, codes = np.unique(units, return_inverse=True)
    return (rng.permutation(int(codes.max(initial=-1)) + 1) % count)[codes]


def cross_fitted(
    first: First, second: Second, form: Form, folds: Int[np.ndarray, " people"]
) -> tuple[Float[np.ndarray, "people second"], Float[np.ndarray, "people second"]]:
    """Return squared errors of maps fitted without each person, and those of the mean of the same others.

    Args:
        first: Latents that are mapped.
        second: Latents that they are to become.
        form: Of the map.
        folds: Of each row.
    """
    errors, totals = np.empty(second.shape), np.empty(second.shape)
    for fold in np.unique(folds):
        judged = folds == fold
        matrix, offset = FITS[form](first[~judged], second[~judged])
        errors[judged] = (first[judged] @ matrix + offset - second[judged]) ** 2
        totals[judged] = (second[judged] - second[~judged].mean(axis=0)) ** 2
    return errors, totals
