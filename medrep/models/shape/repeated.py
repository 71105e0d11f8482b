"""Several visits of one person in the learning of a population: how much they tell together of what is expected of everybody.

The fields of a person's n visits have the covariance C ((1 - r) I + r 1 1'), r being how much of what makes people differ stays
from visit to visit. Turned by an orthonormal matrix whose first row is even, they are one row of covariance (1 - r + n r) C, the
person's level, and n - 1 of covariance (1 - r) C, which tell how people change: each a row of the regression with columns turned
alike (`effects.py`). A surface is taken to tell as much at each visit of a person as in the mean over visits: else what it does
not tell of the level would pass for change. People of one visit are what they are without any of this.

A covariate that changes within people enters twice, as it is and as its distance from the person's mean (Mundlak 1978), shrunk by
a strength of its own: where people change as people of other ages differ, change tells of that difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve, helmert

from medrep.cohort.dataset import Dataset
from medrep.models.linear.random_effects import changing_covariates, distances
from medrep.models.shape.effects import Told
from medrep.models.shape.mean_shape import Posterior

FEWEST = 10
"""People who came again, for how everybody changes; of fewer, change is taken for how people differ."""
FIRST_ALIKE = 0.8
"""r before anything is known."""
_MOST = 0.98  # of r


@dataclass(frozen=True, eq=False)
class Visits:
    """Visits of people, in the order in which they are worked on: those of a person in a row.

    Attributes:
        order: Positions of the visits.
        person: Whose each is, numbers in that order.
        away: Distances of what changes within people from the person's mean, of unit variance; a row a visit as it stands.
    """

    order: Int[np.ndarray, " visits"]
    person: Int[np.ndarray, " visits"]
    away: Float[np.ndarray, "visits changing"]

    @classmethod
    def of(cls, dataset: Dataset) -> "Visits":
        """Bring together visits of one person."""
        whose, frame = dataset.whose, dataset.covariates
        person = pd.factorize(whose)[0]
        order = np.argsort(person, kind="stable")
        away = np.zeros((len(frame), 0))
        if int((np.bincount(person) > 1).sum()) >= FEWEST:
            away = distances(frame, changing_covariates(dataset.schema, frame, whose), whose)
            away = away / np.sqrt((away**2).mean(axis=0))
        return cls(order, person[order], away)

    @cached_property
    def counts(self) -> Int[np.ndarray, " people"]:
        """Visits of each person."""
        return np.bincount(self.person)

    def alike(self, codes: Float[np.ndarray, "visits coefficients"], precision: np.ndarray) -> float:
        """Return r: one less the share of the variance of fields that is within people, in units of C."""
        own = codes[self.order]
        counts = self.counts
        if len(counts) == len(own):
            return 0.0
        means = np.add.reduceat(own, np.cumsum(counts) - counts) / counts[:, None]
        within = own - means[self.person]
        whole = own - own.mean(axis=0)
        size = [float(np.einsum("ij,ij->", rows @ precision, rows)) for rows in (within, whole)]
        share = size[0] / max(len(own) - len(counts), 1) / (size[1] / max(len(own) - 1, 1))
        return float(np.clip(1 - share, 0.0, _MOST))


def told_together(
    visits: Sequence[Posterior], precision: Float[np.ndarray, "coefficients coefficients"], alike: float
) -> tuple[Float[np.ndarray, "rows visits"], list[Told]]:
    """Return how a person's visits are turned into independent rows, and what each of these tells.

    Args:
        visits: What is known of the field at each of a person's visits, from that one alone.
        precision: The inverse of C.
        alike: r.
    """
    count = len(visits)
    turn = helmert(count, full=True)
    usual = np.mean([one.precision for one in visits], axis=0)
    pulls, surface = turn @ np.stack([one.mean for one in visits]) @ usual, usual - precision
    rows = []
    for place, spread in enumerate([1 - alike + count * alike] + [1 - alike] * (count - 1)):
        if place < 2:
            prior = precision / spread
            covariance = cho_solve(cho_factor(prior + surface), np.eye(len(prior)))
            left = prior - prior @ covariance @ prior
        rows.append(Told(prior @ (covariance @ pulls[place]), left))
    return turn, rows
