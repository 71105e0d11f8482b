"""Models: each file's docstring is its model sheet. A new model is a class and one line here.

A kind is imported when it is asked for: torch, which networks need, takes seconds to import, and a linear model needs none.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from medrep.errors import ModelError
from medrep.models.base import Adaptation, FitContext, Model, Scores
from medrep.models.chart.settings import ChartSettings
from medrep.models.linear.model import LinearModel
from medrep.models.linear.settings import LinearSettings
from medrep.models.shape.settings import ShapeSettings
from medrep.models.vae.settings import VaeSettings

if TYPE_CHECKING:
    from medrep.models.chart.model import GrowthChart
    from medrep.models.shape.model import AdditiveShape
    from medrep.models.vae.model import ConditionalVae

_KINDS = {
    "linear": ("medrep.models.linear.model", "LinearModel"),
    "conditional_vae": ("medrep.models.vae.model", "ConditionalVae"),
    "additive_shape": ("medrep.models.shape.model", "AdditiveShape"),
    "growth_chart": ("medrep.models.chart.model", "GrowthChart"),
}


class _Kinds(Mapping[str, type[Model]]):
    """Kinds of models; reading one imports it."""

    def __getitem__(self, kind: str) -> type[Model]:
        module, name = _KINDS[kind]
        found: type[Model] = getattr(import_module(module), name)
        return found

    def __contains__(self, kind: object) -> bool:
        return kind in _KINDS

    def __iter__(self) -> Iterator[str]:
        return iter(_KINDS)

    def __len__(self) -> int:
        return len(_KINDS)


MODELS: Mapping[str, type[Model]] = _Kinds()

__all__ = [
    "MODELS",
    "Adaptation",
    "AdditiveShape",
    "ChartSettings",
    "ConditionalVae",
    "FitContext",
    "GrowthChart",
    "LinearModel",
    "LinearSettings",
    "Model",
    "Scores",
    "ShapeSettings",
    "VaeSettings",
    "restore_model",
]


def __getattr__(name: str) -> Any:
    for module, known in _KINDS.values():
        if name == known:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
