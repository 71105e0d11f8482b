"""medrep: separate who a person is from what age, sex, diagnosis, scanner and site do to anybody's image.

The layers, in reading order, each importing only from those before it:

- ``masking``, ``errors``, ``extras``, ``atomic``, ``log_lines``, ``json_texts``, ``sections``, ``yaml_texts``, ``shipped``: what
  may be shown; what can go wrong; what not every installation has; how files and logs are written; JSON and YAML that others
  wrote, the latter word for word; keys and values as dataclasses; where shipped configurations are.
- ``cohort``: table and files -> checked people, covariates and matrices.
- ``simulate``: cohorts with known effects. ``losses``; ``moments``, ``erasure``: what is minimised; closed-form guards.
- ``nn``: networks. ``training``: the loop, its state, and model folders.
- ``models``: each model's file has its model sheet as docstring.
- ``audit``, ``export``, ``estimators``: what is left to read in the data; what is written; models inside scikit-learn.
- ``batch``, ``tracking``: going through large cohorts, whatever dies; runs and models in MLflow.
- ``exhibits``, ``report``: what a report shows and no table holds; the page, built from files alone.
- ``metrics``, ``config``, ``workflows``, ``cli``: what a monitor sees; YAML; the verbs, a file each, without a console; the
  command line, which parses what is typed and shows what is found.

The names below are loaded when first used, so that ``medrep --help`` stays quick.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
    "AdditiveShape": "medrep.models",
    "Columns": "medrep.cohort.grid",
    "ConditionalVae": "medrep.models",
    "Covariate": "medrep.cohort.covariates",
    "CovariateRemover": "medrep.estimators",
    "CovariateSchema": "medrep.cohort.covariates",
    "Dataset": "medrep.cohort.dataset",
    "EstimatorError": "medrep.errors",
    "Grid": "medrep.cohort.grid",
    "INPUTS": "medrep.cohort.kinds",
    "LinearModel": "medrep.models",
    "LinearSettings": "medrep.models",
    "MedrepError": "medrep.errors",
    "SavedModel": "medrep.models.saved",
    "ShapeSettings": "medrep.models",
    "VaeSettings": "medrep.models",
    "audit": "medrep.workflows.datasets",
    "export": "medrep.workflows.datasets",
    "load": "medrep.workflows.datasets",
    "read_cohort": "medrep.workflows.datasets",
    "read_config": "medrep.config",
    "read_covariates": "medrep.cohort.columns",
    "score": "medrep.workflows.datasets",
    "split_people": "medrep.cohort.splits",
    "train": "medrep.workflows.datasets",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'medrep' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")


class Verb(ModuleType):
    """A folder of this package that is named like a verb: ``medrep.audit`` holds files, and ``mr.audit(...)`` audits."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Do what the verb of this name does."""
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(_PUBLIC[name]), name)(*arguments, **options)


def __dir__() -> list[str]:
    return sorted(__all__)
