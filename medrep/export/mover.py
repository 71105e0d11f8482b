"""What happens to a few rows on their way to an export: the same for tables and images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.cohort.dataset import Dataset
from medrep.cohort.kinds import InputKind, imported
from medrep.cohort.support import outside_json, outside_training
from medrep.export.derivative import OUTSIDE, Destination
from medrep.export.outcomes import Step
from medrep.models import Model
from medrep.models.base import Posterior


@dataclass(frozen=True)
class Mover:
    """A model and what to do with it.

    Attributes:
        model: The fitted model.
        target: Removed covariate -> reference.
        label_free: Whether nobody's covariates are looked at; needs a model that is ``unlabelled``.
    """

    model: Model
    target: Mapping[str, str | float]
    label_free: bool = False

    def move(self, dataset: Dataset) -> Float[np.ndarray, "people columns"]:
        """Return the rows without the removed effects."""
        if self.label_free:
            return self.model.remove_unlabelled(dataset, list(self.target))
        return self.model.remove(dataset, self.target)

    def outside(self, frame: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
        """Return what a sidecar says of one person who lies outside the range of training; nothing of others."""
        found = outside_json(outside_training(self.model.schema, frame))
        return {OUTSIDE: next(iter(found.values()))} if found else {}

    def encode(self, dataset: Dataset) -> Float[np.ndarray, "people latents"]:
        """Return the latents."""
        if self.label_free:
            return self.model.encode_unlabelled(dataset)
        return self.model.encode(dataset)

    def move_and_encode(self, dataset: Dataset) -> tuple[Float[np.ndarray, "people columns"], Posterior]:
        """Return both, with the deviations of latents where the model hands them out."""
        if self.label_free:
            return self.move(dataset), (self.encode(dataset), None)
        return self.model.remove_and_encode(dataset, self.target)


def move_step(mover: Mover, kind: InputKind[Any], to: Destination) -> Step:
    """Return the step that writes people of a kind of input without the removed effects."""
    step: Step = imported(kind.mover)(mover, kind, to)
    return step
