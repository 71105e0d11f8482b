"""Latents on the way out: location and scale, erasure, and the choice of directions.

Whoever corrects a batch with n people in training is off by a random vector whose squared Mahalanobis length is the number of
directions d over n. New people of that batch all share this error, and a probe reads it. No correction that learns from n
people can avoid it; handing out fewer directions can. The forecast for a batch of n of N people, among as many new ones, is
that of a linear probe that has to learn the error's direction from the new people themselves (`erasure.py` derives it):

    d2 = d / n,   v = d (1 / n + 1 / (N - n)),   AUC = Phi(sqrt(d2 v / (2 (d2 + v)))),

averaged over batches. It is a bound for probes that weigh all directions alike; regularised ones read less. Directions are
handed out in the order of what they are worth in the data, as many as the forecast allows: within a target, or as far beyond
what the kept covariates alone tell of the batch as the target is beyond chance.

With B the effects of the kept covariates on the residual h (rows: effect columns), C the covariance of those columns among the
training people and S = Cov(h | all covariates), the functionals w = S^-1 B^T are all that a linear probe uses (Fisher's
discriminants). From them follows the part of h that the kept covariates are expected to explain. In the span of the effects
themselves h is left as it is, noise included: kept effects keep their slopes, and are as easy to read as they were.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import ndtr

from medrep.cohort.covariates import Categorical, Continuous, CovariateSchema, membership
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.erasure import Certificate, Guard, GuardMoments, Rank, certify, fit_guard
from medrep.models.linear.design import natural_spline
from medrep.models.linear.model import LinearModel
from medrep.models.linear.settings import LinearSettings
from medrep.models.vae.components import FactorModel
from medrep.models.vae.residuals import standardise, unstandardise
from medrep.moments import intraclass

Latents = Float[np.ndarray, "people latents"]
Data = Float[np.ndarray, "people columns"]


def forecast_auc(directions: int, counts: Float[np.ndarray, " batches"]) -> float:
    """Return the forecast AUC of a batch on new people, averaged over batches with training people (`counts`)."""
    own = counts[counts > 0]
    if not len(own):
        return 0.5
    others = np.maximum(own.sum() - own, 1)
    error, noise = directions / own, directions * (1 / own + 1 / others)
    return float(ndtr(np.sqrt(error * noise / (2 * np.maximum(error + noise, 1e-300)))).mean())


def most_directions(available: int, allowed: float, counts: Float[np.ndarray, " batches"]) -> int:
    """Return the largest number of directions whose forecast is allowed; one at least."""
    within = [d for d in range(1, available + 1) if forecast_auc(d, counts) <= allowed]
    return max(within, default=1)


_SMALLEST = 1e-6
_RIDGE = 0.1


@dataclass(frozen=True)
class Discriminants:
    """Functionals w that tell kept covariates, a column each; none where nothing is kept.

    `expected` is the expected effect of the kept covariates on h for a unit of each functional, and `span` has orthonormal
    directions of their effects.
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
    ) -> "Discriminants":
        """Derive the functionals of some kept covariates.

        `factors` are Cov(h | all covariates), `effect_covariance` that of the columns of `Design.closed` among training people,
        the intercept not counted.
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

    def effect(self, h: Data) -> Data:
        """Return the part of h that the kept covariates are expected to explain, read from h itself."""
        return (h @ self.functionals) @ self.expected

    def restore(self, transformed: Data, h: Data) -> Data:
        """Return residuals after a removal with what h before it is in the span of the kept covariates' effects."""
        return transformed + ((h - transformed) @ self.span.T) @ self.span


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


_TINY = 1e-9


@dataclass(frozen=True)
class LatentLayer:
    """Fitted statistics of the latents.

    Attributes:
        effects: Location and scale of the latents given all covariates, from people the linear layer was not fitted on.
        moments: Joint moments of the covariates and the latents of people none of whose covariates is known.
        gram: Inner products of the decoder's directions: what a latent is worth in the data.
    """

    effects: LinearModel
    moments: GuardMoments
    gram: Float[np.ndarray, "latents latents"]

    @classmethod
    def fit(
        cls,
        z: Latents,
        blind: Latents,
        frame: pd.DataFrame,
        linear: LinearModel,
        gram: Float[np.ndarray, "latents latents"],
        *,
        participants: Sequence[str] | None = None,
    ) -> "LatentLayer":
        """Learn from training people's latents with all covariates known (`z`) and with none known (`blind`).

        The layer below gives its schema and knots; without `participants` each row is a person.
        """
        names = tuple(f"z{k + 1}" for k in range(z.shape[1]))
        settings = LinearSettings(
            spline_degrees=linear.settings.spline_degrees,
            interactions=linear.settings.interactions,
            gain="no",
            components=0,
            borrow="columns",
            visits=linear.settings.visits,
        )
        latents = Dataset(z, frame, linear.schema, Columns(names, len(names), None), participants)
        effects = LinearModel.fit(latents, settings)[0].pooled()
        chunks = _covariate_blocks(linear.schema, linear.design.knots, frame)
        icc = 0.0
        if participants is not None and len(set(participants)) < len(z):
            icc = intraclass(standardise(effects, z, frame, linear.schema.names), participants)
        return cls(effects, GuardMoments.of(blind, chunks, participants=participants, icc=icc), gram)

    def block(self, columns: slice) -> "LatentLayer":
        """Return the layer of some of the latents, for all that is handed out of them; effects stay those of all."""
        of_covariates = np.arange(self.moments.latents, len(self.moments.mean))
        places = np.concatenate([np.arange(self.moments.latents)[columns], of_covariates])
        moments = replace(
            self.moments, mean=self.moments.mean[places], covariance=self.moments.covariance[np.ix_(places, places)]
        )
        return replace(self, moments=moments, gram=self.gram[columns, columns])

    def transform(self, z: Latents, frame: pd.DataFrame, transformed: pd.DataFrame, known: Collection[str]) -> Latents:
        """Move location and scale of the latents; what is not known, and interacts with nothing known, is not looked at."""
        h = standardise(self.effects, z, frame, known, out=np.empty_like(z))
        return unstandardise(self.effects, h, transformed, known, z, np.empty_like(z))

    def guard(self, removed: Sequence[str], kept: Sequence[str]) -> Guard:
        """Return the guard; it erases nothing where there are too few people to tell effects from noise."""
        degrees = sum(self.moments.widths)
        few = self.moments.n / self.moments.design_effect(removed, kept) <= self.moments.latents + degrees + 2
        rank: Rank = 0 if few else "significant"
        return fit_guard(self.moments, removed, kept, rank=rank, kept_rank="full" if few else "significant")

    def certificates(
        self,
        removed: Sequence[str],
        kept: Sequence[str],
        *,
        count: int | None = None,
        subtracted: bool = False,
        learners: int | None = None,
    ) -> tuple[Certificate, ...]:
        """Say what is left of each removed covariate in the latents that are handed out.

        Args:
            removed: What the guard removes.
            kept: What it leaves.
            count: How many directions are handed out; all latents by default.
            subtracted: Whether labels are known, so that effects were subtracted before; otherwise the guard is all there is.
            learners: New people whom a probe learns from; by default four fifths of as many as in training: five folds.
        """
        guard = self.guard(removed, kept)
        read = None if count is None else self._read(guard, count)[0]
        people = self.moments.persons * 4 // 5 if learners is None else learners
        return tuple(
            certify(
                self.moments,
                guard,
                name,
                released=read,
                subtracted=subtracted,
                shrunk=name in self.effects.schema.batches,
                learners=people,
            )
            for name in removed
        )

    def clean(self, z: Latents, guard: Guard | None, count: int) -> Latents:
        """Erase what tells removed covariates and leave out all but the ``count`` worthiest directions."""
        read, turn = self._read(guard, count)
        _, inverse = _roots(self.gram)
        return self.centre + (z - self.centre) @ read @ turn.T @ inverse

    def scores(self, z: Latents, guard: Guard | None, count: int) -> Float[np.ndarray, "people count"]:
        """Return what is handed out of cleaned latents: a column a direction, the worthiest first, in units of the data."""
        read, _ = self._read(guard, count)
        return (z - self.centre) @ read

    def directions(
        self, removed: Sequence[str], kept: Sequence[str], guard: Guard | None, schema: CovariateSchema, target: float
    ) -> int:
        """Return how many directions are handed out: all where no batch is removed."""
        count = self._read(guard, len(self.gram))[0].shape[1]
        for name in removed:
            covariate = schema[name]
            if name in schema.batches and isinstance(covariate, Categorical):
                allowed = max(target, self.told_by(kept, name) + target - 0.5)
                rows = np.asarray(covariate.counts, float) / self.moments.design_effect([name], kept)
                count = min(count, most_directions(count, allowed, rows))
        return count

    def told_by(self, kept: Sequence[str], name: str) -> float:
        """Return the AUC that the kept covariates alone reach for a batch, averaged over its levels."""
        if not kept:
            return 0.5
        columns, own = self.moments.columns(kept), self.moments.columns([name])
        shared, shares = self.moments.covariance[np.ix_(columns, own)], np.diag(self.moments.covariance)[own]
        known = shares > _TINY
        gaps = shared[:, known] / shares[known]
        inverse = np.linalg.pinv(self.moments.covariance[np.ix_(columns, columns)], rcond=1e-10, hermitian=True)
        explained = (gaps * (inverse @ gaps)).sum(axis=0)
        distance = explained / np.maximum(1 - shares[known] * explained, _TINY)
        return float(ndtr(np.sqrt(np.maximum(distance, 0) / 2)).mean()) if known.any() else 0.5

    def trained_schema(self, schema: CovariateSchema) -> CovariateSchema:
        """Return the schema without the levels that were adapted to after training."""
        widths = dict(zip(self.moments.names, self.moments.widths, strict=True))
        return CovariateSchema(
            tuple(
                replace(c, levels=c.levels[: widths[c.declared.name]], counts=c.counts[: widths[c.declared.name]])
                if isinstance(c, Categorical)
                else c
                for c in schema.fitted
            )
        )

    @property
    def centre(self) -> Float[np.ndarray, " latents"]:
        """Mean of the latents."""
        return self.moments.mean[: self.moments.latents]

    @property
    def covariance(self) -> Float[np.ndarray, "latents latents"]:
        """Covariance of the latents."""
        return self.moments.covariance[: self.moments.latents, : self.moments.latents]

    def _read(
        self, guard: Guard | None, count: int
    ) -> tuple[Float[np.ndarray, "latents count"], Float[np.ndarray, "latents count"]]:
        """Return functionals of centred latents, the worthiest in the data first, and what turns their values back."""
        root, _ = _roots(self.gram)
        read = root if guard is None else root - guard.left @ guard.right @ root
        variances, directions = np.linalg.eigh(read.T @ self.covariance @ read)
        present = int((variances > _TINY * max(float(variances[-1]), 1e-300)).sum())
        turn = directions[:, ::-1][:, : min(count, present)]
        return read @ turn, turn


def _covariate_blocks(
    schema: CovariateSchema, knots: Mapping[str, tuple[float, ...]], frame: pd.DataFrame
) -> dict[str, Float[np.ndarray, "people _"]]:
    """Return one matrix a covariate: a smooth basis, or one column a level."""
    return {
        covariate.declared.name: natural_spline(
            frame[covariate.declared.name].to_numpy(float), knots[covariate.declared.name]
        )
        if isinstance(covariate, Continuous)
        else membership(frame[covariate.declared.name], covariate)
        for covariate in schema.fitted
    }


def _roots(matrix: Float[np.ndarray, "n n"]) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
    """Return the symmetric square root and its pseudo-inverse."""
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, 0)
    roots = np.sqrt(values)
    present = values > _TINY * max(float(values.max(initial=0)), 1e-300)
    inverse = np.divide(1, roots, out=np.zeros_like(roots), where=present)
    return (vectors * roots) @ vectors.T, (vectors * inverse) @ vectors.T
