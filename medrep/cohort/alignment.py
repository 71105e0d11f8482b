"""Where an organ is put before its shape is looked at: a rotation, one scale and a translation of world millimetres."""

from dataclasses import dataclass
from itertools import permutations, product
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64

from medrep._persisted import persisted
from medrep.cohort.surfaces import Surface
from medrep.errors import CohortError

How = Literal["none", "centre", "rigid", "similarity"]

_TOLERANCE = 1e-6  # of a matrix read back against rotation times scale
_TURNS = np.array(
    [
        turn
        for order in permutations(range(3))
        for signs in product((1.0, -1.0), repeat=3)
        if np.linalg.det(turn := np.diag(signs)[:, list(order)]) > 0
    ]
)
"""The 24 proper rotations that map the axes of the world onto one another."""


def _refuse_no_similarity(alignment: "Alignment") -> None:
    matrix = alignment.matrix
    if not np.isfinite(matrix).all() or matrix[3].tolist() != [0, 0, 0, 1]:
        raise ValueError(f"matrix {matrix.tolist()} is not 4 x 4 finite numbers that end in 0, 0, 0, 1")
    scale, turn = np.cbrt(np.linalg.det(matrix[:3, :3])), matrix[:3, :3]
    if not (scale > 0 and np.allclose(turn @ turn.T, scale**2 * np.eye(3), rtol=0, atol=_TOLERANCE * scale**2)):
        raise ValueError(f"matrix {matrix.tolist()} is not a rotation times a positive scale")


@persisted(check=_refuse_no_similarity)
@dataclass(frozen=True, eq=False)
class Alignment:
    """A similarity transform.

    Attributes:
        matrix: World millimetres -> aligned millimetres.
    """

    matrix: Float64[np.ndarray, "4 4"]

    @property
    def scale(self) -> float:
        """Aligned millimetres per world millimetre."""
        return float(np.cbrt(np.linalg.det(self.matrix[:3, :3])))

    def apply(self, points: Float[np.ndarray, "points 3"]) -> Float64[np.ndarray, "points 3"]:
        """Bring points from world to aligned millimetres."""
        return np.asarray(points @ self.matrix[:3, :3].T + self.matrix[:3, 3], dtype=np.float64)

    def back(self, points: Float[np.ndarray, "points 3"]) -> Float64[np.ndarray, "points 3"]:
        """Bring points from aligned to world millimetres; the inverse of `apply`."""
        shifted = np.asarray(points - self.matrix[:3, 3], dtype=np.float64)
        return np.linalg.solve(self.matrix[:3, :3], shifted.T).T


def align_surface(
    surface: Surface, how: How, centre: Float[np.ndarray, "3"] | None = None, size: float | None = None
) -> Alignment:
    """Find the transform that brings an organ to where the others lie.

    ``none`` leaves it; ``centre`` moves its area centroid to ``centre``; ``rigid`` also turns its principal axes (of the
    second moments of the surface by area) onto the axes of the world: of the 24 ways to do so the one that turns
    least, R = argmax trace R, so that nobody is mirrored or put upside down; ``similarity`` also scales it, so that the
    root mean square distance of the surface from its centroid is ``size``.

    Where two principal moments are nearly equal, those two axes follow noise.

    Args:
        surface: The organ, world millimetres.
        how: As above.
        centre: Where the centroid goes, in aligned millimetres; None: the origin.
        size: Aligned root mean square radius in mm; needed for ``similarity``, unused otherwise.

    Raises:
        CohortError: ``similarity`` without a size above zero.
    """
    matrix = np.eye(4)
    if how == "none":
        return Alignment(matrix)
    middle, moments = surface.centroid, second_moments(surface)
    if how in {"rigid", "similarity"}:
        axes = np.linalg.eigh(moments)[1]
        turns = _TURNS @ (axes * np.sign(np.linalg.det(axes))).T
        matrix[:3, :3] = turns[np.argmax(np.trace(turns, axis1=1, axis2=2))]
    if how == "similarity":
        if size is None or not 0 < size < np.inf:
            raise CohortError(f"alignment similarity: size {size} is no length in mm; give the cohort's mean radius")
        matrix[:3, :3] *= size / np.sqrt(np.trace(moments))
    goal = np.zeros(3) if centre is None else centre
    matrix[:3, 3] = goal - matrix[:3, :3] @ middle
    return Alignment(matrix)


def second_moments(surface: Surface) -> Float64[np.ndarray, "3 3"]:
    """Return the covariance of a point drawn uniformly from the surface, in mm2; its trace is the squared RMS radius.

    Over one triangle with corners v and area A, the integral of x x' is A / 12 (s s' + sum of v v'), s = sum of v.
    """
    corners = surface.corners - surface.centroid
    sums = corners.sum(axis=1)
    weights = surface.face_areas / 12
    whole = np.einsum("f,fx,fy->xy", weights, sums, sums) + np.einsum("f,fcx,fcy->xy", weights, corners, corners)
    return whole / surface.area
