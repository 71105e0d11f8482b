"""Points in correspondence brought to lie alike: how a person is placed is no shape.

Superimposition is ordinary: the translation, proper rotation and (of a similarity) scale with the least sum of squares (Kabsch
1976; Gower 1975). Nobody is mirrored. The consensus is the mean of the superimposed, found by rounds (Goodall 1991); it is as
large as people are in the mean, and turned as they are in the mean, so that the axes of the world keep their sense.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from medrep.errors import CohortError

How = Literal["none", "centre", "rigid", "similarity"]
Points = Float[np.ndarray, "points dims"]

_ROUNDS, _STILL = 50, 1e-7
_FLAT = 1e-9


@dataclass(frozen=True, eq=False)
class Pose:
    """A similarity: aligned = scale (own - middle) turn + goal.

    Attributes:
        turn: A proper rotation.
        scale: Aligned millimetres per millimetre of the person.
        middle: Centroid of the person's points.
        goal: Where it goes.
    """

    turn: Float[np.ndarray, "dims dims"]
    scale: float
    middle: Float[np.ndarray, " dims"]
    goal: Float[np.ndarray, " dims"]

    def apply(self, points: Points) -> Points:
        """Bring a person's points to where all lie alike."""
        moved: Points = self.scale * (points - self.middle) @ self.turn + self.goal
        return moved

    def back(self, change: Points) -> Points:
        """Bring displacements of aligned points back to the person's own space."""
        own: Points = change @ self.turn.T / self.scale
        return own

    @property
    def degrees(self) -> float:
        """Angle of the rotation."""
        dims = len(self.turn)
        cosine = (np.trace(self.turn) - (dims - 2)) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def superimposed(points: Points, consensus: Points, how: How) -> Pose:
    """Return how a person's points are brought onto a consensus; points with a missing coordinate are not looked at.

    Args:
        points: The person's.
        consensus: Where they belong, in the same order.
        how: ``none``, ``centre`` (translation), ``rigid`` (and rotation), ``similarity`` (and scale).

    Raises:
        CohortError: Too few points that are known, or all of them in one place.
    """
    dims = points.shape[1]
    if how == "none":
        return Pose(np.eye(dims), 1.0, np.zeros(dims), np.zeros(dims))
    known = np.isfinite(points).all(axis=1) & np.isfinite(consensus).all(axis=1)
    if known.sum() <= dims:
        raise CohortError(
            f"{int(known.sum())} points are known of those that people are aligned by; {dims + 1} are needed"
        )
    own, there = points[known], consensus[known]
    middle, goal = own.mean(axis=0), there.mean(axis=0)
    own, there = own - middle, there - goal
    size = float((own**2).sum())
    if size <= _FLAT * max(float((there**2).sum()), 1e-300):
        raise CohortError("all points lie in one place")
    turn, scale = np.eye(dims), 1.0
    if how != "centre":
        left, values, right = np.linalg.svd(own.T @ there)
        signs = np.ones(dims)
        signs[-1] = np.sign(np.linalg.det(left @ right))
        turn = (left * signs) @ right
        scale = float((values * signs).sum()) / size if how == "similarity" else 1.0
    return Pose(turn, scale, middle, goal)


def consensus_of(people: Sequence[Points], how: How) -> Points:
    """Return the mean shape of people's points, centred, after they were superimposed.

    Args:
        people: Points of each, in correspondence; NaN where one is missing.
        how: As of `superimposed`.

    Raises:
        CohortError: Points that nobody has, or people who cannot be superimposed.
    """
    first = next((one for one in people if np.isfinite(one).all()), None)
    if first is None:
        raise CohortError("nobody has all points that people are aligned by; leave out landmarks that most people lack")
    found = first - first.mean(axis=0)
    for _ in range(_ROUNDS):
        poses = [superimposed(one, found, how) for one in people]
        mean = np.nanmean([pose.apply(one) for pose, one in zip(poses, people, strict=True)], axis=0)
        mean -= mean.mean(axis=0)
        if how == "similarity":  # else the consensus would shrink round by round
            mean *= np.sqrt((found**2).sum() / (mean**2).sum())
        still = float(np.abs(mean - found).max()) <= _STILL * float(np.abs(mean).max())
        found = mean
        if still:
            break
    if how == "similarity":
        sizes = [np.sqrt(np.nansum((one - np.nanmean(one, axis=0)) ** 2)) for one in people if np.isfinite(one).all()]
        found *= float(np.exp(np.mean(np.log(sizes)))) / np.sqrt((found**2).sum())
    if how != "centre":
        turned = np.mean([superimposed(one, found, how).turn for one in people], axis=0)
        left, _, right = np.linalg.svd(turned)
        signs = np.ones(len(turned))
        signs[-1] = np.sign(np.linalg.det(left @ right))
        found = found @ ((left * signs) @ right).T
    return found
