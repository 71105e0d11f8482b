"""What of a person tells the kept covariates: read from the data, never from labels.

With B the effects of the kept covariates on the residual h (rows: effect columns), C the covariance of those columns among the
training people and S = Cov(h | all covariates), the functionals w = S^-1 B^T are all that a linear probe uses (Fisher's
discriminants). From them follows the part of h that the kept covariates are expected to explain. In the span of the effects
themselves h is left as it is, noise included: kept effects keep their slopes, and are as easy to read as they were.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medrep.cohort.covariates import Categorical
from medrep.models.factors import FactorModel
from medrep.models.linear import LinearModel

_SMALLEST = 1e-6
_RIDGE = 0.1


@dataclass(frozen=True)
class KeptReadout:
    """Functionals that tell kept covariates.

    Attributes:
        functionals: w, a column each; none where nothing is kept.
        expected: Expected effect of the kept covariates on h for a unit of each functional.
        span: Orthonormal directions of the kept covariates' effects.
    """

    functionals: Float[np.ndarray, "columns kept"]
    expected: Float[np.ndarray, "kept columns"]
    span: Float[np.ndarray, "kept columns"]

    @classmethod
    def of(
        cls,
        linear: LinearModel,
        factors: FactorModel,
        effect_covariance: Float[np.ndarray, "effects effects"],
        kept: Collection[str],
    ) -> "KeptReadout":
        """Derive the functionals of some kept covariates.

        Args:
            linear: The layer with the effects.
            factors: Cov(h | all covariates).
            effect_covariance: Covariance of the columns of `Design.closed` among training people, the intercept not counted.
            kept: The covariates.
        """
        effects, covariance = _effects(linear, effect_covariance, kept)
        _, values, right = np.linalg.svd(_root(covariance) @ effects, full_matrices=False)
        strong = values**2 > _SMALLEST * max(float((values**2).sum()), 1e-300)
        directions = (values[:, None] * right)[strong]  # unit-variance covariate scores times their effect
        functionals = factors.solve(directions.T, _RIDGE)
        spread = factors.times(functionals) + directions.T @ (directions @ functionals)
        variance = functionals.T @ spread
        inverse = np.linalg.pinv(variance, rcond=1e-8, hermitian=True)
        return cls(functionals, inverse @ (functionals.T @ directions.T) @ directions, right[strong])

    def effect(self, h: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people columns"]:
        """Return the part of h that the kept covariates are expected to explain, read from h itself."""
        return (h @ self.functionals) @ self.expected

    def restore(
        self, moved: Float[np.ndarray, "people columns"], h: Float[np.ndarray, "people columns"]
    ) -> Float[np.ndarray, "people columns"]:
        """Return ``moved`` with what h is in the span of the kept covariates' effects.

        Args:
            moved: Residuals after a removal.
            h: Before it.
        """
        return moved + ((h - moved) @ self.span.T) @ self.span


def _effects(
    linear: LinearModel, effect_covariance: Float[np.ndarray, "effects effects"], kept: Collection[str]
) -> tuple[Float[np.ndarray, "rows columns"], Float[np.ndarray, "rows rows"]]:
    """Return the kept covariates' effects in units of h and the covariance of the columns they multiply."""
    per_sd = np.divide(1, linear.sd, out=np.zeros_like(linear.sd), where=linear.sd > 0)
    # An interaction with what is not kept is in h, too: as the kept ones' effect at the mean of the others.
    averaged, terms = linear.design.averaged(linear.coefficients[1:], kept), linear.design.closed().terms
    flags = [flag for term in terms for flag in [set(term.covariates) <= set(kept)] * len(term.centre)]
    inside = np.array(flags, dtype=bool)
    rows, covariances = [averaged[inside]], [effect_covariance[np.ix_(inside, inside)]]
    for name, part in linear.design.batch_slices().items():
        covariate = linear.schema[name]
        if name in kept and isinstance(covariate, Categorical):
            shares = np.asarray(covariate.counts, float) / sum(covariate.counts)
            rows.append(linear.batches.location[part])
            covariances.append(np.diag(shares) - np.outer(shares, shares))
    width = sum(len(own) for own in rows)
    whole, start = np.zeros((width, width)), 0
    for own in covariances:
        whole[start : start + len(own), start : start + len(own)] = own
        start += len(own)
    return np.concatenate(rows) * per_sd, whole


def _root(covariance: Float[np.ndarray, "rows rows"]) -> Float[np.ndarray, "rows rows"]:
    values, vectors = np.linalg.eigh(covariance) if len(covariance) else (np.zeros(0), np.zeros((0, 0)))
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
