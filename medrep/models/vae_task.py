"""What a network is trained on: residuals and covariate vectors for every set of covariates that counts as known."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Shaped

from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.models.context import context_vector, known_sets
from medrep.models.linear import LinearModel
from medrep.models.residuals import standardise

_MOST_CELLS = 2e8


@dataclass(frozen=True)
class Task:
    """A network's training data: residuals and covariate vectors, one each for every set of covariates that is known.

    Attributes:
        residuals: People x columns for each set, all known first.
        contexts: Covariate vectors for each set.
        parts: Standardised covariates.
        known: Which covariates belong to each set.
        used: Columns that vary.
        whose: Participant of each row.
    """

    residuals: list[Float[torch.Tensor, "people columns"]]
    contexts: list[Float[torch.Tensor, "people context"]]
    parts: list[Float[torch.Tensor, "people _"]]
    known: list[list[int]]
    used: Bool[torch.Tensor, " columns"]
    whose: Shaped[np.ndarray, " people"]

    @classmethod
    def of(cls, linear: LinearModel, dataset: Dataset, device: torch.device) -> "Task":
        """Standardise the people for every set of known covariates, as many sets as memory allows."""
        schema, data, frame = linear.schema, dataset.values, dataset.covariates
        sets = known_sets(schema, int(np.clip(_MOST_CELLS // max(data.size, 1), 2, 8)))

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array, dtype=torch.float32).to(device)

        return cls(
            [tensor(standardise(linear, data, frame, known)) for known in sets],
            [tensor(context_vector(schema, frame, known)) for known in sets],
            [tensor(part) for part in covariate_parts(schema, frame)],
            [[k for k, name in enumerate(schema.names) if name in own] for own in sets],
            torch.as_tensor(linear.sd > 0, device=device),
            dataset.whose,
        )


def covariate_parts(schema: CovariateSchema, frame: pd.DataFrame) -> list[Float[np.ndarray, "people _"]]:
    """Return each covariate as standardised columns of unit total variance."""
    parts = []
    for name in schema.names:
        alone = CovariateSchema((schema[name],))
        vector = alone.vector(frame)
        if not isinstance(schema[name], Continuous):
            vector = (vector - vector.mean(axis=0)) / np.sqrt(np.maximum(vector.var(axis=0).sum(), 1e-12))
        parts.append(vector)
    return parts
