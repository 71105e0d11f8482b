"""Additive shape model: a template organ, what each covariate does to it in millimetres, and what is a person's own.

Generative process, for person i with covariates c (s is a signed distance, negative inside; p a point, mm):

    h_i(p) = F(p) a_i,    a_i ~ N(0, C),    g_k(p, c_k, h) = F(p + h(p)) (X_k(c_k) - X_k(reference)) G_k
    s_i(p) = T(p + sum_k g_k(p, c_ik, h_i) + h_i(p))

A covariate acts where the identity has put a point, so that it does the same to the same place of everybody's anatomy, wherever
that lies.

| symbol | meaning | code name |
|---|---|---|
| T | template, a cubic spline on the grid; its zero level is the organ at the reference | `population.template` |
| F | smooth modes of a field | `population.modes` |
| g_k | what covariate k does; exactly zero at its reference | `population.effects` |
| h | identity: what no covariate does | `Person.rest` |
| C | covariance of identities | `population.covariance` |
| z | identity, N(0, I) among people, what shapes tell best first | `encode` |

Fields are smooth by construction (`shape/modes.py`) and linear in their coefficients, so a person is encoded by a handful of
Gauss-Newton steps with all uncertainty at hand, and learning is rounds of registration and regression (`shape/population.py`).

**Counterfactual and removal** keep the person's own detail: with t(p, c) = p + sum_k g_k + h, the point p of the moved
organ was q with t(q, c) = t(p, c*), and s'(p) = s_own(q). c* = c gives q = p: the null intervention changes nothing.

Advantages: millimetres along the surface for each covariate, with intervals; a person's voxel-fine detail survives a move;
trains in minutes on a processor. **Limitations**: a covariate does the same to the same place of every anatomy; motion along
the surface cannot be seen in surfaces, and effects move there as smoothly as the rest tells; positions and sizes that the
alignment took out are no effect any more; topology is the template's for decoded organs. A counterfactual is the model's answer
near its support, not a causal fact.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._persisted import converted, persisted, stored
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.grid import Grid
from medrep.cohort.lattice import grid_lattice
from medrep.errors import ModelError
from medrep.models.base import Adaptation, Columns, Model, Workplace
from medrep.models.scores import Scores
from medrep.models.shape.covariates import EffectColumns
from medrep.models.shape.person import Person
from medrep.models.shape.population import Population, best_known, fit_population
from medrep.models.shape.scores import deviation, reconstruction_error
from medrep.models.shape.settings import ShapeSettings

_FEW = 20


def _refuse_beyond(model: "AdditiveShape") -> None:
    modes = model.population.modes
    if not (modes.nodes < modes.lattice.size).all():
        raise ModelError("weights that do not belong to this model: modes.nodes lie beyond the lattice")


@persisted(
    keys=("settings", "schema", "design", "grid", "modes", "noise", "size", "seed"),
    sizes={
        "columns": lambda read: 0 if read["effect_columns"] is None else read["effect_columns"].width,
        "coefficients": lambda read: read["population"].covariance.shape[0],
    },
    check=_refuse_beyond,
)
@dataclass(frozen=True, eq=False, repr=False)
class AdditiveShape(Model):
    """A fitted additive shape model; see the module's sheet for the symbols.

    Attributes:
        schema: The covariates.
        columns: The grid of the signed distances.
        settings: As trained.
        population: What was learned.
        effect_columns: How covariates become columns; None for a model without them.
        resampled: Effects learned from resampled people, for intervals.
        latent_basis: What the coefficients of an identity are multiplied with to get z.
        seed: Of every draw in training.
    """

    schema: CovariateSchema
    columns: Columns = field(
        metadata=converted("grid", Grid, lambda columns: columns.grid, lambda grid, read: Columns((), grid.size, grid))
    )
    settings: ShapeSettings
    population: Population = field(metadata=stored("", sizes={"columns": "columns"}))
    effect_columns: EffectColumns | None = field(metadata=stored("design"))
    resampled: Float[np.ndarray, "draws columns coefficients"]
    latent_basis: Float[np.ndarray, "coefficients latents"]
    seed: int = 0

    kind = "additive_shape"
    settings_type = ShapeSettings
    error_unit = "mm"

    @classmethod
    def fit(
        cls,
        data: Float[np.ndarray, "people columns"],
        frame: pd.DataFrame,
        schema: CovariateSchema,
        columns: Columns,
        settings: ShapeSettings | None = None,
        *,
        seed: int = 0,
        work: Workplace | None = None,
        participants: Sequence[str] | None = None,
    ) -> tuple["AdditiveShape", pd.DataFrame]:
        """Fit on signed distances (mm) of training people; see `Model.fit`."""
        settings, work = settings or ShapeSettings(), work or Workplace()
        grid = settings.check(columns)
        effects = (
            EffectColumns.fit(schema, frame, settings.spline_degrees, joint=settings.composition == "joint")
            if settings.conditioned
            else None
        )
        people = len(frame) if participants is None else len(set(participants))
        if effects is not None and people < _FEW:
            work.say(
                f"  warning: {people} people are few: effects may be shrunk to almost nothing, and their intervals do not"
                " show it; compare with --set settings.modes=24"
            )
        X = np.zeros((len(frame), 0)) if effects is None else effects.of(frame)
        groups = [] if effects is None else effects.groups()
        work.phase("fit template and effects")
        learned = fit_population(data, grid_lattice(grid), X, groups, settings, seed, work.say, participants)
        population = learned.population
        history = [("registration", "error_mm", error, number) for number, error in enumerate(learned.errors, 1)]
        history += [("shape", "size_mm", population.size, 0), ("shape", "noise_mm", population.noise, 0)]
        history += [("shape", "modes", float(population.modes.count), 0)]
        table = pd.DataFrame(history, columns=["metric", "name", "value", "epoch"])
        basis = best_known(learned.rest, learned.spread, settings.latents if settings.identity else 0)
        return cls(schema, columns, settings, population, effects, learned.resampled, basis, seed), table

    def move(
        self,
        data: Float[np.ndarray, "people columns"],
        frame: pd.DataFrame,
        to: pd.DataFrame,
        out: Float[np.ndarray, "people columns"] | None = None,
    ) -> Float[np.ndarray, "people columns"]:
        """Move covariates of each person; see `Model.move`. What comes back is a distance near the surface, negative inside."""
        self._check(data)
        moved = np.empty(data.shape, data.dtype) if out is None else out
        there = frame.assign(**to)
        home = (frame[to.columns] == to).all(axis=1).to_numpy()
        nodes = self.population.template.lattice.nodes()
        for row in range(len(data)):
            if home[row]:
                moved[row] = data[row]
            else:
                person = self.person(data[row], frame.iloc[[row]])
                moved[row] = data[row] + person.change(nodes, self.mean(there.iloc[[row]]))
        return moved

    def encode(
        self, data: Float[np.ndarray, "people columns"], frame: pd.DataFrame
    ) -> Float[np.ndarray, "people latents"]:
        """Return z, what is a person's own, N(0, I) among people; what shapes tell best comes first."""
        return self.encode_with_sd(data, frame)[0]

    def encode_with_sd(
        self, data: Float[np.ndarray, "people columns"], frame: pd.DataFrame
    ) -> tuple[Float[np.ndarray, "people latents"], Float[np.ndarray, "people latents"]]:
        """Return z, and the standard deviation with which each is known of each person."""
        self._check(data)
        z = np.zeros((len(data), self.latent_basis.shape[1]))
        sd = np.zeros_like(z)
        for row in range(len(data)):
            z[row], sd[row] = self.latents(self.person(data[row], frame.iloc[[row]]))
        return z, sd

    def latents(self, person: Person) -> tuple[Float[np.ndarray, " latents"], Float[np.ndarray, " latents"]]:
        """Return z of a registered person, and the standard deviation with which each is known."""
        spread = np.einsum("ij,ij->j", self.latent_basis, person.posterior.covariance() @ self.latent_basis)
        return person.rest @ self.latent_basis, np.sqrt(spread)

    def person(self, row: Float[np.ndarray, " columns"], frame: pd.DataFrame) -> Person:
        """Register one person.

        Args:
            row: Signed distance on the grid, mm.
            frame: One row of covariates.
        """
        return Person.register(
            self.population,
            row,
            self.mean(frame),
            self._precision,
            self.settings.careful_points,
            identity=self.settings.identity,
        )

    def mean(self, frame: pd.DataFrame) -> Float[np.ndarray, " coefficients"]:
        """Return what the covariates of one row do: coefficients of a field, zero at the reference."""
        return self.means(frame)[0]

    def means(self, frame: pd.DataFrame) -> Float[np.ndarray, "people coefficients"]:
        """Return `mean` of several rows."""
        columns = np.zeros((len(frame), 0)) if self.effect_columns is None else self.effect_columns.of(frame)
        return columns @ self.population.effects

    def reconstruct(
        self, data: Float[np.ndarray, "people columns"], frame: pd.DataFrame
    ) -> Float[np.ndarray, "people columns"]:
        """Return the level, mm, that the model alone gives each person on the grid."""
        self._check(data)
        nodes = self.population.template.lattice.nodes()
        rows = [self.person(data[row], frame.iloc[[row]]) for row in range(len(data))]
        return np.stack([person.decoded(nodes, person.mean) for person in rows]).astype(data.dtype)

    def scores(self, data: Float[np.ndarray, "people columns"], frame: pd.DataFrame) -> Scores:
        """Return the mean distance between surfaces, mm, and how unusual z is; see `Model.scores`."""
        self._check(data)
        people = [self.person(data[row], frame.iloc[[row]]) for row in range(len(data))]
        known = [self.latents(person) for person in people]
        errors = np.array([reconstruction_error(person) for person in people])
        z, sd = (np.array(part).reshape(len(people), -1) for part in zip(*known, strict=True))
        return Scores(errors, np.array([deviation(*own) for own in known]), z, sd)

    def sample(self, frame: pd.DataFrame, *, seed: int) -> Float[np.ndarray, "people columns"]:
        """Draw new organs, one for each row of covariates: levels on the grid, mm."""
        rng = np.random.default_rng(seed)
        nodes = self.population.template.lattice.nodes()
        root = np.linalg.cholesky(self.population.covariance)
        rows = []
        for row in range(len(frame)):
            own = root @ rng.standard_normal(len(root)) * float(self.settings.identity)
            rows.append(self.population.decoded(nodes, self.mean(frame.iloc[[row]]), own))
        return np.stack(rows)

    def adapt(
        self, people: Iterable[tuple[Float[np.ndarray, "_ columns"], pd.DataFrame]]
    ) -> tuple["AdditiveShape", tuple[Adaptation, ...]]:
        """Estimate unseen batch levels from what their people share; see `Model.adapt`."""
        rest: dict[tuple[str, str], list[np.ndarray]] = {}
        frames: dict[tuple[str, str], list[pd.DataFrame]] = {}
        for data, frame in people:
            for row, unseen in self.schema.unseen(frame):
                rest.setdefault(unseen, []).append(self.person(data[row], frame.iloc[[row]]).rest)
                frames.setdefault(unseen, []).append(frame.iloc[[row]])
        model, notes = self, []
        for (name, level), codes in sorted(rest.items()):
            location, kept = self._shrunk(name, np.mean(codes, axis=0), len(codes))
            model = model._with_level(name, level, location)
            effect_se = self._effect_error(pd.concat(frames[name, level]))
            location_se = float(np.hypot(len(codes) ** -0.5, effect_se or 0.0))
            notes.append(Adaptation(name, level, len(codes), location_se, None, kept, 1.0, effect_se))
        return model, tuple(notes)

    @cached_property
    def _precision(self) -> Float[np.ndarray, "coefficients coefficients"]:
        return self.population.precision()

    def _effect_error(self, frame: pd.DataFrame) -> float | None:
        """Return the standard error of the mean effect at some people, in units of how people differ; None without draws."""
        if self.effect_columns is None or not len(self.resampled):
            return None
        away = self.effect_columns.of(frame).mean(axis=0) @ (self.resampled - self.population.effects)
        squares = (away * np.linalg.solve(self.population.covariance, away.T).T).sum(axis=1)
        return float(np.sqrt(squares.mean() / away.shape[1]))

    def _shrunk(
        self, name: str, mean: Float[np.ndarray, " coefficients"], people: int
    ) -> tuple[Float[np.ndarray, " coefficients"], float]:
        """Return a new level's location, shrunk as much as known levels differ, and the share of energy that is kept."""
        if self.effect_columns is None:
            return np.zeros_like(mean), 0.0
        known = self.population.effects[self.effect_columns.slices()[(name,)]]
        noise = self.population.covariance / people
        strength = float((known**2).mean())
        location = strength * np.linalg.solve(strength * np.eye(len(noise)) + noise, mean)
        return location, float((location @ location) / max(mean @ mean, 1e-300))

    def _check(self, data: np.ndarray) -> None:
        if data.shape[1] != self.columns.count:
            raise ModelError(f"the data have {data.shape[1]} voxels, the model was fitted on {self.columns.count}")

    def _with_level(self, name: str, level: str, row: Float[np.ndarray, " coefficients"]) -> "AdditiveShape":
        if self.effect_columns is None:
            raise ModelError("settings.conditioned is false: such a model has no levels to adapt")
        schema = self.schema.with_level(name, level)
        place = self.effect_columns.slices()[(name,)].stop
        effects = np.insert(self.population.effects, place, row, axis=0)
        resampled = np.insert(self.resampled, place, row, axis=1)
        columns = replace(self.effect_columns, design=replace(self.effect_columns.design, schema=schema))
        return replace(
            self,
            schema=schema,
            population=replace(self.population, effects=effects),
            effect_columns=columns,
            resampled=resampled,
        )
