"""Adapter for combatlearn 2.3: batch and covariates are arguments of the constructor, rows are matched by index."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pandas as pd
from combatlearn import ComBat

VERSION = f"combatlearn {version('combatlearn')}"


class Peer:
    """ComBat that keeps age and sex, fitted on one set of people and applied to another.

    Args:
        age_bounds: Boundary knots of the age spline, years. The linear method has none and ignores them.
        method: combatlearn's name of the method: fortin, gam or covbat_gam.
    """

    def __init__(self, age_bounds: tuple[float, float], method: str) -> None:
        self._method = method
        self._bounds = age_bounds

    def fit(self, features: np.ndarray, table: pd.DataFrame) -> None:
        """Estimate site effects from people x features and their age, sex and site."""
        self._model = ComBat(**_covariates(table), method=self._method, smooth_term_bounds=self._bounds)
        self._model.fit(pd.DataFrame(features))

    def apply(self, features: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return new people's features without the estimated site effects."""
        self._model.set_params(**_covariates(table))
        return self._model.transform(pd.DataFrame(features)).to_numpy()


def _covariates(table: pd.DataFrame) -> dict[str, pd.DataFrame | pd.Series]:
    # transform() drops the first level it sees: without both levels stated, people of one sex only lose their sex term
    sex = pd.DataFrame({"sex": pd.Categorical(table["sex"], categories=["F", "M"])})
    return {"batch": table["site"], "discrete_covariates": sex, "continuous_covariates": table[["age"]]}
