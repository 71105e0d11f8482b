"""Regressing people's fields on covariates, with effects no stronger than people show.

    a_i = mean + X_i G + e_i,    e_i ~ N(0, C),    rows of G in group g ~ N(0, strength_g I)

The strengths are found by expectation-maximisation (empirical Bayes): an effect that the cohort cannot tell from nothing is
shrunk towards nothing, and one that it can stays. In the eigenbasis of C the coefficients are independent regressions.

Motion along the surface is not seen in surfaces, and counts as none: an effect is the smooth field that is across the template's
surface what was estimated and nothing along it (`across`).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medrep.models.shape.evidence import TRUST
from medrep.models.shape.modes import SmoothModes
from medrep.models.shape.template import LevelFunction

_ROUNDS = 30
_STILL = 1e-3
_SEEN = 1e-3  # share of the organ's size to which motion across the surface is kept
_SHELL = 0.25  # around the surface in which effects point along its normal; a share of the organ's size


@dataclass(frozen=True, eq=False)
class Effects:
    """A fitted regression.

    Attributes:
        mean: What everybody shares.
        rows: G, a row a column of the design.
        strengths: Prior variance of each row's coefficients.
    """

    mean: Float[np.ndarray, " coefficients"]
    rows: Float[np.ndarray, "columns coefficients"]
    strengths: Float[np.ndarray, " columns"]


def fit_effects(
    columns: Float[np.ndarray, "people columns"],
    codes: Float[np.ndarray, "people coefficients"],
    covariance: Float[np.ndarray, "coefficients coefficients"],
    groups: list[slice],
) -> Effects:
    """Regress codes on columns.

    Args:
        columns: X.
        codes: a.
        covariance: C.
        groups: Columns of one strength.
    """
    strengths = np.ones(columns.shape[1])
    centre, gram, targets, noise, back = _reduced(columns, codes, covariance)
    for _ in range(_ROUNDS):
        rows, variances = _posterior(gram, targets, noise, strengths)
        energy = rows**2 + variances
        found = strengths.copy()
        for group in groups:
            found[group] = energy[group].mean()
        done = bool((np.abs(np.log(found / strengths)) < _STILL).all())
        strengths = found
        if done:
            break
    rows = _posterior(gram, targets, noise, strengths)[0] @ back
    return Effects(codes.mean(axis=0) - centre @ rows, rows, strengths)


def refit_effects(
    columns: Float[np.ndarray, "people columns"],
    codes: Float[np.ndarray, "people coefficients"],
    covariance: Float[np.ndarray, "coefficients coefficients"],
    strengths: Float[np.ndarray, " columns"],
) -> Float[np.ndarray, "columns coefficients"]:
    """Return G for other people, with strengths that are known."""
    _, gram, targets, noise, back = _reduced(columns, codes, covariance)
    return _posterior(gram, targets, noise, strengths)[0] @ back


def across(modes: SmoothModes, template: LevelFunction, size: float) -> Float[np.ndarray, "coefficients coefficients"]:
    """Return the map from a field's coefficients to those of the field that only has its motion across a surface.

    Args:
        modes: Of fields.
        template: Whose zero level is the surface.
        size: The organ's size, mm.
    """
    points, normals, level = template.shell(_SHELL * size)
    basis = modes.at(points)
    trust = 1 / (1 + (level / (TRUST * size)) ** 2)
    weighted = basis * (trust * basis.shape[1] / trust.sum() / (_SEEN * size) ** 2)[:, None]
    inverse = np.linalg.inv(weighted.T @ basis + np.eye(basis.shape[1]))
    dims = normals.shape[1]
    blocks = [
        [inverse @ (weighted.T @ (basis * (normals[:, to] * normals[:, of])[:, None])) for of in range(dims)]
        for to in range(dims)
    ]
    # Coefficients are mode-major: (mode, axis), rows are what comes in.
    return np.asarray(blocks).transpose(3, 1, 2, 0).reshape(basis.shape[1] * dims, -1)


def _reduced(
    columns: np.ndarray, codes: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the columns' means and Gram matrix, their products with codes in C's eigenbasis, its values, and the way back."""
    noise, basis = np.linalg.eigh(covariance)
    centre = columns.mean(axis=0)
    centred = columns - centre
    return centre, centred.T @ centred, centred.T @ (codes @ basis), np.maximum(noise, 1e-12), basis.T


def _posterior(
    gram: np.ndarray, targets: np.ndarray, noise: np.ndarray, strengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of G in the eigenbasis of C."""
    prior = np.diag(1 / np.maximum(strengths, 1e-12))
    inverse = np.linalg.inv(gram[None] / noise[:, None, None] + prior[None])
    rows = np.einsum("dij,jd->id", inverse, targets / noise)
    return rows, np.diagonal(inverse, axis1=1, axis2=2).T
