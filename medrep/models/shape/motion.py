"""What a change of covariates does to the organ's surface: millimetres along its normal, with intervals over people."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.errors import ModelError
from medrep.models.additive_shape import AdditiveShape
from medrep.models.contrasts import Contrast
from medrep.models.shape.pullback import pull_back

LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Motion:
    """How the surface moves, outward positive.

    Attributes:
        contrast: What changes.
        millimetres: Along the outward normal at each point.
        draws: The same for effects learned from resampled people.
    """

    contrast: Contrast
    millimetres: Float[np.ndarray, " points"]
    draws: Float[np.ndarray, "draws points"]

    def interval(self) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Return lower and upper bounds at each point; the estimate itself without draws."""
        return _bounds(self.draws, self.millimetres)

    def mean(self, areas: Float[np.ndarray, " points"]) -> tuple[float, float, float]:
        """Return the mean over the surface and its interval, mm.

        Args:
            areas: What each point counts.
        """
        share = areas / areas.sum()
        mean = self.millimetres @ share[:, None]
        low, high = _bounds(self.draws @ share[:, None], mean)
        return float(mean[0]), float(low[0]), float(high[0])


def surface_motion(
    model: AdditiveShape,
    contrast: Contrast,
    points: Float[np.ndarray, "points dims"],
    normals: Float[np.ndarray, "points dims"],
) -> Motion:
    """Return how points of the organ before the change move along its normal.

    Args:
        model: With fields that displace.
        contrast: The change.
        points: On the surface of the organ before it, mm.
        normals: Outward unit normals there.

    Raises:
        ModelError: A model whose fields do not displace.
    """
    population = model.population
    if population.moves != "displacement":
        raise ModelError("settings.field is distance: such a model does not say how points move")
    before, after = (columns_at(model, {contrast.covariate: value}) for value in (contrast.before, contrast.after))
    own, moved = after @ population.effects, before @ population.effects
    went = ((pull_back(points, population.modes, own, moved) - points) * normals).sum(axis=1)
    across = (population.modes.at(points)[:, :, None] * normals[:, None, :]).reshape(len(points), -1)
    # To first order, what other effects would move differently.
    changes = (before - after) @ (model.resampled - population.effects)
    return Motion(contrast, went, went + changes @ across.T)


def columns_at(model: AdditiveShape, values: dict[str, float | str]) -> Float[np.ndarray, " columns"]:
    """Return the design's columns at some values, the other covariates at their reference."""
    if model.effect_columns is None:
        return np.zeros(0)
    home = model.schema.references(model.schema.names)
    frame = pd.DataFrame({name: [value] for name, value in {**home, **values}.items()})
    return model.effect_columns.of(frame)[0]


def _bounds(draws: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(draws):
        return estimate, estimate
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high
