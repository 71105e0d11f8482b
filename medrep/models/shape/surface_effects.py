"""Effects of covariates, learned from where the template's surface lies in people.

Registration tells where each point of the template's surface lies in a person. How a person as a whole lies is no shape: it is
taken out of everybody, and where a moved organ comes to lie follows a rule (`placement.py`). What is left is regressed on
covariates, as far as it is believed (`surface_regression.py`). The likelihood of codes (`effects.py`) does worse with few people:
directions in which the prior of registration speaks look as if they were known best.

**What does not clearly move stays.** With chi the motion of a point along its normal in standard errors, root mean square over
the columns of a covariate and the point's neighbours, a motion is multiplied by max(0, 1 - c / chi^2) (Breiman's garrote): most
covariates act somewhere, and errors everywhere cost more than what is missed of faint motions. Only then are motions made smooth,
and brought to what volumes tell (`surface_volumes.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from medrep.models.shape.effects import Group
from medrep.models.shape.mean_shape import Points, SmoothBasis, SurfacePoints
from medrep.models.shape.placement import (
    Motions,
    Placement,
    Shifts,
    along,
    lying_alike,
    rigid_part,
    squared_errors,
    still,
)
from medrep.models.shape.surface_fields import Columns
from medrep.models.shape.surface_regression import fitted, regressed
from medrep.models.shape.surface_volumes import SmoothSurface, told_by_covariates

_CHANCE = 0.5  # c: squared standard errors below which a point stays
_NEAR = 16  # points that are looked at together
_UNSURE = 0.3  # standard deviation, in draws, of a place as a share of what `still` moves from the mean position
_FEW = 250  # points that are looked at in resampling


@dataclass(frozen=True, eq=False)
class Seen:
    """Where points of the template's surface, in the order of structures, lie in people, mm, and people's log volumes."""

    surface: SurfacePoints
    places: Shifts
    log_volumes: Float[np.ndarray, "people structures"]

    @property
    def parts(self) -> list[slice]:
        """The points of each structure."""
        ends = np.cumsum(np.bincount(self.surface.structures)).tolist()
        return [slice(*pair) for pair in pairwise([0, *ends])]

    def fewer(self, every: int) -> "Seen":
        """Return every so many points."""
        return replace(self, surface=self.surface.fewer(every), places=self.places[:, ::every])

    def aligned(self) -> "Seen":
        """Bring everybody to lie alike."""
        return replace(self, places=lying_alike(self.places, self.surface.points))


@dataclass(frozen=True, eq=False)
class SurfaceEffects:
    """Motion of the template's surface by the columns of the design, mm, and how much each form was believed.

    `motions` are forward, of the points of the template; `mean` is the motion from the template to the organ at the reference.
    `weights` are those of each group in the first structure, then in the next.
    """

    motions: Motions
    mean: Points
    weights: tuple[Float[np.ndarray, " forms"], ...]


def surface_effects(
    seen: Seen,
    columns: Columns,
    groups: Sequence[Group],
    basis: SmoothBasis,
    placement: Placement,
    people: Int[np.ndarray, " rows"],
) -> SurfaceEffects:
    """Learn effects; `people` are the persons that rows belong to, who are left out with all their rows."""
    seen = seen if placement == "kept" else seen.aligned()
    return _learned(seen, columns, groups, _smooth(seen, basis), placement, people)


def resampled_changes(
    seen: Seen,
    columns: Columns,
    groups: Sequence[Group],
    basis: SmoothBasis,
    placement: Placement,
    people: Int[np.ndarray, " rows"],
    draws: Sequence[Int[np.ndarray, " rows"]],
) -> Float[np.ndarray, "draws columns coefficients"]:
    """Return by how much fields through motions may be others, as draws that spread as what is not known.

    `draws` are the rows of resampled people; all that was chosen is chosen anew, and motions are looked at at fewer points. What
    comes out is mixed to a normal distribution about the estimate with the same second moments: what shrinking moves to one side
    counts on both. With `still`, each draw lies elsewhere by a share of the way between the places that this rule and the mean
    position choose, which resampling repeats and so does not see.
    """
    few = seen.fewer(max(1, len(seen.surface.points) // (_FEW * len(seen.parts))))
    few = few if placement == "kept" else few.aligned()
    surface = _smooth(few, basis)
    whole = _learned(few, columns, groups, surface, placement, people).motions
    changes = np.zeros((len(draws), len(whole), basis.count * few.places.shape[2]))
    for draw, rows in enumerate(draws):
        drawn = replace(few, places=few.places[rows], log_volumes=few.log_volumes[rows])
        found = _learned(drawn, columns[rows], groups, surface, placement, people[rows])
        changes[draw] = surface.fields.coefficients(found.motions - whole)
    rng, count = np.random.default_rng(len(draws)), len(draws)
    mixed = rng.standard_normal((count, count)) / np.sqrt(max(count, 1))
    changes = np.einsum("md,dck->mck", mixed, changes, optimize=True)
    if placement == "still":
        away = rigid_part(whole - _learned(few, columns, groups, surface, "mean", people).motions, surface.points)
        changes += _UNSURE * rng.standard_normal((count, 1, 1)) * surface.fields.coefficients(away)
    return changes


def _smooth(seen: Seen, basis: SmoothBasis) -> SmoothSurface:
    return SmoothSurface.of(seen.surface.points, seen.surface.normals, seen.surface.areas, basis)


def _learned(
    seen: Seen,
    columns: Columns,
    groups: Sequence[Group],
    surface: SmoothSurface,
    placement: Placement,
    people: Int[np.ndarray, " rows"],
) -> SurfaceEffects:
    points, normals = surface.points, surface.normals
    shifts = seen.places - points
    fit = fitted(columns, shifts, groups)
    noise = fit.spread(columns, shifts, normals)
    motions, weights = np.zeros_like(fit.motions), list[Float[np.ndarray, " forms"]]()
    for part in seen.parts:
        # What is believed of an effect on one structure says nothing of another.
        motions[:, part], own = regressed(columns, np.ascontiguousarray(shifts[:, part]), groups, normals[part], people)
        weights += own
    for group in groups:
        motion, covariance = motions[group.columns], fit.covariance[group.columns, group.columns]
        if placement == "still" and motion.any():
            motion = motions[group.columns] = still(motion, points, normals, covariance, noise)
        if placement == "mean" or group.exchangeable or not motion.any():
            continue
        chi = squared_errors(along(motion, normals), covariance, noise) / len(motion)
        for part in seen.parts:
            near = cKDTree(points[part]).query(points[part], min(_NEAR, len(points[part])))[1]
            clear = np.maximum(1 - _CHANCE / np.maximum(chi[part][near].mean(axis=1), 1e-12), 0)
            motions[group.columns, part] *= clear[:, None]
    motions = surface.smooth.through(motions)
    for structure, part in enumerate(seen.parts):
        wanted = told_by_covariates(seen.log_volumes[:, structure], columns, groups, people)
        mean = surface.smooth.through(_mean(shifts, columns, motions))
        motions = surface.following(part, wanted, columns, (motions, mean), groups)
    return SurfaceEffects(motions, surface.smooth.through(_mean(shifts, columns, motions)), tuple(weights))


def _mean(shifts: Shifts, columns: Columns, motions: Motions) -> Points:
    return np.asarray((shifts - np.einsum("nc,cpd->npd", columns, motions, optimize=True)).mean(axis=0))
