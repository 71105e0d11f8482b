"""Carrying a person along: where a point of the moved organ was in the person's own.

With t(p) = p + d(p) the way from a person to the template, and t*(p) the same at other covariates, the point p of the moved organ
was q with t(q) = t*(p). Where the two ways are the same q is p, whatever the model is worth.
"""

import numpy as np
from jaxtyping import Float

from medrep.models.shape.modes import SmoothModes

_STEPS = 20
_CLOSE = 1e-4


def pull_back(
    points: Float[np.ndarray, "points dims"],
    modes: SmoothModes,
    own: Float[np.ndarray, " coefficients"],
    moved: Float[np.ndarray, " coefficients"],
) -> Float[np.ndarray, "points dims"]:
    """Return q with q + d_own(q) = p + d_moved(p), mm, by damped Newton steps.

    Args:
        points: p, mm.
        modes: Of the fields.
        own: Coefficients of the person's field.
        moved: Coefficients at other covariates.
    """
    if np.array_equal(own, moved):
        return points.copy()
    dims = points.shape[1]
    own_field, moved_field = own.reshape(-1, dims), moved.reshape(-1, dims)
    change = modes.field(points, moved_field - own_field)
    goal = points + modes.field(points, moved_field)
    found = points + change
    open_ = np.flatnonzero(np.abs(change).max(axis=1) > 0)
    for _ in range(_STEPS):
        field, slopes = modes.field_slopes(found[open_], own_field)
        gap = goal[open_] - found[open_] - field
        still = np.abs(gap).max(axis=1) > _CLOSE
        open_, gap, slopes = open_[still], gap[still], slopes[still]
        if not len(open_):
            break
        # A fold of the field has no way back: there the step is that of a rigid shift.
        jacobian = np.eye(dims) + slopes
        bad = np.linalg.det(jacobian) < 0.1
        jacobian[bad] = np.eye(dims)
        found[open_] += np.linalg.solve(jacobian, gap[:, :, None])[:, :, 0]
    return found
