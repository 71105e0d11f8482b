"""The forward model of a scanner: its response, the axes it is described in, and the images it acts on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.ndimage import binary_dilation, binary_erosion, correlate1d

from medrep._files import release_pages
from medrep._persisted import persisted
from medrep.cohort.grid import Grid

Content = Float32[np.ndarray, "a b c"]

Box = tuple[slice, slice, slice]

_FEW = 0.02
_AROUND = np.ones((3, 3, 3), dtype=bool)


def foreground_box(volume: Float[np.ndarray, "x y z"]) -> Box:
    """Return the box outside of which every slice repeats its neighbour, as padding with border values does.

    NaN counts as equal to NaN; along an axis on which nothing varies it is the whole volume.
    """
    first, second, third = (_inside(np.moveaxis(volume, axis, 0)) for axis in range(3))
    return first, second, third


def void(image: Content) -> Bool[np.ndarray, "a b c"] | None:
    """Return what a mask left empty: zeros in or beside a 3 x 3 x 3 block of zeros; None where zeros are rare, so no mask is."""
    zero = image == 0
    if zero.mean() < _FEW:
        return None
    # A content box leaves but one slice of an empty side; the border repeats, as padding does.
    chunks = binary_dilation(binary_erosion(np.pad(zero, 1, mode="edge"), _AROUND, border_value=1), _AROUND)
    return zero & chunks[1:-1, 1:-1, 1:-1]


def filled(volume: Float[np.ndarray, "a b c"]) -> Content:
    """Return a float32 copy with the median in place of NaN and infinite voxels."""
    known = np.isfinite(volume)
    copy = volume.astype(np.float32)
    if not known.all():
        copy[~known] = np.median(volume[known]) if known.any() else 0
    return copy


def change_content(
    volume: Float[np.ndarray, "x y z"], template: Float[np.ndarray, "x y z"], change: Callable[[Content, Box], Content]
) -> None:
    """Change a volume in place where ``template`` has content; what is not finite or was left empty stays as it is."""
    box = foreground_box(template)
    inside, seen = volume[box], filled(volume[box])
    empty, keep = void(seen), np.isfinite(inside)
    volume[box] = np.where(keep if empty is None else keep & ~empty, change(seen, box), inside)


def is_flat(volume: Float[np.ndarray, "x y z"]) -> bool:
    """Return whether a volume has no two different values, and so nothing that a scanner could be told from."""
    known = volume[np.isfinite(volume)]
    return not len(known) or bool(known.min() == known.max())


def _inside(slices: Float[np.ndarray, "n a b"]) -> slice:
    below, above = slices[:-1], slices[1:]
    changes = ((below != above) & ~(np.isnan(below) & np.isnan(above))).any(axis=(1, 2))
    where = np.flatnonzero(changes)
    return slice(int(where[0]), int(where[-1]) + 2) if len(where) else slice(0, len(slices))


_VOXELS = 2**24
_FEWEST, _MOST = 24, 64


@dataclass(frozen=True)
class Image:
    """One person's volume on the common grid, still in its row of the matrix, which may be memory-mapped.

    The box says where the content lies; the effects are centred covariate columns.
    """

    data: Float[np.ndarray, "people voxels"]
    row: int
    shape: tuple[int, int, int]
    box: Box
    effects: Float[np.ndarray, " effects"]

    def values(self) -> Content:
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
    """Find the content of some people's volumes; those in which nothing varies are left out."""
    images = []
    for row, own in zip(rows, effects, strict=True):
        volume = data[row].reshape(grid.shape)
        if not is_flat(volume):
            images.append(Image(data, int(row), grid.shape, foreground_box(volume), np.asarray(own, float)))
        release_pages(data)
    return images


def most_people(grid: Grid) -> int:
    """Return how many people of a scanner are looked at: 64, down to 24 where volumes are large (2^24 voxels in all)."""
    return int(np.clip(_VOXELS // grid.size, _FEWEST, _MOST))


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
        reference: Sequence[Image],
        everybody: Sequence[Image],
        shape: tuple[int, int, int],
        spacing: tuple[float, float, float],
    ) -> "Frame":
        """Take the extent from everybody and the intensities from the anchor's people."""
        sides = []
        for axis in range(3):
            low = int(np.median([image.box[axis].start for image in everybody]))
            sides.append((low, max(int(np.median([image.box[axis].stop for image in everybody])) - 1, low)))
        sample = np.abs(np.concatenate([image.values().ravel()[::37] for image in reference]).astype(np.float64))
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
            return (np.maximum(size - knot, 0) ** 3 - np.maximum(size - last, 0) ** 3) / (last - knot)

        bends = [(cubic(knot) - cubic(self.knots[-2])) / (last - self.knots[0]) ** 2 for knot in self.knots[:-2]]
        return np.sign(a) * np.stack([size, *bends])

    def chunks(self) -> Int[np.ndarray, "x y z"]:
        """Cut the content into about 80 blocks (of 50 voxels or more) that are nearly cubes in mm; return each voxel's block.

        What lies outside the content goes to the nearest block.
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


TAPS = 2
TABLE = np.linspace(-9.0, 9.0, 7201)
"""Arguments asinh(t / eps) of `curve_table`."""
_LEAST_SLOPE = 0.05


@dataclass(frozen=True)
class Scanner:
    """One scanner relative to the anchor.

    The shading weighs the fields P_j, in log intensity, the curve the splines B_k, and the taps the kernel at one and two voxels
    from its centre, along each axis; the noise is a deviation in data units.
    """

    shading: Float[np.ndarray, " fields"]
    curve: Float[np.ndarray, " curves"]
    taps: Float[np.ndarray, "3 taps"]
    noise: float

    @classmethod
    def identity(cls, frame: Frame) -> "Scanner":
        """Return the anchor."""
        return cls(np.zeros(len(DEGREES)), np.zeros(frame.curves), np.zeros((3, TAPS)), 0.0)

    @property
    def does_nothing(self) -> bool:
        """True for the reference, or a scanner like it."""
        return not (self.shading.any() or self.curve.any() or self.spreads)

    @property
    def spreads(self) -> bool:
        """True if there is blur or noise to undo."""
        return bool(self.taps.any() or self.noise > 0)


class Rendering:
    """A scanner made ready to be applied on the frame's grid: the field evaluated, the curve tabulated."""

    def __init__(self, frame: Frame, scanner: Scanner) -> None:
        self.scanner, self._eps = scanner, np.float32(frame.eps)
        self._field = np.exp(frame.log_field(scanner.shading))
        self._curve = curve_table(frame, scanner.curve)

    def invert(self, seen: Content, box: Box) -> Content:
        """Undo shading and curve: r^-1(y / f); blur and noise stay."""
        if self.scanner.does_nothing:
            return seen
        ratio = np.arcsinh(seen / (self._field[box] * self._eps))
        return (self._eps * np.sinh(_read(ratio, TABLE, self._curve))).astype(np.float32)

    def apply_response(self, image: Content, box: Box) -> Content:
        """Apply curve and shading: f * r(x)."""
        if self.scanner.does_nothing:
            return image
        bent = np.sinh(_read(np.arcsinh(image / self._eps), self._curve, TABLE))
        return (self._field[box] * self._eps * bent).astype(np.float32)

    def forward(self, image: Content, box: Box) -> Content:
        """Return what the scanner would make of the anchor's image, without noise; what a mask left empty stays so."""
        return self._see(image, box, void(image))

    def simulate(self, image: Content, box: Box, rng: np.random.Generator) -> Content:
        """Return what the scanner would make of the anchor's image, with noise."""
        empty = void(image)
        seen = self._see(image, box, empty)
        if self.scanner.noise > 0:
            seen = seen + np.float32(self.scanner.noise) * rng.standard_normal(seen.shape, dtype=np.float32)
            if empty is not None:
                seen[empty] = 0
        return seen

    def _see(self, image: Content, box: Box, empty: np.ndarray | None) -> Content:
        blurred = spread(image, self.scanner.taps)
        return self.apply_response(blurred if empty is None else np.where(empty, np.float32(0), blurred), box)


def curve_table(frame: Frame, curve: Float[np.ndarray, " curves"]) -> Float[np.ndarray, " n"]:
    """Tabulate asinh(r^-1(t) / eps) over asinh(t / eps) at `TABLE`; increasing whatever the weights are."""
    raw = TABLE + curve @ frame.splines(TABLE)
    steps = np.maximum(np.diff(raw), _LEAST_SLOPE * np.diff(TABLE))
    h = np.concatenate([[0.0], np.cumsum(steps)])
    h -= np.interp(0.0, TABLE, h)
    kappa = np.sinh(frame.middle) / np.sinh(np.interp(frame.middle, TABLE, h))
    return np.arcsinh(kappa * np.sinh(h))


def spread(image: Content, taps: Float[np.ndarray, "3 taps"]) -> Content:
    """Convolve with the kernel; the border repeats, and a constant stays as it is."""
    for axis, sides in enumerate(taps):
        if sides.any():
            kernel = np.concatenate([sides[::-1], [1 - 2 * sides.sum()], sides])
            image = correlate1d(image, kernel.astype(np.float32), axis=axis, mode="nearest")
    return image


def _read(
    at: Float[np.ndarray, "a b c"], points: Float[np.ndarray, " n"], table: Float[np.ndarray, " n"]
) -> np.ndarray:
    """Interpolate; beyond the ends the table goes on with slope one."""
    beyond = at - np.clip(at, points[0], points[-1])
    between: np.ndarray = np.interp(at, points, table)
    return between + beyond
