"""People over time: paths of what is a person's own through the space of fields, told from all their visits.

The codes of visits (`visit_codes`), coefficients of fields, are turned into a few numbers of unit noise: of the directions that
shapes tell best those first along which people change most beside the noise of a visit, as a generalised eigenproblem of both
tells (change within people against what a line through a person's visits leaves). One by one these are columns of a table, and
the linear model of tables knows people over time (`models/linear/trajectories.py`): a level and a slope for each person, how
everybody changes beyond what covariates are expected to do, and what is unknown of all that. A change of the numbers is a change
of the field that is expected of it; what they do not tell of a field stays as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy.linalg import eigh
from scipy.ndimage import map_coordinates
from scipy.sparse import csr_array

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models.linear.model import LinearModel
from medrep.models.linear.random_effects import changing_covariates, distances, time_of
from medrep.models.linear.settings import LinearSettings
from medrep.models.linear.trajectories import last_visits
from medrep.models.shape.mean_shape import LevelFunction
from medrep.models.shape.repeated import FEWEST
from medrep.models.shape.subject import Subject

_TILE, _EVERY = 4096, 2  # points at a time; how many nodes apart deviations are computed, which are smooth
_LEAST = 0.1  # degrees of freedom of noise within people, a visit
_APART = 0.5  # how much of the correlation of noise is not believed


@dataclass(frozen=True, eq=False)
class Further:
    """Changes of fields that are expected of people since their last visits.

    Attributes:
        last: Position of each person's last visit.
        change: Coefficients of the change of the field.
        sd: Deviation of each path.
        freedom: Degrees of freedom that these are known with.
    """

    last: Int[np.ndarray, " further"]
    change: Float[np.ndarray, "further coefficients"]
    sd: Float[np.ndarray, "further paths"]
    freedom: Float[np.ndarray, "further paths"]


@dataclass(frozen=True, eq=False)
class Paths:
    """Paths of people over time, and how fields follow from them.

    Attributes:
        basis: What the coefficients of an identity are multiplied with to get its place on the paths.
        fields: Coefficients of the field that is expected of one step along each.
        linear: The model of these places, a column a path.
    """

    basis: Float[np.ndarray, "coefficients paths"]
    fields: Float[np.ndarray, "paths coefficients"]
    linear: LinearModel

    @classmethod
    def fit(
        cls,
        codes: Float[np.ndarray, "visits coefficients"],
        known: Float[np.ndarray, "coefficients latents"],
        spread: Float[np.ndarray, "coefficients coefficients"],
        dataset: Dataset,
        seed: int,
    ) -> "Paths | None":
        """Learn from training people's visits, who can be followed (`can_follow`); None where nothing is told of them.

        Args:
            codes: Those of visits (`visit_codes`).
            known: Directions that shapes tell best, of unit variance (`best_known`).
            spread: Covariance of identities.
            dataset: Whose the visits are, and their covariates.
            seed: Of the fit.
        """
        frame, whose = dataset.covariates, dataset.whose
        time = time_of(changing_covariates(dataset.schema, frame, whose))
        turn = _by_change(codes @ known, distances(frame, [time], whose)[:, 0], whose)
        basis, fields = known @ turn, np.linalg.inv(turn) @ known.T @ spread
        own = frame[[time]]
        schema = CovariateSchema.fit(own, [dataset.schema[time].declared])
        names = tuple(f"path_{k}" for k in range(1, basis.shape[1] + 1))
        visits = Dataset(codes @ basis, own, schema, Columns(names, len(names), None), whose.tolist())
        linear, _ = LinearModel.fit(visits, LinearSettings(spline_degrees=1, components=0), seed=seed)
        return None if linear.refusal("forecast") else cls(basis, fields, linear)

    @property
    def followed(self) -> str:
        """The covariate that people were followed over."""
        return self.linear.followed

    def change(
        self, codes: Float[np.ndarray, "visits coefficients"], dataset: Dataset, years: float
    ) -> Float[np.ndarray, "visits coefficients"]:
        """Return how each visit's field changes over some years along its person's own path."""
        visits = self._visits(codes, dataset)
        return (self.linear.follow(visits, years) - visits.values) @ self.fields

    def forecast(
        self,
        codes: Float[np.ndarray, "visits coefficients"],
        dataset: Dataset,
        to: pd.DataFrame,
        whose: Sequence[str],
    ) -> Further:
        """Return how fields will have changed since people's last visits; see `Model.forecast`.

        A field goes on from the last visit, as those of `change` do: what is left of it is as it was then.
        """
        visits, time = self._visits(codes, dataset), dataset.covariates[self.followed].to_numpy(float)
        found = self.linear.forecast(visits, to[[self.followed]], whose)
        names = pd.factorize(visits.whose)[1]
        last = last_visits(time, visits.whose.tolist())[
            pd.Index(names).get_indexer(pd.Index(np.asarray(whose, object)))
        ]
        ahead = to[self.followed].to_numpy(float) - time[last]
        # Paths are straight lines.
        change = ahead[:, None] * self.change(codes, dataset, 1.0)[last]
        return Further(last, change, found.sd, found.freedom)

    def uncertainty(
        self,
        subject: Subject,
        level: LevelFunction,
        sd: Float[np.ndarray, " paths"],
        freedom: Float[np.ndarray, " paths"],
    ) -> tuple[Float[np.ndarray, " levels"], Float[np.ndarray, " levels"]]:
        """Return the deviation of an expected level at each node, mm, and its degrees of freedom (Satterthwaite 1946).

        Args:
            subject: The person's last visit.
            level: The level; of several structures, one after another.
            sd: Deviation of each path.
            freedom: Degrees of freedom of each.
        """
        if level.count > 1:
            several = [self.uncertainty(subject, part, sd, freedom) for part in level.parts]
            return np.concatenate([one[0] for one in several]), np.concatenate([one[1] for one in several])
        population = subject.population
        modes, outputs, displaces = population.modes, population.outputs, population.moves == "displacement"
        fields = self.fields.reshape(len(sd), modes.count, outputs).transpose(1, 0, 2).reshape(modes.count, -1)
        lattice, own = level.lattice, subject.rest.reshape(modes.count, outputs)
        some = lattice.nodes().reshape(*lattice.shape, lattice.dims)[(slice(None, None, _EVERY),) * lattice.dims]
        nodes = some.reshape(-1, lattice.dims)
        found = np.empty((2, len(nodes)))
        for start in range(0, len(nodes), _TILE):
            tile = slice(start, start + _TILE)
            points = nodes[tile]
            places = points + modes.field(points, own) if displaces else points
            moved = modes.field(places, fields).reshape(-1, len(sd), outputs)
            across = np.einsum("npd,nd->np", moved, level.slopes(points)[1]) if displaces else moved[:, :, 0]
            parts = (across * sd) ** 2
            whole = parts.sum(axis=1) + 2 * population.noise**2  # of the last visit, which goes on, and of the next
            found[0, tile] = np.sqrt(whole)
            found[1, tile] = whole**2 / np.maximum((parts**2 / freedom).sum(axis=1), 1e-300)
        index = np.indices(lattice.shape).reshape(lattice.dims, -1) / _EVERY
        spread, known = (map_coordinates(one.reshape(some.shape[:-1]), index, order=1, mode="nearest") for one in found)
        return spread, known

    def gain(
        self, codes: Float[np.ndarray, "visits coefficients"], dataset: Dataset
    ) -> "Float[np.ndarray, ' visits'] | None":
        """Return how unusual the change since the visit before is; see `Scores.gain`."""
        return self.linear.scores(self._visits(codes, dataset)).gain

    def _visits(self, codes: Float[np.ndarray, "visits coefficients"], dataset: Dataset) -> Dataset:
        return self.linear.dataset(codes @ self.basis, dataset.covariates[[self.followed]], dataset.whose.tolist())


def can_follow(dataset: Dataset) -> bool:
    """Return whether people can be followed: enough came again, and a number changes within them."""
    whose = dataset.whose
    several = int((pd.Series(whose).value_counts() > 1).sum())
    return several >= FEWEST and bool(time_of(changing_covariates(dataset.schema, dataset.covariates, whose)))


def rows_of_people(dataset: Dataset) -> list[Int[np.ndarray, " visits"]]:
    """Return the positions of each person's visits."""
    person = pd.factorize(dataset.whose)[0]
    order = np.argsort(person, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(person[order])) + 1)


def _by_change(
    places: Float[np.ndarray, "visits latents"],
    time: Float[np.ndarray, " visits"],
    whose: Shaped[np.ndarray, " visits"],
) -> Float[np.ndarray, "latents paths"]:
    """Return directions in which the noise of a visit is 1 and uncorrelated, those along which people change most first.

    Args:
        places: Of visits.
        time: Less the mean of the person's visits.
        whose: Person of each.
    """
    person, names = pd.factorize(whose)
    member = csr_array((np.ones(len(person)), (person, np.arange(len(person)))), (len(names), len(person)))
    counts, spans = np.asarray(member.sum(axis=1)), member @ time**2
    away = places - (member.T @ ((member @ places) / counts[:, None]))
    slopes = (member @ (time[:, None] * away)) / np.maximum(spans, 1e-12)[:, None]
    left = away - time[:, None] * (member.T @ slopes)
    change = slopes.T @ (spans[:, None] * slopes)
    freedom = float(np.maximum(counts - 1 - (spans > 0), 0).sum())
    # Two visits leave nothing beside a line: their change is change and noise in one.
    noise = left.T @ left / freedom if freedom > _LEAST * len(time) else away.T @ away / float((counts - 1).sum())
    noise = (1 - _APART) * noise + _APART * np.diag(np.diag(noise))
    _, turn = eigh(change / len(names), noise)
    signs = np.sign(turn[np.abs(turn).argmax(axis=0), np.arange(turn.shape[1])])
    return np.asarray((turn * signs)[:, ::-1])
