"""Effects of covariates on surfaces, regressed with empirical-Bayes shrinkage.

What the surface of person i tells of a change d of the field that is expected of them, their own field h being unknown, is, to
second order, the log likelihood score_i d - 1/2 d W_i d with score_i = C^-1 h_i and W_i = C^-1 - C^-1 cov(h_i) C^-1. It knows
where this person's surface is: what lies off it and motion along it weigh little, and others may tell of them. With
d_i = X_i (G' - G) the best G' solves

    sum_i X_i^T W_i X_i G' + prior(G') = sum_i X_i^T (score_i + W_i X_i G),    columns of G ~ N(0, S)

S, the covariance of what the columns of a covariate do to a coefficient, is found by expectation-maximisation (empirical Bayes):
an effect that the cohort cannot tell from nothing is shrunk towards nothing, and one that it can stays. Where the bend of an
effect is alike in place to its line, S says so, and the line tells of the bend. Columns of different covariates are independent,
and levels of a batch are so among themselves, of one strength. Most effects live in few modes, mostly in smooth ones: one S for
all would shrink them as if they filled hundreds, so each block of modes (1st and 2nd, 3rd and 4th, 5th to 8th ...) has its own.

The columns of a smooth effect are turned into its straight line and what bends it, of unit variance each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve

from medrep._persisted import stored
from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.models.linear.design import Design

_ROUNDS = 12
_STILL = 1e-3


@dataclass(frozen=True)
class Group:
    """Columns of the design that belong together.

    Exchangeable ones, as the levels of a batch, are independent and of one strength; else they have a covariance of their own.
    Smooth ones are the line of a continuous covariate's effect and what bends it.
    """

    columns: slice
    exchangeable: bool = False
    smooth: bool = False


@dataclass(frozen=True, eq=False)
class Told:
    """Equations of one subject's surface for a change of the mean field, the person's own field being unknown.

    `score` is the slope of the log likelihood by the field's coefficients, `precision` W, its curvature.
    """

    score: Float[np.ndarray, " coefficients"]
    precision: Float[np.ndarray, "coefficients coefficients"]


@dataclass(eq=False)
class Equations:
    """The sums over people of which the regression consists, with everybody's scores and columns in order.

    `rows` are G before, `targets` right-hand sides, a row a column of the design, and `chunks` the left-hand side, for each pair
    of columns that somebody has both of.
    """

    rows: Float[np.ndarray, "columns coefficients"]
    targets: Float[np.ndarray, "columns coefficients"] = field(init=False)
    chunks: dict[tuple[int, int], Float[np.ndarray, "coefficients coefficients"]] = field(default_factory=dict)
    scores: list[Float[np.ndarray, " coefficients"]] = field(default_factory=list)
    columns: list[Float[np.ndarray, " columns"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start with nobody."""
        self.targets = np.zeros_like(self.rows)

    def add(self, own: Float[np.ndarray, " columns"], told: Told) -> None:
        """Count a person in: their columns, and what their surface tells at the effects before."""
        self.targets += np.outer(own, told.score + told.precision @ (own @ self.rows))
        some = np.flatnonzero(own)
        for place, first in enumerate(some):
            for second in some[place:]:
                pair = (int(first), int(second))
                if pair not in self.chunks:
                    self.chunks[pair] = np.zeros_like(told.precision)
                self.chunks[pair] += own[first] * own[second] * told.precision
        self.scores.append(told.score)
        self.columns.append(own)

    def square(self, columns: Sequence[int]) -> Float[np.ndarray, "columns coefficients columns coefficients"]:
        """Return the left-hand side for some columns."""
        width = self.rows.shape[1]
        found = np.zeros((len(columns), width, len(columns), width))
        for place, first in enumerate(columns):
            for other, second in enumerate(columns):
                chunk = self.chunks.get((min(first, second), max(first, second)))
                if chunk is not None:
                    found[place, :, other] = chunk
        return found

    def without(
        self, columns: Sequence[int], rows: Float[np.ndarray, "all coefficients"]
    ) -> Float[np.ndarray, "columns coefficients"]:
        """Return the right-hand sides of some columns when the others do what ``rows`` say."""
        found = self.targets[list(columns)].copy()
        for place, column in enumerate(columns):
            for other in range(len(rows)):
                chunk = self.chunks.get((min(column, other), max(column, other)))
                if chunk is not None and other not in columns:
                    found[place] -= chunk @ rows[other]
        return found


@dataclass(frozen=True, eq=False)
class Effects:
    """A fitted regression: G, a row a column of the design, and S of each block of modes."""

    rows: Float[np.ndarray, "columns coefficients"]
    prior: Float[np.ndarray, "blocks columns columns"]


def fit_effects(
    equations: Equations,
    groups: Sequence[Group],
    outputs: int,
    prior: Float[np.ndarray, "blocks columns columns"] | None = None,
) -> Effects:
    """Solve for the effects, and for how strong they are, with everybody counted in.

    A column of no group has the smooth prior, as it is. `outputs` are the coefficients of a mode, and `prior` is S to begin
    with, else that of the smooth prior.
    """
    rows = np.zeros_like(equations.rows)
    parts = _chunks(rows.shape[1], outputs)
    prior = np.stack([np.eye(len(rows))] * len(parts)) if prior is None else prior
    systems = _systems(len(rows), groups)
    sides = [equations.square(system) for system in systems]
    for _ in range(_ROUNDS):
        energy = np.zeros_like(prior)
        for system, side in zip(systems, sides, strict=True):
            at = np.ix_(range(len(parts)), system, system)
            posterior = _Posterior.of(side, prior[at], parts)
            rows[system] = posterior.solve(equations.without(system, rows))
            energy[at] = posterior.energy(rows[system], parts)
        found = _grouped(energy, groups)
        done = bool(np.abs(found - prior).max() < _STILL * np.abs(found).max())
        prior = found
        if done:
            break
    for system, side in zip(systems, sides, strict=True):
        posterior = _Posterior.of(side, prior[np.ix_(range(len(parts)), system, system)], parts)
        rows[system] = posterior.solve(equations.without(system, rows))
    return Effects(rows, prior)


def resampled_effects(
    effects: Effects,
    equations: Equations,
    groups: Sequence[Group],
    outputs: int,
    draws: int,
    rng: np.random.Generator,
    participants: Sequence[str] | None = None,
) -> Float[np.ndarray, "draws columns coefficients"]:
    """Return the effects that resampled people would have, to first order: each person counts as often as drawn.

    People are drawn with all their rows; without `participants` each row is a person. `outputs` are the coefficients of a mode.
    """
    found = np.repeat(effects.rows[None], draws, axis=0)
    if not draws:
        return found
    parts, people = _chunks(effects.rows.shape[1], outputs), len(equations.columns)
    columns, scores = np.stack(equations.columns), np.stack(equations.scores)
    who = np.arange(people) if participants is None else np.unique(participants, return_inverse=True)[1]
    persons = int(who.max(initial=-1)) + 1
    times = (rng.multinomial(persons, np.full(persons, 1 / persons), size=draws) - 1.0)[:, who]
    for system in _systems(len(effects.rows), groups):
        posterior = _Posterior.of(
            equations.square(system), effects.prior[np.ix_(range(len(parts)), system, system)], parts
        )
        for draw in range(draws):
            pull = (columns[:, system] * times[draw][:, None]).T @ scores
            found[draw, system] += posterior.solve(pull)
    return found


@dataclass(frozen=True, eq=False)
class _Posterior:
    """Of the rows of some columns; with S = R R^T the unknowns are R^-1 G, so that S may be singular."""

    roots: Float[np.ndarray, "coefficients columns columns"]
    factor: tuple[np.ndarray, bool]

    @classmethod
    def of(cls, side: np.ndarray, prior: np.ndarray, parts: list[slice]) -> "_Posterior":
        count, width = side.shape[:2]
        roots = np.empty((width, count, count))
        for part, own in zip(parts, prior, strict=True):
            values, vectors = np.linalg.eigh(own)
            roots[part] = vectors * np.sqrt(np.maximum(values, 0))
        half = np.einsum("kdle,elj->kdje", side, roots, optimize=True)
        inner = np.einsum("dki,kdje->idje", roots, half, optimize=True).reshape(count * width, -1)
        inner[np.diag_indices_from(inner)] += 1.0
        return cls(roots, cho_factor(inner, lower=True, overwrite_a=True))

    def solve(self, targets: Float[np.ndarray, "columns coefficients"]) -> Float[np.ndarray, "columns coefficients"]:
        inner = np.einsum("dki,kd->id", self.roots, targets)
        found = cho_solve(self.factor, inner.ravel()).reshape(inner.shape)
        return np.einsum("dki,id->kd", self.roots, found)

    def energy(self, rows: np.ndarray, parts: list[slice]) -> Float[np.ndarray, "blocks columns columns"]:
        """Return the mean second moments of the columns over each block."""
        count, width = rows.shape
        inverse = cho_solve(self.factor, np.eye(count * width)).reshape(count, width, count, width)
        own = np.einsum("idjd->dij", inverse)
        unknown = np.einsum("dki,dij,dlj->dkl", self.roots, own, self.roots, optimize=True)
        moments = unknown + np.einsum("kd,ld->dkl", rows, rows)
        return np.stack([moments[part].mean(axis=0) for part in parts])


def _systems(count: int, groups: Sequence[Group]) -> list[list[int]]:
    """Return columns that are solved for together: those of all smooth effects, and each level of a batch."""
    alone = [k for group in groups if group.exchangeable for k in range(count)[group.columns]]
    rest = [k for k in range(count) if k not in alone]
    return ([rest] if rest else []) + [[k] for k in alone]


def _chunks(width: int, outputs: int) -> list[slice]:
    """Return the coefficients of modes 0-1, 2-3, 4-7, 8-15, ...: the finer, the more there are that are alike."""
    count = width // outputs
    ends = [0, *(2**k for k in range(1, count.bit_length()) if 2**k < count), count]
    return [slice(start * outputs, stop * outputs) for start, stop in pairwise(ends)]


def _grouped(energy: np.ndarray, groups: Sequence[Group]) -> np.ndarray:
    """Return what S can be of the second moments of columns."""
    found = np.stack([np.eye(energy.shape[1])] * len(energy))
    for group in groups:
        own = energy[:, group.columns, group.columns]
        if group.exchangeable:
            own = np.einsum("bkk->b", own)[:, None, None] / own.shape[1] * np.eye(own.shape[1])
        found[:, group.columns, group.columns] = own
    return found


@dataclass(frozen=True, eq=False)
class EffectColumns:
    """The design of covariate effects.

    `turns` has for each term of the design what its columns are multiplied with: unit variance, orthogonal, the line first.
    """

    design: Design = field(metadata=stored(""))
    turns: tuple[Float[np.ndarray, "_ _"], ...]

    @classmethod
    def fit(cls, schema: CovariateSchema, frame: pd.DataFrame, degrees: int, *, joint: bool) -> "EffectColumns":
        """Place knots on training people; raises CovariateError for covariates that these people cannot tell apart.

        `degrees` are those of a continuous effect. If `joint`, all products enter, too: one field for all values together.
        """
        effects = [name for name in schema.names if name not in schema.batches]
        products = [g for size in range(2, len(effects) + 1) for g in combinations(effects, size)] if joint else []
        design = Design.fit(schema, frame, degrees, products)
        design.check_aliases(frame)
        raw = design.effects(frame)[:, 1:]
        turns, start = [], 0
        for term in design.terms:
            own = raw[:, start : start + len(term.centre)]
            start += len(term.centre)
            triangle = np.linalg.qr(own - own.mean(axis=0), mode="r")
            turns.append(np.linalg.inv(triangle * np.sign(np.diag(triangle))[:, None]) * np.sqrt(len(frame)))
        return cls(design, tuple(turns))

    def of(self, frame: pd.DataFrame) -> Float[np.ndarray, "people columns"]:
        """Return the columns of people, zero at the reference of every covariate."""
        schema = self.design.schema
        home = pd.DataFrame({name: [value] for name, value in schema.references(schema.names).items()})
        raw = (self.design.full(frame) - self.design.full(home))[:, 1:]
        chunks, start = [], 0
        for turn in self.turns:
            chunks.append(raw[:, start : start + len(turn)] @ turn)
            start += len(turn)
        return np.concatenate([*chunks, raw[:, start:]], axis=1)

    def groups(self) -> list[Group]:
        """Return which columns belong to a covariate, to a batch, or to a joint field."""
        if any(len(names) > 1 for names in self.slices()):
            return [Group(slice(0, self.width))]
        schema = self.design.schema
        return [
            Group(part, names[0] in schema.batches, isinstance(schema[names[0]], Continuous))
            for names, part in self.slices().items()
        ]

    @property
    def width(self) -> int:
        """Number of columns."""
        return max((part.stop for part in self.slices().values()), default=0)

    def slices(self) -> dict[tuple[str, ...], slice]:
        """Return which columns belong to which covariate, or to which covariates together."""
        found: dict[tuple[str, ...], slice] = {}
        start = 0
        for term in self.design.terms:
            found[term.covariates] = slice(start, start + len(term.centre))
            start += len(term.centre)
        return found | {
            (name,): slice(start + part.start, start + part.stop) for name, part in self.design.batch_slices().items()
        }
