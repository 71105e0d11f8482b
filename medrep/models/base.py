"""What every model can do: fit on training people, move covariates of anybody, and say what is left of the person."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.grid import Columns as Columns
from medrep.errors import ModelError, listed
from medrep.models.notebook import NotebookView
from medrep.models.scores import Scores


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
class Workplace:
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


class Model(NotebookView, ABC):
    """A fitted model. Instances are frozen: fitting and adapting return new ones.

    Rows of every matrix are people, columns those the model was fitted on; covariate frames are indexed alike and hold the
    schema's columns (`CovariateSchema.transfer`).
    """

    kind: str
    settings_type: type[Any]
    error_unit: str
    schema: CovariateSchema
    columns: Columns

    @classmethod
    @abstractmethod
    def fit(
        cls,
        data: Float[np.ndarray, "people columns"],
        frame: pd.DataFrame,
        schema: CovariateSchema,
        columns: Columns,
        settings: Any,
        *,
        seed: int = 0,
        work: Workplace | None = None,
        participants: Sequence[str] | None = None,
    ) -> tuple["Model", pd.DataFrame]:
        """Fit on training people.

        Args:
            data: People x columns, in memory or memory-mapped; never copied as a whole. NaN cells are left out.
            frame: Their covariates, in the same order.
            schema: The covariates.
            columns: What the columns are.
            settings: An instance of ``settings_type``.
            seed: Seed of every random step.
            work: Where to speak and to keep an interrupted training's state; nowhere by default.
            participants: Whose each row is; by default each row is a person. Rows of one person stay together wherever people
                are divided, and people are what is counted.

        Returns:
            The model, and a tidy history: metric, name, value; what changes over epochs has an epoch too.

        Raises:
            CovariateError: Covariates that cannot be told apart, or settings that name unknown ones.
            ModelError: Settings that do not fit the data.
        """

    def remove(
        self,
        data: Float[np.ndarray, "people columns"],
        frame: pd.DataFrame,
        target: Mapping[str, str | float],
        out: Float[np.ndarray, "people columns"] | None = None,
    ) -> Float[np.ndarray, "people columns"]:
        """Move the covariates in ``target`` to the given values and leave everything else of the person as it is.

        Args:
            data: The people's data, in their own units; NaN stays NaN.
            frame: Their covariates.
            target: Removed covariate -> reference (`CovariateSchema.references`).
            out: Where to write, for instance memory-mapped, or ``data`` itself; a new array by default.

        Returns:
            Data of the same shape and dtype. Where ``target`` is what the person has already, the data come back as they are.
        """
        return self.move(data, frame, self.schema.moved(frame, target)[list(target)], out)

    @abstractmethod
    def move(
        self,
        data: Float[np.ndarray, "people columns"],
        frame: pd.DataFrame,
        to: pd.DataFrame,
        out: Float[np.ndarray, "people columns"] | None = None,
    ) -> Float[np.ndarray, "people columns"]:
        """Move some covariates of each person to a value of their own; see `remove`.

        Args:
            data: The people's data, in their own units; NaN stays NaN.
            frame: Their covariates.
            to: What they are moved to, rows as in ``frame``, a column for each covariate that is moved.
            out: Where to write; a new array by default.
        """

    @abstractmethod
    def encode(
        self, data: Float[np.ndarray, "people columns"], frame: pd.DataFrame
    ) -> Float[np.ndarray, "people latents"]:
        """Return what is left of each person once all covariates are accounted for."""

    @abstractmethod
    def scores(self, data: Float[np.ndarray, "people columns"], frame: pd.DataFrame) -> Scores:
        """Return how well the model draws each person (in ``error_unit``), how unusual they are, and their latents.

        NaN cells are left out.
        """

    @abstractmethod
    def adapt(
        self, people: Iterable[tuple[Float[np.ndarray, "_ columns"], pd.DataFrame]]
    ) -> tuple["Model", tuple[Adaptation, ...]]:
        """Estimate unseen batch levels from the people who have them.

        Args:
            people: Data and covariates, a few people at a time; gone through once.

        Returns:
            A model that knows the new levels, and how well each is known.
        """

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return constructor content as JSON and arrays; the class method ``restore`` is the inverse."""

    @classmethod
    @abstractmethod
    def restore(cls, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "Model":
        """Rebuild a model from `state`.

        Raises:
            ModelError: Arrays that are absent or of another shape than the content says.
        """


def check_arrays(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights that are absent, not finite or of another shape than the model's description says.

    Raises:
        ModelError: All of them.
    """
    offenders = [f"{name} is absent" for name in wanted if name not in arrays]
    for name, shape in wanted.items():
        if name in arrays and arrays[name].shape != shape:
            offenders.append(f"{name} has the shape {arrays[name].shape}, not {shape}")
        elif name in arrays and not np.isfinite(arrays[name]).all():
            offenders.append(f"{name} holds values that are not finite")
    if offenders:
        raise ModelError(listed("weights that do not belong to this model", offenders, "train again or fetch it again"))
