"""Settings of the additive shape model."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from medrep._persisted import stored
from medrep.cohort.grid import Columns, Grid
from medrep.errors import ModelError, listed


@dataclass(frozen=True)
class ShapeSettings:
    """Settings of the additive shape model.

    Attributes:
        field: What fields do: ``displacement`` moves points (mm); ``distance`` adds to the template's signed distance, as models
            without correspondence do, for comparison.
        composition: ``additive``: each covariate has a field of its own; ``joint``: one field for all values together, for
            comparison.
        conditioned: Whether covariates have fields; ``false`` leaves all to the identity, for comparison.
        identity: Whether people have a field of their own; ``false`` for comparison.
        effects: How effects are learned: ``surface`` regresses where people's surfaces lie, as much as people who were left out
            bear out; ``likelihood`` solves the likelihood of codes with shrinkage by empirical Bayes, as models before did, and
            as fields without motion and joint ones still do.
        placement: Where a moved organ comes to lie, with ``surface``: ``still``, so that as much of the surface as the noise
            allows stays; ``mean``, so that the mean position stays; ``kept`` counts how people lie as an effect, too. ``auto``
            is ``kept`` where people's centres differ by 1 to 15 % of the organ's size, as in images that share a space; centres
            that are nearer to one another are an alignment's, and others noise: ``still``.
        spline_degrees: Degrees of freedom of a continuous covariate's effect; 1 is a straight line.
        modes: Smooth modes of a field at most, for each structure.
        latents: Numbers that are handed out of what a person is, those that shapes tell best.
        rounds: Rounds of registering everybody and learning from it.
        points: Points on a person's surface, and as many around it, that are looked at in training, at most.
        careful_points: The same when people are encoded.
        shrinkage: People that the smooth prior counts for in the covariance of identities.
        threads: People registered at a time.
        bootstrap: Resamplings of people for the intervals of effect maps.
        visits: ``auto``: people with several visits are known by them; ``independent``: each visit is taken for a person.
    """

    field: Literal["displacement", "distance"] = "displacement"
    composition: Literal["additive", "joint"] = "additive"
    conditioned: bool = True
    identity: bool = True
    effects: Literal["surface", "likelihood"] = "surface"
    placement: Literal["auto", "still", "mean", "kept"] = "auto"
    spline_degrees: int = 3
    modes: int = 120
    latents: int = 64
    rounds: int = 4
    points: int = 1500
    careful_points: int = 4000
    shrinkage: float = 30.0
    threads: int = 2
    bootstrap: int = 200
    visits: Literal["auto", "independent"] = dataclasses.field(
        default="auto", metadata=stored(omitted=lambda settings: settings.visits == "auto")
    )

    @property
    def by_surface(self) -> bool:
        """True where effects are regressed on surfaces."""
        return self.effects == "surface" and self.field == "displacement" and self.composition == "additive"

    def check(self, columns: Columns) -> Grid:
        """Refuse settings that cannot be, or data without a grid; return the grid.

        Raises:
            ModelError: Every offending setting, its value and what is allowed.
        """
        if columns.grid is None:
            raise ModelError("a shape model needs label maps on a grid; set input.kind to shape")
        least = {"spline_degrees": 1, "modes": 4, "latents": 1, "rounds": 1, "points": 100, "careful_points": 100}
        least |= {"threads": 1, "bootstrap": 0}
        wrong = [
            f"{name} is {getattr(self, name)}; give {low} or more"
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        if not self.shrinkage > 0:
            wrong.append(f"shrinkage is {self.shrinkage:g}; give more than 0")
        if len(columns.structures) > 1 and self.field == "distance":
            wrong.append("field is distance, which adds to the distance of one organ; give displacement for structures")
        if wrong:
            raise ModelError(listed("settings that cannot be", wrong))
        return columns.grid
