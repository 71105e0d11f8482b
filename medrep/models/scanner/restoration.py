"""Inverse of a scanner: undoing its blur and noise, fitted on the reference's own images.

    z = u + sum_k w_bk phi_k(u),      b = bucket of the deviation of u over the 3 x 3 x 3 neighbours

phi_k are a one and the sums of u over the orbits of the 5 x 5 x 5 neighbourhood under reflections and permutations of its
axes (10 of them), so that the filter has no handedness. The weights are those of least squared error in pairs (u, z) made
from the anchor's own people, sent through the scanner as it was estimated and straightened again; a bucket with few voxels
borrows the weights of all. With one bucket it is a Wiener filter; with several it averages in flat regions and sharpens edges.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy.ndimage import uniform_filter

from medrep.models.scanner.estimation import Comparison
from medrep.models.scanner.forward import Box, Content, Frame, Image, Rendering, Scanner, void

REACH = 2
FEATURES = 11
BUCKETS = (0.1, 0.25, 0.45, 0.65, 0.8, 0.9, 0.97)
"""Shares of voxels below the edges of the buckets."""
_BORROWED = 300.0  # voxels' worth of the weights of all
_STEADY = 1e-6
_SLAB = 2**19


@dataclass(frozen=True)
class Restoration:
    """The way back from one scanner's blur and noise: bucket edges, in data units, and a row of weights for each bucket.

    `residual` is the deviation of what the scanner adds to z and the image keeps, y - F(z), in data units.
    """

    edges: Float[np.ndarray, " edges"]
    weights: Float[np.ndarray, "buckets features"]
    residual: float

    @classmethod
    def idle(cls) -> "Restoration":
        """Return the way back from a scanner that neither blurs nor adds noise: nothing to do."""
        return cls(np.zeros(len(BUCKETS)), np.zeros((len(BUCKETS) + 1, FEATURES)), 0.0)

    @property
    def does_nothing(self) -> bool:
        """True if images come back as they are."""
        return not self.weights.any()

    def restore(self, image: Content) -> Content:
        """Apply the filter, a slab at a time."""
        if self.does_nothing:
            return image
        bucket, weights = buckets(image, self.edges), self.weights.astype(np.float32)
        restored = np.empty_like(image)
        for inner, outer, core in _slabs(image.shape):
            phi = orbit_sums(image[outer])[core]
            restored[inner] = image[inner] + np.einsum("xyzk,xyzk->xyz", phi, weights[bucket[inner]])
        return restored


def orbit_sums(image: Content) -> Float32[np.ndarray, "a b c features"]:
    """Return phi: the sums over each orbit of neighbours (the border repeats), and a one."""
    padded = np.pad(image, REACH, mode="edge")
    sums: dict[tuple[int, ...], np.ndarray] = {}
    for offset in product(range(-REACH, REACH + 1), repeat=3):
        x, y, z = (slice(REACH + o, REACH + o + n) for o, n in zip(offset, image.shape, strict=True))
        orbit = tuple(sorted(abs(o) for o in offset))
        sums[orbit] = sums[orbit] + padded[x, y, z] if orbit in sums else padded[x, y, z].copy()
    return np.stack([*(sums[orbit] for orbit in sorted(sums)), np.ones_like(image)], axis=-1)


def _local_deviation(image: Content) -> Content:
    """Return the standard deviation over the 3 x 3 x 3 neighbours."""
    mean = uniform_filter(image, 3)
    return np.sqrt(np.maximum(uniform_filter(image * image, 3) - mean * mean, 0))


def buckets(image: Content, edges: Float[np.ndarray, " edges"]) -> Int[np.ndarray, "a b c"]:
    """Return the bucket of each voxel."""
    return np.digitize(_local_deviation(image), edges)


def fit_restoration(
    pairs: Iterable[tuple[Float32[np.ndarray, "..."], Float32[np.ndarray, "..."]]],
    edges: Float[np.ndarray, " edges"],
) -> Float[np.ndarray, "buckets features"]:
    """Fit a row of weights for each bucket, from pairs of a blurred and noisy volume u and the z that it should become."""
    count = len(edges) + 1
    squares, moments = np.zeros((count, FEATURES, FEATURES)), np.zeros((count, FEATURES))
    for image, wanted in pairs:
        bucket = buckets(image, edges)
        for inner, outer, core in _slabs(image.shape):
            phi = orbit_sums(image[outer])[core].reshape(-1, FEATURES)
            change, level = (wanted[inner] - image[inner]).ravel(), bucket[inner].ravel()
            for b in range(count):
                own = phi[level == b].astype(np.float64)
                squares[b] += own.T @ own
                moments[b] += own.T @ change[level == b]
    pooled_squares = squares.sum(axis=0)
    voxels = max(float(pooled_squares[-1, -1]), 1.0)
    typical = pooled_squares / voxels
    # In each feature's own unit: intensities have one, the constant has none.
    size = np.trace(typical[:-1, :-1]) / (FEATURES - 1)
    steady = np.diag([_STEADY * size + 1e-30] * (FEATURES - 1) + [_STEADY])
    pooled = np.linalg.solve(typical + steady, moments.sum(axis=0) / voxels)
    prior = _BORROWED * (typical + steady)
    return np.stack([np.linalg.solve(s + prior, m + prior @ pooled) for s, m in zip(squares, moments, strict=True)])


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice, slice]]:
    """Yield slabs across the first axis, the same with the neighbours that the filter reads, and the slab within that."""
    thick = max(1, _SLAB // max(shape[1] * shape[2], 1))
    for start in range(0, shape[0], thick):
        stop = min(start + thick, shape[0])
        low, high = max(start - REACH, 0), min(stop + REACH, shape[0])
        yield slice(start, stop), slice(low, high), slice(start - low, stop - low)


_EVERY = 37


def fit_inverse(comparison: Comparison, scanner: Scanner, own: Sequence[Image]) -> Restoration:
    """Fit a restoration; none where there is nothing to undo, or nobody of the anchor to learn from.

    `own`, people of the scanner, place the buckets and tell the residual. The anchor's stand in if there are none.
    """
    if not scanner.spreads or not comparison.reference:
        return Restoration.idle()
    rendering = Rendering(comparison.frame, scanner)
    straight = (
        (rendering.invert(image.values(), image.box) for image in own)
        if own
        else (comparison.simulate(scanner, image) for image in comparison.reference)
    )
    deviations = np.concatenate([_local_deviation(image).ravel()[::_EVERY] for image in straight]).astype(np.float64)
    edges = np.quantile(deviations, BUCKETS)
    pairs = ((comparison.simulate(scanner, image), image.values()) for image in comparison.reference)
    restoration = Restoration(edges, fit_restoration(pairs, edges), 0.0)
    squares = []
    for image in own:
        seen = image.values()
        canonical = invert_and_restore(seen, image.box, rendering, restoration)
        squares.append(float(np.mean((seen - rendering.forward(canonical, image.box)) ** 2)))
    return replace(restoration, residual=float(np.sqrt(np.mean(squares))) if squares else 0.0)


def invert_and_restore(seen: Content, box: Box, rendering: Rendering, restoration: Restoration) -> Content:
    """Return z, the image as the anchor would have made it; what a mask left empty stays so."""
    canonical = restoration.restore(rendering.invert(seen, box))
    empty = void(seen)
    return canonical if empty is None else np.where(empty, seen, canonical)


def pooled_scanner(frame: Frame, scanners: Sequence[Scanner], counts: Sequence[int]) -> Scanner:
    """Return the scanner with the mean parameters over training people."""
    if not sum(counts):
        return Scanner.identity(frame)
    share = np.array(counts) / sum(counts)
    shading, curve, taps, noise = (
        np.tensordot(share, np.stack([np.asarray(getattr(scanner, name)) for scanner in scanners]), 1)
        for name in ("shading", "curve", "taps", "noise")
    )
    return Scanner(shading, curve, taps, float(noise))
