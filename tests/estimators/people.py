"""Generated people for the tests of estimators."""

from dataclasses import dataclass

import pandas as pd

from medrep.simulate import simulate_features, simulate_participants

DECLARED = {"age": {"kind": "continuous", "unit": "year"}, "sex": "categorical", "site": "batch"}
SMALL_VAE = {"body": "linear", "latents": 6}


@dataclass(frozen=True)
class People:
    """Features and covariates of the same people, apart and side by side; index: participant_id."""

    features: pd.DataFrame
    covariates: pd.DataFrame

    @property
    def both(self) -> pd.DataFrame:
        """Covariates first, so that positions of features and of columns differ."""
        return pd.concat([self.covariates, self.features], axis=1)

    @property
    def sex(self) -> pd.Series:
        return self.covariates["sex"]


def draw(n: int = 160, *, n_features: int = 10, n_sites: int = 3, seed: int = 1) -> People:
    table = simulate_participants(n, n_sites=n_sites, seed=seed)
    simulated = simulate_features(table, n_features=n_features, seed=seed)
    covariates = table.set_index("participant_id")[list(DECLARED)]
    return People(simulated.features, covariates)
