"""Fit the way back from a scanner: on the anchor's own people, sent through the scanner as it was estimated."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32

from medrep.models.scanner.content import Box, void
from medrep.models.scanner.frame import Frame
from medrep.models.scanner.images import Image
from medrep.models.scanner.inference import Comparison
from medrep.models.scanner.restoration import BUCKETS, Restoration, fit_restoration, local_deviation
from medrep.models.scanner.scanner import Rendering, Scanner

_EVERY = 37


def fit_way_back(comparison: Comparison, scanner: Scanner, own: Sequence[Image]) -> Restoration:
    """Fit a restoration; none where there is nothing to undo, or nobody of the anchor to learn from.

    Args:
        comparison: Holds the anchor's people.
        scanner: As estimated.
        own: People of the scanner: they place the buckets and tell the residual. The anchor's stand in if there are none.
    """
    if not scanner.spreads or not comparison.anchor:
        return Restoration.idle()
    rendering = Rendering(comparison.frame, scanner)
    straight = (
        (rendering.straighten(image.values(), image.box) for image in own)
        if own
        else (comparison.simulate(scanner, image) for image in comparison.anchor)
    )
    deviations = np.concatenate([local_deviation(image).ravel()[::_EVERY] for image in straight]).astype(np.float64)
    edges = np.quantile(deviations, BUCKETS)
    pairs = ((comparison.simulate(scanner, image), image.values()) for image in comparison.anchor)
    restoration = Restoration(edges, fit_restoration(pairs, edges), 0.0)
    squares = []
    for image in own:
        seen = image.values()
        canonical = straighten_and_restore(seen, image.box, rendering, restoration)
        squares.append(float(np.mean((seen - rendering.see(canonical, image.box)) ** 2)))
    return replace(restoration, residual=float(np.sqrt(np.mean(squares))) if squares else 0.0)


def straighten_and_restore(
    seen: Float32[np.ndarray, "a b c"], box: Box, rendering: Rendering, restoration: Restoration
) -> Float32[np.ndarray, "a b c"]:
    """Return z, the image as the anchor would have made it; what a mask left empty stays so."""
    canonical = restoration.restore(rendering.straighten(seen, box))
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
