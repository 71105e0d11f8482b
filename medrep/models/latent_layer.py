"""What happens to latents on the way out: location and scale, the guard, and the choice of directions."""

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
from medrep.models.linear import LinearModel
from medrep.models.linear_settings import LinearSettings
from medrep.models.residuals import standardise, unstandardise
from medrep.models.splines import natural_spline
from medrep.models.suppression import most_directions
from medrep.moments import intraclass

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
        z: Float[np.ndarray, "people latents"],
        blind: Float[np.ndarray, "people latents"],
        frame: pd.DataFrame,
        linear: LinearModel,
        gram: Float[np.ndarray, "latents latents"],
        *,
        participants: Sequence[str] | None = None,
    ) -> "LatentLayer":
        """Learn from training people.

        Args:
            z: Their latents with all covariates known.
            blind: Their latents with none known.
            frame: Their covariates.
            linear: The layer below, for its schema and knots.
            gram: Of the decoder.
            participants: Whose each row is; by default each is a person.
        """
        names = tuple(f"z{k + 1}" for k in range(z.shape[1]))
        settings = LinearSettings(
            spline_degrees=linear.settings.spline_degrees,
            interactions=linear.settings.interactions,
            gain="no",
            components=0,
            borrow="columns",
        )
        latents = Dataset(z, frame, linear.schema, Columns(names, len(names), None))
        effects, _ = LinearModel.fit(latents, settings)
        blocks = covariate_blocks(linear.schema, linear.design.knots, frame)
        icc = 0.0
        if participants is not None and len(set(participants)) < len(z):
            icc = intraclass(standardise(effects, z, frame, linear.schema.names), participants)
        return cls(effects, GuardMoments.of(blind, blocks, participants=participants, icc=icc), gram)

    def move(
        self,
        z: Float[np.ndarray, "people latents"],
        frame: pd.DataFrame,
        moved: pd.DataFrame,
        known: Collection[str],
    ) -> Float[np.ndarray, "people latents"]:
        """Move location and scale of the latents; what is not known, and interacts with nothing known, is not looked at."""
        h = standardise(self.effects, z, frame, known, out=np.empty_like(z))
        return unstandardise(self.effects, h, moved, known, z, np.empty_like(z))

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
                handed_out=read,
                subtracted=subtracted,
                shrunk=name in self.effects.schema.batches,
                learners=people,
            )
            for name in removed
        )

    def clean(
        self, z: Float[np.ndarray, "people latents"], guard: Guard | None, count: int
    ) -> Float[np.ndarray, "people latents"]:
        """Erase what tells removed covariates and leave out all but the ``count`` worthiest directions."""
        read, turn = self._read(guard, count)
        _, inverse = _roots(self.gram)
        return self.centre + (z - self.centre) @ read @ turn.T @ inverse

    def scores(
        self, z: Float[np.ndarray, "people latents"], guard: Guard | None, count: int
    ) -> Float[np.ndarray, "people count"]:
        """Return what is handed out of cleaned latents: a column a direction, the worthiest first, in units of the data."""
        read, _ = self._read(guard, count)
        return (z - self.centre) @ read

    def directions(
        self, removed: Sequence[str], kept: Sequence[str], guard: Guard | None, schema: CovariateSchema, target: float
    ) -> int:
        """Return how many directions are handed out (`suppression.py`): all where no batch is removed."""
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


def covariate_blocks(
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
