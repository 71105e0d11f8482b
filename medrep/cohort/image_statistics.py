"""What an acquisition leaves in any volume, whoever is in it: spectrum, noise, sharpness and intensity shape.

The statistics need no model. All but ``level`` stay the same when the volume is multiplied, so that the arbitrary unit of a
scanner says nothing. Frequencies and edges are in voxels: compare volumes of one common grid.

Noise, edges and tissue come from Haar's wavelets: of a block of 2 x 2 x 2 voxels the mean, a half difference along each axis,
and the difference of differences along all three, in which anatomy is weakest and noise as strong as anywhere (Donoho 1994).
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Num
from scipy import fft, stats

BANDS = 8
AXES = ("x", "y", "z")
STATISTICS = (
    "level",
    *(f"power_{band}" for band in range(1, BANDS + 1)),
    "noise",
    "noise_tails",
    *(f"sharpness_{axis}" for axis in AXES),
    "edges",
    "edges_y_over_x",
    "edges_z_over_x",
    "tissue_low",
    "tissue_middle",
    "tissue_high",
    "darkest",
    "brightest",
    "skewness",
    "foreground",
)
"""The names of what `image_statistics` returns."""

_FLOOR = 1e-6  # shares and ratios below it are all the same, so that logarithms stay finite
_FOREGROUND = 0.2  # of the 95th percentile of the magnitudes
_WIDEST = 20.0  # of a ratio whose denominator may vanish

Blocks = Float32[np.ndarray, "a b c"]


def image_statistics(volume: Num[np.ndarray, "x y z"]) -> Float[np.ndarray, " statistics"]:
    """Measure a volume.

    Args:
        volume: Intensities on the common grid, in any unit; voxels that are NaN or infinite are left out (in the spectrum they
            are filled with the mean).

    Returns:
        One number for each of `STATISTICS`, always finite: natural logarithms, and plain ratios from ``tissue_low`` on.
        ``level``: of the mean magnitude, in the volume's unit. ``power_k``: of the share of the power in the k-th of eight bands
        of equal width of radial frequency, up to half a cycle a voxel (what is beyond is in the last). ``noise``: robust
        deviation of the differences along three axes over the range of the foreground, ``noise_tails``: their deviation over
        the robust one. ``sharpness``: edges within blocks of 2 voxels over those of 4, along an axis. ``edges``: 99th
        percentile of block gradients over that range; ``edges_y_over_x``: edges along an axis over those along x.
        ``tissue``: where quartiles of the foreground lie between its 5th and 95th percentile, ``darkest`` and ``brightest``: the
        5th and the 99th over the 95th, ``skewness`` of the foreground, ``foreground``: its share of the volume.
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
    whole = np.isfinite(corners)
    size = np.abs(means[whole])
    foreground = whole & (np.abs(means) > _FOREGROUND * (float(np.quantile(size, 0.95)) if size.size else 0.0))
    if not foreground.any():
        return [float(np.log(_FLOOR))] * (STATISTICS.index("tissue_low") - BANDS - 1) + [0.0] * 7
    tissue = means[foreground]
    low, first, middle, third, high, top = np.quantile(tissue, [0.05, 0.25, 0.5, 0.75, 0.95, 0.99]).tolist()
    span = max(high - low, _FLOOR)
    noise = corners[foreground]
    robust = 1.4826 * float(np.median(np.abs(noise)))
    energy = [float(np.mean(edge[whole] ** 2, dtype=np.float64)) for edge in edges]
    coarse_edges = _haar(means)[1]
    coarse = [
        float(np.mean(edge[np.isfinite(edge)] ** 2, dtype=np.float64)) if edge.size else 0.0 for edge in coarse_edges
    ]
    gradient = np.sqrt(sum(edge[whole] ** 2 for edge in edges))
    spread = float(tissue.std())
    return [
        _log_ratio(robust, span),
        _log_ratio(float(noise.std()), robust),
        *(_log_ratio(fine, wide) / 2 for fine, wide in zip(energy, coarse, strict=True)),
        _log_ratio(float(np.quantile(gradient, 0.99)), span),
        *(_log_ratio(own, energy[0]) / 2 for own in energy[1:]),
        *((quartile - low) / span for quartile in (first, middle, third)),
        *(float(np.clip(part / high, -_WIDEST, _WIDEST)) if high else 0.0 for part in (low, top)),
        float(stats.skew(tissue, axis=None)) if spread > _FLOOR else 0.0,
        float(foreground.mean()),
    ]


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
