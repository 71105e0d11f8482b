"""Bands of centile curves: how often 95 % intervals hold the true centile of a generated cohort.

People of 8 to 80 years, more of them young, at six sites with a location and a scale of their own; spread grows with age. A third
of the columns is normal, a third skewed and a third heavy-tailed. Curves of the pooled site are looked at at the 5th, 25th, 50th,
75th and 95th percentile of age, for both sexes. The truth of the pooled site is the mean of the sites: over people for location,
over sites for log scale.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtri

from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.covariates import POOLED, Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models.chart.model import GrowthChart
from medrep.models.chart.settings import ChartSettings

NAME = "centile_bands"
SEEDS = range(3000, 3100)
SITES, COLUMNS = 6, 12
PROBABILITIES = np.array([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])
SHAPES = {"normal": (0.0, 1.0), "skewed": (0.5, 1.0), "heavy tails": (0.0, 0.75)}
SETTINGS = ChartSettings(components=0, power="none")
DECLARED = (
    Covariate("age", "continuous"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", role="batch"),
)


class World:
    """A cohort of which each centile is known."""

    def __init__(self, seed: int, people: int) -> None:
        rng = np.random.default_rng(seed)
        age = 8 + 72 * rng.beta(1.2, 2.0, people)
        site = rng.choice(SITES, people, p=np.array([8, 6, 4, 3, 2, 1]) / 24)
        self.frame = pd.DataFrame(
            {"age": age, "sex": rng.choice(["F", "M"], people), "site": [f"S{k}" for k in site]},
            index=pd.Index([f"p{k}" for k in range(people)], name="key"),
        )
        self.kinds = np.resize(list(SHAPES), COLUMNS)
        self.level, self.slope, self.bend, self.sex, self.spread = (
            rng.normal(0, size, COLUMNS) for size in (1.0, 0.6, 0.5, 0.3, 0.25)
        )
        location, log_scale = rng.normal(0, 0.4, (SITES, COLUMNS)), rng.normal(0, 0.15, (SITES, COLUMNS))
        location -= location[site].mean(axis=0)
        log_scale -= log_scale.mean(axis=0)
        mean, log = self.truth(self.frame)
        z = rng.standard_normal((people, COLUMNS))
        self.data = mean + location[site] + np.exp(log + log_scale[site]) * self.residual(z)

    def truth(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and log scale of the pooled site."""
        x = (frame["age"].to_numpy()[:, None] - 30) / 30
        male = (frame["sex"] == "M").to_numpy()[:, None] - 0.5
        mean = self.level + self.slope * x + self.bend * np.cos(2 * x) + self.sex * male
        return mean, (0.15 + self.spread) * x + 0.1 * male

    def residual(self, z: np.ndarray) -> np.ndarray:
        """Return residuals of mean 0 and deviation 1."""
        grid = ndtri((np.arange(20000) + 0.5) / 20000)
        found = np.empty(np.broadcast_shapes(z.shape, (1, COLUMNS)))
        for k, kind in enumerate(self.kinds):
            skew, tail = SHAPES[str(kind)]
            whole, own = (np.sinh((np.arcsinh(one) + skew) / tail) for one in (grid, z[:, min(k, z.shape[1] - 1)]))
            found[:, k] = (own - whole.mean()) / whole.std()
        return found

    def centiles(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the true centiles of the pooled site."""
        mean, log = self.truth(frame)
        return np.stack([mean + np.exp(log) * self.residual(np.full((1, 1), z)) for z in ndtri(PROBABILITIES)])

    def dataset(self) -> Dataset:
        """Return the people."""
        names = tuple(f"c{k}" for k in range(COLUMNS))
        schema = CovariateSchema.fit(self.frame, DECLARED)
        return Dataset(self.data, self.frame, schema, Columns(names, COLUMNS, None))

    def places(self) -> pd.DataFrame:
        """Return the covariates that curves are looked at at."""
        ages = np.quantile(self.frame["age"], [0.05, 0.25, 0.5, 0.75, 0.95])
        return pd.DataFrame({"age": np.tile(ages, 2), "sex": np.repeat(["F", "M"], 5), "site": POOLED})


def measured(people: int, seeds: range) -> tuple[np.ndarray, np.ndarray]:
    """Return whether intervals held the truth, and their width, by cohort, probability, place and column."""
    held, width = [], []
    for seed in seeds:
        world = World(seed, people)
        model, _ = GrowthChart.fit(world.dataset(), SETTINGS, seed=seed)
        places = world.places()
        found, truth = model.curves(places, PROBABILITIES), world.centiles(places)
        held.append((found.low <= truth) & (truth <= found.high))
        width.append(found.high - found.low)
    return np.stack(held), np.stack(width)


def run(options: Options) -> Report:
    """Measure, at 300 and 1000 people."""
    seeds = SEEDS[:1] if options.quick else SEEDS
    rows, lines = [], []
    kinds = np.resize(list(SHAPES), COLUMNS)
    for people in (300, 1000):
        say(f"{NAME}: {people} people, {len(seeds)} cohorts")
        held, width = measured(people, seeds)
        for kind in SHAPES:
            own, wide = held[..., kinds == kind].mean(axis=(0, 2, 3)), width[..., kinds == kind].mean(axis=(0, 2, 3))
            rows += [(people, kind, *row) for row in zip(PROBABILITIES, own * 100, wide, strict=True)]
        whole = held.mean() * 100
        asked = f"{people} people: 95 % intervals hold the true centile, 92 to 98 %"
        lines.append(Line(NAME, asked, f"{whole:.1f} %", bool(92 <= whole <= 98)))
    shown = ("people", "columns", "probability", "held", "width")
    title = "Bands of centile curves: per cent that hold the truth, and mean width"
    return Report({NAME: Table(pd.DataFrame(rows, columns=list(shown)), shown, title)}, tuple(lines))
