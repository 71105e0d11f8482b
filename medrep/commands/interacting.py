"""Whether covariates interact, as ``check`` and ``train`` say it, with the setting that would tell the model."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.audit.interactions import Interaction, probe_interactions, suggestion
from medrep.cohort.covariates import CovariateSchema
from medrep.config import Config
from medrep.console import Console
from medrep.models import LinearSettings, VaeSettings


def linear_settings(config: Config) -> tuple[LinearSettings, str] | None:
    """Return the settings of the linear model or layer, and the path of their section; None of a model that has none."""
    if isinstance(config.settings, VaeSettings):
        return config.settings.linear, "settings.linear"
    return (config.settings, "settings") if isinstance(config.settings, LinearSettings) else None


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
    settings = linear_settings(config)
    if settings is None:
        return ()
    own, section = settings
    found = probe_interactions(
        data,
        frame,
        schema,
        degrees=own.spline_degrees,
        declared=own.interactions,
        participants=participants,
        seed=config.seed,
    )
    for result in found:
        if result.found:
            first, second = result.covariates
            cure = suggestion(found, own.interactions, f"{section}.interactions")
            console.warn(
                f"what {first} does depends on {second} (p {result.p:.3f}, {result.share:.1%} of what is left of the data's"
                f" variance), and the model takes them to add up: {cure}"
            )
    return found
