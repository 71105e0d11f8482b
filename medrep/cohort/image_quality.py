"""Statistics of what an acquisition leaves in an image, its background, and checks of units and of label maps.

The statistics need no model. All but ``level`` stay the same when the volume is multiplied, so that the arbitrary unit of a
scanner says nothing. Frequencies and edges are in voxels: compare volumes of one common grid.

Noise, edges and tissue come from Haar's wavelets: of a block of 2 x 2 x 2 voxels the mean, a half difference along each axis,
and the difference of differences along all three, in which anatomy is weakest and noise as strong as anywhere (Donoho 1994).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int, Num, Shaped
from scipy import fft

BANDS = 6
AXES = ("x", "y", "z")
STATISTICS = (
    "level",
    *(f"power_{band}" for band in range(1, BANDS + 1)),
    "noise",
    "noise_tails",
    "noise_floor",
    *(f"sharpness_{axis}" for axis in AXES),
    "edges",
    "edges_y_over_x",
    "edges_z_over_x",
    "dark",
    "middle",
    "bright",
    "classes",
    "mean_log",
    "skewness",
    "foreground",
)
"""The names of what `image_statistics` returns."""

_FLOOR = 1e-6  # shares and ratios below it are all the same, so that logarithms stay finite
_FOREGROUND = 0.2  # of the 95th percentile of the magnitudes

Blocks = Float32[np.ndarray, "a b c"]


def image_statistics(volume: Num[np.ndarray, "x y z"]) -> Float[np.ndarray, " statistics"]:
    """Measure a volume.

    Args:
        volume: Intensities on the common grid, in any unit; voxels that are NaN or infinite are left out (in the spectrum they
            are filled with the mean).

    Returns:
        One number for each of `STATISTICS`, always finite; natural logarithms, up to the last two. ``level``: of the mean
        magnitude, in the volume's unit. ``power_k``: of the share of the power in the k-th of six bands of equal width of radial
        frequency, up to half a cycle a voxel (what is beyond is in the last). ``noise``: robust deviation of the differences
        along three axes over the range of the foreground, ``noise_tails``: their deviation over the robust one,
        ``noise_floor``: of what varies in the flattest tenth of the blocks, over the signal. ``sharpness``: edges within blocks
        of 2 voxels over those of 4, along an axis. ``edges``: 99th percentile of block gradients over the range;
        ``edges_y_over_x``: edges along an axis over those along x. ``dark``, ``middle``, ``bright``: quantiles 0.25, 0.5 and 0.99
        of the foreground over its signal, the 95th percentile; ``classes``: mean of the darker over that of the brighter of two
        classes; ``mean_log``: geometric over arithmetic mean; ``skewness``; ``foreground``: its share of the volume.
    """
    known = np.isfinite(volume)
    whole = bool(known.all())
    inside = volume if whole else volume[known]
    mean_magnitude = float(np.abs(inside).mean(dtype=np.float64)) if inside.size else 0.0
    unit = mean_magnitude or 1.0
    values = np.divide(volume, unit, dtype=np.float32 if volume.dtype.itemsize < 8 else np.float64)
    values = values.astype(np.float32, copy=False)
    if not whole:
        values = np.where(known, values, np.float32(np.nan))
    level = np.log(max(mean_magnitude, float(np.finfo(np.float32).tiny)))
    return np.array([level, *_spectrum(values, known, whole), *_wavelets(_at_least_four(values))])


def _spectrum(values: Float32[np.ndarray, "x y z"], known: Bool[np.ndarray, "x y z"], whole: bool) -> list[float]:
    """Return log shares of power; a window (Hann) keeps the step between opposite faces out."""
    if not whole:
        values = np.where(known, values, values[known].mean() if known.any() else np.float32(0))
    window, band, weights = _bands(values.shape)
    waves = fft.rfftn((values - values.mean()) * window)
    power = (waves.real**2 + waves.imag**2).ravel() * weights
    shares = np.bincount(band, power, minlength=BANDS + 1)[1:]
    # Of a constant volume rounding errors are left, and their spectrum is nobody's.
    if values.size == 0 or float(values.std()) <= _FLOOR:
        return [float(np.log(_FLOOR))] * BANDS
    return [float(log) for log in np.log(np.maximum(shares / shares.sum(), _FLOOR))]


@lru_cache(maxsize=8)
def _bands(
    shape: tuple[int, ...],
) -> tuple[Float32[np.ndarray, "x y z"], Int[np.ndarray, " waves"], Float32[np.ndarray, " waves"]]:
    """Return the window, and for each wave of a real transform its band (0: the mean) and how many waves it stands for."""
    x, y, z = (np.hanning(n + 2)[1:-1].astype(np.float32) for n in shape)
    window = x[:, None, None] * y[:, None] * z
    axes = [fft.fftfreq(n) for n in shape[:2]] + [fft.rfftfreq(shape[2])]
    radius = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2)
    band = np.minimum(np.floor(radius * 2 * BANDS).astype(np.int64), BANDS - 1) + 1
    band[0, 0, 0] = 0
    once = (axes[2] == 0) | (axes[2] == 0.5)
    weights = np.broadcast_to(np.where(once, 1, 2).astype(np.float32), radius.shape)
    return window, band.ravel(), weights.ravel()


def _at_least_four(values: Float32[np.ndarray, "x y z"]) -> Float32[np.ndarray, "a b c"]:
    """Repeat the border of a volume thinner than four voxels, of which there would be no blocks."""
    short = [(0, max(0, 4 - n)) for n in values.shape]
    return np.pad(values, short, mode="edge") if any(more for _, more in short) and values.size else values


def _wavelets(values: Float32[np.ndarray, "x y z"]) -> list[float]:
    means, edges, corners = _haar(values)
    # No measured voxels differ by exactly nothing: such blocks are padding, or were masked.
    whole = np.isfinite(corners) & (corners != 0)
    size = np.abs(means)
    foreground = whole & (size > _FOREGROUND * (float(np.quantile(size[whole], 0.95)) if whole.any() else np.inf))
    if not foreground.any():
        return [float(np.log(_FLOOR))] * (len(STATISTICS) - BANDS - 3) + [0.0, 0.0]
    tissue = np.sort(size[foreground].astype(np.float64))
    from scipy import stats  # half a second, which only images need

    low, first, middle, signal, top = np.quantile(tissue, [0.05, 0.25, 0.5, 0.95, 0.99]).tolist()
    noise = corners[foreground]
    robust = 1.4826 * float(np.median(np.abs(noise)))
    energy = [_mean_square(edge[whole]) for edge in edges]
    coarse = [_mean_square(edge[np.isfinite(edge)]) for edge in _haar(means)[1]]
    gradient = np.sqrt(sum(edge[foreground] ** 2 for edge in edges))
    return [
        _log_ratio(robust, signal - low),
        _log_ratio(float(noise.std()), robust),
        _log_ratio(float(np.quantile(np.sqrt(gradient**2 + noise**2), 0.1)), signal),
        *(_log_ratio(fine, wide) / 2 for fine, wide in zip(energy, coarse, strict=True)),
        _log_ratio(float(np.quantile(gradient, 0.99)), signal - low),
        *(_log_ratio(own, energy[0]) / 2 for own in energy[1:]),
        *(_log_ratio(quantile, signal) for quantile in (first, middle, top)),
        _class_ratio(tissue),
        float(np.log(tissue).mean() - np.log(tissue.mean())),
        float(stats.skew(tissue)) if float(tissue.std()) > _FLOOR else 0.0,
        float(foreground.mean()),
    ]


def _class_ratio(ascending: Float[np.ndarray, " blocks"]) -> float:
    """Return the log ratio of the means of two classes, cut where they are furthest apart (Otsu 1979)."""
    if len(ascending) < 2:
        return 0.0
    count = np.arange(1, len(ascending))
    below = ascending.cumsum()
    lower, upper = below[:-1] / count, (below[-1] - below[:-1]) / (len(ascending) - count)
    cut = int(np.argmax(count * (len(ascending) - count) * (upper - lower) ** 2))
    return _log_ratio(float(lower[cut]), float(upper[cut]))


def _mean_square(edges: Float32[np.ndarray, " blocks"]) -> float:
    return float(np.mean(edges**2, dtype=np.float64)) if edges.size else 0.0


def _haar(values: Float32[np.ndarray, "x y z"]) -> tuple[Blocks, tuple[Blocks, Blocks, Blocks], Blocks]:
    """Return of each block its mean, half differences along x, y and z, and the difference along all three."""
    x, y, z = (n // 2 * 2 for n in values.shape)
    a, b = values[0:x:2, :y, :z], values[1:x:2, :y, :z]
    mean_x, edge_x = (a + b) / 2, (a - b) / 2
    mean_xy, edge_y = _halves(mean_x, 1)
    edge_x, corner_xy = _halves(edge_x, 1)
    mean, edge_z = _halves(mean_xy, 2)
    return mean, (_halves(edge_x, 2)[0], _halves(edge_y, 2)[0], edge_z), _halves(corner_xy, 2)[1]


def _halves(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    first = (slice(None),) * axis
    a, b = values[(*first, slice(0, None, 2))], values[(*first, slice(1, None, 2))]
    return (a + b) / 2, (a - b) / 2


def _log_ratio(above: float, below: float) -> float:
    """Return a logarithm that stays finite: both are counted from a floor up."""
    return float(np.log(max(above, _FLOOR) / max(below, _FLOOR)))


MOST_FOLD = 4.0
"""Scanners differ by tens of percent; a wider spread between people means different units."""


def mean_level(values: Float[np.ndarray, "..."]) -> float:
    """Return the mean absolute intensity of an image, NaN voxels left out."""
    total = float(np.abs(values).sum(dtype=np.float64))
    if np.isfinite(total) and values.size:
        return total / values.size
    known = np.abs(values[np.isfinite(values)])
    return float(known.mean(dtype=np.float64)) if len(known) else 0.0


def check_intensities(levels: Mapping[str, float]) -> str:
    """Return a warning if people's mean intensities differ more than scanners do, or nothing.

    Args:
        levels: Key -> mean absolute intensity of the person's image, in the file's units.
    """
    values = np.array([level for level in levels.values() if level > 0])
    if len(values) < 2:
        return ""
    low, high = np.quantile(values, [0.05, 0.95])
    if high <= MOST_FOLD * low:
        return ""
    darkest, brightest = (chosen(levels, key=lambda key: levels[key]) for chosen in (min, max))
    return (
        f"the images are not in one unit: mean intensities differ {high / low:.0f}-fold between the darkest and the"
        f" brightest 5 % of people ({darkest}: {levels[darkest]:.3g}, {brightest}: {levels[brightest]:.3g}); bring them to one"
        " unit, or pass --set input.intensity=p99"
    )


_EVERY = 4
_SMOOTHEST_IMAGE = 0.5  # equal neighbours: real images 0.00-0.08, label maps 0.76-0.91 (hippocampus, IXI)


def label_levels(data: Float32[np.ndarray, "x y z"]) -> int:
    """Return how many values there are if the voxels look like a label map; 0 for an image."""
    some = data[:, :, ::_EVERY] if min(data.shape) > 2 * _EVERY else data  # enough to see that an image is none
    whole, same = _likeness(some)
    if not whole or (same < _SMOOTHEST_IMAGE / 2 and not _two_values(some)):
        return 0
    whole, same = _likeness(data)
    return len(np.unique(data)) if whole and (same > _SMOOTHEST_IMAGE or _two_values(data)) else 0


def _likeness(data: Float32[np.ndarray, "x y z"]) -> tuple[bool, float]:
    """Return whether there are whole numbers only, not all 0, and the share of voxels inside that equal their neighbour."""
    data = np.where(np.isfinite(data), data, 0)
    data = np.moveaxis(data, int(np.argmax(data.shape)), 0) if len(data) == 1 else data
    inside = data[1:] != 0
    if not inside.any() or not np.array_equal(data, np.rint(data)):
        return False, 0.0
    return True, np.count_nonzero((data[1:] == data[:-1]) & inside) / np.count_nonzero(inside)


def _two_values(data: Float32[np.ndarray, "x y z"]) -> bool:
    return bool(((data == data.min()) | (data == data.max())).all())


_BACKGROUND = 0.01
_BACKGROUND_STANDS_OUT = 10
_LOOKED_AT = 16
_VOXELS = 100_000


def spread(positions: Int[np.ndarray, " people"], most: int) -> Int[np.ndarray, " some"]:
    """Choose at most some positions, evenly."""
    picks = np.unique(np.linspace(0, len(positions) - 1, min(most, len(positions))).round().astype(int))
    return positions[picks]


def looked_at(keys: pd.Index, most: int = _LOOKED_AT) -> Int[np.ndarray, " some"]:
    """Return the rows of the people whose images tell what background is, spread evenly over the sorted keys."""
    return spread(np.argsort(keys.to_numpy(str)), most)


def thinned(voxels: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, " some"]:
    """Return evenly spread voxels of an image, enough to tell its background."""
    return np.asarray(voxels).ravel()[:: max(1, np.asarray(voxels).size // _VOXELS)]


def background(images: Sequence[Float[np.ndarray, " some"]]) -> float | None:
    """Return the value that stands for nothing in images, if there is one.

    Args:
        images: Some voxels (`thinned`) of some people (`looked_at`).
    """
    found: list[float] = []
    for voxels in images:
        ordered = np.sort(voxels[np.isfinite(voxels)])[:, None]
        counts = run_lengths(ordered)[:, 0]
        if not counts.any():
            continue
        first = int(counts.argmax())
        count = int(counts[first])
        counts[first] = 0
        if count >= _BACKGROUND * len(ordered) and count >= _BACKGROUND_STANDS_OUT * int(counts.max()):
            found.append(float(ordered[first, 0]))
    values, times = np.unique(found, return_counts=True)
    likely = values[2 * times > len(images)]
    return float(likely[0]) if len(likely) else None


def run_lengths(ordered: Float[np.ndarray, "some block"]) -> Int[np.ndarray, "some block"]:
    """Return how often each value occurs, at its last place in a sorted column, and 0 elsewhere; NaN counts as no value."""
    place = np.arange(len(ordered), dtype=np.int32)[:, None]
    ends = np.ones(ordered.shape, dtype=bool)
    ends[:-1] = ordered[1:] != ordered[:-1]
    starts = np.zeros(ordered.shape, dtype=np.int32)
    starts[1:] = np.maximum.accumulate(np.where(ends[:-1], place[1:], 0), axis=0)
    return np.where(ends & ~np.isnan(ordered), place - starts + 1, 0)
