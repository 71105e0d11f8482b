"""What one scanner does to a volume, relative to another; `harmoniser` states the formula."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from scipy.ndimage import correlate1d

from medrep.models.scanner.content import Box, void
from medrep.models.scanner.frame import DEGREES, Frame

TAPS = 2
TABLE = np.linspace(-9.0, 9.0, 7201)
"""Arguments asinh(t / eps) of `curve_table`."""
_LEAST_SLOPE = 0.05


@dataclass(frozen=True)
class Scanner:
    """One scanner relative to the anchor.

    Attributes:
        shading: Weights of the fields P_j, in log intensity.
        curve: Weights of the splines B_k.
        taps: Weights of the kernel at one and two voxels from its centre, along each axis.
        noise: Deviation of the noise, in data units.
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
        """Whether this is the anchor, or like it."""
        return not (self.shading.any() or self.curve.any() or self.spreads)

    @property
    def spreads(self) -> bool:
        """Whether there is blur or noise to undo."""
        return bool(self.taps.any() or self.noise > 0)


class Rendering:
    """A scanner made ready to be applied on the frame's grid: the field evaluated, the curve tabulated."""

    def __init__(self, frame: Frame, scanner: Scanner) -> None:
        self.scanner, self._eps = scanner, np.float32(frame.eps)
        self._field = np.exp(frame.log_field(scanner.shading))
        self._curve = curve_table(frame, scanner.curve)

    def straighten(self, seen: Float32[np.ndarray, "a b c"], box: Box) -> Float32[np.ndarray, "a b c"]:
        """Undo shading and curve: r^-1(y / f); blur and noise stay."""
        if self.scanner.does_nothing:
            return seen
        ratio = np.arcsinh(seen / (self._field[box] * self._eps))
        straight: np.ndarray = (self._eps * np.sinh(_read(ratio, TABLE, self._curve))).astype(np.float32)
        return straight

    def bend(self, image: Float32[np.ndarray, "a b c"], box: Box) -> Float32[np.ndarray, "a b c"]:
        """Apply curve and shading: f * r(x)."""
        if self.scanner.does_nothing:
            return image
        bent = np.sinh(_read(np.arcsinh(image / self._eps), self._curve, TABLE))
        shaded: np.ndarray = (self._field[box] * self._eps * bent).astype(np.float32)
        return shaded

    def see(self, image: Float32[np.ndarray, "a b c"], box: Box) -> Float32[np.ndarray, "a b c"]:
        """Return what the scanner would make of the anchor's image, without noise; what a mask left empty stays so."""
        return self._see(image, box, void(image))

    def hiss(
        self, image: Float32[np.ndarray, "a b c"], box: Box, rng: np.random.Generator
    ) -> Float32[np.ndarray, "a b c"]:
        """Return what the scanner would make of the anchor's image, with noise."""
        empty = void(image)
        seen = self._see(image, box, empty)
        if self.scanner.noise > 0:
            seen = seen + np.float32(self.scanner.noise) * rng.standard_normal(seen.shape, dtype=np.float32)
            if empty is not None:
                seen[empty] = 0
        return seen

    def _see(
        self, image: Float32[np.ndarray, "a b c"], box: Box, empty: np.ndarray | None
    ) -> Float32[np.ndarray, "a b c"]:
        blurred = spread(image, self.scanner.taps)
        return self.bend(blurred if empty is None else np.where(empty, np.float32(0), blurred), box)


def curve_table(frame: Frame, curve: Float[np.ndarray, " curves"]) -> Float[np.ndarray, " n"]:
    """Tabulate asinh(r^-1(t) / eps) over asinh(t / eps) at `TABLE`; increasing whatever the weights are."""
    raw = TABLE + curve @ frame.splines(TABLE)
    steps = np.maximum(np.diff(raw), _LEAST_SLOPE * np.diff(TABLE))
    h = np.concatenate([[0.0], np.cumsum(steps)])
    h -= np.interp(0.0, TABLE, h)
    kappa = np.sinh(frame.middle) / np.sinh(np.interp(frame.middle, TABLE, h))
    table: np.ndarray = np.arcsinh(kappa * np.sinh(h))
    return table


def spread(image: Float32[np.ndarray, "a b c"], taps: Float[np.ndarray, "3 taps"]) -> Float32[np.ndarray, "a b c"]:
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
