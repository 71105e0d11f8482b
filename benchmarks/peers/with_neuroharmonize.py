"""Adapter for neuroHarmonize 2.5: a table with SITE and numeric covariates, whose column order must never change."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pandas as pd
from neuroHarmonize import harmonizationApply, harmonizationLearn

VERSION = f"neuroHarmonize {version('neuroHarmonize')}"


class Peer:
    """harmonizationLearn on some people, harmonizationApply to others; age and sex are kept as far as the table has them.

    Args:
        age_bounds: Boundary knots of the age spline, years. The linear model has none and ignores them.
        smooth_terms: Covariates that get a penalised spline: [] or ["AGE"].
        reference: The site everybody is moved to; None for the pooled sites.
        seed: Of the folds that choose each spline's penalty.
    """

    def __init__(
        self,
        age_bounds: tuple[float, float] | None,
        smooth_terms: list[str],
        reference: str | None = None,
        seed: int = 0,
    ) -> None:
        self._settings = {
            "smooth_terms": smooth_terms,
            "smooth_term_bounds": age_bounds,
            "ref_batch": reference,
            "seed": seed,
        }

    def fit(self, features: np.ndarray, table: pd.DataFrame) -> None:
        """Estimate site effects from people x features and their age, sex and site."""
        self._model, _ = harmonizationLearn(features, _covariates(table), **self._settings)

    def apply(self, features: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return new people's features without the estimated site effects."""
        return harmonizationApply(features, _covariates(table), self._model)


def _covariates(table: pd.DataFrame) -> pd.DataFrame:
    covariates = pd.DataFrame({"SITE": table["site"]})
    if "age" in table:
        covariates["AGE"] = table["age"]
    if "sex" in table:
        covariates["SEX"] = (table["sex"] == "M").astype(float)
    return covariates
