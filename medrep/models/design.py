"""The design matrix of the mean: smooth continuous effects, levels, interactions, and batch levels.

Columns of effects are centred on the training people, so that the first row of the coefficients is the pooled mean.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from medrep._persisted import given
from medrep.cohort.covariates import POOLED, Categorical, Continuous, CovariateSchema, membership
from medrep.errors import CovariateError, ModelError, listed
from medrep.models.splines import natural_spline, spline_knots


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
        strangers = sorted({name for group in interactions for name in group} - set(effects))
        if strangers:
            raise CovariateError(f"interactions of {', '.join(strangers)}: allowed are {', '.join(effects) or 'none'}")
        odd = [f"[{', '.join(group)}]" for group in interactions if len(set(group)) < max(2, len(group))]
        if odd:
            raise CovariateError(f"interactions {', '.join(odd)}: name two or more different covariates in each")
        knots = {
            name: spline_knots(frame[name].to_numpy(float), degrees)
            for name in effects
            if isinstance(schema[name], Continuous)
        }
        bare = cls(schema, knots, ())
        groups = [(name,) for name in effects] + [tuple(group) for group in interactions]
        terms = tuple(Term(group, tuple(bare._raw(group, frame).mean(axis=0).tolist())) for group in groups)
        return cls(schema, knots, terms)

    def effects(self, frame: pd.DataFrame) -> Float[np.ndarray, "people columns"]:
        """Return the intercept and the centred effect columns."""
        blocks = [self._raw(term.covariates, frame) - np.asarray(term.centre) for term in self.terms]
        return np.concatenate([np.ones((len(frame), 1)), *blocks], axis=1)

    def moved_effects(self, frame: pd.DataFrame, moved: Collection[str]) -> Float[np.ndarray, "people columns"]:
        """Return the intercept and the effect columns as far as they depend on some covariates: the others are 0.

        An interaction depends on each of its covariates. Where only some of them are in ``moved``, its columns are the
        product less what it would be at the mean of these, with everybody's own value of the others, so that what is not
        taken out is the others' effect at that mean.

        Args:
            frame: Covariates; only the columns of `looked_at` are.
            moved: The covariates.
        """
        blocks = []
        for term in self.terms:
            those = [name for name in term.covariates if name in moved]
            if not those:
                blocks.append(np.zeros((len(frame), len(term.centre))))
            elif len(those) == len(term.covariates):
                blocks.append(self._raw(term.covariates, frame) - np.asarray(term.centre))
            else:
                blocks.append(self._raw(term.covariates, frame) - self._raw(term.covariates, frame, at_mean=those))
        return np.concatenate([np.ones((len(frame), 1)), *blocks], axis=1)

    def looked_at(self, moved: Collection[str]) -> frozenset[str]:
        """Return some covariates and those that they interact with, whose values tell how far their effects go."""
        partners = [name for term in self.terms if set(term.covariates) & set(moved) for name in term.covariates]
        return frozenset({*moved, *partners})

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
            block = coefficients[starts[k] : starts[k + 1]].reshape(*widths, -1)
            for axis in reversed(range(len(widths))):
                if term.covariates[axis] not in own:
                    block = np.tensordot(self._centre(term.covariates[axis]), block, axes=(0, axis))
            left = [name for name in term.covariates if name in own]
            there = place[own]
            block = block.transpose(*(left.index(name) for name in closed.terms[there].covariates), len(left))
            found[starts[there] : starts[there + 1]] += block.reshape(-1, coefficients.shape[1])
        return found

    def batches(self, frame: pd.DataFrame) -> Float[np.ndarray, "people levels"]:
        """Return the memberships of all batch covariates side by side; the pooled reference has no effect: zeros."""
        blocks = [
            membership(frame[name], self._levels(name))
            * np.array([str(own) != POOLED for own in frame[name].tolist()])[:, None]
            for name in self.schema.batches
        ]
        return np.concatenate(blocks, axis=1) if blocks else np.zeros((len(frame), 0))

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
        blocks = [np.eye(width)]
        for name, part in self.batch_slices().items():
            counts = np.asarray(self._levels(name).counts, float)
            here = counts > 0 if present is None else present[part]
            # Columns span {g: sum counts * g = 0}: the complement of the counts.
            block = np.zeros((len(counts), max(int(here.sum()) - 1, 0)))
            block[here] = np.linalg.svd(counts[here][None])[2][1:].T
            blocks.append(block)
        rows, columns = sum(len(b) for b in blocks), sum(b.shape[1] for b in blocks)
        stacked = np.zeros((rows, columns))
        row = column = 0
        for block in blocks:
            stacked[row : row + len(block), column : column + block.shape[1]] = block
            row, column = row + len(block), column + block.shape[1]
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
        blocks = {" x ".join(t.covariates): self._raw(t.covariates, frame) - np.asarray(t.centre) for t in self.terms}
        blocks |= {name: membership(frame[name], self._levels(name))[:, 1:] for name in self.schema.batches}
        one = np.ones((len(frame), 1))

        def deficient(*names: str) -> bool:
            columns = np.concatenate([one, *(blocks[name] for name in names)], axis=1)
            return int(np.linalg.matrix_rank(columns, tol=1e-8 * np.linalg.norm(columns, 2))) < columns.shape[1]

        alone = [f"{name} alone has more columns than its values support" for name in blocks if deficient(name)]
        pairs = [f"{a} and {b} cannot be told apart" for a, b in combinations(blocks, 2) if deficient(a, b)]
        people = f"{len(frame)} people for {1 + sum(b.shape[1] for b in blocks.values())} columns"
        found = alone or pairs or [f"{', '.join(blocks)} together ({people})"]
        cure = "leave one out with --set covariates.NAME=null, merge levels, or add people in whom they differ"
        raise CovariateError(listed("aliased covariates: their effects cannot be separated", found, cure))
