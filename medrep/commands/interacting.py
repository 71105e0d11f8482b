"""Whether covariates interact, as ``check`` and ``train`` say it, with the setting that would tell the model."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.audit.interactions import Interaction, probe_interactions, suggestion
from medrep.cohort.covariates import CovariateSchema
from medrep.config import Config
from medrep.console import Console
from medrep.models import MODELS
from medrep.models.base import EffectTerms


def effect_terms(config: Config) -> EffectTerms | None:
    """Return what is configured of effects on single columns; None of a model without such."""
    return MODELS[config.model].effect_terms(config.settings)


def warn_of_interactions(
    data: Float[np.ndarray, "rows some"],
    frame: pd.DataFrame,
    schema: CovariateSchema,
    config: Config,
    console: Console,
    participants: Sequence[str],
) -> tuple[Interaction, ...]:
    """Test the pairs of effect covariates that the configuration does not declare to interact, and warn of those that do.

    Args:
        data: Some columns (`sample_columns`).
        frame: Covariates of the rows.
        schema: The covariates.
        config: What would be fitted.
        console: Where to speak.
        participants: Whose each row is.
    """
    own = effect_terms(config)
    if own is None:
        return ()
    found = probe_interactions(
        data,
        frame,
        schema,
        degrees=own.degrees,
        declared=own.interactions,
        participants=participants,
        seed=config.seed,
    )
    for result in found:
        if result.found:
            first, second = result.covariates
            cure = suggestion(found, own.interactions, f"{own.section}.interactions")
            console.warn(
                f"what {first} does depends on {second} (p {result.p:.3f}, {result.share:.1%} of what is left of the data's"
                f" variance), and the model takes them to add up: {cure}"
            )
    return found
