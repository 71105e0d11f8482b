"""How well a model draws people, and how unusual they are at their covariates."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Scores:
    """Two figures a person.

    Attributes:
        reconstruction_error: How far the model's drawing is from the person, in the model's ``error_unit``.
        deviation: How unusual what is the person's own is at their covariates: about 1 for a typical person, root mean square
            over latents (over columns, where a model has no latents) in standard deviations of people of training.
    """

    reconstruction_error: Float[np.ndarray, " people"]
    deviation: Float[np.ndarray, " people"]


def root_mean_square(
    squares: Float[np.ndarray, " people"], counts: Float[np.ndarray, " people"]
) -> Float[np.ndarray, " people"]:
    """Return the root of sums of squares over counts; NaN where nothing was counted."""
    return np.sqrt(np.divide(np.maximum(squares, 0), counts, out=np.full(len(squares), np.nan), where=counts > 0))
