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
| h | identity: what no covariate does | `Subject.rest` |
| C | covariance of identities | `population.covariance` |
| z | identity, N(0, I) among people, what shapes tell best first | `encode` |

Fields are smooth by construction (`shape/modes.py`) and linear in their coefficients, so a person is encoded by a handful of
Gauss-Newton steps with all uncertainty at hand, and learning is rounds of registration and regression (`shape/population.py`).

Effects are regressed on where the template's surface lies in people (`shape/surface_effects.py`). How somebody as a whole lies is
no effect, unless people share a space; where a moved organ comes to lie follows a rule (`placement`). What covariates do to how
organs lie is told beside (`shape/pose.py`), and moves nobody who is not asked for it.

**Counterfactual and removal** keep the person's own detail: with t(p, c) = p + sum_k g_k + h, the point p of the moved
organ was q with t(q, c) = t(p, c*), and s'(p) = s_own(q). c* = c gives q = p: the null intervention changes nothing.

**Volumes.** How much a motion changes a volume depends on the stretch that an identity is, while what covariates do to volumes is
a share of them. So the volume of a moved person changes by the share of the organ that is expected: what is amiss is made up for
where the organ moves, by the square of how far. Effects of `likelihood`, and paths of people, are carried without that.

**People who come again.** Visits of one person differ by fields d that act where h has put a point, as covariates do, and are
told by a second registration, beside the person's mean h. In the directions in which people change most beside noise each has
a level and a slope, and all change as nothing else tells, by the mixed model of tables (`shape/paths.py`). A visit goes along
its person's path by the pull-back with t(q, c, d) = t(p, c*, d*). What covariates do is told from a person's visits together
(`shape/repeated.py`). Of people of one visit nothing of this is there.

**Several structures** of a person (`input.structures`) have a template each, T, and one field F for all: each is pulled back
through the same map, so that what did not overlap does not after a move, and what touches goes on touching. Effects are learned
from all surfaces, believed structure by structure, and each structure's volume is followed. Modes count for each structure.

Advantages: millimetres along the surface for each covariate, with intervals; a person's voxel-fine detail survives a move;
trains in minutes on a processor. **Limitations**: a covariate does the same to the same place of every anatomy; motion along
the surface cannot be seen in surfaces, and effects move there as smoothly as the rest tells; a size that the alignment took out
is no effect any more, and an effect on position none unless `placement` is `kept`; topology is the template's for decoded
organs; structures do not slide along each other; paths of people are straight lines beside what covariates do, and one visit
tells nothing of a slope. A counterfactual is the model's answer near its support, not a causal fact.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from medrep._persisted import converted, persisted, stored
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid, Lattice, grid_lattice
from medrep.errors import ModelError
from medrep.models.base import (
    Adaptation,
    Capability,
    FitContext,
    Forecast,
    Level,
    Model,
    Points,
    Posterior,
    Scores,
)
from medrep.models.linear.design import Contrast
from medrep.models.linear.random_effects import changing_covariates, refuse_inseparable, time_of
from medrep.models.shape.displacement import SurfaceDisplacement
from medrep.models.shape.effects import EffectColumns
from medrep.models.shape.mean_shape import LevelFunction, Observations, without_overlap
from medrep.models.shape.paths import Paths, can_follow, rows_of_people
from medrep.models.shape.population import Population, best_known, fit_population, placement_of
from medrep.models.shape.rigid import POINTS, Poses, rigid_motion
from medrep.models.shape.settings import ShapeSettings
from medrep.models.shape.subject import Subject, deviation, pull_back, reconstruction_error, visit_codes

PATHS = 64
"""Directions in which people are followed, at most: those that shapes tell best."""
_FEW = 20


def _refuse_beyond(model: "AdditiveShape") -> None:
    modes = model.population.modes
    if not (modes.nodes < modes.lattice.size).all():
        raise ModelError("weights that do not belong to this model: modes.nodes lie beyond the lattice")


@dataclass(frozen=True)
class _Places:
    """How columns are persisted: the grid, and the structures that each have it."""

    grid: Grid | None = field(metadata=stored(""))
    structures: tuple[str, ...] = field(default=(), metadata=stored(omitted=lambda places: not places.structures))


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
        paths: What is known of people over time; None where too few came again.
    """

    schema: CovariateSchema
    columns: Columns = field(
        metadata=converted(
            "grid",
            _Places,
            lambda columns: _Places(columns.grid, columns.structures),
            lambda places, read: Columns.of_grid(places.grid, structures=places.structures),
        )
    )
    settings: ShapeSettings
    population: Population = field(metadata=stored("", sizes={"columns": "columns"}))
    effect_columns: EffectColumns | None = field(metadata=stored("design"))
    resampled: Float[np.ndarray, "draws columns coefficients"]
    latent_basis: Float[np.ndarray, "coefficients latents"]
    seed: int = 0
    paths: Paths | None = field(default=None, metadata=stored(omitted=lambda model: model.paths is None))

    kind = "additive_shape"
    settings_type = ShapeSettings
    error_unit = "mm"
    tables = False
    structures = True
    sources = (
        "Signed distance as a function: Park et al. 2019, CVPR (DeepSDF). Additive displacement of a template by covariates:"
        " Jiao et al. 2024, ICLR (NAISR).",
    )
    withheld: ClassVar[Mapping[Capability, str]] = {
        "motion": "settings.field is distance: such a model does not say how points move",
        "forecast": "the model does not know people over time: too few people came again, or no number changes within them; train"
        " on a cohort in which ten people and more come again, with their age at each visit",
    }

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        settings: ShapeSettings | None = None,
        *,
        seed: int = 0,
        work: FitContext | None = None,
    ) -> tuple["AdditiveShape", pd.DataFrame]:
        """Fit on signed distances (mm) of training people; see `Model.fit`."""
        frame, schema, columns = dataset.covariates, dataset.schema, dataset.columns
        settings, work = settings or ShapeSettings(), work or FitContext()
        settings.check(columns)
        effects = (
            EffectColumns.fit(schema, frame, settings.spline_degrees, joint=settings.composition == "joint")
            if settings.conditioned
            else None
        )
        if effects is not None and dataset.people < _FEW:
            work.say(
                f"  warning: {dataset.people} people are few: effects are rough, and believed as far as they tell people who are"
                " left out"
            )
        followed = cls.knows_visits(settings) and can_follow(dataset)
        if effects is not None and followed:
            changing = changing_covariates(schema, frame, dataset.whose)
            refuse_inseparable(effects.design, frame, dataset.whose, time_of(changing))
        X = np.zeros((len(frame), 0)) if effects is None else effects.of(frame)
        groups = [] if effects is None else effects.groups()
        work.phase("fit template and effects")
        learned = fit_population(dataset, X, groups, settings, seed, work.say)
        population = learned.population
        history = [("registration", "error_mm", error, number) for number, error in enumerate(learned.errors, 1)]
        history += [("shape", "size_mm", population.size, 0), ("shape", "noise_mm", population.noise, 0)]
        history += [("shape", "modes", float(population.modes.count), 0)]
        table = pd.DataFrame(history, columns=["metric", "name", "value", "epoch"])
        basis = best_known(learned.rest, learned.spread, settings.latents if settings.identity else 0)
        model = cls(schema, columns, settings, population, effects, learned.resampled, basis, seed)
        if followed:
            work.phase("follow people over time")
            known = best_known(learned.rest, learned.spread, PATHS)
            codes = model._codes(dataset, settings.points)
            model = replace(model, paths=Paths.fit(codes, known, learned.spread, dataset, seed))
        return model, table

    def transform(
        self,
        dataset: Dataset,
        to: pd.DataFrame,
        out: Float[np.ndarray, "people columns"] | None = None,
    ) -> Float[np.ndarray, "people columns"]:
        """Move covariates of each participant; see `Model.transform`. Returns signed distances near the surface."""
        data, frame = dataset.values, dataset.covariates
        self._check(data)
        transformed = np.empty(data.shape, data.dtype) if out is None else out
        there = frame.assign(**to)
        home = (frame[to.columns] == to).all(axis=1).to_numpy()
        nodes = self._lattice.nodes()
        for row in range(len(data)):
            if home[row]:
                transformed[row] = data[row]
            else:
                subject = self.subject(data[row], frame.iloc[[row]])
                transformed[row] = data[row] + self._change(subject, nodes, self.mean(there.iloc[[row]]))
        return transformed

    def _change(self, subject: Subject, nodes: Points, mean: Float[np.ndarray, " coefficients"]) -> np.ndarray:
        """Return what a move to other covariates does to the level at the nodes, mm; `mean` is what those do."""
        # Volumes are followed where effects follow them.
        return (subject.change_in_proportion if self.settings.by_surface else subject.change)(nodes, mean)

    def encode(self, dataset: Dataset) -> Float[np.ndarray, "people latents"]:
        """Return z, what is a person's own, N(0, I) among people; what shapes tell best comes first."""
        return self.posterior(dataset)[0]

    def posterior(self, dataset: Dataset) -> Posterior:
        """Return z, and the standard deviation with which each is known of each person."""
        self._check(dataset.values)
        z = np.zeros((len(dataset), self.latent_basis.shape[1]))
        sd = np.zeros_like(z)
        for row, subject in enumerate(self._people(dataset)):
            z[row], sd[row] = self.latents(subject)
        return z, sd

    def with_latents(
        self, dataset: Dataset, latents: Iterable[Float[np.ndarray, "people latents"]]
    ) -> Iterator[Float[np.ndarray, "people columns"]]:
        """Yield people of another identity, the likeliest change of it, with their own detail; see `Model.with_latents`."""
        if refused := self.refusal("latents"):
            raise ModelError(refused)
        data = dataset.values
        self._check(data)
        nodes, people, basis = self._lattice.nodes(), list(self._people(dataset)), self.latent_basis
        spread = self.population.covariance @ basis
        per_latent = np.linalg.solve(basis.T @ spread, spread.T)
        for there in latents:
            moved = np.array(data)
            for row, subject in enumerate(people):
                change = (there[row] - self.latents(subject)[0]) @ per_latent
                moved[row] += subject.change_of_identity(nodes, subject.rest + change)
            yield moved

    def latents(self, subject: Subject) -> tuple[Float[np.ndarray, " latents"], Float[np.ndarray, " latents"]]:
        """Return z of a registered person, and the standard deviation with which each is known."""
        spread = np.einsum("ij,ij->j", self.latent_basis, subject.posterior.covariance() @ self.latent_basis)
        return subject.rest @ self.latent_basis, np.sqrt(spread)

    def subject(self, row: Float[np.ndarray, " columns"], frame: pd.DataFrame, points: int | None = None) -> Subject:
        """Register one person.

        Args:
            row: Signed distance on the grid, mm.
            frame: One row of covariates.
            points: How many are looked at; those of encoding by default.
        """
        population, settings = self.population, self.settings
        own, count = LevelFunction.through(self._lattice, row), points or settings.careful_points
        observed = Observations.of(own, row, population.size, count, np.random.default_rng(7))
        mean, identity = self.mean(frame), settings.identity
        return Subject.register(population, own, observed, mean, self._precision, identity=identity)

    def _people(self, dataset: Dataset) -> Iterator[Subject]:
        """Register everybody, one after the other."""
        for row, values in enumerate(dataset.values):
            yield self.subject(values, dataset.covariates.iloc[[row]])

    def _codes(self, dataset: Dataset, points: int) -> Float[np.ndarray, "visits coefficients"]:
        """Return `visit_codes` of everybody, looking at so many points."""
        codes = np.zeros((len(dataset), len(self._precision)))

        def register(row: int) -> Subject:
            return self.subject(dataset.values[row], dataset.covariates.iloc[[row]], points)

        def follow(rows: np.ndarray) -> None:
            codes[rows] = visit_codes([register(row) for row in rows], self._precision)

        with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(self.settings.threads) as pool:
            deque(pool.map(follow, rows_of_people(dataset)), maxlen=0)
        return codes

    def mean(self, frame: pd.DataFrame) -> Float[np.ndarray, " coefficients"]:
        """Return what the covariates of one row do: coefficients of a field, zero at the reference."""
        return self.means(frame)[0]

    def means(self, frame: pd.DataFrame) -> Float[np.ndarray, "people coefficients"]:
        """Return `mean` of several rows."""
        columns = np.zeros((len(frame), 0)) if self.effect_columns is None else self.effect_columns.of(frame)
        return columns @ self.population.effects

    def reconstruct(self, dataset: Dataset) -> Float[np.ndarray, "people columns"]:
        """Return the level, mm, that the model alone gives each person on the grid."""
        self._check(dataset.values)
        nodes = self._lattice.nodes()
        levels = [subject.decoded(nodes, subject.mean) for subject in self._people(dataset)]
        return np.stack(levels).astype(dataset.values.dtype)

    def scores(self, dataset: Dataset) -> Scores:
        """Return the mean distance between surfaces, mm, and how unusual z is; see `Model.scores`."""
        self._check(dataset.values)
        people = list(self._people(dataset))
        known = [self.latents(subject) for subject in people]
        errors = np.array([reconstruction_error(subject) for subject in people])
        z, sd = (np.array(part).reshape(len(people), -1) for part in zip(*known, strict=True))
        gain = None if self.paths is None else self.paths.gain(self._known_codes(people, dataset), dataset)
        return Scores(errors, np.array([deviation(*own) for own in known]), z, sd, gain)

    def follow(self, dataset: Dataset, years: float) -> Float[np.ndarray, "visits columns"]:
        """Pull each visit back along its person's own path; see `Model.follow`."""
        paths, data, frame = self._known_paths(), dataset.values, dataset.covariates
        self._check(data)
        followed = np.array(data)
        if years == 0:
            return followed
        people, nodes = list(self._people(dataset)), self._lattice.nodes()
        changes = paths.change(self._known_codes(people, dataset), dataset, years)
        there = frame.assign(**{paths.followed: frame[paths.followed].astype(float) + years})
        for row, subject in enumerate(people):
            followed[row] += subject.change(nodes, self.mean(there.iloc[[row]]), changes[row])
        return followed

    def forecast(self, dataset: Dataset, to: pd.DataFrame, whose: Sequence[str]) -> Forecast:
        """Return signed distances of the person's last visit, moved to where all visits lead; see `Model.forecast`.

        The deviation is that of the level at a node, mm: of the field across it, and the noise of a visit.
        """
        paths, data = self._known_paths(), dataset.values
        self._check(data)
        people, lattice = list(self._people(dataset)), self._lattice
        further = paths.forecast(self._known_codes(people, dataset), dataset, to, whose)
        nodes = lattice.nodes()
        found = np.empty((3, len(to), self.columns.count))
        for k, last in enumerate(further.last):
            found[0, k] = data[last] + people[last].change(nodes, self.mean(to.iloc[[k]]), further.change[k])
            level = LevelFunction.through(lattice, found[0, k])
            found[1:, k] = paths.uncertainty(people[last], level, further.sd[k], further.freedom[k])
        return Forecast(*found)

    @property
    def followed(self) -> str:
        """See `Model.followed`."""
        return "" if self.paths is None else self.paths.followed

    @classmethod
    def knows_visits(cls, settings: ShapeSettings) -> bool:
        """Return whether people have paths of their own; see `Model.knows_visits`."""
        return settings.visits == "auto" and settings.identity

    def sample(self, frame: pd.DataFrame, *, seed: int) -> Float[np.ndarray, "people columns"]:
        """Draw new organs, one for each row of covariates: levels on the grid, mm."""
        rng = np.random.default_rng(seed)
        nodes = self._lattice.nodes()
        root = np.linalg.cholesky(self.population.covariance)
        rows = []
        for row in range(len(frame)):
            own = root @ rng.standard_normal(len(root)) * float(self.settings.identity)
            rows.append(self.population.decoded(nodes, self.mean(frame.iloc[[row]]), own))
        return np.stack(rows)

    def adapt(self, people: Iterable[Dataset]) -> tuple["AdditiveShape", tuple[Adaptation, ...]]:
        """Estimate unseen batch levels from what their people share; see `Model.adapt`."""
        rest: dict[tuple[str, str], list[np.ndarray]] = {}
        frames: dict[tuple[str, str], list[pd.DataFrame]] = {}
        for dataset in people:
            frame = dataset.covariates
            for row, unseen in self.schema.unseen(frame):
                rest.setdefault(unseen, []).append(self.subject(dataset.values[row], frame.iloc[[row]]).rest)
                frames.setdefault(unseen, []).append(frame.iloc[[row]])
        model, notes = self, []
        for (name, level), codes in sorted(rest.items()):
            location, kept = self._shrunk(name, np.mean(codes, axis=0), len(codes))
            model = model._with_level(name, level, location)
            effect_se = self._effect_error(pd.concat(frames[name, level]))
            location_se = float(np.hypot(len(codes) ** -0.5, effect_se or 0.0))
            notes.append(Adaptation(name, level, len(codes), location_se, None, kept, 1.0, effect_se))
        return model, tuple(notes)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """It models organs and draws them; points move where fields displace, and effects are seen where there are any."""
        can: set[Capability] = {"joint", "sample", "organs"}
        if self.latent_basis.shape[1]:
            can |= {"latents"}
        if self.population.moves == "displacement":
            can |= {"motion", "effects"} if self.settings.conditioned else {"motion"}
        if self.paths is not None:
            can |= {"forecast"}
        return frozenset(can)

    def remove_and_encode(
        self, dataset: Dataset, target: Mapping[str, str | float]
    ) -> tuple[Float[np.ndarray, "people columns"], Posterior]:
        """Register each person once for both; see `Model.remove_and_encode`."""
        data = dataset.values
        self._check(data)
        there = self.schema.transformed(dataset.covariates, target)
        nodes = self._lattice.nodes()
        transformed = np.zeros(data.shape)
        z = np.zeros((len(data), self.latent_basis.shape[1]))
        sd = np.zeros_like(z)
        for row, subject in enumerate(self._people(dataset)):
            transformed[row] = data[row] + self._change(subject, nodes, self.mean(there.iloc[[row]]))
            z[row], sd[row] = self.latents(subject)
        return transformed, (z, sd)

    def carry(
        self, subject: Dataset, points: Points, targets: Sequence[Mapping[str, str | float]]
    ) -> Float[np.ndarray, "targets points dims"]:
        """Return where points of a person's organ come to lie at other covariates; see `Model.carry`."""
        self._check_motion()
        (own,) = self._people(subject)
        return np.stack([own.carry(points, self.mean(subject.transformed(target).covariates)) for target in targets])

    def expected_level(self, values: Mapping[str, str | float], structure: str = "") -> Level:
        """Return the template's level moved to some covariates; see `Model.expected_level`."""
        organ = self.population.mean_shape(self._columns_at(values) @ self.population.effects)
        if not structure:
            return organ.values
        own = self.columns.structures.index(structure)
        return lambda points: without_overlap(organ.values(points).reshape(-1, len(points)))[own]

    def surface_displacement(self, contrast: Contrast, points: Points, normals: Points) -> SurfaceDisplacement:
        """Return how points move along the normal, with draws from resampled people; see `Model.surface_displacement`."""
        self._check_motion()
        population = self.population
        before, after = (self._columns_at({contrast.covariate: value}) for value in (contrast.before, contrast.after))
        own, transformed = after @ population.effects, before @ population.effects
        went = ((pull_back(points, population.modes, own, transformed) - points) * normals).sum(axis=1)
        across = (population.modes.at(points)[:, :, None] * normals[:, None, :]).reshape(len(points), -1)
        # To first order, what other effects would move differently.
        changes = (before - after) @ (self.resampled - population.effects)
        return SurfaceDisplacement(contrast, went, went + changes @ across.T)

    def poses(self, dataset: Dataset) -> Poses | None:
        """Lay the template onto each person's organ; see `Model.poses`."""
        if "effects" not in self.capabilities:
            return None
        population, data = self.population, dataset.values
        self._check(data)
        middle = population.template.surface(POINTS).points.mean(axis=0)

        def lay(row: int) -> np.ndarray:
            own = LevelFunction.through(self._lattice, data[row]).surface(POINTS)
            return rigid_motion(population.template, own, middle)

        with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(self.settings.threads) as pool:
            motions = np.stack(list(pool.map(lay, range(len(data)))))
        kept = placement_of(population, dataset, self.settings) == "kept"
        return Poses(motions, middle, population.size, kept)

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

    def _columns_at(self, values: Mapping[str, str | float]) -> Float[np.ndarray, " columns"]:
        """Return the design's columns at some values, the other covariates at their reference."""
        if self.effect_columns is None:
            return np.zeros(0)
        home = self.schema.references(self.schema.names)
        frame = pd.DataFrame({name: [value] for name, value in {**home, **values}.items()})
        return self.effect_columns.of(frame)[0]

    def _known_codes(self, people: Sequence[Subject], dataset: Dataset) -> Float[np.ndarray, "visits coefficients"]:
        codes = np.zeros((len(people), len(self._precision)))
        for rows in rows_of_people(dataset):
            codes[rows] = visit_codes([people[row] for row in rows], self._precision)
        return codes

    def _known_paths(self) -> Paths:
        if self.paths is None:
            raise ModelError(self.refusal("forecast"))
        return self.paths

    def _check_motion(self) -> None:
        if "motion" not in self.capabilities:
            raise ModelError(self.refusal("motion"))

    def on_grid(self, columns: Columns) -> "AdditiveShape":
        """Return the model for levels on another grid around the same middle; see `Model.on_grid`."""
        return replace(self, columns=columns)

    @property
    def _lattice(self) -> Lattice:
        return grid_lattice(self.settings.check(self.columns))

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
