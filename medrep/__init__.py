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
- ``console``, ``metrics``, ``config``, ``commands``, ``cli``: what a person sees, YAML, one file a command, the command line.

The names below are loaded when first used, so that ``medrep --help`` stays quick.
"""

from importlib import import_module
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
    "read_cohort": "medrep.cohort.cohort",
    "read_config": "medrep.config",
    "read_covariates": "medrep.cohort.columns",
    "ShapeSettings": "medrep.models",
    "VaeSettings": "medrep.models",
    "split_people": "medrep.cohort.splits",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'medrep' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")


def __dir__() -> list[str]:
    return sorted(__all__)
