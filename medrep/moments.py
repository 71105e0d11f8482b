"""Joint moments of latents and covariates, and their canonical correlations given further covariates.

Latents and covariate columns are standardised before anything is compared with a tolerance, so units do not matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.special import fdtrc

from medrep._persisted import stored
from medrep.errors import CovariateError, ModelError, listed

Rank = int | Literal["significant", "full"]

_TOLERANCE = 1e-11
_LEVEL = 0.05


def _each_row_a_person(moments: "GuardMoments") -> bool:
    return not moments.people


@dataclass(frozen=True)
class GuardMoments:
    """Joint moments of training participants' latents and covariates.

    Several scans of a person tell less than as many people. With rho the share of the latents' variance that lies between people
    and a a centred column, the mean of the latents along a has the variance of N / D independent rows, where

        D = 1 - rho + rho * sum_people (sum of a over the person's rows)^2 / sum_rows a^2

    (Kish's design effect for any column). For a column that is constant within people, of whom each has m rows, D is
    1 + rho (m - 1), so that N / D = people / (rho + (1 - rho) / m); one that only varies within people has D = 1 - rho.

    Attributes:
        n: Number of rows.
        names: Covariates, in the order of their columns.
        widths: Number of columns of each.
        mean: Means of the latents, then of the columns, each in its own unit.
        covariance: Their joint covariance (divided by n - 1).
        shares: For a column of two values, the share of people with the larger; 0 for one value, nan for more than two.
        people: Number of people; 0 where each row is one.
        icc: rho; 0 where each row is a person.
        sums: Covariance of the columns' sums over each person's rows (divided by n - 1); empty where each row is a person.
    """

    n: int
    names: tuple[str, ...]
    widths: tuple[int, ...]
    mean: Float[np.ndarray, " joint"]
    covariance: Float[np.ndarray, "joint joint"]
    shares: Float[np.ndarray, " columns"] = field(metadata=stored(finite=False))
    people: int = field(default=0, metadata=stored(omitted=_each_row_a_person))
    icc: float = field(default=0.0, metadata=stored(omitted=_each_row_a_person))
    sums: Float[np.ndarray, "further further"] = field(
        default_factory=lambda: np.zeros((0, 0)), metadata=stored(omitted=lambda moments: not moments.sums.size)
    )

    @classmethod
    def of(
        cls,
        z: Float[np.ndarray, "people latents"],
        blocks: Mapping[str, np.ndarray],
        *,
        participants: Sequence[str] | None = None,
        icc: float = 0.0,
    ) -> "GuardMoments":
        """Take the moments of training people's latents and of the columns of each covariate: a smooth basis, or one a level.

        Without `participants` each row is a person; `icc` is the share of the latents' variance that lies between people, see
        `intraclass`. Raises ModelError for fewer than two people, rows that do not match, or values that are not finite.
        """
        people = len(z)
        who = None if participants is None else np.unique(np.asarray(participants, str), return_inverse=True)[1]
        repeated = who is not None and int(who.max(initial=-1)) + 1 < people
        odd = [
            f"{name}: shape {np.shape(b)}" for name, b in blocks.items() if np.ndim(b) != 2 or np.shape(b)[0] != people
        ]
        if people < 2 or odd:
            cure = f"give a matrix with one row for each of the {people} people with latents (2 or more)"
            raise ModelError(listed("a guard cannot be fitted", odd or [f"{people} people"], cure))
        joint = np.concatenate([z, *blocks.values()], axis=1, dtype=np.float64)
        names = ["latents"] * z.shape[1] + [name for name, block in blocks.items() for _ in range(block.shape[1])]
        broken = dict.fromkeys(names[k] for k in np.flatnonzero(~np.isfinite(joint).all(axis=0)))
        if broken:
            raise ModelError(listed("values that are not finite", list(broken), "impute or leave out these people"))
        columns = joint[:, z.shape[1] :]
        low, high = columns.min(axis=0), columns.max(axis=0)
        two = ((columns == low) | (columns == high)).all(axis=0)
        own: tuple[int, float, np.ndarray] = (0, 0.0, np.zeros((0, 0)))
        if repeated and who is not None:
            sums = np.zeros((int(who.max()) + 1, columns.shape[1]))
            np.add.at(sums, who, columns - columns.mean(axis=0))
            own = (len(sums), icc, sums.T @ sums / (people - 1))
        return cls(
            people,
            tuple(blocks),
            tuple(int(np.shape(block)[1]) for block in blocks.values()),
            joint.mean(axis=0),
            np.atleast_2d(np.cov(joint, rowvar=False)),
            np.where(two, ((columns == high) & (low < high)).mean(axis=0), np.nan),
            *own,
        )

    @property
    def persons(self) -> int:
        """Number of people, however many rows each has."""
        return self.people or self.n

    def design_effect(self, names: Sequence[str], given: Sequence[str] = ()) -> float:
        """Return D, averaged over the dimensions of some covariates' columns with ``given`` partialled out; 1 without repeats."""
        if not self.sums.size:
            return 1.0
        k, t = self.columns(given), self.columns(names)
        size = np.sqrt(np.diag(self.covariance))
        size = np.where(size > 0, size, 1.0)
        joint = self.covariance / np.outer(size, size)
        basis = whitener(joint[np.ix_(k, k)])
        # Weights of all columns: those of names less what given tells of them.
        turn = np.zeros((len(self.mean), len(t)))
        turn[t, np.arange(len(t))] = 1.0
        turn[k] -= basis @ (basis.T @ joint[np.ix_(k, t)])
        white = turn @ whitener(turn.T @ joint @ turn)
        if not white.shape[1]:
            return 1.0
        columns = white[self.latents :] / size[self.latents :, None]
        spread = float(np.trace(columns.T @ self.sums @ columns)) / white.shape[1]
        return max(1 - self.icc + self.icc * spread, 1e-3)

    @property
    def latents(self) -> int:
        """Number of latents."""
        return len(self.mean) - sum(self.widths)

    def columns(self, names: Sequence[str]) -> Int[np.ndarray, " chosen"]:
        """Return where the columns of these covariates stand in `mean` and `covariance`."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise CovariateError(listed("unknown covariates", unknown, f"allowed are {', '.join(self.names)}"))
        ends = self.latents + np.cumsum([0, *self.widths])
        places = [np.arange(ends[k], ends[k + 1]) for k in map(self.names.index, names)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *places])


@dataclass(frozen=True)
class Canonical:
    """Canonical pairs of latents and some covariates, given others, in standardised units.

    Attributes:
        people: Degrees of freedom left by the covariates that are given, plus one; repeated rows of a person count for less.
        dimensions: Dimensions in which the latents vary, given those.
        degrees: Dimensions in which the covariates vary, given those.
        scale: Standard deviation of each latent, in its own unit; 1 where it is constant.
        latents: Correlation of the latents.
        given: Their covariance with an orthonormal basis of the covariates that are given.
        partial: Covariance of the latents, given those.
        residual: Covariance of the covariates' columns, given those.
        loadings: Covariance of the latents with each canonical variate of the covariates, given the others.
        variates: Covariance of the covariates with those variates; their rows are the columns of `GuardMoments.columns`.
        correlations: Canonical correlations, largest first.
    """

    people: float
    dimensions: int
    degrees: int
    scale: Float[np.ndarray, " latents"]
    latents: Float[np.ndarray, "latents latents"]
    given: Float[np.ndarray, "latents given"]
    partial: Float[np.ndarray, "latents latents"]
    residual: Float[np.ndarray, "columns columns"]
    loadings: Float[np.ndarray, "latents pairs"]
    variates: Float[np.ndarray, "columns pairs"]
    correlations: Float[np.ndarray, " pairs"]

    @classmethod
    def of(cls, moments: GuardMoments, names: Sequence[str], given: Sequence[str]) -> "Canonical":
        """Analyse the latents against `names`, with `given` partialled out of both."""
        spread = np.sqrt(np.diag(moments.covariance))
        varies = spread > 1e-12 * np.abs(moments.mean)
        scale = np.where(varies, spread, 1.0)
        joint = moments.covariance / np.outer(scale, scale) * np.outer(varies, varies)
        z, t, k = np.arange(moments.latents), moments.columns(names), moments.columns(given)
        basis = whitener(joint[np.ix_(k, k)])
        z_given, t_given = joint[np.ix_(z, k)] @ basis, joint[np.ix_(t, k)] @ basis
        partial = joint[np.ix_(z, z)] - z_given @ z_given.T
        residual = joint[np.ix_(t, t)] - t_given @ t_given.T
        cross = joint[np.ix_(z, t)] - z_given @ t_given.T
        whiten_z, whiten_t = whitener(partial), whitener(residual)
        _, correlations, turn = np.linalg.svd(whiten_z.T @ cross @ whiten_t, full_matrices=False)
        pairs = whiten_t @ turn.T
        return cls(
            people=moments.n / moments.design_effect(names, given) - basis.shape[1],
            dimensions=whiten_z.shape[1],
            degrees=whiten_t.shape[1],
            scale=scale[z],
            latents=joint[np.ix_(z, z)],
            given=z_given,
            partial=partial,
            residual=residual,
            loadings=cross @ pairs,
            variates=residual @ pairs,
            correlations=np.minimum(correlations, 1.0),
        )

    def count(self, rank: Rank) -> int:
        """Return how many pairs to take: all, a number, or those that noise alone does not explain.

        The last is Wilks' test that the remaining correlations are zero (Rao's F, exact for one or two degrees), from the
        first pair on, until it is not rejected at 5%: under pure noise a direction is taken in 1 of 20 fits. Raises
        ModelError for a negative rank, or too few people for the test.
        """
        present = int((self.correlations > 1e-10).sum())
        if rank == "full":
            return present
        if rank != "significant":
            if rank < 0:
                raise ModelError(f"rank {rank} of a guard: it is 0 or more, 'significant' or 'full'")
            return min(rank, present)
        if present and self.people <= self.dimensions + self.degrees:
            have = f"{self.people - 1:.0f} degrees of freedom for {self.dimensions} latents and {self.degrees} columns"
            raise ModelError(f"too few people to tell effects from noise: {have}; use fewer latents or merge levels")
        remaining = np.cumsum(np.log1p(-(np.minimum(self.correlations, 1 - 1e-15) ** 2))[::-1])[::-1]
        for taken in range(present):
            if not self._beyond_noise(taken, float(remaining[taken])):
                return taken
        return present

    def _beyond_noise(self, taken: int, log_wilks: float) -> bool:
        p, q = self.dimensions - taken, self.degrees - taken
        middle = self.people - 1.5 - (self.dimensions + self.degrees) / 2
        root = np.sqrt((p * p * q * q - 4) / (p * p + q * q - 5)) if p * p + q * q > 5 else 1.0
        rest = middle * root - p * q / 2 + 1
        return bool(fdtrc(p * q, rest, np.expm1(-log_wilks / root) * rest / (p * q)) < _LEVEL)


def whitener(covariance: Float[np.ndarray, "columns columns"]) -> Float[np.ndarray, "columns dimensions"]:
    """Return w with w^T covariance w = I, in the directions with variance; columns are in standardised units."""
    values, vectors = np.linalg.eigh(covariance)
    present = values > _TOLERANCE * max(1, len(values))
    return vectors[:, present] / np.sqrt(values[present])


def intraclass(values: Float[np.ndarray, "rows columns"], participants: Sequence[str]) -> float:
    """Return the share of the variance that lies between people, by one-way analysis of variance pooled over columns.

    The rows are what is left once covariates are accounted for, and each column counts alike. Between 0 and 1; 0 where nobody
    has two rows.
    """
    who = np.unique(np.asarray(participants, str), return_inverse=True)[1]
    rows = np.bincount(who).astype(float)
    people, n = len(rows), len(who)
    if people in {1, n} or not values.shape[1]:
        return 0.0
    spread = values.std(axis=0)
    scaled = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    means = np.zeros((people, values.shape[1]))
    np.add.at(means, who, scaled)
    means /= rows[:, None]
    between = float((rows[:, None] * means**2).sum()) / (people - 1)
    within = float(((scaled - means[who]) ** 2).sum()) / (n - people)
    usual = (n - float((rows**2).sum()) / n) / (people - 1)
    person = max(between - within, 0.0) / usual
    return person / (person + within) if person + within > 0 else 0.0
