"""Estimators that work inside scikit-learn: pipelines, cross-validation, cloning, metadata routing."""

from medrep.estimators.chart import Chart
from medrep.estimators.remover import CovariateRemover

__all__ = ["Chart", "CovariateRemover"]
