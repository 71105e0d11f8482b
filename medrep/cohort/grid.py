"""A voxel grid: how the columns of a matrix lie in space."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Grid:
    """Columns in C order of a box of voxels.

    Attributes:
        shape: Voxels along each axis.
        spacing: Voxel edge lengths in millimetres.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def size(self) -> int:
        """Number of voxels, and so of columns."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def affine(self, centre: Sequence[float] = (0.0, 0.0, 0.0)) -> Float[np.ndarray, "4 4"]:
        """Return an affine, voxel index -> world, mm, RAS+, in which the middle of the grid lies at a point of the world."""
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = np.asarray(centre) - (np.asarray(self.shape) - 1) / 2 * np.asarray(self.spacing)
        return affine

    def to_json(self) -> dict[str, Any]:
        """Return the grid as JSON content; `from_json` is its inverse."""
        return {name: list(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Grid":
        """Rebuild a grid from the content of `to_json`.

        Raises:
            ValueError: Counts or lengths that are none.
        """
        x, y, z = (int(length) for length in content["shape"])
        a, b, c = (float(edge) for edge in content["spacing"])
        if [x, y, z] != list(content["shape"]) or min(x, y, z) < 1:
            raise ValueError(f"shape {content['shape']} is not three counts of voxels")
        if not all(math.isfinite(edge) and edge > 0 for edge in (a, b, c)):
            raise ValueError(f"spacing {content['spacing']} is not three lengths in mm")
        return cls((x, y, z), (a, b, c))
