"""A cell of the grid of ratios of variances: what columns that have them share when they are fitted to visits.

Squares of conditional residuals e = P x hold more than their own level's variance: with M_ab the sum over visits j of a and k of
b of P_jk^2, their sums expect to differ from those of equal levels by M (delta^2 - 1), which is solved for delta^2 (MINQUE, Rao
1971).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from medrep.models.linear.random_effects import LEAST_VARIANCE
from medrep.models.linear.visit_design import Ratios, VisitDesign


@dataclass(frozen=True, eq=False)
class Cell:
    """Parts of the solution that columns with the same ratios share.

    Attributes:
        ratios: The ratios.
        root: L^-1, where L L' = X' V^-1 X.
        freedom: Visits less coefficients.
        determinant: log |V| + log |X' V^-1 X|.
        visits: The visits.
    """

    ratios: Ratios
    root: Float[np.ndarray, "width width"]
    freedom: float
    determinant: float
    visits: VisitDesign = field(repr=False)

    @classmethod
    def of(cls, visits: VisitDesign, ratios: Ratios) -> "Cell":
        """Prepare what columns with these ratios share."""
        design = visits.design
        gram = design.T @ visits.within(design, *ratios)
        lower = np.linalg.cholesky((gram + gram.T) / 2)
        root = solve_triangular(lower, np.eye(len(lower)), lower=True)
        determinant = np.log1p(ratios.level * visits.counts).sum() + np.log1p(ratios.slope * visits.spans).sum()
        determinant += 2 * np.log(np.diag(lower)).sum()
        if visits.groups is not None and ratios.group:
            inside = visits.groups @ (visits.counts * visits.shares(ratios.level))
            determinant += np.log1p(ratios.group * inside).sum()
        return cls(ratios, root, float(len(design) - design.shape[1]), float(determinant), visits)

    @cached_property
    def covariance(self) -> Float[np.ndarray, "rows rows"]:
        """Covariance of all coefficients over the residual variance."""
        half = self.visits.solver.contrasts @ self.root.T
        return half @ half.T

    @cached_property
    def leverage(self) -> Float[np.ndarray, " levels"]:
        """Variance of each level's location over the residual variance."""
        return np.diag(self.covariance)[len(self.covariance) - self.visits.solver.levels.shape[1] :].copy()

    @cached_property
    def errors(self) -> Float[np.ndarray, " contrasts"]:
        """Standard errors of the contrasts over sd."""
        wanted = self.visits.contrasts
        return np.sqrt(np.einsum("ij,jk,ik->i", wanted, self.covariance, wanted))

    @property
    def variances(self) -> Float[np.ndarray, "3 3"]:
        """Covariance of the variances of noise, levels and slopes, with sd 1: 2 over sums of squared traces, person by person."""
        counts, spans = self.visits.counts, self.visits.spans
        level = self.ratios.level + self.ratios.group  # as of people of whom no relatives are here
        unit = 1.0
        if self.visits.runs and self.visits.groups is not None:  # as of scans whose session is a part of their noise
            counts, spans = self.visits.groups @ counts, np.zeros(self.visits.groups.shape[0])
            unit = 1 + self.ratios.level
            level = self.ratios.group / unit
        levels, slopes = 1 / (1 + level * counts) ** 2, 1 / (1 + self.ratios.slope * spans) ** 2
        information = np.diag([(counts - 1 - (spans > 0) + levels + slopes * (spans > 0)).sum(), 0.0, 0.0])
        for k, (sizes, own) in enumerate(((counts, levels), (spans, slopes)), 1):
            information[0, k] = information[k, 0] = (sizes * own).sum()
            information[k, k] = (sizes**2 * own).sum()
        known: np.ndarray = np.linalg.pinv(information, rcond=1e-12) * len(self.visits.time) / self.freedom
        return 2 * known * unit**2

    def effects(self, count: int) -> Float[np.ndarray, "effects effects"]:
        """Return the covariance of the first coefficients over the residual variance."""
        return self.covariance[:count, :count]

    @cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        visits, levels = self.visits, self.visits.solver.levels
        level = self.ratios.level / (1 + self.ratios.level * visits.counts)
        slope = self.ratios.slope / (1 + self.ratios.slope * visits.spans)
        projected = visits.within(visits.design, *self.ratios) @ self.root.T
        own = visits.member.T @ level + visits.time**2 * (visits.member.T @ slope)
        sizes = (projected**2).sum(axis=1)
        left = 1 - own - sizes
        count, time = visits.member @ levels, visits.timed @ levels
        time_squares = visits.member @ (visits.time[:, None] ** 2 * levels)
        inverse = count.T @ (level[:, None] ** 2 * count) + 2 * time.T @ ((level * slope)[:, None] * time)
        inverse += time_squares.T @ (slope[:, None] ** 2 * time_squares) + np.diag(levels.T @ (1 - 2 * own))
        both = np.diag(levels.T @ sizes)
        grams = np.zeros((levels.shape[1], projected.shape[1] ** 2))
        sums = [np.zeros((len(level), levels.shape[1], projected.shape[1])) for _ in range(2)]
        for k, member in enumerate(levels.T):
            masked = member[:, None] * projected
            grams[k] = (projected.T @ masked).ravel()
            sums[0][:, k], sums[1][:, k] = visits.member @ masked, visits.timed @ masked
        both = both - np.einsum("iap,i,ibp->ab", sums[0], level, sums[0], optimize=True)
        both -= np.einsum("iap,i,ibp->ab", sums[1], slope, sums[1], optimize=True)
        if visits.groups is not None and self.ratios.group:
            share, per_group = visits.shares(self.ratios.level), visits.per_group(self.ratios)
            of_person = visits.groups.T @ per_group * share**2
            own_group = visits.member.T @ of_person
            left -= own_group
            inverse += 2 * (
                count.T @ ((level * of_person)[:, None] * count) + time.T @ ((slope * of_person)[:, None] * time)
            )
            inverse -= 2 * np.diag(levels.T @ own_group)
            held = visits.groups @ (share[:, None] ** 2 * count)
            inverse += held.T @ (per_group[:, None] ** 2 * held)
            in_groups = np.tensordot(visits.groups.toarray() * share, sums[0], axes=1)
            both -= np.einsum("gap,g,gbp->ab", in_groups, per_group, in_groups, optimize=True)
        shared = inverse - 2 * both + grams @ grams.T
        return left, shared, levels.T @ left

    @property
    def left(self) -> Float[np.ndarray, " visits"]:
        """P_jj of each visit, P the residual maker V^-1 - V^-1 X (X' V^-1 X)^-1 X' V^-1."""
        return self._parts[0]

    def freedoms(self, parts: Sequence[slice]) -> Float[np.ndarray, " levels"]:
        """Return the degrees of freedom that each level's variance is told with: 2 over its relative variance."""
        _, shared, _ = self._parts
        found = np.zeros(len(shared))
        for part in parts:
            inverse = np.linalg.pinv(shared[part, part], rcond=1e-8)
            found[part] = np.divide(1, np.diag(inverse), out=np.zeros(len(inverse)), where=np.diag(inverse) > 1e-12)
        return found

    def level_ratios(self, squares: Float[np.ndarray, "levels block"], parts: Sequence[slice]) -> np.ndarray:
        """Return each level's variance over the residual variance; 1 where it cannot be told.

        Args:
            squares: Sums of squared conditional residuals over the residual variance.
            parts: Levels of each batch covariate.
        """
        _, shared, expected = self._parts
        ratio = np.ones_like(squares)
        told = self.freedoms(parts) > 0.5
        for part in parts:
            beyond = np.linalg.pinv(shared[part, part], rcond=1e-8) @ (squares - expected[:, None])[part]
            ratio[part] = np.where(told[part][:, None], np.maximum(1 + beyond, LEAST_VARIANCE), 1.0)
        return ratio
