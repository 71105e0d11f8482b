"""Forecasts of images: the linear model and the conditional VAE, on planted volumes, beside the last scan and population drift.

People with one to three visits two years apart, half of them switching among three scanners, train each model. A volume is a mean
image, an effect of age, what the person is and how the person changes (fields of a few smooth shapes, so that neighbouring
voxels change together), fine detail of the person, a scanner's shading and gain, and noise. People whom training never saw are
forecast two years on from one and from two earlier visits.

`coverage_95`, `coverage_50`: share of voxels that came that lie inside. Errors are root mean squares over people and voxels: of
the forecast; of the last scan carried forward (`last`); of that moved as the population is (`population`: by what the fitted
linear model says age does). `moved`: the last scan moved along the person's own trajectory (`follow`), which keeps all of
its detail, noise too. `latents`: the VAE whose latents alone have people's own slopes.

Tables: the people of ``forecast`` (200, 20 columns), whose columns change each by itself, or in four shapes as well.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from benchmarks import forecast
from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid
from medrep.models import ConditionalVae, LinearModel, LinearSettings, VaeSettings
from medrep.models.base import Model
from medrep.training.schedule import Schedule

NAME = "image_forecast"
SEEDS, TABLES, FIRST = 3, 20, 100
PEOPLE, NEW, SITES, STEP = 90, 40, 3, 2.0
SHAPE, EDGE = (12, 16, 12), 8.0
SHAPES, LEVEL, SLOPE, DETAIL, NOISE = 6, 2.0, 0.5, 1.0, 1.0
DECLARED = (Covariate("age", "continuous"), Covariate("sex", "categorical"), Covariate("site", "categorical", "batch"))
TRAINING = Schedule(epochs=30, batch=32, learning_rate=1e-3, threads=1)
BODIES = {
    "closed form": VaeSettings(body="linear", latents=12, scanner="no"),
    "network": VaeSettings(body="conv", latents=12, hidden=(4, 8, 8), scanner="no", strength=1.0, training=TRAINING),
}


def smooth(rng: np.random.Generator, count: int, width: float) -> np.ndarray:
    """Draw smooth fields of unit root mean square."""
    fields = np.stack([gaussian_filter(rng.normal(size=SHAPE), width, mode="nearest") for _ in range(count)])
    found: np.ndarray = (fields / np.sqrt((fields**2).mean(axis=(1, 2, 3), keepdims=True))).reshape(count, -1)
    return found


class World:
    """Scanners and shapes of one seed, and people who visit them."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng([seed, 23])
        self.mean = 20 + 3 * smooth(rng, 1, 2)
        self.age = -0.05 * (1 + 0.5 * smooth(rng, 1, 2))
        self.shapes = smooth(rng, SHAPES, 1.5)
        self.shading = smooth(rng, SITES, 2.5)
        self.gain = np.exp(rng.normal(0, 0.05, SITES))

    def people(self, counts: np.ndarray, *, further: bool = False) -> tuple[pd.DataFrame, np.ndarray]:
        """Draw people with so many visits each; `further`: one more, at the last scanner."""
        rng, rows = self.rng, []
        for who, count in enumerate(counts.tolist()):
            site, switches = int(rng.integers(SITES)), rng.random() < 0.5
            ages = rng.uniform(20, 66) + STEP * np.arange(count + further) + rng.normal(0, 0.3, count + further)
            places = [(site + switches * (k > 0)) % SITES for k in range(count)]
            places += places[-1:] * further
            rows += [
                (who, age, "MF"[who % 2], place, k >= count)
                for k, (age, place) in enumerate(zip(ages, places, strict=True))
            ]
        frame = pd.DataFrame(rows, columns=["who", "age", "sex", "place", "new"])
        who, place, age = frame["who"].to_numpy(), frame["place"].to_numpy(), frame["age"].to_numpy()[:, None]
        centre = frame.groupby("who")["age"].mean().to_numpy()[who, None]
        own = rng.normal(0, LEVEL**0.5, (len(counts), SHAPES))[who]
        own += (age - centre) * rng.normal(0, SLOPE, (len(counts), SHAPES))[who]
        values = self.mean + age * self.age + (age - centre) * self.age + own @ self.shapes / SHAPES**0.5
        values += rng.normal(0, DETAIL, (len(counts), values.shape[1]))[who]
        values += NOISE * rng.normal(0, 1, values.shape)
        values = self.gain[place, None] * values + self.shading[place]
        frame["site"] = [f"S{k}" for k in place]
        frame = frame.set_index(pd.Index([f"v{k}" for k in range(len(frame))], name="key"))
        return frame, values.astype(np.float32)


def fitted(frame: pd.DataFrame, values: np.ndarray) -> tuple[LinearModel, dict[str, Model]]:
    """Train the linear model and every VAE on the same visits."""
    schema = CovariateSchema.fit(frame, DECLARED)
    columns = Columns((), values.shape[1], Grid(SHAPE, (EDGE,) * 3))
    dataset = Dataset(values, schema.transfer(frame), schema, columns, [f"p{who}" for who in frame["who"]])
    linear, _ = LinearModel.fit(dataset, LinearSettings(components=0))
    return linear, {name: ConditionalVae.fit(dataset, settings, seed=0)[0] for name, settings in BODIES.items()}


def only_latents(model: Model) -> Model:
    """Return a VAE in which what the decoder leaves has no slopes of people."""
    if not isinstance(model, ConditionalVae) or model.parts.trajectories is None:
        return model
    own = model.parts.trajectories
    people = own.rest.people
    still = replace(people, slope=np.zeros_like(people.slope), change=np.zeros_like(people.change))
    trajectories = replace(own, rest=replace(own.rest, people=still))
    return replace(model, parts=replace(model.parts, trajectories=trajectories))


def measure(seed: int) -> list[dict[str, float | str]]:
    """Return coverage and errors with one seed."""
    world = World(seed)
    linear, networks = fitted(*world.people(world.rng.integers(1, 4, PEOPLE)))
    models = {"linear": linear, **networks}
    models |= {f"{name}, latents": only_latents(own) for name, own in networks.items()}
    found: list[dict[str, float | str]] = []
    for earlier in (1, 2):
        new, theirs = world.people(np.full(NEW, earlier), further=True)
        to, past = new["new"].to_numpy(), ~new["new"].to_numpy()
        whose, covariates = np.array([f"q{own}" for own in new["who"]]), linear.schema.transfer(new)
        truth, last = theirs[to], theirs[np.flatnonzero(to) - 1]
        effects = linear.design.effects(covariates)
        drift = (effects[to] - effects[np.flatnonzero(to) - 1])[:, 1:] @ linear.coefficients[1:]
        shared = {"last": rms(last - truth), "population": rms(last + drift - truth)}
        for name, model in models.items():
            visits = model.dataset(theirs[past], covariates[past], whose[past].tolist())
            told = model.forecast(visits, covariates[to], whose[to].tolist())
            moved = model.follow(visits, STEP)[np.cumsum(np.full(NEW, earlier)) - 1]
            row: dict[str, float | str] = {"model": name, "seed": float(seed), "earlier": float(earlier)}
            for share in (95, 50):
                low, high = told.interval(share / 100)
                row[f"coverage_{share}"] = 100 * float(((low < truth) & (truth < high)).mean())
            errors = {"forecast": rms(told.estimate - truth), "moved": rms(moved - truth), **shared}
            found.append(row | {f"error_{key}": value for key, value in errors.items()})
    return found


def tables(seed: int, shared: int) -> list[dict[str, float | str]]:
    """Return coverage and errors of a table whose columns change together in so many shapes, with one seed."""
    world = forecast.World(seed)
    shapes = world.rng.normal(0, 1, (shared, forecast.COLUMNS))

    def people(counts: np.ndarray, *, further: bool = False) -> tuple[pd.DataFrame, np.ndarray]:
        frame, values = world.people(counts, further=further)
        who, age = frame["who"].to_numpy(), frame["age"].to_numpy()[:, None]
        away = age - frame.groupby("who")["age"].mean().to_numpy()[who, None]
        own = world.rng.normal(0, 1, (len(counts), shared))[who]
        own += away * world.rng.normal(0, 0.4, (len(counts), shared))[who]
        return frame, values + own @ shapes

    frame, values = people(world.rng.integers(1, 4, forecast.PEOPLE))
    schema = CovariateSchema.fit(frame, DECLARED)
    columns = Columns(tuple(f"x{k}" for k in range(forecast.COLUMNS)), forecast.COLUMNS, None)
    dataset = Dataset(values, schema.transfer(frame), schema, columns, [f"p{who}" for who in frame["who"]])
    models: dict[str, Model] = {
        "linear": LinearModel.fit(dataset, LinearSettings(components=0))[0],
        "closed form": ConditionalVae.fit(dataset, VaeSettings(body="linear"))[0],
    }
    found: list[dict[str, float | str]] = []
    for earlier in (1, 2):
        new, theirs = people(np.full(forecast.NEW, earlier), further=True)
        to, past = new["new"].to_numpy(), ~new["new"].to_numpy()
        whose, covariates, truth = np.array([f"q{own}" for own in new["who"]]), schema.transfer(new), theirs[to]
        for name, model in models.items():
            visits = model.dataset(theirs[past], covariates[past], whose[past].tolist())
            told = model.forecast(visits, covariates[to], whose[to].tolist())
            row: dict[str, float | str] = {"model": name, "seed": float(seed), "earlier": float(earlier)}
            for share in (95, 50):
                low, high = told.interval(share / 100)
                row[f"coverage_{share}"] = 100 * float(((low < truth) & (truth < high)).mean())
            found.append(row | {"shapes": float(shared), "error_forecast": rms(told.estimate - truth)})
    return found


def rms(values: np.ndarray) -> float:
    """Return the root mean square."""
    return float(np.sqrt((values.astype(float) ** 2).mean()))


def run(options: Options) -> Report:
    """Measure planted volumes."""
    rows = []
    for seed in options.seeds(SEEDS):
        rows += measure(FIRST + seed)
        say(f"{NAME}: seed {seed} done")
    table = pd.DataFrame(rows)
    mean = table.drop(columns="seed").groupby(["model", "earlier"]).mean()
    lines = []
    for name in ("linear", *BODIES):
        for earlier in (1, 2):
            own, of = mean.loc[(name, earlier)], f"{name}, {earlier} earlier visit{'s' * (earlier > 1)}"
            value = own["coverage_95"]
            lines.append(Line(NAME, f"95 % intervals hold 93 to 97 %, {of}", f"{value:.1f} %", 93 <= value <= 97))
            said = f"{own['error_forecast']:.3f}, {own['error_last']:.3f}, {own['error_population']:.3f}"
            below = own["error_forecast"] < min(own["error_last"], own["error_population"])
            lines.append(Line(NAME, f"error below last scan and population drift, {of}", said, bool(below)))
    return Report(
        {NAME: Table(table, tuple(table), "Forecasts of planted volumes (a row a model and seed)")}, tuple(lines)
    )
