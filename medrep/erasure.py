"""Closed-form guards: an oblique projection of latents that erases some covariates and leaves what the kept ones say untouched.

With W whitening the latents, A = W Cov(z, removed | kept) and K = W Cov(z, kept), the guard subtracts M z with

    M A = A,    M K = 0,    M = A (Q^T A)^-1 Q^T,    Q an orthonormal basis of the part of A that is orthogonal to K.

Of all linear maps that satisfy the two it changes the latents least, in every inner product at once (M is the least-norm
solution of M [A K] = [A 0], row by row). With nothing kept it is LEACE (Belrose et al. 2023), I - W^+ U U^T W. No linear probe
reads anything along A afterwards; what the kept covariates themselves tell of the removed ones stays. A covariate is a block
of columns: a smooth basis, or one column a level.

The certificate forecasts what a linear probe reads on new people, of the k directions of the latents that are handed out. Two
errors make it, each isotropic in directions whitened within the covariates:

- What is left: effects are known with an error of variance 1 / n in each of the k directions, for a column of unit variance.
  Where labels are known, effects were subtracted as they were estimated, and all of the error is left: k / n. A batch's are
  shrunk by g / (g + v), with g the squared Mahalanobis length of its effect and v = d / n, and that share of k / n is left.
  Where the guard is all there is, it leaves the part of the true direction outside the estimated one, g v / (g + v) with
  v = (d - r) / (n - 1) over all d latents less its rank r, of which the share k / (d - r) is handed out, and the directions that
  it did not erase. The estimate of g is rid of the energy that noise alone gives it, d / (n - 1), and not let below zero.
- A probe has to learn its direction, from m people, with an error of variance 1 / m in each direction alike.

For a level that the share p has, with d2 = left / (p (1 - p)) the squared gap of the means and w = k / (m p (1 - p)),

    AUC = Phi(d2 / sqrt(2 (d2 + w))),

which is Phi(sqrt(d2 / 2)) for endless m. One logistic regression for all of more than two levels, the usual probe, weighs levels
by their shares p_j, so that its score of a level holds a little of the directions of the others: its variance is larger by

    1 + sum_{j != level} p_j (p_j - q)^2 / (p (1 - p + q)^2),    q = sum_j p_j^2

(to first order in its weights), nothing where all levels are as large. For a number with signal l in units of noise a probe that
shrinks as it should reads R2 = l^2 / (l + k / m) / (1 + l). Where there is no effect at all, the forecast is above chance: what
is subtracted is noise. Repeated scans of a person are fewer than as many people: n and m are divided by the design effect
(`GuardMoments`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

from medrep.errors import CovariateError, ModelError, listed
from medrep.moments import Canonical, GuardMoments, Rank, whitener

Levels = Float[np.ndarray, " levels"]
Square = Float[np.ndarray, "columns columns"]

__all__ = ["Certificate", "Guard", "GuardMoments", "Rank", "certify", "fit_guard"]


@dataclass(frozen=True)
class Guard:
    """A fitted projection of latents.

    `entangled` directions of the removed covariates were left in, because they lie within those of the kept ones. The centre
    stays where it is, `left` reads from centred latents, and `right` are the directions that are taken out.
    """

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    entangled: int
    centre: Float[np.ndarray, " latents"]
    left: Float[np.ndarray, "latents rank"]
    right: Float[np.ndarray, "rank latents"]

    @property
    def rank(self) -> int:
        """Number of directions taken out."""
        return len(self.right)

    def apply(self, z: Float[np.ndarray, "people latents"]) -> Float[np.ndarray, "people latents"]:
        """Return z - (z - centre) left right."""
        return z - (z - self.centre) @ self.left @ self.right


def fit_guard(
    moments: GuardMoments,
    removed: Sequence[str],
    kept: Sequence[str],
    *,
    rank: Rank = "significant",
    kept_rank: Rank = "full",
    min_share: float = 0.05,
) -> Guard:
    """Fit the projection that erases the removed covariates and leaves the covariance with the kept ones as it is.

    Args:
        moments: Training people.
        removed: Covariates to erase; none gives the identity.
        kept: Covariates to leave; what they tell of the removed ones stays, too.
        rank: How many directions to erase: those beyond noise, a number, or all (exact on the training people).
        kept_rank: How many directions of the kept covariates to leave exactly as they are. With many kept levels and few latents,
            "significant" leaves room that "full" gives to noise.
        min_share: A direction to erase is left in, and counted as entangled, if less than this share of its variance
            (latents whitened) lies outside the kept directions. Taking it out inflates the rest by up to min_share^-1/2.

    Raises:
        CovariateError: Unknown names, or names both removed and kept.
        ModelError: A rank or share that is not allowed, or too few people for "significant".
    """
    both = [name for name in removed if name in kept]
    if both:
        raise CovariateError(listed("both removed and kept", both, "name each covariate once"))
    if not 0 < min_share <= 1:
        raise ModelError(f"min_share {min_share} of a guard: it is above 0 and at most 1")
    pairs = Canonical.of(moments, removed, kept)
    count = pairs.count(rank)
    whiten = whitener(pairs.latents)
    loadings = pairs.loadings[:, :count] / pairs.correlations[:count]
    targets, mixing = np.linalg.qr(whiten.T @ loadings)
    fixed = np.linalg.svd(whiten.T @ pairs.given, full_matrices=False)[0]
    fixed = fixed[:, : Canonical.of(moments, kept, ()).count(kept_rank)]
    outside, sines, turn = np.linalg.svd(targets - fixed @ (fixed.T @ targets), full_matrices=False)
    free = sines**2 >= min_share
    left = whiten @ outside[:, free] / sines[free]
    right = np.linalg.solve(mixing.T, loadings.T).T @ turn[free].T
    return Guard(
        tuple(removed),
        tuple(kept),
        int((~free).sum()),
        moments.mean[: moments.latents],
        left / pairs.scale[:, None],
        (right * pairs.scale[:, None]).T,
    )


@dataclass(frozen=True)
class Certificate:
    """Certificate of what is left of one covariate in released latents, on training participants and, as forecast, on others.

    With covariates kept, all of it is about what the latents tell beyond those: the guard leaves in what these tell.

    Attributes:
        covariate: The covariate.
        n: Training people.
        latents: Number of latents that are handed out.
        rank: Directions that the guard takes out.
        largest_correlation: On the training people after the guard, the largest correlation of any direction of these latents
            with any combination of the covariate's columns, given the kept covariates.
        predicted_auc: Of a linear probe on new people, each level against the rest, averaged over levels; None where a column
            has more than two values.
        predicted_r2: Of a linear probe on new people, for that combination of the columns that it reads best; None for levels.
        learners: New people whom the probe learns from; 0 for the best of all probes.
    """

    covariate: str
    n: int
    latents: int
    rank: int
    largest_correlation: float
    predicted_auc: float | None
    predicted_r2: float | None
    learners: int = 0

    @property
    def forecast(self) -> str:
        """Forecast of a linear probe on new participants, in words."""
        if self.predicted_auc is not None:
            return f"AUC {self.predicted_auc:.2f}"
        return "not to be told" if self.predicted_r2 is None else f"R2 {self.predicted_r2:.2f}"


def certify(
    moments: GuardMoments,
    guard: Guard,
    covariate: str,
    *,
    released: "Float[np.ndarray, 'latents count'] | None" = None,
    subtracted: bool = False,
    shrunk: bool = False,
    learners: int = 0,
) -> Certificate:
    """Say what is left of one removed covariate; the module's docstring has the derivation.

    With too few people to estimate the effects, those that are erased count as endless: the forecast is then an upper bound.

    Args:
        moments: Training people.
        guard: Of the latents.
        covariate: Which of the guard's.
        released: Functionals of the centred latents, the guard included, whose values are handed out; by default all
            latents after the guard.
        subtracted: Whether the covariate's effect was subtracted before the guard, as it was estimated, for people whose labels
            are known. Otherwise the guard is all there is.
        shrunk: Whether effects were shrunk before they were subtracted, each level's as a whole, as a batch's are.
        learners: New people whom the probe learns from; 0 for the best probe of all.
    """
    if covariate not in guard.removed:
        allowed = ", ".join(guard.removed) or "none"
        raise CovariateError(f"{covariate}: this guard does not remove it; it removes {allowed}")
    own = Canonical.of(moments, [covariate], guard.kept)
    through = np.eye(moments.latents) - guard.left @ guard.right if released is None else released
    projection = through.T * own.scale[None, :]
    sizes = np.sqrt(np.diag(projection @ own.partial @ projection.T))
    projection = projection[sizes > 0] / sizes[sizes > 0, None]
    spread = whitener(projection @ own.partial @ projection.T)
    after = spread.T @ projection @ own.loadings
    columns = moments.columns([covariate])
    place = np.flatnonzero(np.isin(moments.columns(guard.removed), columns))
    shares = moments.shares[columns - moments.latents]
    count = spread.shape[1]
    left = _left_over(moments, guard, projection.T @ spread, subtracted, shrunk)[np.ix_(place, place)]
    two = bool(np.isfinite(shares).all())
    rows = learners * moments.n / moments.persons / moments.design_effect([covariate], guard.kept)
    noise = count / rows if rows else 0.0
    return Certificate(
        covariate=covariate,
        n=moments.persons,
        latents=moments.latents if released is None else released.shape[1],
        rank=guard.rank,
        largest_correlation=float(np.linalg.norm(after, 2)) if after.size else 0.0,
        predicted_auc=_auc(np.diag(left), np.diag(own.residual), shares, noise) if two else None,
        predicted_r2=None if two else _r2(left, own.residual, noise),
        learners=learners,
    )


def _left_over(
    moments: GuardMoments, guard: Guard, released: Float[np.ndarray, "latents count"], subtracted: bool, shrunk: bool
) -> Square:
    """Return B^T S^-1 B of what is handed out, B the true covariance of latents and columns, S that of the latents' rest.

    The released functionals of the standardised latents are of unit variance and uncorrelated given the kept covariates.
    """
    pairs = Canonical.of(moments, guard.removed, guard.kept)
    deflated = (moments.n - 1) / moments.design_effect(guard.removed, guard.kept)
    squared = np.minimum(pairs.correlations**2, 1 - 1e-15)
    spare = pairs.people - pairs.degrees - pairs.dimensions - 2
    seen = squared / (1 - squared) * spare / deflated - pairs.dimensions / deflated
    effect = np.maximum(seen, 1e-300) if spare > 0 else np.full(len(squared), 1e12)
    if subtracted:
        error = pairs.variates @ pairs.variates.T / deflated
        signal, blur = np.diag(pairs.variates * effect @ pairs.variates.T), np.diag(error) * pairs.dimensions
        weight = signal / np.maximum(signal + blur, 1e-300) if shrunk else np.ones(len(error))
        return error * released.shape[1] * np.sqrt(np.outer(weight, weight))
    whiten = whitener(pairs.partial)
    taken = np.linalg.qr(whiten.T @ (guard.right / pairs.scale).T)[0]
    directions = whiten.T @ pairs.loadings / np.maximum(pairs.correlations, 1e-10)
    erased = ((taken.T @ directions) ** 2).sum(axis=0)
    inside = np.linalg.pinv(whiten, rcond=1e-10) @ released
    kept = (np.linalg.qr(inside)[0].T @ directions) ** 2
    room = max(pairs.dimensions - guard.rank, 1)
    noise = max(pairs.dimensions - guard.rank, 0) / deflated
    remaining = np.zeros(len(erased))
    np.multiply(np.minimum(kept.sum(axis=0), 1 - erased), effect, where=erased < 1 - 1e-9, out=remaining)
    left = erased * noise / (1 + noise / effect) * min(released.shape[1] / room, 1.0) + remaining
    return pairs.variates * left @ pairs.variates.T


def _auc(left: Levels, variance: Levels, shares: Levels, noise: float) -> float | None:
    """Return the mean AUC of the levels; with `variance` that of a level given the kept covariates, its gap is b / variance.

    `noise` is that of the probe's direction, for a column of unit variance.
    """
    known = variance > 1e-9
    if not known.any():
        return None
    spread = shares[known] * (1 - shares[known])
    gap = np.maximum(left[known] / variance[known] ** 2 / spread, 0)
    ratio = np.divide(gap, np.sqrt(gap + noise / spread), out=np.zeros_like(gap), where=gap > 0)
    if noise and len(shares) > 2:
        ratio = ratio / np.sqrt(1 + _blur(shares)[known])
    return float(ndtr(ratio / 2**0.5).mean())


def _blur(shares: Levels) -> Levels:
    """Return by how much other levels' directions add to the variance of each level's score in one regression for all."""
    apart = shares - (shares**2).sum()
    each = shares * apart**2
    return (each.sum() - each) / np.maximum(shares * (1 - apart) ** 2, 1e-12)


def _r2(left: Square, variance: Square, noise: float) -> float | None:
    """Return the largest R2 over unit-variance combinations of the columns, `noise` that of the probe's direction."""
    whiten = whitener(variance)
    if not whiten.size:
        return None
    largest = max(float(np.linalg.eigvalsh(whiten.T @ left @ whiten)[-1]), 0.0)
    return largest**2 / max(largest + noise, 1e-300) / (1 + largest)
