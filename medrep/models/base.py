"""The interface of every model: fit, remove, encode, score, adapt, and what only some can.

What only some models can do is a method, too: it answers where a model can, and refuses by name or says that there is nothing
where it cannot. `Model.capabilities` declares it for callers who have to know before they ask.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import stdtrit

from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep.cohort.covariates import CovariateSchema, describe_covariates, html_table
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.erasure import Certificate
from medrep.errors import ModelError
from medrep.models.chunks import ChunkSource
from medrep.models.exceptions import NO_EXCEPTIONS, Exceptions
from medrep.models.linear.design import Contrast
from medrep.models.requirements import Images, Requirements
from medrep.models.shape.displacement import SurfaceDisplacement
from medrep.models.shape.rigid import Poses


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of participants, from one pass over the data.

    Attributes:
        reconstruction_error: How far the model's drawing is from the person, in the model's ``error_unit``.
        deviation: How unusual what is the person's own is at their covariates: about 1 for a typical person, root mean square
            over latents (over columns, where a model has no latents) in standard deviations of people of training.
        latents: As `Model.encode` returns them.
        latents_sd: How well each is known; None where the model does not say.
        gain: How unusual the change since the person's visit before is: about 1 for a typical one, NaN at first visits; None
            where the model does not know visits, or nobody has several.
        subtypes: How probable each subtype is, summing to 1; None where the model knows none.
        positions: Where people lie on the curve of each covariate with an ordered latent, in its units.
    """

    reconstruction_error: Float[np.ndarray, " people"]
    deviation: Float[np.ndarray, " people"]
    latents: Float[np.ndarray, "people latents"]
    latents_sd: Float[np.ndarray, "people latents"] | None = None
    gain: Float[np.ndarray, " people"] | None = None
    subtypes: Float[np.ndarray, "people subtypes"] | None = None
    positions: Mapping[str, Float[np.ndarray, " people"]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Forecast:
    """Expectation of further measurements of people: Student's distribution each, NaN where nothing is said.

    Attributes:
        estimate: Means, in data units.
        sd: Standard deviations.
        freedom: Degrees of freedom that these are known with; infinite where a model does not say.
    """

    estimate: Float[np.ndarray, "further columns"]
    sd: Float[np.ndarray, "further columns"]
    freedom: Float[np.ndarray, "further columns"]

    def interval(
        self, share: float
    ) -> tuple[Float[np.ndarray, "further columns"], Float[np.ndarray, "further columns"]]:
        """Return the ends of the interval that holds a share of what may be measured, the same share beyond either end."""
        half = self.sd * stdtrit(self.freedom, (1 + share) / 2)
        return self.estimate - half, self.estimate + half


def root_mean_square(
    squares: Float[np.ndarray, " people"], counts: Float[np.ndarray, " people"]
) -> Float[np.ndarray, " people"]:
    """Return the root of sums of squares over counts; NaN where nothing was counted."""
    return np.sqrt(np.divide(np.maximum(squares, 0), counts, out=np.full(len(squares), np.nan), where=counts > 0))


@dataclass(frozen=True, eq=False)
class Curves:
    """Centiles at some covariates, in units of the data, and how well they are known; NaN where nothing is said.

    Attributes:
        value: Of people whose chart is as it was fitted; predictive centiles, which hold what is unknown of it, lie further out.
        low: Lower ends of their 95 % intervals.
        high: Upper ends.
    """

    value: Float[np.ndarray, "levels rows columns"]
    low: Float[np.ndarray, "levels rows columns"]
    high: Float[np.ndarray, "levels rows columns"]


Capability: TypeAlias = Literal[
    "joint", "sample", "unlabelled", "organs", "motion", "effects", "forecast", "deviations", "centiles", "latents"
]
"""What not every model can:

- ``joint``: removing what only columns together tell, not each of them alone;
- ``sample``: drawing people;
- ``unlabelled``: removal and latents of people none of whose covariates is known;
- ``organs``: its columns are distances to the surface of an organ;
- ``motion``: saying how points of an organ move;
- ``effects``: what covariates do to an organ's surface, with intervals;
- ``forecast``: what further visits of a person will measure, and the person's own trajectory;
- ``deviations``: how unusual each single column of a person is;
- ``centiles``: curves of each column's centiles over a covariate;
- ``latents``: people as they would be with other latents.
"""

_REFUSALS: Mapping[Capability, str] = {
    "joint": "a {kind} model moves each column by itself",
    "sample": "a {kind} model does not sample; train with --config vae_features.yaml",
    "unlabelled": "a {kind} model needs everybody's covariates; train with --config vae_features.yaml",
    "organs": "a {kind} model does not model organs; train with --config additive_shape.yaml",
    "motion": "a {kind} model does not say how points move; train with --config additive_shape.yaml",
    "effects": "a {kind} model does not say what covariates do to a surface; train with --config additive_shape.yaml",
    "forecast": "a {kind} model does not forecast; train with --config linear.yaml on people who come again",
    "deviations": "a {kind} model does not say how unusual single columns are; train with --config growth_chart.yaml",
    "centiles": "a {kind} model has no centiles; train with --config growth_chart.yaml",
    "latents": "this {kind} model has no latents that can be moved one by one; train with --config linear_latents.yaml",
}

Posterior: TypeAlias = tuple[Float[np.ndarray, "people latents"], Float[np.ndarray, "people latents"] | None]
Points: TypeAlias = Float[np.ndarray, "points dims"]
Level: TypeAlias = Callable[[Points], Float[np.ndarray, " points"]]
"""Signed distance to a surface, mm, negative inside."""


@dataclass(frozen=True)
class Adaptation:
    """How an unseen batch level was estimated from its own people.

    Attributes:
        covariate: The batch covariate.
        level: The unseen level.
        people: How many people it was estimated from.
        location_se: Standard error of its location in a column, in units of the column's within-batch deviation; that of the
            covariates' effects at these people is a part of it.
        log_scale_se: Standard error of its log scale in a column; None for a single person, whose scale is not known.
        location_kept: Share of the raw location estimate's energy that shrinkage kept.
        log_scale_kept: The same for the log scale.
        effect_se: The part of ``location_se`` that is due to covariates' effects; None where the model does not know it, and
            ``location_se`` leaves it out.
        outside: Continuous covariates in which its people leave the range of training, in words; empty if none.
    """

    covariate: str
    level: str
    people: int
    location_se: float
    log_scale_se: float | None
    location_kept: float
    log_scale_kept: float
    effect_se: float | None = None
    outside: str = ""


@dataclass(frozen=True)
class FitContext:
    """Where a fit speaks, and where it keeps what it could go on from.

    Attributes:
        advance: Called with the number of columns done, of one pass over them.
        say: Called with a line for the person who waits.
        folder: For the state of an interrupted training; None keeps none.
        resume: Whether to go on from a state that is there.
        phase: Called with what is done from now on, where that takes long and says nothing of itself.
    """

    advance: Callable[[int], None] = lambda columns: None
    say: Callable[[str], None] = lambda line: None
    folder: Path | None = None
    resume: bool = False
    phase: Callable[[str], None] = lambda name: None


@dataclass(frozen=True)
class EffectTerms:
    """Terms of the effects that are fitted to single columns, by settings.

    Attributes:
        section: Where the configuration has them: ``settings``, or a section of it.
        degrees: Degrees of freedom of a continuous effect.
        interactions: Groups of covariates whose product enters, too.
    """

    section: str
    degrees: int
    interactions: tuple[tuple[str, ...], ...]


class Model(ABC):
    """A fitted model. Instances are frozen: fitting and adapting return new ones.

    It takes people as a `Dataset` with the columns that it was fitted on, in its own schema's form; `Model.dataset` makes one.

    Attributes:
        kind: Key of ``MODELS``.
        settings_type: A frozen dataclass.
        error_unit: Of reconstruction errors.
        tables: Whether it is fitted to feature tables; images, all are.
        masks: Whether it is fitted to the voxels of a mask; all are to whole grids.
        structures: Whether it is fitted to several structures at once; those that move organs are.
        sources: Works it builds on, for those who cite it.
        grid_config: The shipped configuration whose settings fit data on a grid, where those of tables do not; empty if they do.
        withheld: Capabilities that others of its kind have, and why it has them not (`refusal`).
        schema: The covariates.
        columns: What the columns are.
        settings: As trained, an instance of ``settings_type``.
        seed: Of every random step in training.
    """

    kind: str
    settings_type: type[Any]
    error_unit: str
    tables: ClassVar[bool] = True
    masks: ClassVar[bool] = False
    structures: ClassVar[bool] = False
    sources: ClassVar[tuple[str, ...]] = ()
    grid_config: ClassVar[str] = ""
    withheld: ClassVar[Mapping[Capability, str]] = {}
    schema: CovariateSchema
    columns: Columns
    settings: Any
    seed: int

    @classmethod
    @abstractmethod
    def fit(
        cls,
        dataset: Dataset,
        settings: Any = None,
        *,
        seed: int = 0,
        work: FitContext | None = None,
    ) -> tuple["Model", pd.DataFrame]:
        """Fit on training people.

        Args:
            dataset: Everybody. NaN cells are left out; rows of one participant stay together wherever people are divided, and
                people are what is counted.
            settings: An instance of ``settings_type``; its defaults if None.
            seed: Seed of every random step.
            work: Where to speak and to keep an interrupted training's state; nowhere by default.

        Returns:
            The model, and a tidy history: metric, name, value; what changes over epochs has an epoch too.

        Raises:
            CovariateError: Covariates that cannot be told apart, or settings that name unknown ones.
            ModelError: Settings that do not fit the data.
        """

    def dataset(
        self,
        values: Float[np.ndarray, "rows _"],
        covariates: pd.DataFrame,
        participants: Sequence[str] | None = None,
    ) -> Dataset:
        """Hold data of people in the model's columns and their covariates together.

        Args:
            values: Rows x columns.
            covariates: In the form of the model's schema (`CovariateSchema.transfer`).
            participants: Whose each row is; by default each row is a person.
        """
        return Dataset(values, covariates, self.schema, self.columns, participants)

    def remove(
        self,
        dataset: Dataset,
        target: Mapping[str, str | float],
        out: Float[np.ndarray, "people columns"] | None = None,
    ) -> Float[np.ndarray, "people columns"]:
        """Move the covariates in ``target`` to the given values and leave everything else of the person as it is.

        Args:
            dataset: The people, their data in their own units; NaN stays NaN.
            target: Removed covariate -> reference (`CovariateSchema.references`).
            out: Where to write, for instance memory-mapped, or the values themselves; a new array by default.

        Returns:
            Data of the same shape and dtype. Where ``target`` is what the person has already, the data come back as they are.
        """
        return self.transform(dataset, self.schema.transformed(dataset.covariates, target)[list(target)], out)

    @abstractmethod
    def transform(
        self,
        dataset: Dataset,
        to: pd.DataFrame,
        out: Float[np.ndarray, "people columns"] | None = None,
    ) -> Float[np.ndarray, "people columns"]:
        """Move some covariates of each person to a value of their own; see `remove`.

        Args:
            dataset: The people, their data in their own units; NaN stays NaN.
            to: What they are moved to, the same rows, a column for each covariate that is moved.
            out: Where to write; a new array by default.
        """

    @abstractmethod
    def encode(self, dataset: Dataset) -> Float[np.ndarray, "people latents"]:
        """Return what is left of each person once all covariates are accounted for."""

    @abstractmethod
    def scores(self, dataset: Dataset) -> Scores:
        """Return how well the model draws each person (in ``error_unit``), how unusual they are, and their latents.

        NaN cells are left out.
        """

    @abstractmethod
    def adapt(self, people: Iterable[Dataset]) -> tuple["Model", tuple[Adaptation, ...]]:
        """Estimate unseen batch levels from the people who have them.

        Args:
            people: A few people at a time; gone through once.

        Returns:
            A model that knows the new levels, and how well each is known.
        """

    @property
    def carried(self) -> tuple[str, ...]:
        """Covariates that latents of their own are to tell, and which therefore stay in these; none by default."""
        return ()

    @property
    def latent_roles(self) -> tuple[str, ...]:
        """Names of the last released latents, which say their role; those before them are called z1, z2, ... None by default."""
        return ()

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return constructor content as JSON and arrays; the class method ``restore`` is the inverse."""
        return to_state(self)

    @classmethod
    def restore(cls, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "Model":
        """Rebuild a model from `state`.

        Raises:
            ModelError: Arrays that are absent or of another shape than the content says.
            ValueError: Content that no such model has.
        """
        return from_state(cls, dict(content), arrays)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Capabilities of this model beyond those of every model; none by default."""
        return frozenset()

    def refusal(self, capability: Capability) -> str:
        """Return why the model cannot do something, and what can; empty where it can."""
        if capability in self.capabilities:
            return ""
        return self.withheld.get(capability, _REFUSALS[capability]).format(kind=self.kind)

    @property
    def by_person(self) -> bool:
        """True if what a removal does to a visit depends on the person's other visits."""
        return False

    @property
    def exceptions(self) -> Exceptions:
        """Exceptions of single columns: values that the model leaves as they are, or cannot predict; none by default."""
        return NO_EXCEPTIONS

    def within_effects(self) -> pd.DataFrame | None:
        """Return what covariates that change within people go with, between people and within them; None by default.

        A row a covariate and column: covariate, feature, between, within, and the ends of their 95 % intervals.
        """
        return None

    def accelerated(self) -> "Model":
        """Return the model where this machine computes it fastest; by default as it is."""
        return self

    @classmethod
    def knows_visits(cls, settings: Any) -> bool:  # noqa: ARG003
        """Return whether several visits of a person are told from as many people, with some settings."""
        return False

    @classmethod
    def effect_terms(cls, settings: Any) -> EffectTerms | None:  # noqa: ARG003
        """Return what settings say of effects on single columns; None of a model without such."""
        return None

    @classmethod
    def requirements(
        cls,
        settings: Any,  # noqa: ARG003
        schema: CovariateSchema,  # noqa: ARG003
        frame: pd.DataFrame,  # noqa: ARG003
        images: Images,  # noqa: ARG003
    ) -> Requirements | None:
        """Estimate what training on images takes; None of a model of which that is not known.

        Args:
            settings: An instance of ``settings_type``.
            schema: The covariates.
            frame: Those of the people.
            images: Size of their images.
        """
        return None

    def certificates(
        self,
        removed: Sequence[str],  # noqa: ARG002
        kept: Sequence[str],  # noqa: ARG002
        *,
        learners: int | None = None,  # noqa: ARG002
        label_free: bool = False,  # noqa: ARG002
    ) -> tuple[Certificate, ...]:
        """Say what is left of each removed covariate in the latents that are handed out; none by default.

        Args:
            removed: What is removed.
            kept: The others.
            learners: New people whom a linear probe learns from; by default four fifths of as many as in training.
            label_free: Whether labels are unknown.
        """
        return ()

    def posterior(self, dataset: Dataset) -> Posterior:
        """Return means of the model's own latents, and standard deviations where the prior is N(0, I); by default `encode`."""
        return self.encode(dataset), None

    def with_latents(
        self,
        dataset: Dataset,  # noqa: ARG002
        latents: Iterable[Float[np.ndarray, "people latents"]],  # noqa: ARG002
    ) -> Iterator[Float[np.ndarray, "people columns"]]:
        """Yield people with other latents: their covariates, and what latents do not tell of them, stay as they are.

        Args:
            dataset: The people, their data in their own units; NaN stays NaN.
            latents: Theirs, those of `posterior`, each time; with their own, the data come back as they are.

        Raises:
            ModelError: A model without ``latents``.
        """
        raise ModelError(self.refusal("latents"))

    def remove_and_encode(
        self, dataset: Dataset, target: Mapping[str, str | float]
    ) -> tuple[Float[np.ndarray, "people columns"], Posterior]:
        """Return what `remove` does, and latents with the deviation of each where the model hands it out; see both."""
        return self.remove(dataset, target), (self.encode(dataset), None)

    def remove_unlabelled(
        self,
        dataset: Dataset,  # noqa: ARG002
        removed: Sequence[str],  # noqa: ARG002
    ) -> Float[np.ndarray, "people columns"]:
        """Erase covariates of people none of whose covariates is known.

        Args:
            dataset: The people, their data in their own units; covariates are not looked at.
            removed: Covariates to erase.

        Raises:
            ModelError: A model that is not ``unlabelled``.
        """
        raise ModelError(self.refusal("unlabelled"))

    def encode_unlabelled(
        self,
        dataset: Dataset,  # noqa: ARG002
    ) -> Float[np.ndarray, "people latents"]:
        """Return latents of people none of whose covariates is known; see `remove_unlabelled`."""
        raise ModelError(self.refusal("unlabelled"))

    def sample(self, frame: pd.DataFrame, *, seed: int) -> Float[np.ndarray, "people columns"]:  # noqa: ARG002
        """Draw new people, one for each row of covariates.

        Args:
            frame: Covariates (`CovariateSchema.transfer`).
            seed: Of every draw.

        Raises:
            ModelError: A model that does not ``sample``.
        """
        raise ModelError(self.refusal("sample"))

    def curves(
        self,
        frame: pd.DataFrame,  # noqa: ARG002
        probabilities: Float[np.ndarray, " levels"],  # noqa: ARG002
    ) -> Curves:
        """Return centiles of each column at some covariates, with intervals.

        Args:
            frame: Covariates (`CovariateSchema.transfer`).
            probabilities: Between 0 and 1.

        Raises:
            ModelError: A model without ``centiles``.
        """
        raise ModelError(self.refusal("centiles"))

    def on_grid(self, columns: Columns) -> "Model":
        """Return the model for rows on another grid with the same spacing and middle; most know the points of their own only.

        Args:
            columns: The other grid.

        Raises:
            ModelError: A model that learned its columns one by one.
        """
        if columns == self.columns:
            return self
        raise ModelError(f"a {self.kind} model knows the points of its own grid only")

    def forecast(
        self,
        dataset: Dataset,  # noqa: ARG002
        to: pd.DataFrame,  # noqa: ARG002
        whose: Sequence[str],  # noqa: ARG002
    ) -> Forecast:
        """Return what further measurements of people are expected to give, of all their visits that are here.

        Args:
            dataset: Visits of people, one or more each.
            to: Covariates of the further measurements, in the schema's form.
            whose: Participant of each, one of the dataset's.

        Raises:
            ModelError: A model that does not ``forecast``.
        """
        raise ModelError(self.refusal("forecast"))

    def follow(
        self,
        dataset: Dataset,  # noqa: ARG002
        years: float,  # noqa: ARG002
    ) -> Float[np.ndarray, "visits columns"]:
        """Move each visit along its person's own trajectory; with 0 years data come back as they are.

        Args:
            dataset: Visits of people, all of each person's that are known; NaN stays NaN.
            years: How far, in the unit of the covariate that people were followed over.

        Raises:
            ModelError: A model that does not ``forecast``.
        """
        raise ModelError(self.refusal("forecast"))

    @property
    def followed(self) -> str:
        """The covariate that people were followed over; empty where a model does not ``forecast``."""
        return ""

    def deviations(self, dataset: Dataset) -> ChunkSource:  # noqa: ARG002
        """Return z of each person and column: standard normal over people like those of training; NaN where nothing is said.

        Raises:
            ModelError: A model without ``deviations``.
        """
        raise ModelError(self.refusal("deviations"))

    def scores_of(self, z: ChunkSource, changes: ChunkSource | None = None) -> Scores:  # noqa: ARG002
        """Return `scores` of people whose deviations are known, and those of their changes where visits are told.

        Raises:
            ModelError: A model without ``deviations``.
        """
        raise ModelError(self.refusal("deviations"))

    def change_deviations(self, dataset: Dataset) -> ChunkSource:  # noqa: ARG002
        """Return z of each visit's change since the person's visit before, given that visit; NaN at first visits.

        Raises:
            ModelError: A model without ``deviations``, or that does not tell changes.
        """
        raise ModelError(self.refusal("deviations"))

    @property
    def tells_changes(self) -> bool:
        """True if scores of visits say how unusual the change since the visit before is."""
        return "forecast" in self.capabilities

    def carry(
        self,
        person: Dataset,  # noqa: ARG002
        points: Points,  # noqa: ARG002
        targets: Sequence[Mapping[str, str | float]],  # noqa: ARG002
    ) -> Float[np.ndarray, "targets points dims"]:
        """Return where points of a person's organ come to lie at other covariates, mm.

        Args:
            person: One row.
            points: mm, in the coordinates of the grid.
            targets: Covariate -> value, of each move.

        Raises:
            ModelError: A model without ``motion``.
        """
        raise ModelError(self.refusal("motion"))

    def expected_level(self, values: Mapping[str, str | float], structure: str = "") -> Level:  # noqa: ARG002
        """Return the organ that is expected at some covariates, the others at their reference, in the coordinates of the grid.

        Args:
            values: Covariate -> value.
            structure: Which of ``columns.structures``, clear of the others; empty where there is one organ.

        Raises:
            ModelError: A model without ``organs``.
        """
        raise ModelError(self.refusal("organs"))

    def surface_displacement(self, contrast: Contrast, points: Points, normals: Points) -> SurfaceDisplacement:  # noqa: ARG002
        """Return how points of the organ before a change of covariates move along its normal.

        Args:
            contrast: The change.
            points: On the surface of the organ before it, mm.
            normals: Outward unit normals there.

        Raises:
            ModelError: A model without ``motion``.
        """
        raise ModelError(self.refusal("motion"))

    def poses(self, dataset: Dataset) -> Poses | None:  # noqa: ARG002
        """Return how organs of the people of training lie, on the grid; None of a model without ``effects`` on a surface."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.schema.names)}; {self.columns.count} columns)"

    def _repr_html_(self) -> str:
        names, grid = self.columns.names, self.columns.grid
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        inside = "" if self.columns.mask is None else " inside a mask"
        where = some if names else f"voxels of a grid {' x '.join(map(str, grid.shape))}{inside}" if grid else ""
        table = describe_covariates(self.schema)
        return (
            f"<div><strong>medrep {escape(self.kind)}</strong>, {self.columns.count} columns"
            f"{f' ({escape(where)})' if where else ''}"
            f"{html_table(table.columns, table.itertuples(index=False))}"
            f"<div>What it assumes, and its limitations: <code>help({escape(type(self).__module__)})</code></div></div>"
        )
