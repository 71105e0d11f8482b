"""The organ that is expected at some covariates, before a person's own field: T(q + g(q)), or T(q) + g(q) for distances."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medrep.models.shape.modes import SmoothModes
from medrep.models.shape.template import LevelFunction


@dataclass(frozen=True, eq=False)
class Expected:
    """A level function, mm, negative inside.

    Attributes:
        template: T.
        modes: Of fields.
        effect: Coefficients of g, what the covariates do.
        displaces: Whether g moves points; else it is added to the level.
    """

    template: LevelFunction
    modes: SmoothModes
    effect: Float[np.ndarray, "modes outputs"]
    displaces: bool

    def values(self, points: Float[np.ndarray, "points dims"]) -> Float[np.ndarray, " points"]:
        """Return the level at points, mm."""
        field = self.modes.field(points, self.effect)
        if self.displaces:
            return self.template.values(points + field)
        return self.template.values(points) + field[:, 0]

    def seen(
        self, points: Float[np.ndarray, "points dims"], identity: Float[np.ndarray, "points outputs"]
    ) -> Float[np.ndarray, " points"]:
        """Return the level at points, mm, of somebody whose own field is ``identity`` there."""
        if self.displaces:
            return self.values(points + identity)
        return self.values(points) + identity[:, 0]

    def slopes(
        self, points: Float[np.ndarray, "points dims"], identity: Float[np.ndarray, "points outputs"]
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "points outputs"]]:
        """Return what `seen` returns, and how it answers to the own field."""
        if not self.displaces:
            return self.seen(points, identity), np.ones((len(points), 1))
        own = points + identity
        if not self.effect.any():
            return self.template.slopes(own)
        field, bend = self.modes.field_slopes(own, self.effect)
        level, slope = self.template.slopes(own + field)
        return level, slope + np.einsum("pi,pij->pj", slope, bend)
