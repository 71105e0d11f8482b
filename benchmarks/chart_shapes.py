"""Which shape growth charts should have: Gaussian, sinh-arcsinh, or a monotone spline of quantiles; all else is the same.

The spline: z = h(e) of residuals e in units of their scale, a + the integral of slopes that are linear between KNOTS knots and
constant beyond them (I-splines, Ramsay 1988), so that tails are normal ones. Slopes are found by Fisher scoring, shrunk towards
each other, which is towards normal: SMOOTH is the precision of the differences of their logarithms. KNOTS, SMOOTH and ENDS, where
the first and the last knot are, were chosen on seeds that are not shown. Powers are chosen for each shape by itself.

Real people: fcon1000, half of each site. Generated people: `chart_truth`, whose shapes are sinh-arcsinh; and the same with
others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from benchmarks.chart_methods import DECLARED, Chart, Medrep, Question, in_process
from benchmarks.chart_real import MAX_SHARE, MIN_SITE
from benchmarks.chart_scores import pit_error, scored
from benchmarks.chart_truth import ChartTruth
from benchmarks.data import fcon1000, split_half_by_site
from benchmarks.report import Line, Options, Report, Table, say
from medrep.models.chart.powers import CHOICES, Powers
from medrep.models.chart.scoring import State, searched
from medrep.models.chart.shapes import Shapes

SEEDS, GENERATED = range(3), range(300, 303)
PEOPLE, FRESH, FEATURES = 1000, 1000, 8
FOLDS, WORST = 3, -30.0
KNOTS, ENDS, SMOOTH = 7, 2.1, 16.0
CLEARLY = 0.01
OURS, SPLINE = "sinh-arcsinh", "spline"
_LEVELLING, _SEARCHES, _NEAR, _STEP = 1e-3, 60, 1e-3, 1.0


@dataclass(frozen=True)
class SplineShapes(Shapes):
    """Monotone splines; the parameters are z at 0, and the logarithm of the slope at each knot.

    Attributes:
        knots: In units of a column's scale.
    """

    knots: np.ndarray

    @classmethod
    def fit(cls, residuals: np.ndarray, count: int = KNOTS, ends: float = ENDS, smooth: float = SMOOTH) -> SplineShapes:
        """Fit to residuals in units of their scale; NaN is left out."""
        knots = np.linspace(-ends, ends, count)
        problem = _Slopes(knots, residuals, smooth)
        start = np.zeros((count + 1, residuals.shape[1]))
        return cls(searched(problem, start, _SEARCHES, _NEAR), knots)

    def z(self, residuals: np.ndarray, part: slice = slice(None)) -> np.ndarray:
        """Return z of residuals."""
        own = self.parameters[:, part]
        return own[0] + np.einsum("knv,kv->nv", _integrals(self.knots, residuals), np.exp(own[1:]))

    def log_slopes(self, residuals: np.ndarray, part: slice = slice(None)) -> np.ndarray:
        """Return the logarithm of z's derivative."""
        slopes = np.exp(self.parameters[1:, part])
        return np.log(np.einsum("knv,kv->nv", _hats(self.knots, residuals), slopes))

    def residuals(self, z: np.ndarray, part: slice = slice(None)) -> np.ndarray:
        """Return the residuals whose z these are."""
        slopes = np.exp(self.parameters[1:, part])
        at = self.z(np.repeat(self.knots[:, None], slopes.shape[1], axis=1), part)
        z = np.broadcast_to(z, (len(z), slopes.shape[1]))
        found = self.knots[0] + (z - at[0]) / slopes[0]
        widths = np.diff(self.knots)
        for k, width in enumerate(widths):
            over = z - at[k]
            # Of both roots the one in the segment, without a difference of like numbers.
            root = np.sqrt(np.maximum(slopes[k] ** 2 + 2 * (slopes[k + 1] - slopes[k]) / width * over, 1e-12))
            found = np.where(over > 0, self.knots[k] + 2 * over / (slopes[k] + root), found)
        return np.where(z > at[-1], self.knots[-1] + (z - at[-1]) / slopes[-1], found)


@dataclass(frozen=True, eq=False)
class _Slopes:
    """Splines of columns; see `scoring.Problem`."""

    knots: np.ndarray
    values: np.ndarray
    smooth: float

    def look(self, at: np.ndarray) -> tuple[np.ndarray, State]:
        """Return less the log posterior density, and z and its derivative with what they are made of."""
        seen = np.isfinite(self.values)
        values = np.where(seen, self.values, 0)
        hats, whole = _hats(self.knots, values), _integrals(self.knots, values)
        z = at[0] + np.einsum("knv,kv->nv", whole, np.exp(at[1:]))
        slope = np.einsum("knv,kv->nv", hats, np.exp(at[1:]))
        loss = np.where(seen, 0.5 * z**2 - np.log(slope), 0).sum(axis=0)
        rough = self.smooth * np.diff(at[1:], axis=0) ** 2
        return loss + 0.5 * (rough.sum(axis=0) + _LEVELLING * (at**2).sum(axis=0)), (z, slope, hats, whole)

    def step(self, at: np.ndarray, state: State) -> np.ndarray:
        """Return a step, as a whole no longer than _STEP in any parameter."""
        z, slope, hats, whole = state
        seen = np.isfinite(self.values)
        own = np.exp(at[1:])[:, None] * (hats / slope - z * whole)
        scores = np.where(seen, np.concatenate([-z[None], own]), 0)
        differences = np.diff(np.eye(len(at))[1:], axis=0)
        precision = self.smooth * differences.T @ differences + _LEVELLING * np.eye(len(at))
        information = np.einsum("anv,bnv->vab", scores, scores, optimize=True) + precision
        gradient = scores.sum(axis=1) - precision @ at
        step = np.linalg.solve(information, gradient.T[..., None])[..., 0].T
        return np.asarray(step * (_STEP / np.maximum(np.abs(step).max(axis=0), _STEP)))

    def some(self, columns: np.ndarray) -> _Slopes:
        """Return the problem of some columns."""
        return replace(self, values=self.values[:, columns])


def _hats(knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the share of each knot in the slope at values, constant beyond the ends."""
    inside = np.clip(values, knots[0], knots[-1])
    width = knots[1] - knots[0]
    return np.maximum(1 - np.abs(inside - knots[:, None, None]) / width, 0)


def _integrals(knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the integrals of `_hats` from 0 to values."""
    found = _from_first(knots, values) - _from_first(knots, np.zeros((1, 1)))
    found[0] += np.minimum(values - knots[0], 0)
    found[-1] += np.maximum(values - knots[-1], 0)
    return found


def _from_first(knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    width = knots[1] - knots[0]
    inside = np.clip(values, knots[0], knots[-1]) - knots[:, None, None]
    rising, falling = np.clip(inside + width, 0, width), np.clip(width - inside, 0, width)
    found = rising**2 / (2 * width) + np.where(inside > 0, (width - falling**2 / width) / 2, 0)
    found[0] -= width / 2  # the first rises before the knots begin
    return found


SHAPES: dict[str, Callable[[np.ndarray], Shapes]] = {
    "gaussian": lambda residuals: Shapes.normal(residuals.shape[1]),
    OURS: Shapes.fit,
    SPLINE: SplineShapes.fit,
}


class Shaped(Medrep):
    """A growth chart with a shape that is given; powers are chosen with it.

    Args:
        shape: What is fitted to residuals in units of their scale.
        auto: Whether powers are chosen, or columns taken as they are.
    """

    def __init__(self, shape: Callable[[np.ndarray], Shapes], auto: bool) -> None:
        super().__init__(shape="gaussian", power="none")
        self._shape, self._auto, self.seconds = shape, auto, 0.0

    def fit(self, train: np.ndarray, table: pd.DataFrame) -> None:
        """Fit on people and their covariates."""
        exponents = np.ones(train.shape[1])
        if self._auto:
            fold, total = _folds(table), np.zeros((len(CHOICES), train.shape[1]))
            for choice, power in enumerate(CHOICES):
                for own in range(FOLDS):
                    self._fit(train[fold != own], table[fold != own], np.full(train.shape[1], power))
                    found = self.log_density(train[fold == own], table[fold == own])
                    total[choice] += np.nan_to_num(np.maximum(found, WORST)).sum(axis=0)
            exponents = np.asarray(CHOICES)[total.argmax(axis=0)]
        self._fit(train, table, exponents)

    def adapt(self, people: np.ndarray, table: pd.DataFrame) -> Chart:
        """Refuse: shapes are compared at sites of training."""
        raise NotImplementedError

    def _fit(self, train: np.ndarray, table: pd.DataFrame, exponents: np.ndarray) -> None:
        self._powers = Powers.of(train, exponents)
        straight = self._powers.there(train)
        super().fit(straight, table)
        model, dataset = self._model, self._dataset(straight, table, DECLARED)
        frame = dataset.covariates
        left = 1 - np.minimum(model.location.variance(frame).clip(0, 1), 0.95)
        residuals = model.location.residuals(dataset).compute(slice(0, train.shape[1])) / np.sqrt(left)[:, None]
        residuals *= np.exp(-model.scales.logs(model.scales.design.full(frame)))
        begun = time.process_time()
        shapes = self._shape(residuals)
        self.seconds = time.process_time() - begun
        self._model = replace(model, shapes=shapes)

    def z(self, test: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return z of people."""
        return super().z(self._powers.there(test), table)

    def log_density(self, test: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return the log density of what was observed."""
        return super().log_density(self._powers.there(test), table) + self._powers.log_slopes(test)

    def quantiles(self, table: pd.DataFrame, levels: np.ndarray) -> np.ndarray:
        """Return predictive quantiles, levels x people x features."""
        return np.stack([self._powers.back(own) for own in super().quantiles(table, levels)])


def run(options: Options) -> Report:
    """Ask the three shapes about real and generated people."""
    rows: list[dict[str, object]] = []
    for seed in options.seeds(len(SEEDS)):
        rows += ask("fcon1000", seed, *real(seed))
    for seed in GENERATED[: 1 if options.quick else None]:
        rows += ask("generated, sinh-arcsinh", seed, *generated(seed, other=False))
        rows += ask("generated, other shapes", seed, *generated(seed, other=True))
    frame = pd.DataFrame(rows)
    keys = ["people", "powers", "shape"]
    means = frame.groupby(keys, sort=False).mean(numeric_only=True).drop(columns="seed").reset_index()
    title = f"Shapes of charts: scores of people nobody has seen, {frame['seed'].nunique()} seeds in all"
    lines = []
    scores = means.set_index(keys)["log_score"]
    for powers in ("none", "auto"):
        gain = float(scores["fcon1000", powers, SPLINE] - scores["fcon1000", powers, OURS])
        asked = f"fcon1000, powers {powers}: log score of the spline no more than {CLEARLY:g} above {OURS}"
        lines.append(Line("chart_shapes", asked, f"{gain:+.4f}", gain <= CLEARLY))
    tables = {
        "chart_shapes": Table(means, tuple(means), f"{title}; means"),
        "chart_shapes_each": Table(frame, tuple(frame), title),
    }
    return Report(tables, tuple(lines))


def ask(people: str, seed: int, question: Question, unit: np.ndarray) -> list[dict[str, object]]:
    """Ask every shape, with and without powers.

    Args:
        people: Whom the question is about.
        seed: Of the people.
        question: To all.
        unit: Of scores, for each feature.

    Returns:
        One row a shape and choice of powers.
    """
    rows: list[dict[str, object]] = []
    for powers in ("none", "auto"):
        for name, shape in SHAPES.items():
            say(f"chart_shapes: {people}, seed {seed}, powers {powers}, {name}")
            chart, begun = Shaped(shape, powers == "auto"), time.process_time()
            answer = in_process(lambda chart=chart: chart, question)  # type: ignore[misc]  # bound now
            row: dict[str, object] = {"people": people, "powers": powers, "shape": name, "seed": seed}
            figures = scored(answer.z, answer.log_density, answer.quantiles, question.test, unit)
            costs = {"shape_cpu": chart.seconds, "cpu": time.process_time() - begun}
            rows.append(row | figures | {"pit": pit_error(answer.z)} | costs)
    return rows


def real(seed: int) -> tuple[Question, np.ndarray]:
    """Return halves of all sites of fcon1000, all features that vary, and the features' deviations."""
    features, table = fcon1000(min_site=MIN_SITE)
    train, test = split_half_by_site(table, seed)
    share = features[train].apply(lambda column: column.value_counts(normalize=True).iloc[0])
    X = features[features.columns[share <= MAX_SHARE]].to_numpy(dtype=np.float64)
    return Question(X[train], table[train], X[test], table[test]), X[train].std(axis=0)


def generated(seed: int, *, other: bool) -> tuple[Question, np.ndarray]:
    """Return generated people with skew and heavy tails, whose shapes are sinh-arcsinh or others."""
    truth, rng = ChartTruth(seed, features=FEATURES), np.random.default_rng([seed, 41])
    tables = [truth.people(n, rng) for n in (PEOPLE, FRESH)]
    train, test = (_other(truth, table, rng) if other else truth.values(table, rng) for table in tables)
    return Question(train, tables[0], test, tables[1]), train.std(axis=0)


def _other(truth: ChartTruth, table: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Two features each of gamma, lognormal, two-peaked and flat noise, around the truth's location and spread."""
    shapes, n = truth.shapes(table), (len(table), 2)
    peak = rng.random(n) < 0.25
    drawn = (
        (rng.gamma(3.0, size=n) - 3) / np.sqrt(3),
        (np.exp(0.5 * rng.standard_normal(n)) - 1.1331) / 0.6039,
        (np.where(peak, 3.0, 0.0) + np.where(peak, 0.6, 1.0) * rng.standard_normal(n) - 0.75) / 1.585,
        rng.uniform(-1.5, 1.5, n) / 0.9 + 0.2 * rng.standard_normal(n),
    )
    return np.asarray(shapes.location + shapes.spread * np.concatenate(drawn, axis=1))


def _folds(table: pd.DataFrame) -> np.ndarray:
    """Deal the people of each site; who is alone in theirs is never left out."""
    place = table.groupby("site").cumcount().to_numpy()
    alone = table.groupby("site")["age"].transform("size").to_numpy() < FOLDS
    return np.where(alone, -1, place % FOLDS)
