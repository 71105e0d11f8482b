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

    def slopes(
        self, points: Float[np.ndarray, "points dims"]
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "points dims"]]:
        """Return level, mm, and gradient at points."""
        if not self.effect.any():
            return self.template.slopes(points)
        field, bend = self.modes.field_slopes(points, self.effect)
        if self.displaces:
            level, slope = self.template.slopes(points + field)
            return level, slope + np.einsum("pi,pij->pj", slope, bend)
        level, slope = self.template.slopes(points)
        return level + field[:, 0], slope + bend[:, 0]
