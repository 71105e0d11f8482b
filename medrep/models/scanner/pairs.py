"""Scanners told from people who were seen on several of them.

Features q of the visits, straightened, are levels' offsets from the anchor, effects of covariates, what the person is, and
noise. With levels and effects X, and lambda the variance of people over that of noise, generalised least squares under
V = I + lambda 1 1' (person by person) use the difference of a person on two scanners, from which the person is cancelled, and
the difference of other people, each as far as it tells. lambda is that of greatest restricted likelihood, one for all features.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from medrep.models.scanner.estimation import Contrast, Group

_RATIOS = (0.0, *np.geomspace(0.25, 64, 9).tolist())
_TINY = 1e-12


@dataclass(frozen=True)
class _Visits:
    """Visits of people on scanners: the design, the features, and the person of each."""

    design: Float[np.ndarray, "visits columns"]
    features: Float[np.ndarray, "visits features"]
    person: Int[np.ndarray, " visits"]

    def solve(self, ratio: float) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the restricted log likelihood, the coefficients, and their covariance over the variance of noise."""
        counts = np.bincount(self.person)
        weight = ratio / (1 + ratio * counts)

        def inverse(rows: np.ndarray) -> np.ndarray:
            sums = np.zeros((len(counts), rows.shape[1]))
            np.add.at(sums, self.person, rows)
            found: np.ndarray = rows - (weight[:, None] * sums)[self.person]
            return found

        gram = self.design.T @ inverse(self.design)
        covariance = np.linalg.pinv(gram, rcond=1e-10, hermitian=True)
        coefficients = covariance @ (self.design.T @ inverse(self.features))
        rest = self.features - self.design @ coefficients
        freedom = max(len(rest) - np.linalg.matrix_rank(gram, hermitian=True), 1)
        variance = (rest * inverse(rest)).sum(axis=0) / freedom
        values = np.linalg.eigvalsh(gram)
        determinant = np.log1p(ratio * counts).sum() + np.log(values[values > _TINY * values[-1]]).sum()
        likelihood = -0.5 * (freedom * np.log(np.maximum(variance, _TINY)).mean() + determinant)
        return float(likelihood), coefficients, covariance


def contrasts(groups: Mapping[str, Group], anchor: str, whose: Shaped[np.ndarray, " rows"]) -> dict[str, Contrast]:
    """Return how each level differs from the anchor; nothing where nobody was seen on several scanners.

    Args:
        groups: Level -> its visits, as the last step left them; the anchor among them.
        anchor: The level that the others are compared with.
        whose: Person of each row of the data.
    """
    levels = [anchor, *(level for level in groups if level != anchor)]
    images = [image for level in levels for image in groups[level].images]
    level_of = np.repeat(np.arange(len(levels)), [len(groups[level].images) for level in levels])
    person, names = pd.factorize(np.array([whose[image.row] for image in images], object))
    if len(np.unique(person * len(levels) + level_of)) == len(names):
        return {}
    effects = np.stack([image.effects for image in images])
    offsets = (level_of[:, None] == np.arange(1, len(levels))[None]).astype(float)
    design = np.concatenate([np.ones((len(images), 1)), offsets, effects], axis=1)
    visits = _Visits(design, np.concatenate([groups[level].features for level in levels]), person)
    ratio = max(_RATIOS, key=lambda one: visits.solve(one)[0])
    _, coefficients, covariance = visits.solve(ratio)
    return {
        level: Contrast(coefficients[k], (1 + ratio) / max(float(covariance[k, k]), _TINY))
        for k, level in enumerate(levels[1:], 1)
    }
