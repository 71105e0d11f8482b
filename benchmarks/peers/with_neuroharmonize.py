"""Adapter for neuroHarmonize 2.5: a table with SITE and numeric covariates, whose column order must never change."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pandas as pd
from neuroHarmonize import harmonizationApply, harmonizationLearn

VERSION = f"neuroHarmonize {version('neuroHarmonize')}"


class Peer:
    """harmonizationLearn on one set of people, harmonizationApply to another; age and sex are kept.

    Args:
        age_bounds: Boundary knots of the age spline, years. The linear model has none and ignores them.
        smooth_terms: Covariates that get a penalised spline: [] or ["AGE"].
    """

    def __init__(self, age_bounds: tuple[float, float], smooth_terms: list[str]) -> None:
        self._smooth_terms = smooth_terms
        self._bounds = age_bounds

    def fit(self, features: np.ndarray, table: pd.DataFrame) -> None:
        """Estimate site effects from people x features and their age, sex and site."""
        self._model, _ = harmonizationLearn(
            features,
            _covariates(table),
            smooth_terms=self._smooth_terms,
            smooth_term_bounds=self._bounds,
            seed=0,  # the folds that choose each spline's penalty are drawn at random
        )

    def apply(self, features: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return new people's features without the estimated site effects."""
        return harmonizationApply(features, _covariates(table), self._model)


def _covariates(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"SITE": table["site"], "AGE": table["age"], "SEX": (table["sex"] == "M").astype(float)})
