"""Going back along a field, and carrying a person along: where a point of the moved organ was in the person's own.

With v(p) = p + h(p) the way from a person to what is expected of them, and t(v) = v + g(v) from there to the template, the
point p of the organ moved to covariates with g* was q with t(v(q)) = t*(v(p)). Where the two effects are the same q is p,
whatever the model is worth.
"""

import numpy as np
from jaxtyping import Float

from medrep.models.shape.modes import SmoothModes

_STEPS = 20
_CLOSE = 1e-4


def carried(
    points: Float[np.ndarray, "points dims"],
    modes: SmoothModes,
    identity: Float[np.ndarray, " coefficients"],
    own: Float[np.ndarray, " coefficients"],
    moved: Float[np.ndarray, " coefficients"],
) -> Float[np.ndarray, "points dims"]:
    """Return where points of a moved organ were in the person's own, mm.

    Args:
        points: p, mm.
        modes: Of the fields.
        identity: Coefficients of h.
        own: Of g.
        moved: Of g*.
    """
    if np.array_equal(own, moved):
        return points.copy()
    expected = points + modes.field(points, identity.reshape(-1, points.shape[1]))
    before = pull_back(expected, modes, own, moved)
    return _solved(before, points + (before - expected), modes, identity)


def pull_back(
    points: Float[np.ndarray, "points dims"],
    modes: SmoothModes,
    own: Float[np.ndarray, " coefficients"],
    moved: Float[np.ndarray, " coefficients"],
) -> Float[np.ndarray, "points dims"]:
    """Return q with q + g(q) = p + g*(p), mm.

    Args:
        points: p, mm.
        modes: Of the fields.
        own: Coefficients of g.
        moved: Of g*.
    """
    if np.array_equal(own, moved):
        return points.copy()
    shape = (-1, points.shape[1])
    change = modes.field(points, (moved - own).reshape(shape))
    return _solved(points + modes.field(points, moved.reshape(shape)), points + change, modes, own)


def _solved(
    goal: Float[np.ndarray, "points dims"],
    start: Float[np.ndarray, "points dims"],
    modes: SmoothModes,
    coefficients: Float[np.ndarray, " coefficients"],
) -> Float[np.ndarray, "points dims"]:
    """Return q with q + d(q) = goal, mm, by damped Newton steps from a start."""
    dims = goal.shape[1]
    field_of, found = coefficients.reshape(-1, dims), start.copy()
    open_ = np.arange(len(goal))
    for _ in range(_STEPS):
        field, slopes = modes.field_slopes(found[open_], field_of)
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
