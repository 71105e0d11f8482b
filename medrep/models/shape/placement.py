"""Where organs lie as a whole: taken out of people, and chosen for an organ that effects move.

**Out of people**: generalised Procrustes analysis without scale.

**Of a moved organ**: as much of the surface as the noise allows stays (`still`). A rigid motion is added to the effect of each
covariate, the one that minimises sum_s chi_s^2 / (1 + chi_s^2 / c), chi_s the motion of point s along its normal in standard
errors, starting from the least sum of chi_s.
"""

from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Float

from medrep.models.shape.mean_shape import Points
from medrep.models.shape.rigid import nearest_rotation

Placement = Literal["still", "mean", "kept"]
Shifts = Float[np.ndarray, "people points dims"]
Motions = Float[np.ndarray, "columns points dims"]

STRAYED = 0.15
"""Centres farther apart than this share of the organ's size are no common space."""
_ALIGNMENTS = 4
_SEARCHES, _SOFT = 80, 25
_CHI = 4.0  # squared motion, in standard errors and for each column, at which a point no longer counts as staying


def lying_alike(places: Shifts, template: Points) -> Shifts:
    """Bring people's points, mm, to lie alike, and all of them as the template does."""
    for _ in range(_ALIGNMENTS):
        goal = places.mean(axis=0)
        places = np.stack([_laid_on(one, one, goal) for one in places])
    return _laid_on(places, places.mean(axis=0), template)


def rigid_motions(points: Points) -> Float[np.ndarray, "motions points dims"]:
    """Return shifts along each axis, mm, and turns in each plane about the middle, by one root mean square radius."""
    dims = points.shape[1]
    away = points - points.mean(axis=0)
    away = away / np.sqrt((away**2).sum(axis=1).mean())
    found = [np.broadcast_to(axis, points.shape) for axis in np.eye(dims)]
    for first, second in combinations(range(dims), 2):
        turn = np.zeros(points.shape)
        turn[:, first], turn[:, second] = -away[:, second], away[:, first]
        found.append(turn)
    return np.stack(found)


def along(vectors: Float[np.ndarray, "count points dims"], normals: Points) -> Float[np.ndarray, "count points"]:
    """Return vectors' lengths along normals."""
    return np.einsum("npd,pd->np", vectors, normals)


def squared_errors(
    across: Float[np.ndarray, "columns points"],
    covariance: Float[np.ndarray, "columns columns"],
    noise: Float[np.ndarray, " points"],
) -> Float[np.ndarray, " points"]:
    """Return motion along the normal of all columns together, in squared standard errors.

    Args:
        across: Motion along the normal, mm.
        covariance: Of the columns, in units of what people differ by.
        noise: What people differ by at each point, mm.
    """
    return np.asarray(np.einsum("cp,ce,ep->p", across, np.linalg.pinv(covariance, hermitian=True), across) / noise**2)


def still(
    motions: Motions,
    points: Points,
    normals: Points,
    covariance: Float[np.ndarray, "columns columns"],
    noise: Float[np.ndarray, " points"],
) -> Motions:
    """Add a rigid motion to each column so that as much of the surface as noise allows stays; see `squared_errors`."""
    rigid = rigid_motions(points)
    ways, across = along(rigid, normals), along(motions, normals)
    added = np.zeros((len(motions), len(rigid)))
    for search in range(_SEARCHES):
        chi = squared_errors(across + added @ ways, covariance, noise)
        if search < _SOFT:
            weight = 1 / np.sqrt(chi + 0.01 * chi.mean() + 1e-12)
        else:
            weight = 1 / (1 + chi / max(_CHI * len(motions), float(np.quantile(chi, 0.25)))) ** 2
        weight = weight / noise**2
        square = (ways * weight) @ ways.T
        # A ball can be turned without a trace.
        square[np.diag_indices_from(square)] += 1e-6 * np.trace(square)
        added = -np.linalg.solve(square, (ways * weight) @ across.T).T
    return motions + np.einsum("cr,rpd->cpd", added, rigid)


def rigid_part(motions: Motions, points: Points) -> Motions:
    """Return the rigid motion that is nearest to each, mm."""
    rigid = rigid_motions(points).reshape(-1, points.size).T
    flat = motions.reshape(len(motions), -1).T
    return np.asarray((rigid @ np.linalg.lstsq(rigid, flat)[0]).T.reshape(motions.shape))


def _laid_on(moved: Points | Shifts, points: Points, goal: Points) -> np.ndarray:
    """Move by the one rigid motion that brings points onto the goal."""
    middle, there = points.mean(axis=0), goal.mean(axis=0)
    return np.asarray((moved - middle) @ nearest_rotation((points - middle).T @ (goal - there)) + there)
