"""Regression of where points lie in people on covariates, and how much of it is believed.

Each point is regressed for itself by least squares, motion along the surface included. A smooth covariate has three forms: a
line, one pattern on a bent curve (the leading one of all its columns), and a pattern for each column; others have one.

**How much is believed** is asked of people who were left out. Held-out displacements along the normal are regressed on held-out
predictions of all forms, with weights of zero or more that add up to one at most for a covariate. No effect is the weight zero.
What such weights w in all leave out of an effect that is there is taken in once more (twicing: w becomes w (2 - w)), since a
shrunken effect changes volumes too little. Levels of a batch are shrunk by how much levels differ beyond chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import nnls

from medrep.models.shape.effects import Group
from medrep.models.shape.mean_shape import Points
from medrep.models.shape.placement import Motions, Shifts, along
from medrep.models.shape.surface_fields import Columns

_FOLDS = 10


@dataclass(frozen=True, eq=False)
class Fit:
    """Least squares: motions of columns, and their covariance in units of what people differ by."""

    motions: Motions
    covariance: Float[np.ndarray, "columns columns"]
    mean: Points
    freedom: int

    @classmethod
    def of(cls, columns: Columns, shifts: Shifts, ridge: Float[np.ndarray, " columns"]) -> "Fit":
        """Fit; a ridge shrinks each column."""
        design = np.column_stack([np.ones(len(columns)), columns])
        inverse = np.linalg.pinv(design.T @ design + np.diag([0.0, *ridge]), hermitian=True)
        found = np.einsum("cn,npd->cpd", inverse @ design.T, shifts, optimize=True)
        return cls(found[1:], inverse[1:, 1:], found[0], max(len(columns) - int(np.linalg.matrix_rank(design)), 1))

    def spread(self, columns: Columns, shifts: Shifts, normals: Points) -> Float[np.ndarray, " points"]:
        """Return what people differ by at each point along the normal, mm."""
        rest = along(shifts - self.mean, normals) - columns @ along(self.motions, normals)
        found = np.sqrt((rest**2).sum(axis=0) / self.freedom)
        return np.asarray(np.maximum(found, 1e-3 * found.mean() + 1e-12))


def fitted(columns: Columns, shifts: Shifts, groups: Sequence[Group]) -> Fit:
    """Return the plain fit, levels of a batch shrunk."""
    return Fit.of(columns, shifts, _ridge(columns, shifts, groups))


def regressed(
    columns: Columns, shifts: Shifts, groups: Sequence[Group], normals: Points, people: Int[np.ndarray, " rows"]
) -> tuple[Motions, list[Float[np.ndarray, " forms"]]]:
    """Return motions as far as they are believed, mm, and the weights of each group's forms.

    Args:
        columns: The design.
        shifts: From points of the template to where they lie in people, mm.
        groups: The columns of each covariate.
        normals: Of the template's surface at the points.
        people: The persons that rows belong to, who are left out with all their rows.
    """
    ridge = _ridge(columns, shifts, groups)
    weights = _believed(columns, shifts, groups, ridge, normals, people)
    motions = np.zeros((columns.shape[1], *shifts.shape[1:]))
    for group, own, share in zip(groups, _forms(columns, shifts, groups, ridge, normals), weights, strict=True):
        motions[group.columns] = np.einsum("f,fcpd->cpd", share, np.stack(own))
    return motions, weights


def _ridge(columns: Columns, shifts: Shifts, groups: Sequence[Group]) -> Float[np.ndarray, " columns"]:
    """Return how strongly columns are shrunk: those of a batch by how little its levels differ beyond chance."""
    ridge = np.zeros(columns.shape[1])
    for group in groups:
        if not group.exchangeable:
            continue
        others = np.delete(columns, np.arange(group.columns.start, group.columns.stop), axis=1)
        fit = Fit.of(others, shifts, np.zeros(others.shape[1]))
        rest = shifts - fit.mean - np.einsum("nc,cpd->npd", others, fit.motions, optimize=True)
        noise = (rest**2).sum() / fit.freedom
        own = columns[:, group.columns]
        counts = (own**2).sum(axis=0)
        levels = np.einsum("nl,npd->lpd", own, rest, optimize=True)[counts > 0] / counts[counts > 0, None, None]
        beyond = (levels**2).sum(axis=(1, 2)) - noise / counts[counts > 0]
        ridge[group.columns] = noise / max(float(beyond.mean()), 1e-6 * noise)
    return ridge


def _forms(
    columns: Columns,
    shifts: Shifts,
    groups: Sequence[Group],
    ridge: Float[np.ndarray, " columns"],
    normals: Points,
) -> list[list[Float[np.ndarray, "_ points dims"]]]:
    """Return for each group what its columns do in each form."""
    fit = Fit.of(columns, shifts, ridge)
    found = []
    for group in groups:
        full = fit.motions[group.columns]
        if group.smooth and len(full) > 1:
            bent = np.arange(group.columns.start + 1, group.columns.stop)
            straight = np.zeros_like(full)
            straight[0] = Fit.of(np.delete(columns, bent, axis=1), shifts, np.delete(ridge, bent)).motions[
                group.columns.start
            ]
            found.append([straight, _one_pattern(full, fit.covariance[group.columns, group.columns], normals), full])
        else:
            found.append([full])
    return found


def _one_pattern(motions: Motions, covariance: Float[np.ndarray, "columns columns"], normals: Points) -> Motions:
    """Return the leading pattern of columns along the normal, and what each column has of it."""
    values, vectors = np.linalg.eigh(covariance)
    whiten = (vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))).T
    curves, _, _ = np.linalg.svd(whiten @ along(motions, normals), full_matrices=False)
    curve = curves[:, :1]
    return np.einsum("ce,epd->cpd", np.linalg.pinv(whiten) @ curve @ curve.T @ whiten, motions)


def _believed(
    columns: Columns,
    shifts: Shifts,
    groups: Sequence[Group],
    ridge: Float[np.ndarray, " columns"],
    normals: Points,
    people: Int[np.ndarray, " rows"],
) -> list[Float[np.ndarray, " forms"]]:
    """Return the weights of each group's forms, by what they say of people who were left out."""
    persons, who = np.unique(people, return_inverse=True)
    folds = min(_FOLDS, len(persons))
    part = np.random.default_rng(len(persons)).permutation(len(persons))[who] % folds
    told, seen = [], []
    for fold in range(folds):
        out: Bool[np.ndarray, " rows"] = part == fold
        mean, centre = shifts[~out].mean(axis=0), columns[~out].mean(axis=0)
        forms = _forms(columns[~out], shifts[~out], groups, ridge, normals)
        own = columns[out] - centre
        rest = along(shifts[out] - mean, normals)
        features = []
        for group, kinds in zip(groups, forms, strict=True):
            predicted = [own[:, group.columns] @ along(kind, normals) for kind in kinds]
            if group.exchangeable:
                rest = rest - predicted[0]
            else:
                features += [one.ravel() for one in predicted]
        told.append(np.stack(features, axis=1) if features else np.zeros((rest.size, 0)))
        seen.append(rest.ravel())
    everything = np.concatenate(told)
    triangle = np.asarray(np.linalg.qr(np.column_stack([everything, np.concatenate(seen)]), mode="r"))
    share = nnls(triangle[:, :-1], triangle[:, -1])[0] if everything.shape[1] else np.zeros(0)
    weights, start = [], 0
    for group, kinds in zip(groups, forms, strict=True):
        if group.exchangeable:
            weights.append(np.ones(1))
            continue
        own_share = share[start : start + len(kinds)]
        start += len(kinds)
        own_share = own_share / max(1.0, own_share.sum())
        weights.append(own_share * (2 - own_share.sum()))
    return weights
