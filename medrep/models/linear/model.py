"""Linear model: smooth covariate effects, and empirical-Bayes location and scale for batches.

The honest baseline: everything a later model does has to beat it. It works alike on features and, voxel by voxel, on volumes.

Generative process, for person i with covariates c and column v (a feature or a voxel):

    x_iv = alpha_v + f_v(c_i) + sigma_v * (gamma_{b(i),v} + delta_{b(i),v} * e_iv),    e_iv ~ (0, 1)

| symbol | meaning | code name |
|---|---|---|
| alpha_v | mean of the pooled cohort | row 0 of ``coefficients`` |
| f_v(c) | natural splines of continuous covariates, levels, interactions | further rows of ``coefficients`` |
| sigma_v | residual deviation within batches: the geometric mean over a batch covariate's levels, weighed by people | ``sd`` |
| sigma_v gamma_bv | location of batch b, in data units, shrunk | ``batches.location`` |
| log delta_bv | log scale of batch b, shrunk | ``batches.log_scale`` |
| e_iv | the person | `encode` gives its leading principal components |

Where the batch scale is a scanner's gain (``gain``, the default for volumes), it multiplies f too, and what removing a batch
returns depends on nothing but the data and the batch: kept labels cannot be written into it.

Removal moves c to c* by  x' = mu(c*) + s(c*)/s(c) * (x - mu(c))  with mu = alpha + f + sigma * gamma and s = sigma * delta; with
``covariance`` the leading components of e are moved in location and scale as well (the CovBat idea, Chen 2022). For c* = c
nothing changes, exactly.

Where a batch is clearly noisier or quieter than the others in a column (2.5 times and more), people are weighed by 1 / variance
in that column, and a scale that is far from what its batch has in other columns is believed as it is.

People with several visits have levels, and where ten of them come three times, slopes over age of their own (``visits``,
`mixed.py`): e is then what is left of a visit, and delta scales it alone, so that a person's level and slope stay as they are. A
person's visits are moved together. Where a gain multiplies everything (volumes), it multiplies people, too, and each visit is
moved by itself.

Values that stand for nothing (no lesion, outside the mask, below detection) stay what they are bit for bit, and the others are
fitted and moved without them; a level that nobody with a column has is recorded with the model: its people are refused there, or
come back missing (`medrep/models/exceptions.py` has both rules).

Of images with more than 262 144 columns what is kept is float32, whose rounding is far below what people's own noise leaves
unknown; with a mask (``input.mask``) only the voxels inside are columns.

Advantages: closed form, seconds to fit, bounded memory, unseen batches from a few of their people. **Limitations**: a column
in which more than half of the people share one value and too few others remain is left as it is, and so is a constant one; who
has a point mass may itself tell a site; effects on a column are
additive and shape only mean and scale; what a batch does to the relation between columns is moved only with ``covariance``;
blur and noise of a scanner are not undone; voxel-wise use assumes that voxels correspond between people. A counterfactual from
this model is the model's answer near its support, not a causal fact.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from medrep._files import release_pages
from medrep._persisted import persisted, stored
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.errors import ModelError, listed
from medrep.models.base import (
    Adaptation,
    Capability,
    EffectTerms,
    FitContext,
    Forecast,
    Model,
    Scores,
    root_mean_square,
)
from medrep.models.chunks import (
    ChunkSource,
    map_chunks,
    principal_components,
    read_chunk,
)
from medrep.models.exceptions import (
    FEW,
    FULL,
    NEVER,
    NO_MASSES,
    ColumnSupport,
    Exceptions,
    PointMasses,
    Settling,
    either,
)
from medrep.models.linear.bands import column_bands
from medrep.models.linear.batch_effects import (
    BatchEffects,
    Borrowing,
    NewLevel,
    centre_scales,
    fit_batches,
    linear_history,
    shrink_new_level,
)
from medrep.models.linear.design import Design, effect_covariance, effect_variance
from medrep.models.linear.fit import LARGE, calibrator_count, fit_moments
from medrep.models.linear.mixed import Visits
from medrep.models.linear.random_effects import Persons, RandomEffects
from medrep.models.linear.scales import LevelSums, level_scale
from medrep.models.linear.settings import LinearSettings
from medrep.models.linear.trajectories import Future, Pairs, Rows, forecast_refusal
from medrep.models.requirements import ColumnFits, Images, Requirements

SCORE_BANDS = 2
"""Bands of batch effects on component scores, which lie nowhere."""

_LEVELS = {"levels": "levels"}


@persisted(
    keys=("settings", "schema", "design", "names", "grid", "seed", "effects_known", "support"),
    sizes={
        "columns": lambda read: read["columns"].count,
        "rows": lambda read: 1 + sum(len(term.centre) for term in read["design"].terms),
        "known": lambda read: 1 + sum(len(term.centre) for term in read["design"].terms),
        "levels": lambda read: sum(len(read["schema"].levels(name)) for name in read["schema"].batches),
        "bands": lambda read: read["settings"].band_count(read["columns"]),
    },
)
@dataclass(frozen=True, repr=False)
class LinearModel(Model):
    """A fitted linear model; see the module's sheet for the symbols."""

    schema: CovariateSchema
    columns: Columns = field(metadata=stored(""))
    settings: LinearSettings
    design: Design
    coefficients: Float[np.ndarray, "rows columns"]
    sd: Float[np.ndarray, " columns"]
    batches: BatchEffects = field(metadata=stored(sizes=_LEVELS | {"columns": "columns", "bands": "bands"}))
    components: Float[np.ndarray, "components columns"]
    score_batches: BatchEffects = field(
        metadata=stored("scores", sizes=_LEVELS | {"columns": "components", "bands": SCORE_BANDS})
    )
    seed: int = 0
    # Models without these are written without them, so that older versions read them, as these read older ones.
    masses: PointMasses = field(default=NO_MASSES, metadata=stored(omitted=lambda model: not len(model.masses.values)))
    support: ColumnSupport = field(default=FULL, metadata=stored(omitted=lambda model: not model.support.cells))
    effect_covariance: Float[np.ndarray, "known known"] = field(
        default_factory=lambda: np.zeros((0, 0)),
        metadata=stored(flag="effects_known", omitted=lambda model: not len(model.effect_covariance)),
    )
    people: RandomEffects = field(
        default_factory=RandomEffects,
        metadata=stored(omitted=lambda model: not model.people, sizes={"columns": "columns"}),
    )

    kind = "linear"
    settings_type = LinearSettings
    error_unit = "sd"
    masks = True
    sources = (
        "Location and scale of batches, empirical Bayes: Johnson, Li and Rabinovic 2007, Biostatistics 8, 118-127; for"
        " imaging: Fortin et al. 2018, NeuroImage 167, 104-120. With covariance alignment: Chen et al. 2022, Human Brain"
        " Mapping 43, 1179-1195.",
    )

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        settings: LinearSettings | None = None,
        *,
        seed: int = 0,
        work: FitContext | None = None,
    ) -> tuple["LinearModel", pd.DataFrame]:
        """Fit on training people; see `Model.fit`. The seed serves the randomised search for components."""
        data, frame, schema, columns = dataset.values, dataset.covariates, dataset.schema, dataset.columns
        settings = settings or LinearSettings()
        settings.check(columns)
        design = Design.fit(schema, frame, settings.spline_degrees, settings.interactions)
        visits = None if settings.visits == "independent" else Visits.of(dataset, design)
        moments = fit_moments(data, design, frame, (work or FitContext()).advance, columns=columns, visits=visits)
        parts = tuple(design.batch_slices().values())
        borrowing = settings.borrowing(columns, moments.coefficients[0], moments.sd)
        batches, level = centre_scales(fit_batches(moments, borrowing, parts, scale=settings.scale), moments, parts)
        own = len(moments.coefficients) - len(moments.freedom) - (0 if visits is None else len(visits.plan.changing))
        coefficients = moments.coefficients[:own]
        people = RandomEffects()
        if visits is not None:
            people = visits.effects(moments.coefficients, moments.level, moments.slope, moments.group, moments.errors)
            gain = settings.has_gain(columns)
            alone = moments.level - moments.group
            known = visits.effect_errors(moments.sd * level if gain else moments.sd, alone, moments.slope)
            people = replace(people, change=people.change * level) if gain else people.scaled(level)
            people = replace(people, known=known)
        if settings.has_gain(columns):
            # A batch's scale multiplies the effects too, so they are told at the pool's.
            coefficients = np.concatenate([coefficients[:1], coefficients[1:] * level])
        empty = np.zeros((0, data.shape[1]), coefficients.dtype)
        model = cls(
            schema,
            columns,
            settings,
            design,
            coefficients,
            moments.sd * level,
            batches.without_unsupported(moments.support, design),
            empty,
            no_scores(len(moments.freedom), 0),
            seed,
            moments.masses,
            moments.support,
            effect_covariance(design, frame, batches.log_scale[:, moments.sd > 0])
            if visits is None
            else visits.usual.effects(own),
            people,
        )
        if visits is not None:
            model = _moved_by_person(model, visits)
        if settings.components:
            if work is not None:
                work.phase("find the leading components")
            model = model._with_components(dataset)
        history = linear_history(design, moments, model.batches, frame)
        return model, history if visits is None else pd.concat([history, visits.history(people)], ignore_index=True)

    def transform(
        self,
        dataset: Dataset,
        to: pd.DataFrame,
        out: Float[np.ndarray, "people columns"] | None = None,
    ) -> Float[np.ndarray, "people columns"]:
        """Move covariates of each person; see `Model.transform`."""
        return self._moved(dataset, dataset.covariates.assign(**to), out)

    def follow(self, dataset: Dataset, years: float) -> Float[np.ndarray, "visits columns"]:
        """Move visits along people's own trajectories; see `Model.follow`."""
        self._check_forecast()
        there = dataset.covariates[self.followed].astype(float) + years
        return self._moved(dataset, dataset.covariates.assign(**{self.followed: there}), years=years)

    def _moved(
        self,
        dataset: Dataset,
        there: pd.DataFrame,
        out: "Float[np.ndarray, 'people columns'] | None" = None,
        years: "float | None" = None,
    ) -> Float[np.ndarray, "people columns"]:
        """Return data at other covariates; with years, people's own change and slope over these are added."""
        data, frame = dataset.values, dataset.covariates
        self.check_columns(dataset)
        transformed = np.empty(data.shape, data.dtype) if out is None else out
        here_x, there_x = self.design.effects(frame), self.design.effects(there)
        here_b, there_b = self.design.batches(frame), self.design.batches(there)
        persons = self._persons(dataset) if years is None else self._whose(dataset)
        here_t, there_t = (
            self.people.distances(one, dataset.whose) for one in (frame, there if years is None else frame)
        )
        shift = self._score_shift(dataset, here_b, there_b)
        settle = self.settling(frame, there)

        def transform(part: slice) -> None:
            chunk = read_chunk(data, part)
            stays = settle.stays(chunk, part)
            own = None if stays is None else chunk[stays]
            before, after = (self.scale(levels, self.batches.log_scale[:, part]) for levels in (here_b, there_b))
            own_unit = before if self.gain else 1.0
            mean = self.mean(here_x, here_b, before, part)
            change = self.mean(there_x, there_b, after, part) - mean
            if persons is not None and self.people.changing:
                mean += own_unit * (here_t @ self.people.change[:, part])
                change += own_unit * ((there_t - here_t) @ self.people.change[:, part])
            if shift is not None:
                change += self.sd[part] * after * (shift @ self.components[:, part])
            np.subtract(chunk, mean, out=mean)
            if persons is None:
                after /= before
                after -= 1
                after *= mean
            else:
                told = mean if stays is None else np.where(stays, np.nan, mean)
                if years is not None:
                    own_told = self.people.told(told / own_unit, before / own_unit, persons, part)
                    change += own_unit * self.people.drift(years, own_told, persons, part)
                after = self.people.moved(told, before, after, persons, part)
            change += after
            chunk += change
            if stays is not None:
                chunk[stays] = own
            transformed[:, part] = settle.without_unknown(chunk, part)
            release_pages(transformed)
            release_pages(self.coefficients)  # with what else a large model holds, all of one file

        deque(map_chunks(len(frame), self.columns.count, transform), maxlen=0)
        return transformed

    def encode(self, dataset: Dataset) -> Float[np.ndarray, "people latents"]:
        """Return the scores of the standardised residual on the model's components; a NaN cell counts as its mean."""
        self.check_columns(dataset)
        scores = np.zeros((len(dataset), len(self.components)))
        for _, product in self.residuals(dataset).map(lambda part, chunk: chunk @ self.components[:, part].T):
            scores += product
            release_pages(self.components)
        return scores

    def with_latents(
        self, dataset: Dataset, latents: Iterable[Float[np.ndarray, "people latents"]]
    ) -> Iterator[Float[np.ndarray, "people columns"]]:
        """Yield people moved along the components; see `Model.with_latents`."""
        if refused := self.refusal("latents"):
            raise ModelError(refused)
        own = self.encode(dataset)
        for there in latents:
            yield self._along_components(dataset, there - own)

    def _along_components(
        self, dataset: Dataset, change: Float[np.ndarray, "people components"]
    ) -> Float[np.ndarray, "people columns"]:
        """Return data whose standardised residual has other scores."""
        data, frame = dataset.values, dataset.covariates
        levels, members = self.design.batches(frame), self.support.of(frame)
        transformed = np.empty(data.shape, data.dtype)

        def move(part: slice) -> None:
            chunk = read_chunk(data, part)
            by = self._relative(self.scale(levels, self.batches.log_scale[:, part]), part) * self.spread[part]
            by *= change @ self.components[:, part]
            exempt = self.exempt(chunk, members, part)
            if exempt is not None:
                by[exempt] = 0
            transformed[:, part] = chunk + by

        deque(map_chunks(len(frame), self.columns.count, move), maxlen=0)
        return transformed

    def scores(self, dataset: Dataset) -> Scores:
        """Return root mean squares over columns of e without its leading components, and of e itself; see `Model.scores`."""
        data, frame = dataset.values, dataset.covariates
        self.check_columns(dataset)
        squares, counts = np.zeros(len(frame)), np.zeros(len(frame))
        projected = np.zeros((len(frame), len(self.components)))
        members = self.support.of(frame)

        def work(part: slice, chunk: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            used = np.isfinite(data[:, part]) & (self.sd[part] > 0)
            exempt = self.exempt(read_chunk(data, part), members, part)
            used = used if exempt is None else used & ~exempt
            return (chunk**2).sum(axis=1), used.sum(axis=1), chunk @ self.components[:, part].T

        for _, (square, count, product) in self.residuals(dataset).map(work):
            squares += square
            counts += count
            projected += product
        left = squares - (projected**2).sum(axis=1)
        gain = self._gain(dataset) if self.people and dataset.people < len(dataset) else None
        return Scores(root_mean_square(left, counts), root_mean_square(squares, counts), projected, gain=gain)

    def forecast(self, dataset: Dataset, to: pd.DataFrame, whose: Sequence[str]) -> Forecast:
        """Return what further measurements are expected to give; see `Model.forecast`, and `trajectories` for how."""
        self._check_forecast()
        self.check_columns(dataset)
        frame, people = dataset.covariates, self.people
        future = Future.of(people, self.design, (frame, dataset.whose.tolist()), to, whose)
        members, there = self.support.of(frame), self.support.of(to)
        found = np.empty((3, len(to), self.columns.count))

        def expect(part: slice) -> None:
            chunk = read_chunk(dataset.values, part)
            scale, noise = (
                self.scale(rows.batches, self.batches.log_scale[:, part]) for rows in (future.visits, future.further)
            )
            exempt = self.exempt(chunk, members, part)
            told = chunk if exempt is None else np.where(exempt, np.nan, chunk)
            residual = told[future.rows] - self._expected(future.visits, scale, part)
            unit: np.ndarray | float = 1.0
            if self.gain:
                residual /= scale
                unit, scale, noise = noise, np.ones_like(scale), np.ones_like(noise)
            expected, sd, freedom = future.expected(residual, scale, noise, self.sd[part], part)
            found[:, :, part] = self._expected(future.further, unit, part) + unit * expected, unit * sd, freedom
            masses = self.masses.within(chunk, part)
            marks = [None if masses is None else masses[future.last]]
            marks += [self.support.marked(there, part, code) for code in (NEVER, FEW)]
            found[:, :, part][:, either([*marks, np.broadcast_to(self.sd[part] == 0, sd.shape)])] = np.nan
            release_pages(self.coefficients)

        deque(map_chunks(len(frame) + len(future.rows), self.columns.count, expect), maxlen=0)
        return Forecast(*found)

    def _expected(self, rows: Rows, scale: "np.ndarray | float", part: slice) -> Float[np.ndarray, "rows block"]:
        """Return what effects, changes within people and batches are expected to give."""
        coefficients, location = self.coefficients[:, part], self.batches.location[:, part]
        changed = self.people.change[:, part]
        if not self.gain:
            whole: np.ndarray = rows.whole @ np.concatenate([coefficients, changed, location])
            return whole
        mean: np.ndarray = rows.effects[:, 1:] @ coefficients[1:] + rows.away @ changed
        return mean * scale + rows.effects[:, :1] @ coefficients[:1] + rows.batches @ location

    def adapt(self, people: Iterable[Dataset]) -> tuple["LinearModel", tuple[Adaptation, ...]]:
        """Estimate unseen batch levels; see `Model.adapt`. Component scores of a new level are taken as the pooled ones."""
        sums: dict[tuple[str, str], LevelSums] = {}
        for dataset in people:
            data, frame = dataset.values, dataset.covariates
            self.check_columns(dataset)
            effects = self.design.effects(frame)
            residual = np.concatenate([chunk for _, chunk in self.residuals(dataset).map(_whole)], axis=1)
            for row, unseen in self.schema.unseen(frame):
                own = np.asarray(data[row], dtype=np.float64)
                exempt = self.exempt(own[None], self.support.of(frame.iloc[[row]]), slice(0, len(self.sd)))
                own = own if exempt is None else np.where(exempt[0], np.nan, own)
                sums.setdefault(unseen, LevelSums(len(self.sd))).add(
                    own, residual[row], effects[row], frame.iloc[[row]]
                )
        if not sums:
            return self, ()
        model, notes = self, []
        borrowing = self.settings.borrowing(self.columns, self.coefficients[0], self.sd)
        varies, spread = self.sd > 0, self.spread
        for (name, level), found in sorted(sums.items()):
            scaled = found.mean_effects()[1:] @ self.coefficients[1:] if self.gain else np.zeros(len(self.sd))
            location, log_scale, errors, kept = shrink_new_level(
                self.batches,
                borrowing,
                NewLevel(found.people, found.mean(), found.variance()),
                varies,
                scaled=np.divide(scaled, spread, out=np.zeros_like(scaled), where=varies),
                scale=self.settings.scale,
            )
            # Where nobody of the level has a value its effect is not known, whatever neighbouring columns say.
            without = varies & (found.known == 0)
            location, log_scale = np.where(without, 0, location), np.where(without, 0, log_scale)
            if self.people and not self.gain:
                log_scale = self.people.within_scale(log_scale)
            model = model.with_level(name, level, location * spread, np.where(varies, log_scale, 0))
            support = model.support.with_cell(((name, level),), np.flatnonzero(without), NEVER)
            model = replace(model, support=support)
            location_se, effect_se = self._location_error(errors[0], found.frame())
            notes.append(Adaptation(name, level, found.people, location_se, errors[1], *kept, effect_se))
        return model, tuple(notes)

    @property
    def by_person(self) -> bool:
        """True if a person's level and slope are told from all visits, to stay as they are; see `Model.by_person`."""
        return bool(self.people) and self.settings.scale and not self.gain

    @property
    def capabilities(self) -> frozenset[Capability]:
        """``forecast``, where people were followed over time, and ``latents``, if any; see `Model.capabilities`."""
        can: frozenset[Capability] = frozenset({"latents"}) if len(self.components) else frozenset()
        return can if forecast_refusal(self.people) else can | {"forecast"}

    def refusal(self, capability: Capability) -> str:
        """Return why the model cannot do something; see `Model.refusal`."""
        refused = forecast_refusal(self.people) if capability == "forecast" else ""
        return refused or super().refusal(capability)

    @property
    def followed(self) -> str:
        """See `Model.followed`."""
        return self.people.along if "forecast" in self.capabilities else ""

    @property
    def exceptions(self) -> Exceptions:
        """Point masses, levels that nobody with a column has, and columns without a fit; see `Model.exceptions`."""
        return Exceptions(self.masses, self.support, np.flatnonzero(self.sd == 0))

    def within_effects(self) -> pd.DataFrame | None:
        """Return effects between people and within them, of named columns; see `Model.within_effects`."""
        return self.people.table(self.columns.names) if self.people.changing and self.columns.names else None

    @classmethod
    def knows_visits(cls, settings: LinearSettings) -> bool:
        """Return whether people have levels of their own; see `Model.knows_visits`."""
        return settings.visits == "auto"

    @classmethod
    def effect_terms(cls, settings: LinearSettings) -> EffectTerms:
        """Return the terms of the design; see `Model.effect_terms`."""
        return EffectTerms("settings", settings.spline_degrees, settings.interactions)

    @classmethod
    def requirements(
        cls, settings: LinearSettings, schema: CovariateSchema, frame: pd.DataFrame, images: Images
    ) -> Requirements:
        """Estimate from the size of the design; see `Model.requirements`."""
        terms = Design.fit(schema, frame, settings.spline_degrees, settings.interactions).terms
        levels = sum(len(schema.levels(name)) for name in schema.batches)
        people, single = min(calibrator_count(images.columns), images.people), images.columns > LARGE
        effects = 1 + sum(len(term.centre) for term in terms)
        return ColumnFits(effects, levels, settings.components, people, single).requirements(images)

    @property
    def gain(self) -> bool:
        """True if a batch's scale multiplies covariate effects too."""
        return self.settings.has_gain(self.columns)

    def _persons(self, dataset: Dataset) -> Persons | None:
        """Return whose the visits are, where what is a person's own stays as it is when batches differ in scale.

        A gain multiplies people as it does their visits.
        """
        return self._whose(dataset) if self.by_person else None

    def _whose(self, dataset: Dataset) -> Persons:
        return Persons.of(dataset.covariates, dataset.whose, self.people.time, self.people.unit)

    def _check_forecast(self) -> None:
        if refused := self.refusal("forecast"):
            raise ModelError(refused)

    def _gain(self, dataset: Dataset) -> Float[np.ndarray, " visits"]:
        """Return how unusual each change since the visit before is: the root mean square of gains over columns."""
        data, frame = dataset.values, dataset.covariates
        effects, levels, members = self.design.effects(frame), self.design.batches(frame), self.support.of(frame)
        pairs = Pairs.of(self.people, frame, dataset.whose.tolist())

        def residual(part: slice) -> tuple[np.ndarray, np.ndarray]:
            chunk, scale = read_chunk(data, part), self.scale(levels, self.batches.log_scale[:, part])
            exempt = self.exempt(chunk, members, part)
            found = chunk - self.mean(effects, levels, scale, part)
            found = found if exempt is None else np.where(exempt, np.nan, found)
            return (found / scale, np.ones_like(scale)) if self.gain else (found, scale)

        return pairs.unusual(self.people, residual, self.sd, len(frame))

    @property
    def spread(self) -> Float[np.ndarray, " columns"]:
        """Deviation of visits of different people in a batch of the pooled scale; ``sd`` where each visit is a person."""
        return self.sd * np.sqrt(1 + self.people.level) if self.people else self.sd

    def pooled(self) -> "LinearModel":
        """Return the same for visits each of which is a person: what people differ by is a part of their noise."""
        if not self.people:
            return self
        levels = self.batches.log_scale
        relative = np.log(self._relative(np.exp(levels), slice(0, len(self.sd))))
        batches = replace(self.batches, log_scale=relative)
        return replace(self, sd=self.spread, batches=batches, people=RandomEffects())

    def _relative(self, scale: Float[np.ndarray, "people block"], part: slice) -> Float[np.ndarray, "people block"]:
        """Return the deviation of visits of different people over ``spread``, where ``scale`` is that within people."""
        if not self.people or self.gain:
            return scale
        level = self.people.level[part]
        relative: np.ndarray = scale * scale
        relative += level
        relative /= level + 1
        return np.sqrt(relative, out=relative)

    def _with_components(self, dataset: Dataset) -> "LinearModel":
        source = self.residuals(dataset)
        components, scores = principal_components(source, self.settings.components, self.seed)
        model = replace(self, components=components)
        if not self.settings.covariance or not len(components):
            return replace(model, score_batches=no_scores(len(self.batches.location), len(components)))
        plain = column_bands(np.ones(len(components), dtype=bool))
        moments = fit_moments(scores, Design(self.schema, self.design.knots, ()), dataset.covariates)
        parts = tuple(self.design.batch_slices().values())
        effects = fit_batches(moments, Borrowing(lambda: plain, lambda: plain), parts, scale=True)
        return replace(model, score_batches=centre_scales(effects, moments, parts)[0])

    def residuals(self, dataset: Dataset) -> ChunkSource:
        """Return the standardised residual e, with unseen batch levels at the pooled location and scale and NaN at 0.

        It is computed in the type in which the model is kept.
        """
        data, frame, kept = dataset.values, dataset.covariates, self.sd.dtype
        effects, levels = self.design.effects(frame).astype(kept), self.design.batches(frame).astype(kept)
        members = self.support.of(frame)
        spread = self.spread
        per_sd = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)

        def chunk(part: slice) -> np.ndarray:
            scale = self.scale(levels, self.batches.log_scale[:, part])
            centred = self.mean(effects, levels, scale, part)
            own = read_chunk(data, part, kept)
            exempt = self.exempt(own, members, part)
            np.subtract(own, centred, out=centred)
            centred *= per_sd[part]
            centred /= self._relative(scale, part)
            # The sum tells in one read whether any cell is NaN or infinite.
            if not np.isfinite(centred.sum()):
                np.nan_to_num(centred, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
            if exempt is not None:
                centred[exempt] = 0
            return centred

        return ChunkSource((len(frame), len(self.sd)), chunk)

    def exempt(
        self, chunk: Float[np.ndarray, "people block"], members: Bool[np.ndarray, "people cells"], part: slice
    ) -> "Bool[np.ndarray, 'people block'] | None":
        """Return the cells that say nothing of a person: point masses, and levels without an effect in the column.

        Args:
            chunk: Data of a block of columns.
            members: Who is in which cell of ``support``.
            part: Which columns.
        """
        marks = (self.masses.within(chunk, part), *(self.support.marked(members, part, code) for code in (NEVER, FEW)))
        return either(marks)

    def settling(self, here: pd.DataFrame, there: pd.DataFrame) -> Settling:
        """Return what stays and what cannot be known where people are moved from ``here`` to ``there``."""
        home = np.ones(len(here), dtype=bool)
        for name in self.schema.names:
            if name in here and name in there:
                home &= (here[name] == there[name]).to_numpy(dtype=bool)
        members = (self.support.of(here) | self.support.of(there)) & ~home[:, None]
        return Settling(self.masses, self.support, members, self.columns.grid is not None)

    def _location_error(self, noise: float, frame: pd.DataFrame) -> tuple[float, float | None]:
        """Return the standard error of a location from its people's noise and the effects' errors, and that of the effects."""
        if not len(self.effect_covariance):  # models saved before it was kept
            return noise, None
        varies = self.sd > 0
        coefficients = self.coefficients[:, varies] / self.sd[varies]
        variance = effect_variance(self.design, self.effect_covariance, coefficients, frame)
        return float(np.hypot(noise, np.sqrt(variance))), float(np.sqrt(variance))

    def _score_shift(
        self, dataset: Dataset, here: np.ndarray, there: np.ndarray
    ) -> "Float[np.ndarray, 'people components'] | None":
        """Return how the component scores move between batches; None where covariance is left alone."""
        if not (self.settings.covariance and len(self.components)):
            return None
        location, log_scale = self.score_batches.location, self.score_batches.log_scale
        scores = self.encode(dataset) - here @ location
        ratio = self.scale(there, log_scale) / self.scale(here, log_scale)
        shift: np.ndarray = (there - here) @ location + (ratio - 1) * scores
        return shift

    def mean(
        self, effects: np.ndarray, levels: np.ndarray, scale: np.ndarray, part: slice
    ) -> Float[np.ndarray, "people block"]:
        """Return mu of each person in a block of columns."""
        coefficients, location = self.coefficients[:, part], self.batches.location[:, part]
        if not self.gain:
            whole: np.ndarray = np.concatenate([effects, levels], axis=1) @ np.concatenate([coefficients, location])
            return whole
        mean: np.ndarray = effects[:, 1:] @ coefficients[1:]
        mean *= scale
        mean += np.concatenate([effects[:, :1], levels], axis=1) @ np.concatenate([coefficients[:1], location])
        return mean

    def scale(
        self, levels: Float[np.ndarray, "people levels"], log_scale: Float[np.ndarray, "levels block"]
    ) -> Float[np.ndarray, "people block"]:
        """Return delta for each person: the product over batch covariates, 1 where the membership is pooled."""
        return level_scale(levels, log_scale, self.design.batch_slices().values())

    def with_level(self, name: str, level: str, location: np.ndarray, log_scale: np.ndarray) -> "LinearModel":
        """Return the model with a further level of a batch, its location in data units."""
        row = self.design.batch_slices()[name].stop
        schema = self.schema.with_level(name, level)
        batches = self.batches.with_level(row, location, log_scale)
        nothing = np.zeros(len(self.components))
        scores = self.score_batches.with_level(row, nothing, nothing)
        design, people = replace(self.design, schema=schema), self.people
        first = len(self.coefficients) + len(people.changing)
        people = replace(people, known=people.known.with_row(first + row)) if people.known else people
        return replace(self, schema=schema, design=design, batches=batches, score_batches=scores, people=people)

    def check_columns(self, dataset: Dataset) -> None:
        """Refuse data that are no floats, or have other columns than the model's.

        Raises:
            ModelError: What they are and what the model was fitted on.
        """
        data, names, own = dataset.values, dataset.columns.names, self.columns.names
        if data.dtype.kind != "f":
            raise ModelError(f"the data are {data.dtype}, which would round the result; give float32 or float64")
        if data.shape[1] != self.columns.count:
            raise ModelError(f"the data have {data.shape[1]} columns, the model was fitted on {self.columns.count}")
        if names is not own and names and own and names != own:
            others = [
                f"column {k}: {name}, not {wanted}"
                for k, (name, wanted) in enumerate(zip(names, own, strict=False), 1)
                if name != wanted
            ]
            cure = "give them in its order, for instance features[list(model.columns.names)]"
            raise ModelError(listed("columns that are not those the model was fitted on", others, cure))


def _moved_by_person(model: LinearModel, visits: Visits) -> LinearModel:
    """Return a model of people, each of whom is moved, scored and forecast by what is known of themselves.

    What relatives share is a part of what a person differs by, and what scans of a session share a part of their noise.
    """
    people, of_effects = model.people, model.effect_covariance / (1 + visits.usual.ratios.level)
    if visits.plan.unrelated:
        return replace(model.pooled(), effect_covariance=of_effects)
    if visits.plan.runs:
        sessions = replace(people, level=people.level - people.group)
        pooled = replace(model, people=sessions).pooled()
        return replace(pooled, people=visits.of_people(people), effect_covariance=of_effects)
    return model


def _whole(_part: slice, chunk: np.ndarray) -> np.ndarray:
    return chunk


def no_scores(levels: int, components: int) -> BatchEffects:
    """Return batch effects on component scores where there are none."""
    nothing = np.zeros((levels, components))
    return BatchEffects(nothing, nothing, np.zeros(SCORE_BANDS), np.zeros(SCORE_BANDS))
