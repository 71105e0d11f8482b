"""How well a shape model draws a person, and how unusual they are for their covariates."""

import numpy as np
from jaxtyping import Float

from medrep.models.shape.person import Person
from medrep.models.shape.template import LevelFunction


def reconstruction_error(person: Person) -> float:
    """Return the mean distance between a person's surface and the one that the model alone draws of them, mm.

    Both ways, along the normal, which is exact for surfaces that are near each other.
    """
    own = person.own
    nodes = own.lattice.nodes()
    made = LevelFunction.through(own.lattice, person.decoded(nodes, person.mean))
    step = max(own.lattice.spacing)
    there = [
        _distances(other, level.onto_surface(nodes[np.abs(level.values(nodes)) < step]))
        for level, other in ((own, made), (made, own))
    ]
    return float(np.mean([part.mean() for part in there]))


def deviation(z: Float[np.ndarray, " latents"], sd: Float[np.ndarray, " latents"]) -> float:
    """Return how unusual a person is at their covariates: about 1 for a typical one, in standard deviations.

    The latents' size, over what a person's is expected to be where each latent is known as well as here.

    Args:
        z: What is known of the person's identity, N(0, 1) among people.
        sd: How well.
    """
    if not len(z):
        return float("nan")
    return float(np.sqrt((z**2).sum() / max(float(np.maximum(1 - sd**2, 0).sum()), 1e-9)))


def _distances(level: LevelFunction, points: Float[np.ndarray, "points dims"]) -> Float[np.ndarray, " points"]:
    value, slope = level.slopes(points)
    return np.abs(value) / np.maximum(np.linalg.norm(slope, axis=1), 0.5)
