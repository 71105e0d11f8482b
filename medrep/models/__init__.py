"""Models: each file's docstring is its model sheet. A new model is a class and one line here."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from medrep.errors import ModelError
from medrep.models.additive_shape import AdditiveShape
from medrep.models.base import Adaptation, Columns, Model, Workplace
from medrep.models.conditional_vae import ConditionalVae
from medrep.models.linear import LinearModel
from medrep.models.linear_settings import LinearSettings
from medrep.models.scores import Scores
from medrep.models.shape.settings import ShapeSettings
from medrep.models.vae_settings import VaeSettings

MODELS: dict[str, type[Model]] = {
    "linear": LinearModel,
    "conditional_vae": ConditionalVae,
    "additive_shape": AdditiveShape,
}

__all__ = [
    "MODELS",
    "Adaptation",
    "AdditiveShape",
    "Columns",
    "ConditionalVae",
    "LinearModel",
    "LinearSettings",
    "Model",
    "Scores",
    "ShapeSettings",
    "VaeSettings",
    "Workplace",
    "restore_model",
]


def restore_model(kind: str, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Model:
    """Rebuild a model of any kind from its saved state.

    Raises:
        ModelError: An unknown kind, or content and arrays that do not belong together.
    """
    if kind not in MODELS:
        raise ModelError(f"model {kind!r} is unknown; this medrep knows {', '.join(MODELS)}")
    try:
        return MODELS[kind].restore(content, arrays)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ModelError(
            f"the description of the {kind} model is damaged ({type(error).__name__}: {error}); train again or fetch it again"
        ) from None
