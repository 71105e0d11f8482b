"""Forecasts of a person's next visit: what their intervals hold, and how far they are off beside carrying the last visit forward.

Planted: people with one to three visits, half of them switching among four scanners, train
a model; people whom training never saw are forecast two years on from one and from two earlier visits. `coverage_95`,
`coverage_50`: share of what came that lies inside. Errors are root mean squares over people and columns: of the forecast, of the
last value carried forward, and of the last value moved as the population is.

Rats: 8 landmarks of 18 skulls at 8 ages (7 to 150 days). Each rat is left out; from its first three ages those of 60, 90 and 150
days are forecast. `coordinates`: columns are the landmarks' coordinates; `components`: the principal components that hold 99 % of
the variance of the other rats; `last`: the third age; `population`: with the mean change of the other rats; `mixed`: statsmodels'
mixed models of the same components. Errors are root mean squares over coordinates.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from benchmarks.data import data_folder
from benchmarks.report import Line, Options, Report, Table, say
from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models import LinearModel, LinearSettings
from medrep.models.base import Forecast
from medrep.models.linear.design import natural_spline, spline_knots

NAME = "forecast"
SEEDS, QUICK = 200, 20
PEOPLE, NEW, COLUMNS, SITES, STEP = 200, 60, 20, 4, 2.0
DECLARED = (Covariate("age", "continuous"), Covariate("sex", "categorical"), Covariate("site", "categorical", "batch"))
LEVEL, SLOPE, BETWEEN, MORE = 5.0, 0.15, -0.05, -0.05
EARLY, LATE = 3, (60.0, 90.0, 150.0)
HELD = 0.99
ERRORS = ("coordinates", "components", "last", "population", "mixed")
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of training, of a rat's first ages, and of its later ones."""


class World:
    """Scanners of one seed, and people who visit them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 22])
        self.location = self.rng.normal(0, 1, (SITES, COLUMNS))
        self.scale = np.exp(self.rng.normal(0, 0.3, (SITES, COLUMNS)))

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
        own = rng.normal(0, LEVEL**0.5, (len(counts), COLUMNS))[who]
        own += (age - centre) * rng.normal(0, SLOPE, (len(counts), COLUMNS))[who]
        values = BETWEEN * age + MORE * (age - centre) + own + self.location[place]
        values += self.scale[place] * rng.normal(0, 1, values.shape)
        frame["site"] = [f"S{k}" for k in place]
        return frame.set_index(pd.Index([f"v{k}" for k in range(len(frame))], name="key")), values


def planted(seed: int) -> list[dict[str, float]]:
    """Measure coverage and errors with one seed."""
    world = World(seed)
    frame, values = world.people(world.rng.integers(1, 4, PEOPLE))
    schema = CovariateSchema.fit(frame, DECLARED)
    columns = Columns(tuple(f"x{k}" for k in range(COLUMNS)), COLUMNS, None)
    whose = [f"p{who}" for who in frame["who"]]
    model, _ = LinearModel.fit(
        Dataset(values, schema.transfer(frame), schema, columns, whose), LinearSettings(components=0)
    )
    found = []
    for earlier in (1, 2):
        new, theirs = world.people(np.full(NEW, earlier), further=True)
        to, past = new["new"].to_numpy(), ~new["new"].to_numpy()
        who, covariates = [f"q{own}" for own in new["who"]], schema.transfer(new)
        visits = model.dataset(theirs[past], covariates[past], [own for own, old in zip(who, past, strict=True) if old])
        told = model.forecast(visits, covariates[to], [own for own, later in zip(who, to, strict=True) if later])
        truth, last = theirs[to], theirs[np.flatnonzero(to) - 1]
        effects = model.design.effects(covariates)
        drift = (effects[to] - effects[np.flatnonzero(to) - 1]) @ model.coefficients
        errors = {"forecast": told.estimate, "last": last, "population": last + drift}
        row = {"seed": float(seed), "earlier": float(earlier)}
        for share in (95, 50):
            low, high = told.interval(share / 100)
            row[f"coverage_{share}"] = 100 * float(((low < truth) & (truth < high)).mean())
        found.append(row | {f"error_{name}": _rms(own - truth) for name, own in errors.items()})
    return found


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def rats(*, logarithm: bool, aligned: bool) -> dict[str, float]:
    """Leave each rat out; return errors and coverage."""
    data = np.load(data_folder() / "landmarks" / "rats.npz")
    shapes, who, days = data["x"], data["no"].astype(int), data["time"]
    values = (_aligned(shapes) if aligned else shapes).reshape(len(shapes), -1)
    values = values[:, [len(np.unique(column)) > 1 for column in values.T]]  # three coordinates are 0 in all rats
    age = np.log10(days) if logarithm else days
    errors: dict[str, list[np.ndarray]] = {name: [] for name in ERRORS}
    inside: dict[str, list[np.ndarray]] = {}
    for rat in np.unique(who):
        train, own = who != rat, np.flatnonzero(who == rat)
        own = own[np.argsort(days[own])]
        past, to = own[:EARLY], own[np.isin(days[own], LATE)]
        middle, basis = _components(values[train])
        truth = values[to]
        means = np.stack([values[train & (days == day)].mean(axis=0) for day in (days[past[-1]], *days[to])])
        scores, rows = (values - middle) @ basis.T, (train, past, to)
        told, parts = _forecast(age, values, who, rows), _forecast(age, scores, who, rows)
        found = {
            "coordinates": told.estimate,
            "components": middle + parts.estimate @ basis,
            "last": np.broadcast_to(values[past[-1]], truth.shape),
            "population": values[past[-1]] + means[1:] - means[0],
            "mixed": middle + _mixed(age, scores, who, rows) @ basis,
        }
        for name, one in found.items():
            errors[name].append(one - truth)
        for name, one, came in (("coordinates", told, truth), ("components", parts, scores[to])):
            for share in (95, 50):
                low, high = one.interval(share / 100)
                inside.setdefault(f"coverage_{share}_{name}", []).append((low < came) & (came < high))
    coverage = {
        name: 100 * float(np.mean(np.concatenate([own.ravel() for own in found]))) for name, found in inside.items()
    }
    return {f"error_{name}": _rms(np.stack(own)) for name, own in errors.items()} | coverage


def _aligned(shapes: np.ndarray) -> np.ndarray:
    """Return shapes of centroid size 1 turned onto their mean (generalised Procrustes, in turns)."""
    shapes = shapes - shapes.mean(axis=1, keepdims=True)
    shapes = shapes / np.sqrt((shapes**2).sum(axis=(1, 2), keepdims=True))
    mean = shapes[0]
    for _ in range(10):
        u, _, vt = np.linalg.svd(np.swapaxes(shapes, 1, 2) @ mean)
        shapes = shapes @ (u @ vt)
        mean = shapes.mean(axis=0) / np.linalg.norm(shapes.mean(axis=0))
    return shapes


def _forecast(age: np.ndarray, values: np.ndarray, who: np.ndarray, rows: Rows) -> Forecast:
    train, past, to = rows
    frame = pd.DataFrame({"age": age}, index=pd.Index([f"v{k}" for k in range(len(age))], name="key"))
    schema = CovariateSchema.fit(frame[train], DECLARED[:1])
    columns, known = (
        Columns(tuple(f"x{k}" for k in range(values.shape[1])), values.shape[1], None),
        schema.transfer(frame),
    )
    fitted = Dataset(values[train], known[train], schema, columns, [str(one) for one in who[train]])
    model, _ = LinearModel.fit(fitted, LinearSettings(components=0))
    visits = model.dataset(values[past], known.iloc[past], ["own"] * len(past))
    return model.forecast(visits, known.iloc[to], ["own"] * len(to))


def _components(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean, and the principal components that hold most of the variance."""
    middle = values.mean(axis=0)
    _, size, basis = np.linalg.svd(values - middle, full_matrices=False)
    return middle, basis[: int(np.searchsorted(np.cumsum(size**2) / (size**2).sum(), HELD)) + 1]


def _mixed(age: np.ndarray, scores: np.ndarray, who: np.ndarray, rows: Rows) -> np.ndarray:
    """Return what mixed models of single scores forecast: a spline of age, and an intercept and a slope a rat."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    train, past, to = rows
    knots = spline_knots(age[train], LinearSettings().spline_degrees)
    fixed = np.concatenate([np.ones((len(age), 1)), natural_spline(age, knots)], axis=1)
    random = np.stack([np.ones(len(age)), (age - age[train].mean()) / age[train].std()], axis=1)
    found = np.zeros((len(to), scores.shape[1]))
    for k, score in enumerate(scores.T):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of variances at the end of their range
            fit = MixedLM(score[train], fixed[train], who[train], exog_re=random[train]).fit(reml=True, method="lbfgs")
        of_rats, beta = np.asarray(fit.cov_re), np.asarray(fit.fe_params)
        whole = random[past] @ of_rats @ random[past].T + fit.scale * np.eye(len(past))
        own = of_rats @ random[past].T @ np.linalg.solve(whole, score[past] - fixed[past] @ beta)
        found[:, k] = fixed[to] @ beta + random[to] @ own
    return found


def run(options: Options) -> Report:
    """Measure planted people, then rats."""
    seeds = range(QUICK if options.quick else SEEDS)
    rows = []
    for seed in seeds:
        rows += planted(seed)
        if seed % 20 == 19:
            say(f"{NAME}: {seed + 1} of {len(seeds)} seeds")
    table = pd.DataFrame(rows)
    mean = table.groupby("earlier").mean()
    lines = []
    for earlier in (1, 2):
        own = mean.loc[earlier]
        of = f"{earlier} earlier visit{'s' * (earlier > 1)}"
        for share, low, high in ((95, 93, 97), (50, 48, 52)):
            value = own[f"coverage_{share}"]
            lines.append(
                Line(NAME, f"{share} % intervals hold {low} to {high} %, {of}", f"{value:.1f} %", low <= value <= high)
            )
        beaten = min(own["error_last"], own["error_population"])
        said = f"{own['error_forecast']:.3f}, {own['error_last']:.3f}, {own['error_population']:.3f}"
        lines.append(
            Line(NAME, f"error below last value and population drift, {of}", said, own["error_forecast"] < beaten)
        )
    told = []
    for aligned in (False, True):
        for logarithm in (True, False):
            figures = rats(logarithm=logarithm, aligned=aligned)
            told.append(
                {"shapes": "aligned" if aligned else "plain", "time": "log age" if logarithm else "age"} | figures
            )
            of = f"rats, {told[-1]['shapes']}, {told[-1]['time']}"
            error = {name: figures[f"error_{name}"] for name in ERRORS}
            said = ", ".join(f"{value:.4g}" for value in error.values())
            ours = min(error["coordinates"], error["components"])
            beaten = ours < min(error["last"], error["population"], error["mixed"])
            lines.append(
                Line(NAME, f"errors of {', '.join(ERRORS)}: one of the first two is lowest, {of}", said, beaten)
            )
            for columns in ERRORS[:2]:
                value = figures[f"coverage_95_{columns}"]
                lines.append(
                    Line(
                        NAME, f"95 % intervals of {columns} hold 90 to 98 %, {of}", f"{value:.1f} %", 90 <= value <= 98
                    )
                )
    shown = pd.DataFrame(told)
    tables = {
        NAME: Table(table, tuple(table), "Forecasts of people with planted trajectories (a row a seed)"),
        f"{NAME}_rats": Table(shown, tuple(shown), "Forecasts of rats from their first three ages"),
    }
    return Report(tables, tuple(lines))
