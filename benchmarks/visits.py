"""People who come again, beside visits taken for people, longitudinal ComBat and a mixed model a column by statsmodels.

200 people come one to three times, half of them change among four scanners; sites differ in location and scale, people in level
and slope, and age does more between people than within them. ``location``: error of what is taken for a site's location;
``slope``: error of the slope of people who changed; ``within``: variance within people over that without scanners, 1 at best.
Nested and crossed: eight sites, four people each, four scans each, all in one site, or the last two anywhere.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from benchmarks.peers.run import run_peer
from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.covariates import POOLED, Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import LinearModel, LinearSettings

NAME = "visits"
SEEDS, QUICK = range(700, 720), range(700, 702)
PEOPLE, COLUMNS, SITES = 200, 10, 4
NOISE = 0.32
DECLARED = (
    Covariate("age", "continuous"),
    Covariate("sex", "categorical"),
    Covariate("site", "categorical", role="batch"),
)
CONTENDERS = {"medrep": LinearSettings(), "visits as people": LinearSettings(visits="independent")}
PEERS = ("longcombat", "mixedlm")


class World:
    """Visits with known people and sites.

    Attributes:
        table: participant, age, sex and site of each visit.
        person: What each visit is without sites and noise.
        location: Of each site.
        noise: Of each visit, at the pooled scale.
        data: All together.
    """

    def __init__(self, seed: int, *, people: int = PEOPLE, columns: int = COLUMNS, visits: int | None = None) -> None:
        rng = np.random.default_rng(seed)
        rows = []
        for who in range(people):
            first, age, changes = int(rng.integers(SITES)), rng.uniform(20, 75), rng.random() < 0.5
            other = (first + int(rng.integers(1, SITES))) % SITES
            for visit in range(visits or int(rng.integers(1, 4))):
                site = other if changes and visit else first
                rows.append((f"p{who:04d}", age + 2 * visit + rng.normal(0, 0.3), "FM"[who % 2], site))
        table = pd.DataFrame(rows, columns=["participant", "age", "sex", "number"])
        self.table = table.assign(site=[f"S{number}" for number in table["number"]])
        who, site = pd.factorize(table["participant"])[0], table["number"].to_numpy()
        age = table["age"].to_numpy()[:, None]
        away = age - table.groupby("participant")["age"].transform("mean").to_numpy()[:, None]
        own = rng.normal(size=(people, columns))[who] + away * rng.normal(0, 0.04, (people, columns))[who]
        self.person = -0.02 * age - 0.02 * away + own
        self.location = rng.normal(0, 0.4, (SITES, columns))
        scale = np.exp(rng.normal(0, 0.2, (SITES, columns)))
        scale /= np.exp(np.log(scale).mean(axis=0))
        self.noise = rng.normal(0, NOISE, (len(table), columns))
        self.data = self.person + self.location[site] + scale[site] * self.noise

    @property
    def truth(self) -> np.ndarray:
        """What each visit would be on the pooled scanner."""
        return self.person + self.noise + self.location[self.table["number"]].mean(axis=0)


class Design(World):
    """Eight sites with four people each, of four scans, without age: all in one site, or the last two anywhere."""

    def __init__(self, seed: int, *, crossed: bool, columns: int = COLUMNS) -> None:
        rng = np.random.default_rng(seed)
        rows = []
        for who in range(32):
            home = who // 4
            for scan in range(4):
                number = int(rng.integers(8)) if crossed and scan > 1 else home
                rows.append((f"p{who:02d}", 50.0, "F", number))
        table = pd.DataFrame(rows, columns=["participant", "age", "sex", "number"])
        self.table = table.assign(site=[f"S{number}" for number in table["number"]])
        self.location = rng.normal(0, 0.465, (8, columns))
        own = rng.normal(0, 0.8**0.5, (32, columns))[pd.factorize(table["participant"])[0]]
        self.person, self.noise = own, rng.normal(0, 0.2**0.5, (len(table), columns))
        self.data = own + self.location[table["number"]] + self.noise


def dataset(world: World) -> Dataset:
    """Return the visits as medrep takes them."""
    declared = [one for one in DECLARED if world.table[one.name].nunique() > 1]
    frame = world.table[[one.name for one in declared]]
    frame = frame.set_axis(pd.Index([f"v{k}" for k in range(len(frame))], name="key"))
    schema = CovariateSchema.fit(frame, declared)
    width = world.data.shape[1]
    columns = Columns(tuple(f"x{k}" for k in range(width)), width, None)
    return Dataset(world.data, schema.transfer(frame), schema, columns, tuple(world.table["participant"]))


def harmonised(world: World) -> dict[str, np.ndarray]:
    """Return what each contender makes of the visits, all moved to the pooled scanner."""
    visits = dataset(world)
    found = {"nothing": world.data}
    for name, settings in CONTENDERS.items():
        found[name] = LinearModel.fit(visits, settings)[0].remove(visits, {"site": POOLED})
    for name in PEERS:
        found[name] = run_peer(name, world.data, world.table, world.data, world.table).output
    return found


def measure(seed: int) -> dict[str, float]:
    """Measure everybody on the visits of one seed."""
    world, figures = World(seed), dict[str, float]()
    truth, who = world.truth, world.table["participant"].to_numpy()
    changed = world.table.groupby("participant")["site"].transform("nunique").to_numpy() > 1
    for name, values in harmonised(world).items():
        figures[f"{name}: location"] = _location_error(world, values)
        figures[f"{name}: slope"] = float(
            np.abs(_slopes(world, values, changed) - _slopes(world, truth, changed)).mean()
        )
        figures[f"{name}: within"] = _within(values, who) / _within(truth, who)
        figures[f"{name}: error"] = float(np.abs(values - truth).mean())
    for design in ("nested", "crossed"):
        own = Design(seed, crossed=design == "crossed")
        for name, values in harmonised(own).items():
            figures[f"{name}: {design}"] = _location_error(own, values)
    return figures


def _location_error(world: World, values: np.ndarray) -> float:
    """Return the mean error of the locations that were taken out, sites counting by their visits."""
    number = world.table["number"].to_numpy()
    taken = pd.DataFrame(world.data - values).groupby(number).mean().to_numpy()
    counts = np.bincount(number)[:, None] / len(number)
    apart = (taken - (counts * taken).sum(axis=0)) - (world.location - (counts * world.location).sum(axis=0))
    return float(np.abs(apart).mean())


def _slopes(world: World, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    who = world.table.loc[chosen, "participant"].to_numpy()
    age = world.table.loc[chosen, "age"]
    away = (age - age.groupby(who).transform("mean")).to_numpy()[:, None]
    sums = pd.DataFrame(away * values[chosen]).groupby(who).sum().to_numpy()
    return sums / pd.Series(away[:, 0] ** 2).groupby(who).sum().to_numpy()[:, None]


def _within(values: np.ndarray, who: np.ndarray) -> float:
    table = pd.DataFrame(values)
    apart = (table - table.groupby(who).transform("mean")).to_numpy()
    return float((apart**2).sum() / ((len(table) - len(np.unique(who))) * values.shape[1]))


def cost() -> dict[str, float]:
    """Return seconds of 20 columns, and of 10,000 columns over those of visits taken for people, best of three."""
    small, large = dataset(World(1, columns=20)), dataset(World(1, columns=10_000, visits=3))

    def best(visits: Dataset, settings: LinearSettings) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            LinearModel.fit(visits, settings)
            times.append(time.perf_counter() - start)
        return min(times)

    ratio = best(large, CONTENDERS["medrep"]) / best(large, CONTENDERS["visits as people"])
    return {"20 columns, s": best(small, CONTENDERS["medrep"]), "10,000 columns, times": ratio}


def run(options: Options) -> Report:
    """Measure over seeds, and what a fit costs."""
    rows = []
    for seed in QUICK if options.quick else SEEDS:
        say(f"{NAME}: seed {seed}")
        rows += [{"seed": seed, "figure": figure, "value": value} for figure, value in measure(seed).items()]
    found = pd.DataFrame(rows)
    found[["contender", "figure"]] = found["figure"].str.rsplit(": ", n=1, expand=True)
    means = found.groupby(["contender", "figure"], sort=False)["value"].mean().unstack()
    times = cost()
    own, before, slow = means.loc["medrep"], means.loc["visits as people"], means.loc["mixedlm"]
    nothing = means.loc["nothing"]

    def line(asked: str, value: float, most: float) -> Line:
        return Line(NAME, asked, f"{value:.3f}", value <= most)

    lines = (
        line("location <= .6 of visits taken for people", own["location"] / before["location"], 0.6),
        line("location <= 1.05 of the mixed model's", own["location"] / slow["location"], 1.05),
        line("slope of people who changed <= .6", own["slope"] / before["slope"], 0.6),
        line("variance within people, off by <= .02", abs(own["within"] - 1), 0.02),
        line("nested <= .30", own["nested"], min(0.30, nothing["nested"])),
        line("crossed <= .11", own["crossed"], min(0.11, nothing["crossed"])),
        line("20 columns <= .5 s", times["20 columns, s"], 0.5),
        line("10,000 columns <= 3 times", times["10,000 columns, times"], 3.0),
    )
    order = ["location", "slope", "within", "error", "nested", "crossed"]
    table = Table(means[order].reset_index(), ("contender", *order), "People who come again")
    return Report(
        {NAME: table, f"{NAME}_seeds": Table(found, ("seed", "contender", "figure", "value"), "Seeds")}, lines
    )
