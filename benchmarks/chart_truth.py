"""Generated people whose distribution is known: location, spread and shape depend on age, sites differ and are confounded.

A feature is ``location + spread x s`` with ``s = (sinh((arcsinh(e) + skew) / tail) - its mean) / its deviation`` of a normal
``e`` (Jones and Pewsey 2009). Location is a smooth curve of age, a step of sex and an offset of site; the spread doubles from the
youngest to the oldest in even features and halves in odd ones, and each site has its factor; skew and tail change slightly with
age. Sites have ages of their own: their correlation ratio with age is CONFOUNDING.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import kv
from scipy.stats import norm

CONFOUNDING = 0.8
SITES, FEATURES = 8, 6
YOUNGEST, OLDEST = 20.0, 80.0
LEVEL = 10.0
GRID = np.linspace(YOUNGEST, OLDEST, 61)


@dataclass(frozen=True)
class Shapes:
    """Parameters of people x features: everything that a distribution needs."""

    location: np.ndarray
    spread: np.ndarray
    skew: np.ndarray
    tail: np.ndarray

    def quantile(self, e: np.ndarray) -> np.ndarray:
        """Return values at normal deviates, which are people x features or whatever stands in their place."""
        mean, sd = self._moments()
        return self.location + self.spread * (np.sinh((np.arcsinh(e) + self.skew) / self.tail) - mean) / sd

    def z(self, values: np.ndarray) -> np.ndarray:
        """Return the normal deviates of values: the truth's z."""
        return np.sinh(self.tail * np.arcsinh(self._inner(values)) - self.skew)

    def log_density(self, values: np.ndarray) -> np.ndarray:
        """Return the natural logarithm of the density at values."""
        inner, z = self._inner(values), self.z(values)
        slope = self.tail * np.sqrt((1 + z**2) / (1 + inner**2)) * self._moments()[1] / self.spread
        return norm.logpdf(z) + np.log(slope)

    def _inner(self, values: np.ndarray) -> np.ndarray:
        mean, sd = self._moments()
        return (values - self.location) / self.spread * sd + mean

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        # Jones and Pewsey 2009, section 2.3
        mean = np.sinh(self.skew / self.tail) * _bessel(1 / self.tail)
        second = (np.cosh(2 * self.skew / self.tail) * _bessel(2 / self.tail) - 1) / 2
        return mean, np.sqrt(second - mean**2)


class ChartTruth:
    """A population of SITES sites, drawn once for each seed.

    Args:
        seed: Of curves, sites and shapes.
        ages: Years between which people are.
        new_sites: Sites beside the SITES, of people of any age; in no way confounded.
        features: Columns.
    """

    def __init__(
        self,
        seed: int,
        ages: tuple[float, float] = (YOUNGEST, OLDEST),
        new_sites: tuple[str, ...] = (),
        features: int = FEATURES,
    ) -> None:
        rng = np.random.default_rng([seed, 24])
        self.ages, self.features = ages, features
        self.sites = tuple(f"S{k}" for k in range(SITES))
        self.names = self.sites + new_sites
        self._curve = rng.normal(0, [[0.8], [0.25], [0.3]], (3, features))
        self._sex = rng.normal(0, 0.5, features)
        self._offsets = rng.normal(0, 0.5, (len(self.names), features))
        self._factors = np.exp(rng.normal(0, 0.15, (len(self.names), features)))
        self._skew = rng.uniform(0.1, 0.5, features) * rng.choice([-1, 1], features)
        self._tail = rng.uniform(0.65, 1.0, features)
        self._centres = np.linspace(ages[0] + 0.13 * (ages[1] - ages[0]), ages[1] - 0.13 * (ages[1] - ages[0]), SITES)
        self._width = self._centres.std() * np.sqrt(1 / CONFOUNDING**2 - 1)

    @property
    def directions(self) -> np.ndarray:
        """1 for each feature whose spread grows with age, -1 where it shrinks."""
        return np.where(np.arange(self.features) % 2 == 0, 1.0, -1.0)

    def people(self, n: int, rng: np.random.Generator) -> pd.DataFrame:
        """Draw people of the confounded sites: age, sex and site."""
        site = rng.integers(0, SITES, n)
        age = rng.normal(self._centres[site], self._width)
        while (out := (age < self.ages[0]) | (age > self.ages[1])).any():
            age[out] = rng.normal(self._centres[site[out]], self._width)
        return _table(age, rng, np.array(self.sites)[site])

    def people_of(self, site: str, n: int, ages: tuple[float, float], rng: np.random.Generator) -> pd.DataFrame:
        """Draw people of one site, of even ages; half of them women."""
        table = _table(rng.uniform(*ages, n), rng, np.full(n, site))
        return table.assign(sex=rng.permutation(np.where(np.arange(n) % 2 == 0, "F", "M")))

    def shapes(self, table: pd.DataFrame) -> Shapes:
        """Return everybody's distribution."""
        age = table["age"].to_numpy(dtype=float)[:, None]
        t, share = (age - 50) / 15, (age - YOUNGEST) / (OLDEST - YOUNGEST)
        site = pd.Index(self.names).get_indexer(table["site"])
        male = (table["sex"] == "M").to_numpy(dtype=float)[:, None]
        curve = t * self._curve[0] + t**2 / 2 * self._curve[1] + np.sin(1.5 * t) * self._curve[2]
        bend = np.log(2) * (share - 0.5 + 0.1 * np.sin(2 * np.pi * share))
        return Shapes(
            LEVEL + curve + male * self._sex + self._offsets[site],
            np.exp(bend * self.directions) * self._factors[site],
            self._skew * (1 + 0.3 * (share - 0.5)),
            self._tail * (1 - 0.1 * (share - 0.5)),
        )

    def values(self, table: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """Draw features of people, people x features."""
        return self.shapes(table).quantile(rng.standard_normal((len(table), self.features)))


def correlation_ratio(table: pd.DataFrame) -> float:
    """Deviation of the sites' mean ages over that of the ages."""
    means = table.groupby("site")["age"].transform("mean")
    return float(means.std(ddof=0) / table["age"].std(ddof=0))


def _table(age: np.ndarray, rng: np.random.Generator, site: np.ndarray) -> pd.DataFrame:
    ids = pd.Index([f"sub-{k:06d}" for k in range(len(age))], name="participant_id")
    return pd.DataFrame({"age": age, "sex": rng.choice(["F", "M"], len(age)), "site": site}, index=ids)


def _bessel(p: np.ndarray) -> np.ndarray:
    value: np.ndarray = np.exp(0.25) / np.sqrt(8 * np.pi) * (kv((p + 1) / 2, 0.25) + kv((p - 1) / 2, 0.25))
    return value
