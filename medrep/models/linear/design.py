"""The design matrix of the mean, natural cubic splines, and how well effects are known.

Columns of effects are centred on the training people, so that the first row of the coefficients is the pooled mean.

In units of each column's residual variance: with m the mean row of the design at the people and C = (X'WX)^-1 of the training
design (W: 1 / variance of each batch), the mean effect has the variance m'Cm. Beyond the outermost knots a natural spline is
straight, whatever the truth does there. If the curve goes on bending as much as it did inside, with a mean squared second
derivative of k^2, a person at the distance d is off by k d^2 / 2, and that is taken as a standard error: inside the knots k^2 is
known from the fit (the part of it that noise alone would have is taken off), its sign outside is not.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from medrep._persisted import given
from medrep.cohort.covariates import (
    POOLED,
    Categorical,
    Continuous,
    CovariateSchema,
    membership,
)
from medrep.cohort.parsing import shown
from medrep.errors import CovariateError, ModelError, listed


def spline_knots(
    values: Float[np.ndarray, " people"], degrees: int, weights: "Float[np.ndarray, ' people'] | None" = None
) -> tuple[float, ...]:
    """Place knots at quantiles of the training values.

    Args:
        values: The covariate, any unit.
        degrees: Degrees of freedom wanted, the intercept not counted; 1 is a straight line.
        weights: What each value counts; None: the same.

    Returns:
        ``degrees + 1`` knots, or fewer where the values repeat too much to support them; two knots are a straight line.
    """
    distinct = np.unique(values)
    wanted = max(1, min(degrees, len(distinct) - 1))
    places = np.linspace(0.02, 0.98, wanted + 1)
    if weights is None:
        found = np.quantile(values, places)
    else:
        own = np.bincount(np.searchsorted(distinct, values), weights)
        found = np.interp(places * weights.sum(), np.cumsum(own) - own / 2, distinct)
    knots = np.unique(found)
    if len(knots) < 2:
        knots = np.array([distinct[0], distinct[-1]])
    return tuple(float(knot) for knot in knots)


def natural_spline(
    values: Float[np.ndarray, " people"], knots: tuple[float, ...]
) -> Float[np.ndarray, "people degrees"]:
    """Evaluate the natural cubic spline basis without its constant.

    With K knots xi_k scaled to [0, 1]: N_1 = x, N_{k+1} = d_k - d_{K-1}, d_k = ((x - xi_k)^3_+ - (x - xi_K)^3_+)/(xi_K - xi_k)
    (Hastie, Tibshirani, Friedman, Elements of Statistical Learning, eq. 5.4-5.5).

    Args:
        values: Where to evaluate.
        knots: At least two, increasing.

    Returns:
        One column a degree of freedom: ``len(knots) - 1``.
    """
    low, high = knots[0], knots[-1]
    x = (values - low) / (high - low)
    xi = (np.asarray(knots) - low) / (high - low)

    def hinge(knot: float) -> np.ndarray:
        cubes: np.ndarray = (np.maximum(x - knot, 0) ** 3 - np.maximum(x - 1, 0) ** 3) / (1 - knot)
        return cubes

    last = hinge(xi[-2])
    return np.stack([x, *(hinge(knot) - last for knot in xi[:-2])], axis=1)


@dataclass(frozen=True)
class Term:
    """One block of columns: a covariate, or the product of several.

    Attributes:
        covariates: The covariate, or those that interact.
        centre: Mean of each column over the training people.
    """

    covariates: tuple[str, ...]
    centre: tuple[float, ...]


@dataclass(frozen=True)
class Design:
    """How covariates become columns; frozen after the fit.

    Attributes:
        schema: The covariates.
        knots: Spline knots of each continuous covariate, in its own unit.
        terms: Blocks of effect columns.
    """

    schema: CovariateSchema = field(metadata=given(lambda read: read["schema"]))
    knots: dict[str, tuple[float, ...]]
    terms: tuple[Term, ...]

    @classmethod
    def fit(
        cls, schema: CovariateSchema, frame: pd.DataFrame, degrees: int, interactions: Sequence[Sequence[str]]
    ) -> "Design":
        """Place knots and centre the columns on training people.

        Args:
            schema: The covariates.
            frame: Training people's values (`CovariateSchema.transfer`).
            degrees: Degrees of freedom of a continuous effect.
            interactions: Tuples of effect covariates whose product also enters.

        Raises:
            CovariateError: An interaction of unknown or batch covariates.
        """
        effects = [name for name in schema.names if name not in schema.batches]
        unknown = sorted({name for group in interactions for name in group} - set(effects))
        if unknown:
            raise CovariateError(f"interactions of {', '.join(unknown)}: allowed are {', '.join(effects) or 'none'}")
        odd = [f"[{', '.join(group)}]" for group in interactions if len(set(group)) < max(2, len(group))]
        if odd:
            raise CovariateError(f"interactions {', '.join(odd)}: name two or more different covariates in each")
        knots = {
            name: spline_knots(frame[name].to_numpy(float), degrees)
            for name in effects
            if isinstance(schema[name], Continuous)
        }
        return cls.centred(schema, frame, knots, interactions)

    @classmethod
    def centred(
        cls,
        schema: CovariateSchema,
        frame: pd.DataFrame,
        knots: dict[str, tuple[float, ...]],
        interactions: Sequence[Sequence[str]],
        weights: "Float[np.ndarray, ' people'] | None" = None,
    ) -> "Design":
        """Centre the columns on people.

        Args:
            schema: The covariates.
            frame: People's values.
            knots: Of each continuous effect.
            interactions: As of `fit`.
            weights: What each person counts; None: the same.
        """
        bare, effects = cls(schema, knots, ()), [name for name in schema.names if name not in schema.batches]
        groups = [(name,) for name in effects] + [tuple(group) for group in interactions]
        raw = [bare._raw(group, frame) for group in groups]
        centres = [one.mean(axis=0) if weights is None else weights @ one / weights.sum() for one in raw]
        terms = tuple(Term(group, tuple(own.tolist())) for group, own in zip(groups, centres, strict=True))
        return cls(schema, knots, terms)

    def effects(self, frame: pd.DataFrame) -> Float[np.ndarray, "people columns"]:
        """Return the intercept and the centred effect columns."""
        chunks = [self._raw(term.covariates, frame) - np.asarray(term.centre) for term in self.terms]
        return np.concatenate([np.ones((len(frame), 1)), *chunks], axis=1)

    def transformed_effects(
        self, frame: pd.DataFrame, transformed: Collection[str]
    ) -> Float[np.ndarray, "people columns"]:
        """Return the intercept and the effect columns as far as they depend on some covariates: the others are 0.

        An interaction depends on each of its covariates. Where only some of them are in ``transformed``, its columns are the
        product less what it would be at the mean of these, with everybody's own value of the others, so that what is not
        taken out is the others' effect at that mean.

        Args:
            frame: Covariates; only the columns of `looked_at` are.
            transformed: The covariates.
        """
        chunks = []
        for term in self.terms:
            those = [name for name in term.covariates if name in transformed]
            if not those:
                chunks.append(np.zeros((len(frame), len(term.centre))))
            elif len(those) == len(term.covariates):
                chunks.append(self._raw(term.covariates, frame) - np.asarray(term.centre))
            else:
                chunks.append(self._raw(term.covariates, frame) - self._raw(term.covariates, frame, at_mean=those))
        return np.concatenate([np.ones((len(frame), 1)), *chunks], axis=1)

    def looked_at(self, transformed: Collection[str]) -> frozenset[str]:
        """Return some covariates and those that they interact with, whose values tell how far their effects go."""
        partners = [name for term in self.terms if set(term.covariates) & set(transformed) for name in term.covariates]
        return frozenset({*transformed, *partners})

    def closed(self) -> "Design":
        """Return the design with a term for every part of an interaction too, the further ones last and not centred."""
        present = {frozenset(term.covariates) for term in self.terms}
        further: list[Term] = []
        for term in self.terms:
            for size in range(2, len(term.covariates)):
                for part in combinations(term.covariates, size):
                    if frozenset(part) not in present:
                        present.add(frozenset(part))
                        further.append(Term(part, (0.0,) * int(np.prod([self._width(name) for name in part]))))
        return self if not further else replace(self, terms=(*self.terms, *further))

    def averaged(
        self, coefficients: Float[np.ndarray, "effects columns"], kept: Collection[str]
    ) -> Float[np.ndarray, "closed columns"]:
        """Return the coefficients of the kept covariates with the others at their means, a row a column of `closed`.

        Args:
            coefficients: Of the effect columns, the intercept not counted.
            kept: The covariates; interactions with others count by what they add to the kept ones' own effect.
        """
        closed = self.closed()
        starts = np.cumsum([0, *(len(term.centre) for term in closed.terms)])
        place = {frozenset(term.covariates): k for k, term in enumerate(closed.terms)}
        found = np.zeros((int(starts[-1]), coefficients.shape[1]))
        for k, term in enumerate(self.terms):
            if not (own := frozenset(term.covariates) & set(kept)):
                continue
            widths = [self._width(name) for name in term.covariates]
            chunk = coefficients[starts[k] : starts[k + 1]].reshape(*widths, -1)
            for axis in reversed(range(len(widths))):
                if term.covariates[axis] not in own:
                    chunk = np.tensordot(self._centre(term.covariates[axis]), chunk, axes=(0, axis))
            left = [name for name in term.covariates if name in own]
            there = place[own]
            chunk = chunk.transpose(*(left.index(name) for name in closed.terms[there].covariates), len(left))
            found[starts[there] : starts[there + 1]] += chunk.reshape(-1, coefficients.shape[1])
        return found

    def batches(self, frame: pd.DataFrame) -> Float[np.ndarray, "people levels"]:
        """Return the memberships of all batch covariates side by side; the pooled reference has no effect: zeros."""
        chunks = [
            membership(frame[name], self._levels(name))
            * np.array([str(own) != POOLED for own in frame[name].tolist()])[:, None]
            for name in self.schema.batches
        ]
        return np.concatenate(chunks, axis=1) if chunks else np.zeros((len(frame), 0))

    def batch_slices(self) -> dict[str, slice]:
        """Return which columns of `batches` belong to which batch covariate."""
        slices, start = {}, 0
        for name in self.schema.batches:
            width = len(self._levels(name).levels)
            slices[name] = slice(start, start + width)
            start += width
        return slices

    def level_counts(self, name: str) -> tuple[int, ...]:
        """Return how many training people have each level of a batch covariate."""
        return self._levels(name).counts

    def full(self, frame: pd.DataFrame) -> Float[np.ndarray, "people rows"]:
        """Return the effects and the batch memberships side by side, one column a coefficient."""
        return np.concatenate([self.effects(frame), self.batches(frame)], axis=1)

    def contrasts(self, present: "Bool[np.ndarray, ' levels'] | None" = None) -> Float[np.ndarray, "rows columns"]:
        """Return a basis of the coefficients in which batch effects average to zero over the training people.

        Args:
            present: Batch levels that somebody has; the others get no effect. All of them, if None.
        """
        width = 1 + sum(len(term.centre) for term in self.terms)
        chunks = [np.eye(width)]
        for name, part in self.batch_slices().items():
            counts = np.asarray(self._levels(name).counts, float)
            here = counts > 0 if present is None else present[part]
            # Columns span {g: sum counts * g = 0}: the complement of the counts.
            chunk = np.zeros((len(counts), max(int(here.sum()) - 1, 0)))
            chunk[here] = np.linalg.svd(counts[here][None])[2][1:].T
            chunks.append(chunk)
        rows, columns = sum(len(b) for b in chunks), sum(b.shape[1] for b in chunks)
        stacked = np.zeros((rows, columns))
        row = column = 0
        for chunk in chunks:
            stacked[row : row + len(chunk), column : column + chunk.shape[1]] = chunk
            row, column = row + len(chunk), column + chunk.shape[1]
        return stacked

    def check_aliases(self, frame: pd.DataFrame) -> None:
        """Refuse covariates whose effects these people cannot tell apart.

        Raises:
            CovariateError: The covariates by name, and what to do.
        """
        design = self.full(frame) @ self.contrasts()
        diagonal = np.abs(np.diag(np.linalg.qr(design, mode="r")))
        if len(frame) <= design.shape[1] or diagonal.min() < 1e-8 * diagonal.max():
            self._explain_alias(frame)

    def _levels(self, name: str) -> Categorical:
        covariate = self.schema[name]
        if not isinstance(covariate, Categorical):
            raise ModelError(f"{name}: a batch covariate is categorical; set covariates.{name}.kind to categorical")
        return covariate

    def _centre(self, name: str) -> Float[np.ndarray, " columns"]:
        """Return the means of a covariate's own columns over the training people."""
        return np.asarray(next(term.centre for term in self.terms if term.covariates == (name,)))

    def _width(self, name: str) -> int:
        return len(self._centre(name))

    def _raw(self, group: Sequence[str], frame: pd.DataFrame, at_mean: Collection[str] = ()) -> np.ndarray:
        product = np.ones((len(frame), 1))
        for name in group:
            covariate = self.schema[name]
            if name in at_mean:
                columns = np.tile(self._centre(name), (len(frame), 1))
            elif isinstance(covariate, Continuous):
                columns = natural_spline(frame[name].to_numpy(float), self.knots[name])
            else:
                columns = membership(frame[name], covariate)[:, 1:]
            width = product.shape[1] * columns.shape[1]
            product = (product[:, :, None] * columns[:, None, :]).reshape(len(frame), width)
        return product

    def _explain_alias(self, frame: pd.DataFrame) -> None:
        chunks = {" x ".join(t.covariates): self._raw(t.covariates, frame) - np.asarray(t.centre) for t in self.terms}
        chunks |= {name: membership(frame[name], self._levels(name))[:, 1:] for name in self.schema.batches}
        one = np.ones((len(frame), 1))

        def deficient(*names: str) -> bool:
            columns = np.concatenate([one, *(chunks[name] for name in names)], axis=1)
            return int(np.linalg.matrix_rank(columns, tol=1e-8 * np.linalg.norm(columns, 2))) < columns.shape[1]

        alone = [f"{name} alone has more columns than its values support" for name in chunks if deficient(name)]
        pairs = [f"{a} and {b} cannot be told apart" for a, b in combinations(chunks, 2) if deficient(a, b)]
        people = f"{len(frame)} people for {1 + sum(b.shape[1] for b in chunks.values())} columns"
        found = alone or pairs or [f"{', '.join(chunks)} together ({people})"]
        cure = "leave one out with --set covariates.NAME=null, merge levels, or add people in whom they differ"
        raise CovariateError(listed("aliased covariates: their effects cannot be separated", found, cure))


@dataclass(frozen=True)
class Contrast:
    """Two values of one covariate; the others are at their reference.

    Attributes:
        covariate: Which.
        before: From this value.
        after: To this one.
    """

    covariate: str
    before: float | str
    after: float | str

    @property
    def name(self) -> str:
        """Short text: ``age 38 -> 66``."""
        return f"{self.covariate} {shown(self.before)} -> {shown(self.after)}"


def contrasts(schema: CovariateSchema) -> tuple[Contrast, ...]:
    """Return one contrast for a continuous covariate, a deviation either side of its mean, and one for each further level."""
    found: list[Contrast] = []
    for covariate in schema.fitted:
        name = covariate.declared.name
        if isinstance(covariate, Continuous):
            low = max(covariate.mean - covariate.sd, covariate.low)
            found.append(Contrast(name, low, min(covariate.mean + covariate.sd, covariate.high)))
            continue
        levels = [level for level in covariate.levels if level != covariate.reference]
        found += [Contrast(name, covariate.reference, level) for level in levels]
    return tuple(found)


_PLACES = 41


def effect_covariance(
    design: Design, frame: pd.DataFrame, log_scale: Float[np.ndarray, "levels columns"]
) -> Float[np.ndarray, "effects effects"]:
    """Return the covariance of the intercept and the effects of a column, in units of its residual variance.

    Args:
        design: The design matrix.
        frame: Training people.
        log_scale: Log scales of the batch levels in the columns that vary; their mean over columns weighs the people.
    """
    levels = design.batches(frame)
    reduced = design.full(frame) @ design.contrasts(levels.sum(axis=0) > 0)
    usual = log_scale.mean(axis=1) if log_scale.shape[1] else np.zeros(len(log_scale))
    r = np.linalg.qr(reduced * np.exp(-levels @ usual)[:, None], mode="r")
    inverse = np.linalg.inv(r)
    effects = 1 + sum(len(term.centre) for term in design.terms)
    covariance: np.ndarray = (inverse @ inverse.T)[:effects, :effects]
    return covariance


def effect_variance(
    design: Design,
    covariance: Float[np.ndarray, "effects effects"],
    coefficients: Float[np.ndarray, "effects columns"],
    frame: pd.DataFrame,
) -> float:
    """Return the variance of the mean effect at some people, a mean over columns, in units of their residual variance.

    Args:
        design: The design matrix.
        covariance: `effect_covariance`.
        coefficients: Intercept and effects of the columns that vary, over their residual deviation.
        frame: The people's covariates.
    """
    mean = design.effects(frame).mean(axis=0)
    variance = float(mean @ covariance @ mean)
    for name, knots in design.knots.items():
        values = frame[name].to_numpy(float)
        beyond = [float((np.maximum(over, 0) ** 2).mean()) for over in (knots[0] - values, values - knots[-1])]
        if any(beyond):
            variance += _bend(design, name, covariance, coefficients, frame) * sum(far**2 for far in beyond) / 4
    return variance


def _bend(
    design: Design,
    name: str,
    covariance: Float[np.ndarray, "effects effects"],
    coefficients: Float[np.ndarray, "effects columns"],
    frame: pd.DataFrame,
) -> float:
    """Return the mean squared second derivative between the knots, the other covariates as the people have them."""
    places, step = np.linspace(design.knots[name][0], design.knots[name][-1], _PLACES, retstep=True)
    rows = np.stack([design.effects(frame.assign(**{name: place})).mean(axis=0) for place in places])
    second = np.diff(rows, 2, axis=0) / step**2
    squares = float(((second @ coefficients) ** 2).mean()) if coefficients.shape[1] else 0.0
    return max(squares - float(np.einsum("ij,jk,ik->i", second, covariance, second).mean()), 0.0)
