"""Adapter for combatlearn 2.3: batch and covariates are arguments of the constructor, rows are matched by index."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pandas as pd
from combatlearn import ComBat

VERSION = f"combatlearn {version('combatlearn')}"


class Peer:
    """ComBat that keeps age and sex as far as the table has them, fitted on some people and applied to others.

    Args:
        age_bounds: Boundary knots of the age spline, years. The linear method has none and ignores them.
        method: combatlearn's name of the method: fortin, gam or covbat_gam.
        reference: The site everybody is moved to; None for the pooled sites.
        seed: Ignored: nothing is drawn.
    """

    def __init__(
        self,
        age_bounds: tuple[float, float] | None,
        method: str,
        reference: str | None = None,
        seed: int = 0,  # noqa: ARG002
    ) -> None:
        self._settings = {"method": method, "smooth_term_bounds": age_bounds, "reference_batch": reference}

    def fit(self, features: np.ndarray, table: pd.DataFrame) -> None:
        """Estimate site effects from people x features and their age, sex and site."""
        self._model = ComBat(**_covariates(table), **self._settings)
        self._model.fit(pd.DataFrame(features))

    def apply(self, features: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return new people's features without the estimated site effects."""
        self._model.set_params(**_covariates(table))
        return self._model.transform(pd.DataFrame(features)).to_numpy()


def _covariates(table: pd.DataFrame) -> dict[str, pd.DataFrame | pd.Series]:
    covariates: dict[str, pd.DataFrame | pd.Series] = {"batch": table["site"]}
    if "sex" in table:
        # transform() drops the first level it sees: without both stated, people of one sex only lose their sex term
        sex = pd.DataFrame({"sex": pd.Categorical(table["sex"], categories=["F", "M"])})
        covariates["discrete_covariates"] = sex
    if "age" in table:
        covariates["continuous_covariates"] = table[["age"]]
    return covariates
