"""Smooth fields through motions of a surface's points, and those that bring moved points back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medrep.models.shape.effects import Group
from medrep.models.shape.mean_shape import Points, SmoothBasis
from medrep.models.shape.placement import Motions

Columns = Float[np.ndarray, "people columns"]

_SMOOTH = 1e-3  # mm2: how well fields must go through motions
EXACT = 1e-4
"""mm2, the same where motions are smooth already; with less, fields fold beside the surface."""
_SAMPLES = 24  # people at whose covariates a field is made to agree


@dataclass(frozen=True, eq=False)
class FieldsThrough:
    """Smooth fields through motions at points: coefficients by least squares."""

    modes: Float[np.ndarray, "points modes"]
    solver: Float[np.ndarray, "modes points"]

    @classmethod
    def of(cls, points: Points, basis: SmoothBasis, ridge: float = _SMOOTH) -> "FieldsThrough":
        """Prepare for these points; a ridge, mm2, says how well fields must go through motions."""
        modes = basis.at(points)
        square = modes.T @ modes + ridge * len(points) * np.eye(basis.count)
        return cls(modes, np.linalg.solve(square, modes.T))

    def coefficients(self, motions: Float[np.ndarray, "*many points dims"]) -> Float[np.ndarray, "*many coefficients"]:
        """Return the coefficients, mode-major."""
        found = np.einsum("mp,...pd->...md", self.solver, motions)
        return found.reshape(*motions.shape[:-2], -1)

    def through(self, motions: Float[np.ndarray, "*many points dims"]) -> Float[np.ndarray, "*many points dims"]:
        """Return motions as smooth as fields are."""
        return np.einsum("pm,...md->...pd", self.modes, np.einsum("mp,...pd->...md", self.solver, motions))


def pulled_back(
    motions: Motions, mean: Points, points: Points, basis: SmoothBasis, columns: Columns, groups: Sequence[Group]
) -> tuple[Float[np.ndarray, " coefficients"], Float[np.ndarray, "columns coefficients"]]:
    """Return coefficients of fields that bring moved points back: that of the mean, and those of the columns of the design.

    g(w + d) = -d at people's covariates, for columns where the mean has moved w; d and the mean are smooth.
    """
    rows = np.zeros((columns.shape[1], basis.count * points.shape[1]))
    for group in groups:
        parts = [group.columns] if not group.exchangeable else [
            slice(k, k + 1) for k in range(group.columns.start, group.columns.stop)
        ]  # fmt: skip
        for part in parts:
            rows[part] = _pulled(motions[part], points + mean, basis, columns[:, part])
    return _pulled(mean[None], points, basis, np.ones((1, 1)))[0], rows


def _pulled(
    motions: Motions, home: Points, basis: SmoothBasis, columns: Columns
) -> Float[np.ndarray, "columns coefficients"]:
    count, dims = len(motions), home.shape[1]
    order = np.argsort(columns[:, 0], kind="stable")
    some = columns[order[np.unique(np.linspace(0, len(order) - 1, _SAMPLES).astype(int))]]
    some = some[np.abs(some).max(axis=1) > 0]
    if not len(some):
        return np.zeros((count, basis.count * dims))
    square = np.zeros((count, basis.count, count, basis.count))
    target = np.zeros((count, basis.count, dims))
    for own in some:
        motion = np.einsum("c,cpd->pd", own, motions)
        modes = basis.at(home + motion)
        square += np.einsum("c,e,mk->cmek", own, own, modes.T @ modes)
        target -= np.einsum("c,md->cmd", own, modes.T @ motion)
    size = count * basis.count
    # The ridge counts as in `FieldsThrough`, in units of what the columns are.
    weight = (some**2).sum(axis=0) + 1e-9
    whole = square.reshape(size, size) + np.diag(np.repeat(weight, basis.count) * EXACT * len(home))
    found = np.linalg.solve(whole, target.reshape(size, dims))
    return found.reshape(count, basis.count * dims)
