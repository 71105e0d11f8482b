"""How well a model draws people, how unusual they are at their covariates, and what is their own."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of each person, from one pass over the data.

    Attributes:
        reconstruction_error: How far the model's drawing is from the person, in the model's ``error_unit``.
        deviation: How unusual what is the person's own is at their covariates: about 1 for a typical person, root mean square
            over latents (over columns, where a model has no latents) in standard deviations of people of training.
        latents: As `Model.encode` returns them.
        latents_sd: How well each is known; None where the model does not say.
    """

    reconstruction_error: Float[np.ndarray, " people"]
    deviation: Float[np.ndarray, " people"]
    latents: Float[np.ndarray, "people latents"]
    latents_sd: Float[np.ndarray, "people latents"] | None = None


def root_mean_square(
    squares: Float[np.ndarray, " people"], counts: Float[np.ndarray, " people"]
) -> Float[np.ndarray, " people"]:
    """Return the root of sums of squares over counts; NaN where nothing was counted."""
    return np.sqrt(np.divide(np.maximum(squares, 0), counts, out=np.full(len(squares), np.nan), where=counts > 0))
