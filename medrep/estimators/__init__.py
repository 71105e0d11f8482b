"""Estimators that work inside scikit-learn: pipelines, cross-validation, cloning, metadata routing."""

from medrep.estimators.remover import CovariateRemover

__all__ = ["CovariateRemover"]
