"""A voxel grid: how the columns of a matrix lie in space."""

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
        """Rebuild a grid from the content of `to_json`."""
        x, y, z = (int(length) for length in content["shape"])
        a, b, c = (float(edge) for edge in content["spacing"])
        return cls((x, y, z), (a, b, c))
