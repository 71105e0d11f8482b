"""Regressing people's fields on covariates, with effects no stronger than people show.

    a_i = mean + X_i G + e_i,    e_i ~ N(0, V),    columns of G ~ N(0, S)

S, the covariance of what the columns of a covariate do to a coefficient, is found by expectation-maximisation (empirical Bayes):
an effect that the cohort cannot tell from nothing is shrunk towards nothing, and one that it can stays. Where the bend of an
effect is alike in place to its line, S says so, and the line tells of the bend. Columns of different covariates are independent,
and levels of a batch are so among themselves, of one strength. V is the scatter of what is left; in its eigenbasis the
coefficients are independent regressions. Most effects live in few directions, mostly in those in which people differ most: one S
for all would shrink them as if they filled hundreds, so each block of directions (1st and 2nd, 3rd and 4th, 5th to 8th, 9th to
16th ...) has its own.

Motion along the surface is not seen in surfaces, and counts as none: what is regressed is the smooth field that is across the
template's surface what a person's is and nothing along it (`across`).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from medrep.models.shape.modes import SmoothModes
from medrep.models.shape.template import LevelFunction

_ROUNDS = 30
_STILL = 1e-3
_FLOOR = 0.01  # of V's eigenvalues, as a share of their mean
# Shares of the organ's size. Motion across the surface is kept to `_SEEN`; tighter leaves what is far off to chance.
_SEEN = 0.01
_SHELL = 0.6  # up to this distance effects point along the normal
_NEAR = 0.05  # at this distance that counts half


@dataclass(frozen=True)
class Group:
    """Columns of the design that belong together.

    Attributes:
        columns: Which.
        exchangeable: Independent and of one strength, as the levels of a batch; else they have a covariance of their own.
    """

    columns: slice
    exchangeable: bool = False


@dataclass(frozen=True, eq=False)
class Effects:
    """A fitted regression.

    Attributes:
        rows: G, a row a column of the design.
        prior: S of each block of directions.
        noise: V's eigenvalues, the largest first.
        basis: Its eigenvectors, as columns.
    """

    rows: Float[np.ndarray, "columns coefficients"]
    prior: Float[np.ndarray, "blocks columns columns"]
    noise: Float[np.ndarray, " coefficients"]
    basis: Float[np.ndarray, "coefficients coefficients"]

    def refit(
        self, columns: Float[np.ndarray, "people columns"], codes: Float[np.ndarray, "people coefficients"]
    ) -> Float[np.ndarray, "columns coefficients"]:
        """Return G for other people, with S and V known."""
        gram, targets = _products(columns, codes @ self.basis)
        return _posterior(gram, targets, self.noise, self.prior)[0] @ self.basis.T


def fit_effects(
    columns: Float[np.ndarray, "people columns"], codes: Float[np.ndarray, "people coefficients"], groups: list[Group]
) -> Effects:
    """Regress codes on columns.

    Args:
        columns: X.
        codes: a.
        groups: Of the columns.
    """
    noise, basis = _scatter(columns, codes)
    gram, targets = _products(columns, codes @ basis)
    parts = _blocks(len(noise))
    prior = np.stack([np.eye(columns.shape[1])] * len(parts))
    for _ in range(_ROUNDS):
        rows, unknown = _posterior(gram, targets, noise, prior)
        energy = [
            (rows[:, part] @ rows[:, part].T + unsure) / (part.stop - part.start)
            for part, unsure in zip(parts, unknown, strict=True)
        ]
        found = np.stack([_grouped(own, groups) for own in energy])
        done = bool(np.abs(found - prior).max(initial=0.0) < _STILL * np.abs(found).max(initial=0.0))
        prior = found
        if done:
            break
    return Effects(_posterior(gram, targets, noise, prior)[0] @ basis.T, prior, noise, basis)


def across(modes: SmoothModes, template: LevelFunction, size: float) -> Float[np.ndarray, "coefficients coefficients"]:
    """Return the map from a field's coefficients to those of the field that only has its motion across a surface.

    Args:
        modes: Of fields.
        template: Whose zero level is the surface.
        size: The organ's size, mm.
    """
    points, normals, level = template.shell(_SHELL * size)
    basis = modes.at(points)
    trust = 1 / (1 + (level / (_NEAR * size)) ** 2)
    weighted = basis * (trust * basis.shape[1] / trust.sum() / (_SEEN * size) ** 2)[:, None]
    inverse = np.linalg.inv(weighted.T @ basis + np.eye(basis.shape[1]))
    dims = normals.shape[1]
    blocks = [
        [inverse @ (weighted.T @ (basis * (normals[:, to] * normals[:, of])[:, None])) for of in range(dims)]
        for to in range(dims)
    ]
    # Coefficients are mode-major: (mode, axis), rows are what comes in.
    return np.asarray(blocks).transpose(3, 1, 2, 0).reshape(basis.shape[1] * dims, -1)


def _blocks(count: int) -> list[slice]:
    """Return directions 0-1, 2-3, 4-7, 8-15, ...: the further down, the more there are that are alike."""
    ends = [0, *(2**k for k in range(1, count.bit_length()) if 2**k < count), count]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def _grouped(energy: np.ndarray, groups: list[Group]) -> np.ndarray:
    """Return what S can be of the second moments of columns."""
    found = np.zeros_like(energy)
    for group in groups:
        own = energy[group.columns, group.columns]
        found[group.columns, group.columns] = np.diag(own).mean() * np.eye(len(own)) if group.exchangeable else own
    return found


def _scatter(columns: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return V's eigenvalues and eigenvectors; directions in which people differ most come first."""
    full = np.concatenate([np.ones((len(codes), 1)), columns], axis=1)
    rest = codes - full @ np.linalg.lstsq(full, codes, rcond=1e-10)[0]
    scatter = rest.T @ rest / max(len(codes) - full.shape[1], 1)
    noise, basis = np.linalg.eigh(scatter)
    return noise[::-1] + max(_FLOOR * noise.mean(), 1e-12), basis[:, ::-1]


def _products(columns: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Gram matrix of centred columns, and their products with targets."""
    centred = columns - columns.mean(axis=0)
    return centred.T @ centred, centred.T @ targets


def _posterior(
    gram: np.ndarray, targets: np.ndarray, noise: np.ndarray, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of G in the eigenbasis of V, and the covariance of its columns, summed over each block.

    With S = R R^T the unknowns are R^-1 G, so that S may be singular.
    """
    rows, unknown = [], []
    for part, own in zip(_blocks(len(noise)), prior, strict=True):
        values, vectors = np.linalg.eigh(own)
        root = vectors * np.sqrt(np.maximum(values, 0))
        inner = np.linalg.inv((root.T @ gram @ root)[None] / noise[part, None, None] + np.eye(len(own)))
        rows.append(root @ np.einsum("dij,jd->id", inner, root.T @ targets[:, part] / noise[part]))
        unknown.append(root @ inner.sum(axis=0) @ root.T)
    return np.concatenate(rows, axis=1), np.stack(unknown)
