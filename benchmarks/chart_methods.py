"""Growth charts as the benchmarks ask for them: in this process, or as a peer in an environment of its own.

A chart of ours is plugged in by one line in OWN: a class with the methods of `Chart`. Peers hand over z as their output and,
as extras, ``log_density`` (people x features, of what was observed) and ``quantiles`` (levels x people x features), in units of
the data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import pandas as pd
from scipy.stats import norm

from benchmarks.chart_scores import LEVELS
from benchmarks.peers.run import run_peer
from benchmarks.simple_charts import CombatGaussian, HomoscedasticGaussian, QuantileRegression
from medrep.cohort.dataset import Dataset
from medrep.models import ChartSettings, GrowthChart


class Chart(Protocol):
    """A chart in this process. Tables hold age (years), sex (F or M) and site; arrays are people x features."""

    def fit(self, train: np.ndarray, table: pd.DataFrame) -> None:
        """Fit on people and their covariates."""

    def adapt(self, people: np.ndarray, table: pd.DataFrame) -> Chart:
        """Return a chart for people of a site that was not in training, from some of its people.

        Raises:
            NotImplementedError: There is no such thing.
        """

    def z(self, test: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return z of people, the chart's uncertainty in it."""

    def log_density(self, test: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return the natural logarithm of the predictive density of what was observed."""

    def quantiles(self, table: pd.DataFrame, levels: np.ndarray) -> np.ndarray:
        """Return predictive quantiles, levels x people x features."""


@dataclass(frozen=True)
class Question:
    """One question to every method: fit on some people, say how unusual others are.

    Attributes:
        train: Features of the people to fit on, and of those of new sites to adapt to.
        train_table: Their age, sex and site.
        test: Features of people that nobody was fitted on.
        test_table: Their age, sex and site.
        adapt: Sites in training that are not fitted on but adapted to, each by itself.
        levels: Probabilities of the quantiles.
        sex: How peers that have the choice take sex: ``batch`` or ``covariate``.
    """

    train: np.ndarray
    train_table: pd.DataFrame
    test: np.ndarray
    test_table: pd.DataFrame
    adapt: tuple[str, ...] = ()
    levels: np.ndarray = field(default_factory=lambda: LEVELS)
    sex: str = "batch"


@dataclass(frozen=True)
class Answer:
    """What a method says of the test people.

    Attributes:
        z: People x features.
        log_density: People x features, natural logarithm, in units of the data.
        quantiles: Levels x people x features, in units of the data.
        seconds_fit: Wall time of fitting and adapting.
        seconds_apply: Wall time of z.
        version: Package and version.
        around: A chart's own curves one deviation below and above the median, 2 x people x features, without what it does not
            know of them; None where a method has only predictive quantiles.
    """

    z: np.ndarray
    log_density: np.ndarray
    quantiles: np.ndarray
    seconds_fit: float
    seconds_apply: float
    version: str = ""
    around: np.ndarray | None = None


Method = Callable[[Question], Answer]
AROUND = norm.cdf([-1.0, 1.0])
"""Probabilities one deviation below and above the median."""


def in_process(make: Callable[[], Chart], question: Question) -> Answer:
    """Ask a chart in this process."""
    new = question.train_table["site"].isin(question.adapt).to_numpy()
    start = time.perf_counter()
    chart = make()
    chart.fit(question.train[~new], question.train_table[~new])
    charts = {}
    for site in question.adapt:
        own = (question.train_table["site"] == site).to_numpy()
        charts[site] = chart.adapt(question.train[own], question.train_table[own])
    fitted = time.perf_counter()
    homes = question.test_table["site"].where(question.test_table["site"].isin(question.adapt), "").to_numpy()
    z, log_density = np.empty(question.test.shape), np.empty(question.test.shape)
    quantiles = np.empty((len(question.levels), *question.test.shape))
    around = np.full((2, *question.test.shape), np.nan)
    seconds = 0.0
    for home in np.unique(homes):
        rows, own_chart = homes == home, charts.get(home, chart)
        test, table = question.test[rows], question.test_table[rows]
        begun = time.perf_counter()
        z[rows] = own_chart.z(test, table)
        seconds += time.perf_counter() - begun
        log_density[rows] = own_chart.log_density(test, table)
        quantiles[:, rows] = own_chart.quantiles(table, question.levels)
        if isinstance(own_chart, Medrep):
            around[:, rows] = own_chart.curves(table, AROUND)
    known = None if np.isnan(around).all() else around
    return Answer(z, log_density, quantiles, fitted - start, seconds, around=known)


def peer(name: str, question: Question, **own: object) -> Answer:
    """Ask a peer in its own environment; ``draws=100, tune=100`` makes a quick hierarchical one."""
    if np.ptp(question.train, axis=0).min() == 0:
        raise ValueError("a chart needs features that vary in training")
    settings: dict[str, object] = {
        "levels": question.levels.tolist(),
        "adapt": question.adapt,
        "sex": question.sex,
    } | own
    arrays = (question.train, question.train_table, question.test, question.test_table)
    found = run_peer(name, *arrays, **settings)  # type: ignore[arg-type]  # settings are the adapter's
    extras = found.extras
    costs = (found.seconds_fit, found.seconds_apply, found.version)
    return Answer(found.output, extras["log_density"], extras["quantiles"], *costs)


class Medrep:
    """The growth chart of this package."""

    def __init__(self, **settings: object) -> None:
        self._settings = ChartSettings(**({"components": 0} | settings))  # type: ignore[arg-type]

    def fit(self, train: np.ndarray, table: pd.DataFrame) -> None:
        """Fit on people and their covariates."""
        self._model, _ = GrowthChart.fit(self._dataset(train, table, DECLARED), self._settings)

    def adapt(self, people: np.ndarray, table: pd.DataFrame) -> Chart:
        """Return the chart with the sites of these people."""
        other = Medrep()
        other._settings = self._settings
        other._model, _ = self._model.adapt([self._known(people, table)])
        return other

    def z(self, test: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return z of people, the chart's uncertainty in it."""
        return self._model.deviations(self._known(test, table)).compute(slice(0, test.shape[1]))

    def log_density(self, test: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return the natural logarithm of the predictive density of what was observed."""
        return self._model.log_density(self._known(test, table))

    def quantiles(self, table: pd.DataFrame, levels: np.ndarray) -> np.ndarray:
        """Return predictive quantiles, levels x people x features."""
        return self._model.centiles(self._frame(table), levels)

    def curves(self, table: pd.DataFrame, levels: np.ndarray) -> np.ndarray:
        """Return curves of centiles, levels x people x features."""
        return self._model.curves(self._frame(table), levels).value

    def _known(self, people: np.ndarray, table: pd.DataFrame) -> Dataset:
        return self._model.dataset(people, self._frame(table))

    def _frame(self, table: pd.DataFrame) -> pd.DataFrame:
        rows = table.set_axis(pd.Index([f"p{k}" for k in range(len(table))]), axis=0)
        return self._model.schema.transfer(rows, unseen="adapt")

    @staticmethod
    def _dataset(people: np.ndarray, table: pd.DataFrame, declared: dict[str, str]) -> Dataset:
        features = pd.DataFrame(people, columns=[f"x{k}" for k in range(people.shape[1])], index=table.index)
        return Dataset.from_frames(features, table, declared)


DECLARED = {"age": "continuous", "sex": "categorical", "site": "batch"}
OWN: dict[str, Callable[[], Chart]] = {
    "medrep": Medrep,
    "Gaussian, one scale": HomoscedasticGaussian,
    "ComBat + Gaussian": CombatGaussian,
    "quantile regression": QuantileRegression,
}
METHODS: dict[str, Method] = {name: partial(in_process, make) for name, make in OWN.items()}
METHODS |= {name: partial(peer, name) for name in ("pcntoolkit-blr", "pcntoolkit-hbr")}
AT_NEW_SITES = METHODS | {
    f"{name}, extended": partial(peer, name, later="extend", sex="batch")
    for name in ("pcntoolkit-blr", "pcntoolkit-hbr")
}
"""Methods beside what the toolkit calls extending; its transfer is asked with sex as a covariate, which suits few people."""
OURS = "medrep"
"""Whose figures the lines are about."""
SAMPLED = ("pcntoolkit-hbr", "pcntoolkit-hbr, extended")
"""Methods that take a minute a feature."""
