"""A voxel grid: how the columns of a matrix lie in space."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


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
