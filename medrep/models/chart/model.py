"""Growth chart: the whole distribution of each column at given covariates, without the site.

How unusual a person is for their age and sex is asked of a distribution, not of a mean: its spread may grow with age, it may be
skewed, and how well a site is known belongs to it.

Generative process, for person i with covariates c and column v (a feature or a voxel):

    T_v(x_iv) = mu_v(c_i) + s_v(c_i) * q_v(z_iv),    z_iv ~ N(0, 1)

| symbol | meaning | code name |
|---|---|---|
| T_v | the column, its square root or its logarithm, chosen by the log score of people who are left out | ``powers`` |
| mu_v(c) | mean: smooth effects and levels of batches, as a linear model has them | ``location`` |
| log s_v(c) | log scale: effects and levels of batches, fitted together | ``scales`` |
| q_v | shape: sinh-arcsinh, the same at all covariates | ``shapes`` |
| z_iv | how unusual the person is | `deviations` |

Removal moves quantile to quantile: x' = T^-1(mu(c*) + s(c*) / s(c) * (T(x) - mu(c))), z of everybody stays as it is, and for c*
= c nothing changes, exactly.

**z counts what is not known of the chart.** The mean is known with a variance that adds to s^2, and log s with one that makes
the normal distribution Student's (`shapes.py`); for a new site both are those given its people. So 95 % of new people have |z|
< 1.96, at a site of five as at one of five hundred.

Values that many people share exactly (point masses; `medrep/models/exceptions.py`) are a part of a column's distribution
(`atoms.py`). Columns that are left as they are have no z. How unusual a change since the visit before is: `changes.py`.

Advantages: closed form but for a few steps of Fisher scoring that all columns share, bounded memory (of images with more than
262 144 voxels what is kept is float32), unseen batches from a few of their people; it holds nobody's rows. **Limitations**: shape
is the same at all covariates, sites included; visits of a person are moved each by itself; columns that are not positive, and
images, are taken as they are; voxel-wise use assumes that voxels correspond between people. z says how rare a value is among
people like those of training: it is no diagnosis, and what a removal gives is the model's answer near its support, not a causal
fact.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._files import release_pages
from medrep._persisted import persisted, stored
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.errors import ModelError
from medrep.models.base import Adaptation, Capability, Curves, EffectTerms, FitContext, Model, Scores, root_mean_square
from medrep.models.chart.atoms import Atoms
from medrep.models.chart.changes import Changes
from medrep.models.chart.choosing import chosen_powers
from medrep.models.chart.curves import centile_curves
from medrep.models.chart.location import Location
from medrep.models.chart.new_levels import Entry, LevelPeople, Priors, told
from medrep.models.chart.powers import CHOICES, Powers
from medrep.models.chart.settings import ChartSettings
from medrep.models.chart.shapes import Shapes, log_density, normal_score, student
from medrep.models.chart.spread import ScaleRows, Scales, log_scales, told_prior
from medrep.models.chunks import ChunkSource, map_chunks, principal_components, read_chunk
from medrep.models.exceptions import Exceptions, PointMasses
from medrep.models.linear.design import Design
from medrep.models.linear.fit import LARGE
from medrep.models.linear.model import LinearModel
from medrep.models.linear.trajectories import Pairs, forecast_refusal
from medrep.models.requirements import Images, Requirements

Block = Float[np.ndarray, "people block"]

_PRIORS = 512  # columns that the prior of scales is told from
_SHAPE_ROWS = 7  # numbers that shape and powers keep of a column
_SECONDS = 9e-8  # of fitting a cell, beside a linear model's


@persisted(
    keys=("settings", "schema", "names", "grid", "seed"),
    sizes={
        "columns": lambda read: read["columns"].count,
        "scale_rows": lambda read: read["scales"].coefficients.shape[0],
        "rows": lambda read: read["location"].covariance.shape[0],
    },
)
@dataclass(frozen=True, repr=False)
class GrowthChart(Model):
    """A fitted growth chart; see the module's sheet for the symbols."""

    schema: CovariateSchema
    columns: Columns = field(metadata=stored(""))
    settings: ChartSettings
    location: Location
    scales: Scales
    shapes: Shapes
    powers: Powers
    components: Float[np.ndarray, "components columns"]
    seed: int = 0

    kind = "growth_chart"
    settings_type = ChartSettings
    error_unit = "sd"
    masks = True
    sources = (
        "Location, scale and shape by covariates: Rigby and Stasinopoulos 2005, Applied Statistics 54, 507-554. Sinh-arcsinh:"
        " Jones and Pewsey 2009, Biometrika 96, 761-780. Powers: Box and Cox 1964, J. R. Stat. Soc. B 26, 211-252.",
    )

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        settings: ChartSettings | None = None,
        *,
        seed: int = 0,
        work: FitContext | None = None,
    ) -> tuple["GrowthChart", pd.DataFrame]:
        """Fit on training people; see `Model.fit`. The seed serves the folds and the search for components."""
        settings, work = settings or ChartSettings(), work or FitContext()
        settings.check()
        exponents = np.ones(dataset.columns.count)
        if settings.power == "auto" and dataset.columns.names and dataset.columns.mesh is None:
            work.phase("choose powers of columns")
            exponents = chosen_powers(
                dataset, lambda some, tried: cls._fitted(some, settings, tried, seed, FitContext())[0].log_density, seed
            )
        work.phase("fit location, scale and shape")
        model, history = cls._fitted(dataset, settings, exponents, seed, work)
        if settings.components:
            work.phase("find the leading components")
            source = model.deviations(dataset)
            filled = ChunkSource(source.shape, lambda part: np.nan_to_num(source.compute(part)))
            components = principal_components(filled, settings.components, seed)[0]
            model = replace(model, components=components.astype(model.components.dtype, copy=False))
        return model, history

    @classmethod
    def _fitted(
        cls, dataset: Dataset, settings: ChartSettings, exponents: np.ndarray, seed: int, work: FitContext
    ) -> tuple["GrowthChart", pd.DataFrame]:
        powers = Powers.none(dataset.columns.count)
        if (exponents != 1).any():
            powers = Powers.of(dataset.values, exponents)
        straight = powers.dataset(dataset)
        location, history = Location.fit(straight, settings, seed, work)
        frame, count = dataset.covariates, dataset.columns.count
        design = Design.fit(dataset.schema, frame, settings.scale_degrees, settings.interactions)
        visits = pd.Series(dataset.whose).map(pd.Series(dataset.whose).value_counts()).to_numpy(float)
        people = ScaleRows(design.full(frame), location.levels, location.variance(frame).clip(0, 1), 1 / visits)
        varies = np.flatnonzero(location.line.sd > 0)
        some = varies[np.linspace(0, len(varies) - 1, min(len(varies), _PRIORS)).astype(int)]
        prior = told_prior(people, location.residuals_of(straight, some))
        kept = location.line.sd.dtype
        coefficients, shapes = np.zeros((people.rows.shape[1], count), kept), np.zeros((4, count), kept)

        def fit_block(part: slice, chunk: np.ndarray) -> None:
            found = log_scales(people, chunk, prior)
            coefficients[:, part] = found
            if settings.shape != "gaussian":
                shapes[:, part] = Shapes.fit(people.own(chunk) * np.exp(-people.rows @ found)).parameters

        deque(location.residuals(straight).map(fit_block), maxlen=0)
        scales = Scales(design, coefficients, prior.covariance(people), prior)
        empty = np.zeros((0, count), kept)
        model = cls(dataset.schema, dataset.columns, settings, location, scales, Shapes(shapes), powers, empty, seed)
        return model, pd.concat([history, chart_history(model)], ignore_index=True)

    def transform(
        self,
        dataset: Dataset,
        to: pd.DataFrame,
        out: Float[np.ndarray, "people columns"] | None = None,
    ) -> Float[np.ndarray, "people columns"]:
        """Move people from quantile to quantile; see `Model.transform`."""
        self.location.line.check_columns(dataset)
        frame, there = dataset.covariates, dataset.covariates.assign(**to)
        moved = np.empty(dataset.values.shape, dataset.values.dtype) if out is None else out
        settle = self.location.line.settling(frame, there)
        before, after = (self.scales.design.full(one) for one in (frame, there))
        here, goal = (self.location.means(one) for one in (frame, there))

        def move(part: slice) -> None:
            chunk, powers = read_chunk(dataset.values, part), self.powers.some(part)
            straight = powers.there(chunk)
            stays = settle.stays(straight, part)
            mean = here(part)
            ratio = np.expm1((after - before) @ self.scales.coefficients[:, part])
            change = goal(part) - mean + ratio * (straight - mean)
            found = np.where(change == 0, chunk, powers.back(straight + change))
            if stays is not None:
                found[stays] = chunk[stays]
            moved[:, part] = settle.without_unknown(found, part)
            release_pages(moved)

        deque(map_chunks(len(frame), self.columns.count, move), maxlen=0)
        return moved

    def deviations(self, dataset: Dataset) -> ChunkSource:
        """Return z of people, the chart's uncertainty in it; NaN where nothing is said."""
        self.location.line.check_columns(dataset)
        straight = self.powers.dataset(dataset)
        residuals, atoms = self._with_masses.residuals(straight), self.location.line.masses
        scale, freedom = self._predictive(dataset.covariates)

        def chunk(part: slice) -> np.ndarray:
            z = normal_score(self.shapes.z(residuals.compute(part) / scale(part), part), freedom)
            own = Atoms.of(atoms, part)
            return own.z(read_chunk(straight.values, part), z) if len(own.columns) else z

        return ChunkSource(residuals.shape, chunk)

    def change_deviations(self, dataset: Dataset) -> ChunkSource:
        """Return z of each change since the visit before; see `Model.change_deviations`, and `changes.py` for how."""
        line = self.location.line
        if not self.tells_changes:
            raise ModelError(forecast_refusal(line.people))
        line.check_columns(dataset)
        frame = dataset.covariates
        pairs = Pairs.of(line.people, frame, dataset.whose.tolist())
        rows, (scale, freedom) = line.design.full(frame), self._predictive(frame)
        ends = (
            (rows[pairs.before], rows[pairs.before]),
            (rows[pairs.after],) * 2,
            (rows[pairs.before], rows[pairs.after]),
        )
        unknown = [np.einsum("nr,rs,ns->n", one, self.location.covariance, two, optimize=True) for one, two in ends]
        changes = Changes(line.people, pairs, np.stack(unknown), line.sd)
        residuals = self.location.residuals(self.powers.dataset(dataset))

        def chunk(part: slice) -> np.ndarray:
            return changes.unusual(
                residuals.compute(part),
                scale(part),
                lambda residual: normal_score(self.shapes.z(residual, part), freedom),
                part,
            )

        return ChunkSource(residuals.shape, chunk)

    def log_density(self, dataset: Dataset) -> Float[np.ndarray, "people columns"]:
        """Return the logarithm of the predictive density of data, in their own units; NaN where nothing is said."""
        straight = self.powers.dataset(dataset)
        scale, freedom = self._predictive(dataset.covariates)
        whole, unit = slice(0, self.columns.count), scale(slice(0, self.columns.count))
        residual = self._with_masses.residuals(straight).compute(whole) / unit
        found = log_density(self.shapes.z(residual), freedom) + self.shapes.log_slopes(residual) - np.log(unit)
        atoms = Atoms.of(self.location.line.masses, whole)
        return atoms.log_density(np.asarray(straight.values), found + self.powers.log_slopes(dataset.values))

    def centiles(
        self, frame: pd.DataFrame, probabilities: Float[np.ndarray, " levels"], part: slice = slice(None)
    ) -> Float[np.ndarray, "levels rows columns"]:
        """Return predictive centiles at some covariates, in units of the data; NaN where nothing is said.

        Args:
            frame: Covariates (`CovariateSchema.transfer`).
            probabilities: Between 0 and 1.
            part: Which columns.
        """
        scale, freedom = self._predictive(frame)
        mean, unit, powers = self.location.means(frame)(part), scale(part), self.powers.some(part)
        atoms = Atoms.of(self.location.line.masses, part)

        def chart(values: Block) -> Block:
            return normal_score(self.shapes.z((values - mean) / unit, part), freedom)

        found = []
        for probability in probabilities.tolist():
            z, atom = atoms.quantile(probability, chart, mean.shape)
            straight = mean + unit * self.shapes.residuals(student(z, freedom), part)
            found.append(powers.back(np.where(np.isnan(atom), straight, atom)))
        return np.stack(found)

    def curves(self, frame: pd.DataFrame, probabilities: Float[np.ndarray, " levels"]) -> Curves:
        """Return centiles with intervals; see `Model.curves` and `curves.py`."""
        shapes = None if self.settings.shape == "gaussian" else self.shapes
        return centile_curves(self.location, self.scales, shapes, self.powers, frame, probabilities)

    def encode(self, dataset: Dataset) -> Float[np.ndarray, "people latents"]:
        """Return the scores of z on the model's components; a NaN counts as its mean."""
        return self.scores(dataset).latents

    def scores(self, dataset: Dataset) -> Scores:
        """Return root mean squares over columns of z without its leading components, and of z; see `Model.scores`."""
        changes = self.change_deviations(dataset) if self.tells_changes and dataset.people < len(dataset) else None
        return self.scores_of(self.deviations(dataset), changes)

    def scores_of(self, z: ChunkSource, changes: ChunkSource | None = None) -> Scores:
        """Return scores of people whose z is known; see `scores`."""
        squares, counts, latents = _sums(z, self.components)
        left = squares - (latents**2).sum(axis=1)
        gain = None if changes is None else root_mean_square(*_sums(changes, self.components[:0])[:2])
        return Scores(root_mean_square(left, counts), root_mean_square(squares, counts), latents, gain=gain)

    def adapt(self, people: Iterable[Dataset]) -> tuple["GrowthChart", tuple[Adaptation, ...]]:
        """Estimate unseen batch levels; see `Model.adapt`."""
        line, sd = self.location.line, self.location.line.sd
        unit, levels = np.where(sd > 0, sd, 1.0), dict[tuple[str, str], LevelPeople]()
        for dataset in people:
            line.check_columns(dataset)
            frame = dataset.covariates
            rows = line.design.full(frame), self.scales.design.full(frame)
            residuals = (
                self.location.residuals(self.powers.dataset(dataset)).compute(slice(0, self.columns.count)) / unit
            )
            logs = self.scales.logs(rows[1]) - np.log(unit)
            for row, unseen in self.schema.unseen(frame):
                own = levels.setdefault(unseen, LevelPeople(self.columns.count))
                own.add(residuals[row], logs[row], (rows[0][row], rows[1][row]), frame.iloc[[row]])
        model, notes = self, []
        for (name, level), own in sorted(levels.items()):
            model, (location, scale) = model._with_level(name, level, own)
            error = float(np.sqrt(model.location.variance(pd.concat(own.rows)).mean()))
            scale_error = None if own.people < 2 else float(np.sqrt(scale.variance))
            notes.append(
                Adaptation(
                    name, level, own.people, error, scale_error, location.kept, scale.kept, location.effects**0.5
                )
            )
        return model, tuple(notes)

    def _with_level(self, name: str, level: str, people: LevelPeople) -> tuple["GrowthChart", tuple[Entry, Entry]]:
        at, first = self.location.line.design.batch_slices()[name].stop, self.location.levels
        rows = np.asarray(people.location) / people.people, np.asarray(people.scale) / people.people
        where, scales = self.location, self.scales
        known = where.covariance, scales.covariance
        effects = [float(row @ own @ row) for row, own in zip(rows, known, strict=True)]
        prior = scales.prior
        priors = Priors(where.level_variance, effects[0], prior.mean, prior.variance, effects[1], prior.tempering)
        location, scale, mean = told(people, priors)
        places = tuple(len(row) - first + at for row in rows)
        line = where.line.with_level(name, level, location.values * where.line.sd, np.zeros(self.columns.count))
        covariance = location.extended(where.covariance, places[0], rows[0])
        scales = replace(
            scales,
            design=replace(scales.design, schema=line.schema),
            coefficients=np.insert(scales.coefficients, places[1], scale.values, axis=0),
            covariance=scale.extended(scales.covariance, places[1], rows[1]),
            prior=replace(prior, mean=np.insert(prior.mean, at, mean)),
        )
        where = replace(where, line=line, covariance=covariance)
        return replace(self, schema=line.schema, location=where, scales=scales), (location, scale)

    @classmethod
    def requirements(
        cls, settings: ChartSettings, schema: CovariateSchema, frame: pd.DataFrame, images: Images
    ) -> Requirements:
        """Estimate from the size of the design; see `Model.requirements`."""
        found = LinearModel.requirements(
            replace(settings.location, components=settings.components), schema, frame, images
        )
        design = Design.fit(schema, frame, settings.scale_degrees, settings.interactions)
        rows = design.full(frame.iloc[:1]).shape[1] + _SHAPE_ROWS
        more = (4 if images.columns > LARGE else 8) * images.columns * rows
        return replace(
            found,
            train_memory=found.train_memory + more,
            train_seconds=found.train_seconds + images.people * images.columns * _SECONDS,
            model=found.model + more,
            export_memory=found.export_memory + more,
        )

    @property
    def capabilities(self) -> frozenset[Capability]:
        """``deviations`` and ``centiles``; see `Model.capabilities`."""
        return frozenset({"deviations", "centiles"})

    @property
    def tells_changes(self) -> bool:
        """True if people of training came again; see `Model.tells_changes`."""
        return bool(self.location.line.people)

    @property
    def _with_masses(self) -> Location:
        """The location, for which point masses are values like others."""
        line = self.location.line
        return replace(self.location, line=replace(line, masses=PointMasses.none(self.columns.count)))

    @property
    def exceptions(self) -> Exceptions:
        """Exceptions of the location; see `Model.exceptions`."""
        found = self.location.line.exceptions
        if not len(found.masses.values):
            return found
        return replace(found, masses=replace(found.masses, values=self.powers.back(found.masses.values)))

    @classmethod
    def effect_terms(cls, settings: ChartSettings) -> EffectTerms:
        """Return the terms of the location; see `Model.effect_terms`."""
        return EffectTerms("settings", settings.spline_degrees, settings.interactions)

    def _predictive(self, frame: pd.DataFrame) -> tuple[Callable[[slice], Block], Float[np.ndarray, "people _"]]:
        """Return the scale of what may be measured, of a block of columns, and the degrees of freedom that it is known with."""
        rows, unknown = self.scales.design.full(frame), self.location.variance(frame)[:, None]
        sd = self.location.line.sd

        def scale(part: slice) -> Block:
            found = self.scales.logs(rows, part)
            found *= 2
            np.exp(found, out=found)
            found += unknown * sd[part] ** 2
            np.sqrt(found, out=found)
            found[:, sd[part] == 0] = np.nan
            return found

        return scale, self.scales.freedom(rows)


def _sums(
    source: ChunkSource, components: Float[np.ndarray, "components columns"]
) -> tuple[Float[np.ndarray, " people"], Float[np.ndarray, " people"], Float[np.ndarray, "people components"]]:
    """Return sums of squares over columns that have a z, how many those are, and products with components."""
    people = source.shape[0]
    squares, counts, products = np.zeros(people), np.zeros(people), np.zeros((people, len(components)))

    def work(part: slice, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        known, z = np.isfinite(z), np.nan_to_num(z)
        return (z**2).sum(axis=1), known.sum(axis=1), z @ components[:, part].T

    for _, (square, count, product) in source.map(work):
        squares += square
        counts += count
        products += product
    return squares, counts, products


def chart_history(model: GrowthChart) -> pd.DataFrame:
    """Return how many columns have each power, and how much scale differs between levels of batches."""
    rows = [("columns", f"power {power:g}", float((model.powers.exponents == power).sum())) for power in CHOICES]
    scales = model.scales.coefficients[-model.location.levels :] if model.location.levels else np.zeros((0, 1))
    levels = [f"{name}={level}" for name in model.scales.design.batch_slices() for level in model.schema.levels(name)]
    rows += [("chart_scale", name, float(np.exp(own).mean())) for name, own in zip(levels, scales, strict=True)]
    return pd.DataFrame(rows, columns=["metric", "name", "value"])
