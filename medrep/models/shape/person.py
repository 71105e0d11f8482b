"""One person as a shape: what is known of their field, and their organ at any point, as it is or at other covariates."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medrep.models.shape.evidence import Evidence
from medrep.models.shape.population import Population
from medrep.models.shape.pullback import carried
from medrep.models.shape.registration import Posterior, register
from medrep.models.shape.template import LevelFunction


@dataclass(frozen=True, eq=False)
class Person:
    """A registered person.

    Attributes:
        population: What the person was registered in.
        own: Their signed distance, mm.
        mean: What their covariates do: coefficients of a field.
        posterior: What is known of their own field, the identity.
        identity: Whether the model has identities; without, only covariates tell people apart.
    """

    population: Population
    own: LevelFunction
    mean: Float[np.ndarray, " coefficients"]
    posterior: Posterior
    identity: bool = True

    @classmethod
    def register(
        cls,
        population: Population,
        row: Float[np.ndarray, " nodes"],
        mean: Float[np.ndarray, " coefficients"],
        precision: Float[np.ndarray, "coefficients coefficients"],
        points: int,
        *,
        identity: bool = True,
    ) -> "Person":
        """Register a person.

        Args:
            population: What was learned.
            row: The person's signed distance on the template's lattice, mm.
            mean: What their covariates do.
            precision: Inverse of the population's covariance.
            points: Points looked at.
            identity: Whether the model has identities.
        """
        own = LevelFunction.through(population.template.lattice, row)
        evidence = Evidence.of(own, row, population.size, points, np.random.default_rng(7))
        posterior = register(evidence, population.expected(mean), precision, population.noise)
        return cls(population, own, mean, posterior, identity)

    @property
    def rest(self) -> Float[np.ndarray, " coefficients"]:
        """What is the person's own: coefficients of the field beyond the covariates'."""
        return self.posterior.mean if self.identity else np.zeros_like(self.mean)

    def decoded(
        self, points: Float[np.ndarray, "points dims"], mean: Float[np.ndarray, " coefficients"]
    ) -> Float[np.ndarray, " points"]:
        """Return the level at points, mm, as the model alone expects it.

        Args:
            points: mm.
            mean: What the covariates do.
        """
        return self.population.decoded(points, mean, self.rest)

    def change(
        self, points: Float[np.ndarray, "points dims"], mean: Float[np.ndarray, " coefficients"]
    ) -> Float[np.ndarray, " points"]:
        """Return how much higher the level, mm, of the person's own organ is where it was carried to other covariates.

        Args:
            points: mm.
            mean: What those covariates do; the person's own change nothing.
        """
        population = self.population
        if population.moves == "distance":
            return population.modes.field(points, (mean - self.mean).reshape(population.modes.count, 1))[:, 0]
        came_from = carried(points, population.modes, self.rest, self.mean, mean)
        return self.own.values(came_from) - self.own.values(points)

    def carry(
        self, points: Float[np.ndarray, "points dims"], mean: Float[np.ndarray, " coefficients"]
    ) -> Float[np.ndarray, "points dims"]:
        """Return where points of the person's own organ go when it is carried to other covariates, mm.

        Args:
            points: mm.
            mean: What those covariates do; the person's own move nothing.
        """
        return carried(points, self.population.modes, self.rest, mean, self.mean)
