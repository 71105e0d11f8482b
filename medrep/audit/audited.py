"""What an audit looks at: people whom the model never saw, as they are, as they would be handed out, and their latents."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from medrep.cohort.covariates import Categorical, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.models import Model


@dataclass(frozen=True, eq=False)
class Question:
    """One covariate that tables of people are asked for.

    Attributes:
        name: How it is called in groups, ``exported/site``.
        values: Of each row; rows without a value are left out.
        continuous: Whether it is a number, or has levels.
        participants: Whose each row is.
        kept: Scaled kept covariates; without columns nothing is kept.
    """

    name: str
    values: pd.Series
    continuous: bool
    participants: Shaped[np.ndarray, " people"]
    kept: Float[np.ndarray, "people width"]


@dataclass(frozen=True, eq=False)
class Audited:
    """The audited people.

    Attributes:
        model: Of whom it is told.
        dataset: The people as they are, with covariates in the model's schema.
        table: Everything that participants.tsv says of them; same index.
        target: Removed covariate -> where it is moved to.
        trained: How many people the model learned from; 0 where that is not known.
    """

    model: Model
    dataset: Dataset
    table: pd.DataFrame
    target: Mapping[str, str | float]
    trained: int = 0

    @property
    def schema(self) -> CovariateSchema:
        """The model's covariates."""
        return self.model.schema

    @property
    def removed(self) -> tuple[str, ...]:
        """Covariates that are removed from what is handed out."""
        return tuple(self.target)

    @property
    def kept(self) -> tuple[str, ...]:
        """Covariates that stay."""
        return tuple(name for name in self.schema.names if name not in self.target)

    @property
    def data(self) -> Float[np.ndarray, "people columns"]:
        """People x columns, as they are."""
        return self.dataset.values

    @property
    def frame(self) -> pd.DataFrame:
        """Their covariates; index: key."""
        return self.dataset.covariates

    @cached_property
    def participants(self) -> Shaped[np.ndarray, " people"]:
        """Participant of each row; sessions share one."""
        return self.dataset.whose

    @cached_property
    def exported(self) -> Float[np.ndarray, "people columns"]:
        """The data as they would be handed out."""
        return self.export(self.frame)

    def export(self, frame: pd.DataFrame) -> Float[np.ndarray, "people columns"]:
        """Return the data as they would be handed out if people had these covariates."""
        return self.model.remove(self.dataset.with_covariates(frame), self.target)

    @cached_property
    def latents(self) -> Float[np.ndarray, "people latents"]:
        """What is left of everybody with all covariates removed."""
        return self.model.encode(self.dataset)

    @cached_property
    def tables(self) -> dict[str, Float[np.ndarray, "people _"]]:
        """What is looked at, by name: ``raw``, ``exported`` and, where the model has them, ``latents``; whole columns only."""
        whole = np.isfinite(self.data).all(axis=0)
        tables = {"raw": self.data[:, whole], "exported": self.exported[:, whole]}
        return tables | ({"latents": self.latents} if self.latents.shape[1] else {})

    def people_of_training(self, name: str) -> dict[str, float]:
        """Return how many people of training had each level of a covariate, or any number ("").

        The schema counts scans: people are shared out as these are. Nothing where it is not known how many there were.
        """
        fitted = self.schema[name]
        if not self.trained or not isinstance(fitted, Categorical):
            return {"": float(self.trained)} if self.trained else {}
        scans = sum(fitted.counts)
        return {level: count * self.trained / scans for level, count in zip(fitted.levels, fitted.counts, strict=True)}

    def question(self, name: str, kept: tuple[str, ...] = ()) -> Question:
        """Return a covariate as what tables are asked for, over what some kept ones tell of it."""
        values, continuous = self.frame[name], self.continuous(name)
        return Question(name, values, continuous, self.participants, self.scaled(kept))

    def scaled(self, names: tuple[str, ...]) -> Float[np.ndarray, "people width"]:
        """Return covariates as a matrix: standardised numbers, and a column a level."""
        return CovariateSchema(tuple(self.schema[name] for name in names)).vector(self.frame)

    def continuous(self, name: str) -> bool:
        """Return whether a covariate is a number."""
        return not isinstance(self.schema[name], Categorical)
