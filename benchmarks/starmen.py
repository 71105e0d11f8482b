"""Starmen: flat figures about 40 mm across, as simple as shapes with two covariates get; the head points along +y."""

from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.errors import CohortError
from medrep.simulate.displaced import CovariateField, Displaced, DisplacedCohort, draw_family, draw_shape
from medrep.simulate.geometry import Levels
from medrep.simulate.participants import stream

HALF_EXTENT_MM = (21.0, 21.0)
BUMPS = 20
ARM_DEGREES = (18.0, 162.0)
LEG_DEGREES = (234.0, 306.0)

_RADIUS_MM = 16.0
_STAR = 0.18  # the radius changes by this fraction between the limbs
_SOFT_MM = 5.0  # keeps the template smooth in its middle
_LIMB_MM = 8.0


def starman_template(points: Float[np.ndarray, "points 2"]) -> Levels:
    """Measure about the signed distance to ``|p| = 16 mm (1 + 0.18 cos(5 (theta - 90 degrees)))``, in mm.

    The difference of the two sides, softened in the middle, is divided by its own slope on the surface; the slope is then
    1 within 0.3 up to 3 mm from the surface.
    """
    radius = np.sqrt((points**2).sum(axis=1) + _SOFT_MM**2)
    limb = ((points[:, 1] - 1j * points[:, 0]) / radius) ** 5 * (1 + (_SOFT_MM / _RADIUS_MM) ** 2) ** 2.5
    surface = np.sqrt((_RADIUS_MM * (1 + _STAR * limb.real)) ** 2 + _SOFT_MM**2)
    slant = 5 * _RADIUS_MM * _STAR * limb.imag / radius
    return (radius - surface) / np.sqrt(1 + slant**2)


def starman_family(*, seed: int) -> Displaced:
    """Draw the family of starmen, with the fields ``arms`` and ``legs``; both have the reference 0.

    Along the outward normal, which makes a limb longer where the amplitude is negative::

        arms: -2 mm arms                   around the tips of both arms
        legs: -1.6 mm legs - 0.6 mm legs^2   around the tips of both legs
    """
    fields = {
        "arms": CovariateField(0.0, _arms_mm, partial(_tips, degrees=ARM_DEGREES)),
        "legs": CovariateField(0.0, _legs_mm, partial(_tips, degrees=LEG_DEGREES)),
    }
    return draw_family(starman_template, HALF_EXTENT_MM, fields, BUMPS, stream(seed, "starmen"))


def draw_starmen(n: int, *, seed: int) -> DisplacedCohort:
    """Draw people with arms and legs of any length, uniform in [-1, 1], and one shape a row.

    A person's own shape depends on the seed and the id (``sub-0001`` on) alone.
    """
    if n < 1:
        raise CohortError(f"n is {n}; ask for at least 1 starman")
    width = max(4, len(str(n)))
    ids = [f"sub-{number:0{width}d}" for number in range(1, n + 1)]
    rng = stream(seed, "starmen", "covariates")
    table = pd.DataFrame({"participant_id": ids, "arms": rng.uniform(-1, 1, n), "legs": rng.uniform(-1, 1, n)})
    family = starman_family(seed=seed)
    people = tuple(draw_shape(family, person, stream(seed, "starmen", person)) for person in ids)
    return DisplacedCohort(table, family, people)


def _arms_mm(arms: float) -> float:
    return -2.0 * arms


def _legs_mm(legs: float) -> float:
    return -1.6 * legs - 0.6 * legs**2


def _tips(points: Float[np.ndarray, "points 2"], degrees: tuple[float, ...]) -> Levels:
    angles = np.radians(degrees)
    tips = _RADIUS_MM * (1 + _STAR) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    near = np.exp(((points[:, None] - tips) ** 2).sum(axis=2) / -(2 * _LIMB_MM**2))
    return 1 - np.prod(1 - near, axis=1)
