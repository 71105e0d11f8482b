"""Adapter for longcombat-py 0.1, and for a mixed model a column by statsmodels: both take the people they harmonise."""

from __future__ import annotations

import warnings
from importlib.metadata import version

import numpy as np
import pandas as pd
import statsmodels.api as sm
from longcombat import long_combat

VERSION = f"longcombat-py {version('longcombat-py')}, statsmodels {version('statsmodels')}"


class Peer:
    """Longitudinal ComBat, or site effects of a mixed model of each column; age and sex are kept.

    Args:
        age_bounds: Ignored: age is a straight line in both.
        method: ``longcombat``, with a random intercept, or ``mixedlm``, with an intercept and a slope for each participant.
        reference: Ignored: everybody is moved to the pooled sites.
        seed: Ignored: nothing is drawn.
    """

    def __init__(
        self,
        age_bounds: tuple[float, float] | None,  # noqa: ARG002
        method: str,
        reference: str | None = None,  # noqa: ARG002
        seed: int = 0,  # noqa: ARG002
    ) -> None:
        self._method = method
        self._extras: dict[str, np.ndarray] = {}

    def fit(self, features: np.ndarray, table: pd.DataFrame) -> None:
        """Do nothing: neither is applied to people it was not fitted on."""

    def apply(self, features: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return the people's features without the estimated site effects."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self._method == "longcombat":
                return _long_combat(features, table)
            cleaned, self._extras["slopes"] = _mixed(features, table)
            return cleaned

    def extras(self, features: np.ndarray, table: pd.DataFrame) -> dict[str, np.ndarray]:  # noqa: ARG002
        """Return what a mixed model expects of the slope a year of each visit's person, beside everybody's; 0 without slopes."""
        return self._extras


def _long_combat(features: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    names = [f"x{k}" for k in range(features.shape[1])]
    visit = table.groupby("participant").cumcount()
    data = pd.DataFrame(features, columns=names).assign(
        participant=table["participant"], site=table["site"], sex=table["sex"], age=table["age"], visit=visit
    )
    formula = " + ".join([name for name in ("age", "sex") if table[name].nunique() > 1])
    done = long_combat(
        data=data,
        batch_col="site",
        id_col="participant",
        time_col="visit",
        features=names,
        formula=formula or "1",
        ranef="(1|participant)",
    ).data_combat
    keys = ["participant", "visit"]
    done = done.set_index(keys).loc[pd.MultiIndex.from_frame(data[keys])]
    return done[
        [next(own for own in done if own in (name, f"{name}.combat", f"{name}_combat")) for name in names]
    ].to_numpy()


def _mixed(features: np.ndarray, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return features without site effects, and slopes of each visit's person."""
    age = table["age"].to_numpy(float)
    away = age - table.groupby("participant")["age"].transform("mean").to_numpy()
    member = pd.get_dummies(table["site"]).to_numpy(float)
    sites = member[:, 1:] - member[:, 1:].mean(axis=0)
    fixed = [np.ones(len(table))]
    random = [np.ones(len(table))]
    if np.ptp(age) > 0:
        fixed += [age - age.mean()]
    if table["sex"].nunique() > 1:
        fixed += [(table["sex"] == "M").to_numpy(float)]
    if np.ptp(away) > 0:
        fixed += [away]
        random += [away / away.std()] if table.groupby("participant").size().max() > 2 else []
    design = np.column_stack([*fixed, sites])
    cleaned, slopes = np.empty(features.shape), np.zeros(features.shape)
    for k, column in enumerate(features.T):
        model = sm.MixedLM(column, design, groups=table["participant"], exog_re=np.column_stack(random))
        try:
            fit = model.fit(reml=True, method=["lbfgs", "powell"])
            effects = fit.fe_params[-sites.shape[1] :]
        except np.linalg.LinAlgError:  # a covariance on the border of what can be
            effects = sm.OLS(column, design).fit().params[-sites.shape[1] :]
        else:
            slopes[:, k] = _own_slopes(fit, table) / away.std() if len(random) > 1 else 0.0
        cleaned[:, k] = column - sites @ effects
    return cleaned, slopes


def _own_slopes(fit: sm.regression.mixed_linear_model.MixedLMResults, table: pd.DataFrame) -> np.ndarray:
    try:
        own = {who: effects.iloc[-1] for who, effects in fit.random_effects.items()}
    except ValueError:  # nothing is expected of people where their covariance is singular
        return np.zeros(len(table))
    return table["participant"].map(own).to_numpy(float)
