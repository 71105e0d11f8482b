"""Small cohorts with covariates of three kinds and effects that the tests know."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import LinearModel, LinearSettings, Model
from medrep.simulate import simulate_features, simulate_participants
from medrep.simulate.features import SimulatedFeatures

AGE = Covariate("age", "continuous", unit="year")
SEX = Covariate("sex", "categorical")
SITE = Covariate("site", "categorical", "batch")
DIAGNOSIS = Covariate("diagnosis", "categorical")
DECLARED = (AGE, SEX, SITE)

SETTINGS = {
    "default": LinearSettings(),
    "covariance": LinearSettings(covariance=True, components=4),
    "line": LinearSettings(spline_degrees=1, interactions=(("age", "sex"),)),
    "location": LinearSettings(scale=False),
    "gain": LinearSettings(gain="yes"),
}


@dataclass(frozen=True)
class Case:
    """People, their data, and how to fit them."""

    frame: pd.DataFrame
    data: np.ndarray
    settings: LinearSettings = SETTINGS["default"]
    declared: tuple[Covariate, ...] = DECLARED

    @property
    def schema(self) -> CovariateSchema:
        return CovariateSchema.fit(self.frame, self.declared)

    def fit(self) -> LinearModel:
        return fit(self.frame, self.data, self.settings, self.declared)


def fit(
    frame: pd.DataFrame,
    data: np.ndarray,
    settings: LinearSettings = SETTINGS["default"],
    declared: tuple[Covariate, ...] = DECLARED,
) -> LinearModel:
    schema = CovariateSchema.fit(frame, declared)
    model, _ = LinearModel.fit(people_of(data, schema.transfer(frame), schema), settings)
    return model


def people_of(
    data: np.ndarray, frame: pd.DataFrame, schema: CovariateSchema, participants: list[str] | None = None
) -> Dataset:
    """Hold features and covariates of people together."""
    return Dataset(data, frame, schema, named(data.shape[1]), participants)


def moved_by(model: Model, data: np.ndarray, frame: pd.DataFrame, target: Mapping[str, str | float]) -> np.ndarray:
    """Return data with covariates moved, by a model that is needed for nothing else."""
    return model.remove(model.dataset(data, frame), target)


def unlabelled(model: Model, data: np.ndarray) -> Dataset:
    """Return people none of whose covariates is known."""
    return model.dataset(data, pd.DataFrame(index=range(len(data))))


def named(count: int) -> Columns:
    return Columns(tuple(f"region_{k}" for k in range(count)), count, None)


def draw_people(n: int, sites: int, seed: int) -> pd.DataFrame:
    """Draw age, sex and site; every site has people of both sexes, and older people at later sites."""
    rng = np.random.default_rng(seed)
    site = np.arange(n) % sites
    age = rng.uniform(20, 80, n) + 3 * site
    sex = np.where((np.arange(n) // sites) % 2 == 0, "F", "M")
    keys = pd.Index([f"sub-{k:04d}" for k in rng.permutation(n)], name="participant_id")
    return pd.DataFrame({"age": age, "sex": sex.tolist(), "site": [f"S{k}" for k in site]}, index=keys)


def draw_data(frame: pd.DataFrame, columns: int, seed: int) -> np.ndarray:
    """Draw columns with an age curve, a sex difference, and a location and a scale of each site."""
    rng = np.random.default_rng([seed, 1])
    levels, site = np.unique(frame["site"].astype(str), return_inverse=True)
    decades = (frame["age"].to_numpy(float)[:, None] - 50) / 10
    male = (frame["sex"] == "M").to_numpy()[:, None]
    mean = 10 + decades * rng.normal(0, 0.3, columns) + decades**2 * rng.normal(0, 0.05, columns)
    mean = mean + male * rng.normal(0, 0.5, columns)
    location, scale = rng.normal(0, 1, (len(levels), columns)), np.exp(rng.normal(0, 0.3, (len(levels), columns)))
    return mean + location[site] + scale[site] * rng.normal(0, 1, (len(frame), columns))


@st.composite
def cases(draw: st.DrawFn, settings: tuple[str, ...] = tuple(SETTINGS)) -> Case:
    """Draw a cohort of 40 to 90 people with age, sex and 2 to 4 sites, 1 to 12 columns, and settings."""
    seed = draw(st.integers(0, 2**20))
    frame = draw_people(draw(st.integers(40, 90)), draw(st.integers(2, 4)), seed)
    return Case(frame, draw_data(frame, draw(st.integers(1, 12)), seed), SETTINGS[draw(st.sampled_from(settings))])


def simulate(n: int, seed: int, columns: int = 40) -> tuple[pd.DataFrame, SimulatedFeatures]:
    """Return covariates by participant and the features simulated for them, with the truth."""
    made = simulate_features(simulate_participants(n, seed=seed), n_features=columns, seed=seed)
    return made.participants.set_index("participant_id"), made
