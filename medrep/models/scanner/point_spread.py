"""A scanner's point spread and noise, from the power spectra of people who are not the same on both sides.

With S0 the mean power of the anchor's people as the scanner would bend them, and S that of the scanner's own people::

    S(w) = H(w)^2 S0(w) + noise^2,     H(w) = prod_axis (1 + 2 sum_j taps_j (cos(j w_axis) - 1))

fitted in log power by least squares over the frequencies above a floor, where anatomy's slow differences between groups of
people do not reach; a weak ridge keeps taps that the spectra do not tell at zero. H above 1 is a scanner sharper than the anchor.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Float32
from scipy.optimize import least_squares

from medrep.models.scanner.content import Box
from medrep.models.scanner.scanner import TAPS

SLOWEST = 0.25  # radians a voxel
_WIDEST = 64
_RIDGE = 3.0
_BOUNDS = (-0.25, 0.3)


def common_window(sizes: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Return the middle that nearly all images have, at most 64 voxels wide: those under half the median size do not count."""
    fits = np.maximum(np.min(sizes, axis=0), np.median(sizes, axis=0) // 2)
    x, y, z = (int(n) for n in np.clip(fits, 1, _WIDEST))
    return x, y, z


def middle(shape: tuple[int, ...], window: tuple[int, int, int]) -> Box:
    """Return the middle of a volume."""
    starts = [(have - want) // 2 for have, want in zip(shape, window, strict=True)]
    first, second, third = (slice(start, start + want) for start, want in zip(starts, window, strict=True))
    return first, second, third


def mean_power(
    volumes: Iterable[Float32[np.ndarray, "..."]], window: tuple[int, int, int]
) -> Float[np.ndarray, "x y z"]:
    """Average the power of the volumes' middles under a sine window.

    Args:
        volumes: None smaller than the window; see `middle`.
        window: Voxels.

    Returns:
        Power in units such that white noise has its variance, at the frequencies 0 to Nyquist of each axis.
    """
    axes = np.ix_(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) for n in window))
    taper = (axes[0] * axes[1] * axes[2]).astype(np.float32)
    energy = float((taper.astype(np.float64) ** 2).sum())
    total, count = np.zeros([n // 2 + 1 for n in window]), 0
    for volume in volumes:
        centre = volume[middle(volume.shape, window)]
        centre = (centre - (centre * taper**2).sum() / energy) * taper
        power = np.abs(np.fft.rfftn(centre)) ** 2 / energy
        for axis in (0, 1):
            forth = np.arange(window[axis] // 2 + 1)
            power = (np.take(power, forth, axis) + np.take(power, -forth % window[axis], axis)) / 2
        total += power
        count += 1
    return total / max(count, 1)


def frequencies(window: tuple[int, int, int]) -> tuple[Float[np.ndarray, " n"], ...]:
    """Return the frequencies of `mean_power` along each axis, in radians a voxel."""
    return tuple(2 * np.pi * np.arange(n // 2 + 1) / n for n in window)


def transfer(taps: Float[np.ndarray, "3 taps"], window: tuple[int, int, int]) -> Float[np.ndarray, "x y z"]:
    """Return H at the frequencies of `mean_power`."""
    sides = [
        1 + 2 * sum(weight * (np.cos((j + 1) * w) - 1) for j, weight in enumerate(own))
        for own, w in zip(taps, frequencies(window), strict=True)
    ]
    first, second, third = np.ix_(*sides)
    product: np.ndarray = first * second * third
    return product


def fit_point_spread(
    own: Float[np.ndarray, "x y z"], anchor: Float[np.ndarray, "x y z"], window: tuple[int, int, int]
) -> tuple[Float[np.ndarray, "3 taps"], float]:
    """Fit taps and noise.

    Args:
        own: Mean power of the scanner's people.
        anchor: Mean power of the anchor's people, with the scanner's shading and curve applied to them.
        window: Of both.

    Returns:
        Weights beside the kernel's centre along each axis, and the noise's deviation in data units; zeros where a window
        is too small to tell them.
    """
    grid = np.ix_(*frequencies(window))
    fast = np.sqrt(sum(w**2 for w in grid)) > SLOWEST
    if fast.sum() <= 3 * TAPS + 1:
        return np.zeros((3, TAPS)), 0.0
    tiny = 1e-12 * float(own.max()) + 1e-300
    measured, base = np.log(own[fast] + tiny), anchor[fast]

    def residual(parameters: np.ndarray) -> np.ndarray:
        taps = parameters[:-1].reshape(3, TAPS)
        power = transfer(taps, window)[fast] ** 2 * base + np.exp(parameters[-1])
        return np.concatenate([measured - np.log(power + tiny), _RIDGE * parameters[:-1]])

    start = np.zeros((3, TAPS))
    start[:, 0] = 0.05
    floor = np.log(np.quantile(own, 0.02) / 2 + tiny)
    lowest = np.log(tiny)
    bounds = (np.r_[np.full(3 * TAPS, _BOUNDS[0]), lowest], np.r_[np.full(3 * TAPS, _BOUNDS[1]), measured.max() + 1])
    found = least_squares(residual, np.r_[start.ravel(), max(floor, lowest + 1e-6)], bounds=bounds).x
    return found[:-1].reshape(3, TAPS), float(np.exp(found[-1] / 2))
