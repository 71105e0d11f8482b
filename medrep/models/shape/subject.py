"""One subject as a shape: pull-back along fields, and scores.

With v(p) = p + h(p) the way from a person to what is expected of them, and t(v) = v + g(v) from there to the template, the
point p of the organ moved to covariates with g* was q with t(v(q)) = t*(v(p)). Where the two effects are the same q is p,
whatever the model is worth. Where the person changes besides by a field d, which acts where h has put a point, as covariates do,
q has t(v(q)) = t*(v(p) + d(v(p))).

How a person's visits differ is told by a second registration: with h that of the person, the mean over visits, a field d of each
visit that is believed to be small. Two registrations by themselves differ by what a surface does not tell, six times as much.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from medrep.models.shape.mean_shape import (
    LevelFunction,
    Levels,
    Observations,
    Points,
    Posterior,
    SmoothBasis,
    register,
    soft_volumes,
    solve_back,
)
from medrep.models.shape.population import Population

Coefficients = Float[np.ndarray, " coefficients"]
AllLevels = Float[np.ndarray, " levels"]

WITHIN = 0.01
"""Variance of a person's visits over that of people."""
_ROUNDS = 8
_STEEPEST = 4.0  # what is made up for at one place, at most, beside the mean


def carried(
    points: Points,
    modes: SmoothBasis,
    identity: Coefficients,
    own: Coefficients,
    transformed: Coefficients,
    further: "Coefficients | None" = None,
) -> Points:
    """Return where points of a moved organ were in the person's own, mm, with coefficients of h, g (`own`) and g*.

    `further` are those of the person's own change d, at v; nothing by default.
    """
    shape = (-1, points.shape[1])
    changed = further is not None and bool(further.any())
    if np.array_equal(own, transformed) and not changed:
        return points.copy()
    mean_shape = points + modes.field(points, identity.reshape(shape))
    goal = (
        mean_shape + modes.field(mean_shape, further.reshape(shape)) if changed and further is not None else mean_shape
    )
    before = pull_back(goal, modes, own, transformed)
    return solve_back(before, points + (before - mean_shape), modes, identity)


def pull_back(points: Points, modes: SmoothBasis, own: Coefficients, transformed: Coefficients) -> Points:
    """Return q with q + g(q) = p + g*(p), mm, with coefficients of g (`own`) and g*."""
    if np.array_equal(own, transformed):
        return points.copy()
    shape = (-1, points.shape[1])
    change = modes.field(points, (transformed - own).reshape(shape))
    return solve_back(points + modes.field(points, transformed.reshape(shape)), points + change, modes, own)


@dataclass(frozen=True, eq=False)
class Subject:
    """A registered person.

    `own` is their signed distance, mm, and `mean` what their covariates do, coefficients of a field. Without `identity`, only
    covariates tell people apart.
    """

    population: Population
    own: LevelFunction
    mean: Coefficients
    posterior: Posterior
    observations: Observations
    identity: bool = True

    @classmethod
    def register(
        cls,
        population: Population,
        own: LevelFunction,
        observations: Observations,
        mean: Coefficients,
        precision: Float[np.ndarray, "coefficients coefficients"],
        *,
        identity: bool = True,
    ) -> "Subject":
        """Register a person by their signed distance, mm, and what is looked at of it.

        `mean` is what their covariates do, `precision` the inverse of the population's covariance.
        """
        posterior = register(observations, population.mean_shape(mean), precision, population.noise)
        return cls(population, own, mean, posterior, observations, identity)

    def changed(self, usual: Coefficients, precision: Float[np.ndarray, "coefficients coefficients"]) -> Coefficients:
        """Return d of a visit of a person whose h is ``usual``; `precision` is the inverse of the population's covariance."""
        population, observations, mean = self.population, self.observations, self.mean
        if population.moves == "distance":
            mean = mean + usual
        else:
            field = population.modes.field(observations.points, usual.reshape(population.modes.count, -1))
            observations = replace(observations, points=observations.points + field)
        return register(observations, population.mean_shape(mean), precision / WITHIN, population.noise).mean

    @property
    def rest(self) -> Coefficients:
        """The subject's own part: coefficients of the field beyond the covariates'."""
        return self.posterior.mean if self.identity else np.zeros_like(self.mean)

    def decoded(self, points: Points, mean: Coefficients) -> AllLevels:
        """Return the level of every structure at points, mm, as the model alone expects it; `mean` is what covariates do."""
        return self.population.decoded(points, mean, self.rest)

    def change(self, points: Points, mean: Coefficients, further: "Coefficients | None" = None) -> AllLevels:
        """Return how much higher the level, mm, of the person's own organ is where it was carried to other covariates.

        `mean` is what those do, and `further` the person's own change d; their own covariates and no change change nothing.
        """
        population = self.population
        if population.moves == "distance":
            whole = mean - self.mean + (0.0 if further is None else further)
            return population.modes.field(points, whole.reshape(population.modes.count, 1))[:, 0]
        came_from = carried(points, population.modes, self.rest, self.mean, mean, further)
        return self.own.everywhere(came_from) - self.own.everywhere(points)

    def change_of_identity(self, points: Points, rest: Coefficients) -> AllLevels:
        """Return how much higher the level, mm, of the person's own organ is where their identity is another one."""
        modes = self.population.modes
        if self.population.moves == "distance":
            return modes.field(points, (rest - self.rest).reshape(modes.count, 1))[:, 0]
        came_from = pull_back(points, modes, self.rest, rest)
        return self.own.everywhere(came_from) - self.own.everywhere(points)

    def change_in_proportion(self, nodes: Points, mean: Coefficients) -> AllLevels:
        """Return `change` at the nodes of the grid, with the volume of each structure changed by the share of the template's.

        How much a motion changes a volume depends on the stretch that an identity is; what covariates do to volumes is a share of
        them, the same for everybody. What is amiss is made up for where the organ moves, by the square of how far.
        """
        change = self.change(nodes, mean)
        if np.array_equal(mean, self.mean):
            return change
        step, count = max(self.own.lattice.spacing), self.own.count
        before, after = (self.population.mean_shape(one).values(nodes) for one in (self.mean, mean))
        own, found = self.own.everywhere(nodes).reshape(count, -1), change.reshape(count, -1).copy()
        pairs = zip(own, before.reshape(count, -1), after.reshape(count, -1), strict=True)
        for structure, (here, expected, there) in enumerate(pairs):
            size, then, own_size = soft_volumes(np.stack([expected, there, here]), step)
            if size > 0:
                found[structure] = _to_volume(here, found[structure], own_size * then / size, step)
        return found.ravel()

    def carry(self, points: Points, mean: Coefficients) -> Points:
        """Return where points of the person's own organ go when it is carried to other covariates, mm.

        `mean` is what those do; the person's own move nothing.
        """
        return carried(points, self.population.modes, self.rest, mean, self.mean)


def _to_volume(own: Levels, change: Levels, volume: float, step: float) -> Levels:
    """Return a change of levels, mm, made up for where it is large so that the volume, in voxels, is as wanted."""
    near = np.abs(own + change) < step
    where = change**2 / max(float((change[near] ** 2).mean()) if near.any() else 0.0, 1e-12)
    most = float(np.abs(change[near]).max()) if near.any() else 0.0
    where, amount = np.minimum(where, _STEEPEST), 0.0
    for _ in range(_ROUNDS):
        now = own + change - amount * where
        border = np.abs(now) < step / 2
        more = (volume - soft_volumes(now[None], step)[0]) / max(float(where[border].sum()) / step, 1e-9)
        amount = float(np.clip(amount + more, -most, most))
    return np.asarray(change - amount * where)


def reconstruction_error(subject: Subject) -> float:
    """Return the mean distance between a person's surface and the one that the model alone draws of them, mm.

    Both ways, along the normal, which is exact for surfaces that are near each other.
    """
    own = subject.own
    nodes = own.lattice.nodes()
    made = LevelFunction.through(own.lattice, subject.decoded(nodes, subject.mean))
    step = max(own.lattice.spacing)
    there = [
        _distances(other, level.onto_surface(nodes[np.abs(level.values(nodes)) < step]))
        for first, second in zip(own.parts, made.parts, strict=True)
        for level, other in ((first, second), (second, first))
    ]
    return float(np.mean([part.mean() for part in there]))


def deviation(z: Float[np.ndarray, " latents"], sd: Float[np.ndarray, " latents"]) -> float:
    """Return how unusual a person is at their covariates: about 1 for a typical one, in standard deviations.

    The size of the latents, N(0, 1) among people, over what a person's is expected to be where each is known as well as here.
    """
    if not len(z):
        return float("nan")
    return float(np.sqrt((z**2).sum() / max(float(np.maximum(1 - sd**2, 0).sum()), 1e-9)))


def _distances(level: LevelFunction, points: Points) -> Levels:
    value, slope = level.slopes(points)
    return np.abs(value) / np.maximum(np.linalg.norm(slope, axis=1), 0.5)


def visit_codes(
    visits: Sequence[Subject], precision: Float[np.ndarray, "coefficients coefficients"]
) -> Float[np.ndarray, "visits coefficients"]:
    """Return h of a person, the mean over their visits, and what each visit has beyond it, as one field.

    Args:
        visits: All of one person's.
        precision: The inverse of the population's covariance.
    """
    codes = np.array([one.posterior.mean for one in visits])
    if len(visits) == 1:
        return codes
    usual = codes.mean(axis=0)
    return usual + np.array([one.changed(usual, precision) for one in visits])
