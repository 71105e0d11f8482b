"""Training images, read a person at a time from a matrix that need not fit into memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from medrep.cohort.grid import Grid
from medrep.models.blocks import release_pages
from medrep.models.scanner.content import Box, content_box, filled, is_flat

_VOXELS = 2**24
_FEWEST, _MOST = 24, 64


@dataclass(frozen=True)
class Image:
    """One person's volume, still in its row of the matrix.

    Attributes:
        data: The matrix, in memory or memory-mapped.
        row: The person's row.
        shape: Of the common grid.
        box: Where the content lies.
        effects: Centred covariate columns.
    """

    data: Float[np.ndarray, "people voxels"]
    row: int
    shape: tuple[int, int, int]
    box: Box
    effects: Float[np.ndarray, " effects"]

    def values(self) -> Float32[np.ndarray, "a b c"]:
        """Read the content, without padding; the median stands for NaN."""
        content = filled(self.data[self.row].reshape(self.shape)[self.box])
        release_pages(self.data)
        return content

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels of the content along each axis."""
        x, y, z = (side.stop - side.start for side in self.box)
        return x, y, z


def find_images(
    data: Float[np.ndarray, "people voxels"],
    rows: Sequence[int],
    grid: Grid,
    effects: Float[np.ndarray, "rows effects"],
) -> list[Image]:
    """Find the content of some people's volumes; those in which nothing varies are left out.

    Args:
        data: Everybody's volumes.
        rows: The people.
        grid: The common grid.
        effects: Their centred covariate columns.
    """
    images = []
    for row, own in zip(rows, effects, strict=True):
        volume = data[row].reshape(grid.shape)
        if not is_flat(volume):
            images.append(Image(data, int(row), grid.shape, content_box(volume), np.asarray(own, float)))
        release_pages(data)
    return images


def most_people(grid: Grid) -> int:
    """Return how many people of a scanner are looked at: 64, down to 24 where volumes are large (2^24 voxels in all)."""
    return int(np.clip(_VOXELS // grid.size, _FEWEST, _MOST))
