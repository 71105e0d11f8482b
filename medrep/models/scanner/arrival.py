"""A level that training did not have: its scanner, from its own people and what the model kept of the anchor's."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from medrep.errors import ModelError
from medrep.models.scanner.fitting import level_note
from medrep.models.scanner.images import find_images
from medrep.models.scanner.inference import LEAST_PEOPLE, STEPS, Comparison, Estimate, Evidence, Group
from medrep.models.scanner.known import KnownScanners
from medrep.models.scanner.restoration import Restoration
from medrep.models.scanner.scanner import Scanner
from medrep.models.scanner.way_back import fit_way_back


@dataclass(frozen=True)
class Arrival:
    """An unseen level as estimated.

    Attributes:
        scanner: Its parameters.
        way_back: The way back from it.
        errors: Standard errors: of log gain and shading, root mean square over the content, in units of the deviation of log
            intensities between people within scanners; and of the curve's slope, None where it is not estimated.
        shares: Shares of the raw estimates' energy that the prior left: of gain and shading, and of the slope.
        note: What to know about it; empty if all is well.
    """

    scanner: Scanner
    way_back: Restoration
    errors: tuple[float, float | None]
    shares: tuple[float, float]
    note: str


def estimate_level(
    known: KnownScanners,
    rows: Float32[np.ndarray, "people voxels"],
    effects: Float[np.ndarray, "people effects"],
    seed: int,
) -> Arrival | None:
    """Estimate an unseen level.

    Args:
        known: What the model knows.
        rows: Volumes of the level's people.
        effects: Their centred covariate columns.
        seed: Seed of simulated noise.

    Returns:
        The level, or None if nobody has a usable image.

    Raises:
        ModelError: Other covariate columns than training had.
    """
    if effects.shape[1] != len(known.evidence.effects):
        raise ModelError(f"{effects.shape[1]} covariate columns, but training had {len(known.evidence.effects)}")
    images = find_images(rows, range(len(rows)), known.grid, effects)
    if not images:
        return None
    volumes = known.kept_volumes()
    nobody = np.zeros((len(volumes), effects.shape[1]))
    anchor = find_images(volumes, range(len(volumes)), known.grid, nobody)
    comparison = Comparison(known.frame, known.window, anchor, np.random.default_rng([seed, 3]))
    pointwise = len(images) < LEAST_PEOPLE or not anchor
    scanner = Scanner.identity(known.frame)
    for step in range(STEPS):
        own = Group(images, comparison.straightened(scanner, images))
        estimate = comparison.step(scanner, own, known.evidence, first=step == 0, pointwise=pointwise)
        scanner = estimate.scanner
    errors, shares = _how_well(estimate, comparison.places, known.evidence, pointwise=pointwise)
    note = level_note(len(images))
    if not anchor:
        note = "gain and shading alone are estimated, since the model keeps no volumes"
    return Arrival(scanner, fit_way_back(comparison, scanner, images), errors, shares, note)


def _how_well(
    estimate: Estimate, places: Float[np.ndarray, "features fields"], evidence: Evidence, *, pointwise: bool
) -> tuple[tuple[float, float | None], tuple[float, float]]:
    fields, pull = places.shape[1], np.diag(estimate.prior**-2.0)
    covariance = np.linalg.inv(estimate.precision + pull)
    unit = float(np.sqrt(np.mean(np.diag(evidence.covariance))))
    spread = np.einsum("pi,ij,pj->p", places, covariance[:fields, :fields], places)
    slope_se = None if pointwise else float(np.sqrt(covariance[fields, fields]))
    theta = np.concatenate([estimate.scanner.shading, estimate.scanner.curve])
    raw = theta + np.linalg.pinv(estimate.precision, hermitian=True) @ (pull @ theta)
    slope = slice(fields, fields + 1)
    kept = 0.0 if pointwise else _share(theta[slope], raw[slope])
    shading_kept = _share(places @ theta[:fields], places @ raw[:fields])
    return (float(np.sqrt(spread.mean())) / unit, slope_se), (shading_kept, kept)


def _share(left: np.ndarray, raw: np.ndarray) -> float:
    energy = float((raw**2).sum())
    return min(float((left**2).sum()) / energy, 1.0) if energy > 0 else 0.0
