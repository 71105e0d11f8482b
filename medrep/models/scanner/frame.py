"""The axes in which scanners are described: where the content lies, and what intensities are usual."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from jaxtyping import Float, Float32, Int

from medrep._persisted import persisted
from medrep.models.scanner.images import Image

DEGREE = 2
DEGREES = tuple(d for d in product(range(DEGREE + 1), repeat=3) if sum(d) <= DEGREE)
_EPS = 0.1  # of the median
_KNOTS = (0.02, 0.3, 0.7, 0.98)
_BLOCKS = 80
_BLOCK_VOXELS = 50


def _refuse_no_frame(frame: "Frame") -> None:
    inside = all(0 <= low <= high < n for (low, high), n in zip(frame.extent, frame.shape, strict=True))
    numbers = np.array([frame.eps, frame.middle, *frame.spacing])
    rising = len(frame.knots) > 0 and all(low < high for low, high in pairwise(frame.knots))
    if not (inside and rising and np.isfinite([*numbers, *frame.knots]).all() and (numbers > 0).all()):
        raise ValueError(f"{frame} is no description of where scanners look")


@persisted(check=_refuse_no_frame)
@dataclass(frozen=True)
class Frame:
    """The axes of a cohort's scanners.

    Attributes:
        shape: Voxels of the common grid.
        spacing: Voxel edges in mm.
        extent: First and last voxel of the usual content along each axis.
        eps: Intensity below which the curve is a line rather than a power law, in data units.
        middle: asinh(median / eps) of the anchor's intensities.
        knots: Of the curve, in asinh(intensity / eps).
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    extent: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    eps: float
    middle: float
    knots: tuple[float, ...]

    @classmethod
    def fit(
        cls,
        anchor: Sequence[Image],
        everybody: Sequence[Image],
        shape: tuple[int, int, int],
        spacing: tuple[float, float, float],
    ) -> "Frame":
        """Take the extent from everybody and the intensities from the anchor's people."""
        sides = []
        for axis in range(3):
            low = int(np.median([image.box[axis].start for image in everybody]))
            sides.append((low, max(int(np.median([image.box[axis].stop for image in everybody])) - 1, low)))
        sample = np.abs(np.concatenate([image.values().ravel()[::37] for image in anchor]).astype(np.float64))
        median = float(np.median(sample[sample > 0])) if (sample > 0).any() else 1.0
        scaled = np.arcsinh(sample / (_EPS * median))
        knots = tuple(float(k) for k in np.unique(np.quantile(scaled, _KNOTS)))
        extent = (sides[0], sides[1], sides[2])
        return cls(shape, spacing, extent, _EPS * median, float(np.arcsinh(1 / _EPS)), knots)

    @classmethod
    def plain(cls, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> "Frame":
        """Return a frame for images that tell nothing."""
        x, y, z = ((0, n - 1) for n in shape)
        return cls(shape, spacing, (x, y, z), _EPS, float(np.arcsinh(1 / _EPS)), (1.0,))

    @property
    def median(self) -> float:
        """The anchor's median intensity, in data units."""
        return self.eps / _EPS

    @property
    def curves(self) -> int:
        """Number of weights of the curve."""
        return max(len(self.knots) - 1, 1)

    def log_field(self, weights: Float[np.ndarray, " fields"]) -> Float32[np.ndarray, "x y z"]:
        """Return sum_j weights_j P_j, the Legendre products over the content; the first is one."""
        cube = np.zeros((DEGREE + 1,) * 3, dtype=np.float32)
        cube[tuple(zip(*DEGREES, strict=True))] = weights
        for size, (low, high) in zip(self.shape, self.extent, strict=True):
            half = max((high - low) / 2, 0.5)
            # Beyond the content there is only padding: hold the polynomial there, since it would run away.
            x = np.clip((np.arange(size) - (low + high) / 2) / half, -1.25, 1.25).astype(np.float32)
            cube = np.tensordot(cube, np.stack([np.ones_like(x), x, (3 * x**2 - 1) / 2]), ([0], [0]))
        return cube

    def splines(self, a: Float[np.ndarray, " n"]) -> Float[np.ndarray, "curves n"]:
        """Return the functions B_k."""
        size, last = np.abs(a), self.knots[-1]

        def cubic(knot: float) -> np.ndarray:
            bend: np.ndarray = (np.maximum(size - knot, 0) ** 3 - np.maximum(size - last, 0) ** 3) / (last - knot)
            return bend

        bends = [(cubic(knot) - cubic(self.knots[-2])) / (last - self.knots[0]) ** 2 for knot in self.knots[:-2]]
        splines: np.ndarray = np.sign(a) * np.stack([size, *bends])
        return splines

    def blocks(self) -> Int[np.ndarray, "x y z"]:
        """Cut the content into about 80 blocks (of 50 voxels or more) that are nearly cubes in mm.

        Returns:
            The block of each voxel of the grid; what lies outside the content goes to the nearest block.
        """
        sides = np.array([high - low + 1 for low, high in self.extent])
        wanted = int(np.clip(sides.prod() // _BLOCK_VOXELS, 1, _BLOCKS))
        lengths = sides * np.array(self.spacing)
        counts = np.clip(np.round(lengths / (lengths.prod() / wanted) ** (1 / 3)).astype(int), 1, sides)
        labels = np.zeros(self.shape, dtype=np.int64)
        for axis, count in enumerate(counts):
            low, high = self.extent[axis]
            along = np.floor((np.arange(self.shape[axis]) - low) * count / (high - low + 1)).astype(int)
            places = [1, 1, 1]
            places[axis] = -1
            labels = labels * count + np.clip(along, 0, count - 1).reshape(places)
        return labels
