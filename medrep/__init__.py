"""medrep: separate who a person is from what age, sex, diagnosis, scanner and site do to anybody's image.

The layers, in reading order, each importing only from those before it:

- ``errors``, ``_texts``, ``_files``, ``_persisted``, ``_structuring``, ``monitoring``: errors and what may be shown; JSON and
  YAML that others wrote; files written whole; dataclasses as JSON and arrays, and back; log lines and metrics.
- ``cohort``: tables and files -> checked participants, covariates and datasets; ``cohort.kinds``: what an input can be.
- ``moments``, ``erasure``: closed-form algebra of latents and covariates. ``simulate``: cohorts with known effects.
- ``training``: the loop that trains a network. ``models``: each model's file has its model sheet as docstring.
- ``audit``, ``derivatives``, ``estimators``: what is left to read in the data; what is written; models inside scikit-learn.
- ``batch``, ``tracking``: jobs over large cohorts, whatever dies; runs and models in MLflow.
- ``report``: the page, built from files alone, and the data that it shows beside tables.
- ``config``, ``workflows``, ``cli``: YAML; the verbs, a file each, without a console; the command line, which parses what is
  typed and shows what is found.

The names below are loaded when first used, so that ``medrep --help`` stays quick.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
    "AdditiveShape": "medrep.models",
    "Chart": "medrep.estimators",
    "ChartSettings": "medrep.models",
    "CohortFiles": "medrep.cohort.files",
    "Columns": "medrep.cohort.grid",
    "ConditionalVae": "medrep.models",
    "Covariate": "medrep.cohort.covariates",
    "CovariateRemover": "medrep.estimators",
    "CovariateSchema": "medrep.cohort.covariates",
    "Dataset": "medrep.cohort.dataset",
    "EstimatorError": "medrep.errors",
    "Grid": "medrep.cohort.grid",
    "GrowthChart": "medrep.models",
    "INPUTS": "medrep.cohort.kinds",
    "LinearModel": "medrep.models",
    "LinearSettings": "medrep.models",
    "MedrepError": "medrep.errors",
    "SavedModel": "medrep.models.saved",
    "ShapeSettings": "medrep.models",
    "VaeSettings": "medrep.models",
    "audit": "medrep.workflows.datasets",
    "compare": "medrep.workflows.datasets",
    "export": "medrep.workflows.datasets",
    "forecast": "medrep.workflows.datasets",
    "load": "medrep.workflows.datasets",
    "read_cohort": "medrep.workflows.datasets",
    "read_config": "medrep.config",
    "read_covariates": "medrep.cohort.columns",
    "score": "medrep.workflows.datasets",
    "split_participants": "medrep.cohort.splits",
    "train": "medrep.workflows.datasets",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'medrep' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")


class Verb(ModuleType):
    """The folder ``medrep.audit``, which is named like a verb: it holds files, and ``mr.audit(...)`` audits."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Do what the verb of this name does."""
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(_PUBLIC[name]), name)(*arguments, **options)


def __dir__() -> list[str]:
    return sorted(__all__)
