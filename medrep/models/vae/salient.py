"""Salient latents of a conditional VAE: what a covariate such as a diagnosis adds, apart from what everybody has.

`contrastive.py` has the model and its readings. The latents are z, the common ones, and then u = q^-1/2 s, the salient ones: the
reading of s shrunk as its second moment q over everybody says, so that u of controls lies about 0 and its mean square over
everybody is at most 1. The decoder is h = mu + W^T z + S^T s. Common latents beyond `VaeSettings.latents` are noise to it.

A person is moved from level a to b by moving s alone, by the optimal transport of normal distributions, whose inverse is the way
back, with C_l = I + Phi_l:

    s' = m_b + A (s^ - m_a),    A = C_a^-1/2 (C_a^1/2 C_b C_a^1/2)^1/2 C_a^-1/2,    h' = h + S^T (s' - s^)

Controls' s^ is noise of the reading, and theirs after a removal is as wide. Labels of what is kept are not looked at: what kept
covariates are expected to do to h is read from h - S^T s^ (`Discriminants`), and left out of s^: it is the same before and after.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from medrep.cohort.covariates import Categorical
from medrep.cohort.dataset import Dataset
from medrep.errors import CovariateError, ModelError
from medrep.models.linear.model import LinearModel
from medrep.models.vae.bodies import Autoencoder
from medrep.models.vae.components import FactorModel
from medrep.models.vae.contrastive import Contrast
from medrep.models.vae.latents import Discriminants, LatentLayer
from medrep.models.vae.residuals import batch_scale, standardise
from medrep.models.vae.salient_prior import SalientPrior
from medrep.models.vae.settings import VaeSettings

Latents = Float[np.ndarray, "people latents"]
Data = Float[np.ndarray, "people columns"]

_FEWEST = 20


@dataclass(frozen=True)
class SalientLayer:
    """Fitted salient latents; see the module's docstring.

    Attributes:
        covariate: Whose levels they tell.
        levels: Its levels; the control among them has means and spreads of 0.
        latents: Common latents; the salient ones stand behind these.
        contrast: The factors.
    """

    covariate: str
    levels: tuple[str, ...]
    latents: int
    contrast: Contrast

    @classmethod
    def fit(cls, linear: LinearModel, dataset: Dataset, settings: VaeSettings, seed: int) -> "SalientLayer":
        """Fit to training people.

        Raises:
            ModelError: A covariate that cannot have salient latents, or levels with too few people.
        """
        roles, schema, frame = settings.roles, dataset.schema, dataset.covariates
        if roles.salient not in schema.names:
            raise ModelError(f"settings.roles.salient is {roles.salient!r}; name one of {', '.join(schema.names)}")
        covariate = schema[roles.salient]
        if not isinstance(covariate, Categorical) or roles.salient in schema.batches:
            raise ModelError(
                f"settings.roles.salient is {roles.salient}; give a covariate of kind categorical that is no batch"
            )
        labels = frame[roles.salient].astype(str)
        counts = labels.groupby(labels).apply(lambda own: len(set(dataset.whose[(labels == own.name).to_numpy()])))
        few = [f"{level} ({n})" for level, n in counts.items() if n < _FEWEST]
        if few or len(counts) < 2:
            told = ", ".join(few) or f"only {counts.index[0]}"
            raise ModelError(
                f"settings.roles.salient is {roles.salient}: {told}; two levels or more with {_FEWEST} people each are"
                " needed; leave out the others, or train without settings.roles.salient"
            )
        codes = pd.Categorical(labels, categories=list(covariate.levels)).codes.astype(np.int64)
        h = standardise(linear, dataset.values, frame, roles.conditions(schema.names))
        control = covariate.levels.index(str(covariate.reference))
        contrast = Contrast.fit(h, codes, control, (len(h) // 4, roles.salient_latents), seed)
        return cls(roles.salient, covariate.levels, min(settings.latents, len(contrast.common.loadings)), contrast)

    def described(self) -> str:
        """Return what was found, for the person who waits."""
        shown = []
        for level, mean, spread in zip(self.levels, self.contrast.means, self.contrast.spreads, strict=True):
            if mean.any() or spread.any():
                shown.append(
                    f"{level} {np.linalg.norm(mean):.2f} from controls (sd), spread {np.trace(spread):.2f} beyond"
                )
        return "; ".join(shown)

    @property
    def control(self) -> int:
        """The level without salient part."""
        contrast = self.contrast
        return next(k for k in range(len(self.levels)) if not contrast.means[k].any() and not contrast.spreads[k].any())

    @property
    def count(self) -> int:
        """Number of salient latents."""
        return len(self.contrast.second)

    @property
    def loadings(self) -> Float[np.ndarray, "salient columns"]:
        """Loadings of u."""
        return np.sqrt(self.contrast.second)[:, None] * self.contrast.salient

    def factors(self) -> FactorModel:
        """Return all factors: of the latents, then those beyond them."""
        common = self.contrast.common
        own, beyond = common.loadings[: self.latents], common.loadings[self.latents :]
        return FactorModel(np.concatenate([own, self.loadings, beyond]), common.noise)

    def start(self, network: Autoencoder) -> None:
        """Set a network's linear maps to the closed form."""
        contrast, read = self.contrast, self._readings
        common = contrast.common
        second = contrast.second
        of_common = common.solve(common.loadings[: self.latents].T)
        of_common -= read @ (contrast.salient @ of_common)
        of_salient = read * (np.sqrt(second) / (second + 1))
        encode = np.concatenate([of_common, of_salient], axis=1).T
        # Of common latents the variance of what is not read: what common and salient factors leave, and the prior's.
        told = common.loadings[: self.latents] @ of_common
        variance = np.concatenate([np.clip(1 - np.diag(told), 1e-6, 1), 1 / (second + 1)])
        noise = common.noise + (common.loadings[self.latents :] ** 2).sum(axis=0)
        decode = np.concatenate([common.loadings[: self.latents], self.loadings]).T
        with torch.no_grad():
            for parameter, value in (
                (network.encoder.linear.weight, encode),
                (network.encoder.linear.bias, -encode @ contrast.centre),
                (network.encoder.log_variance, np.log(variance)),
                (network.decoder.linear.weight, decode),
                (network.decoder.linear.bias, contrast.centre),
                (network.decoder.log_scale, np.log(np.sqrt(np.maximum(noise, 1e-6)))),
            ):
                parameter.copy_(torch.as_tensor(np.asarray(value)))

    def common(self, layer: LatentLayer) -> LatentLayer:
        """Return the layer of the common latents alone."""
        return layer.block(slice(0, self.latents))

    def moved(
        self,
        linear: LinearModel,
        readout: Discriminants,
        data: Data,
        frame: pd.DataFrame,
        there: pd.DataFrame,
        known: Sequence[str],
    ) -> Float[np.ndarray, "people columns"]:
        """Return data of people moved from their level to that of ``there``; whoever is there already comes back as they are.

        Args:
            linear: The layer below.
            readout: Of what is kept.
            data: As they are.
            frame: Covariates of each.
            there: Those after.
            known: Conditions whose labels may be looked at, because they are moved, too.
        """
        moved = np.array(data)
        for (one, other), some in self.moves(frame, there).items():
            own, rows = frame[some], data[some]
            h = standardise(linear, rows, own, known).astype(np.float64)
            rest = (
                h - self.contrast.read(h) @ self.contrast.salient
            )  # the same at both levels, so that there and back is nothing
            s = self.contrast.read(h - readout.effect(rest))
            change = self.transported(s, one, other) - s
            moved[some] = rows + change @ self.contrast.salient * linear.sd * batch_scale(linear, own, known)
        return moved

    def moves(self, frame: pd.DataFrame, there: pd.DataFrame) -> dict[tuple[int, int], Bool[np.ndarray, " people"]]:
        """Return who moves, by the levels before and after."""
        before, after = (self._codes(own) for own in (frame, there))
        pairs = sorted(set(zip(before.tolist(), after.tolist(), strict=True)))
        return {(one, other): (before == one) & (after == other) for one, other in pairs if one != other}

    def forth(self, one: int, other: int) -> bool:
        """Say whether the way from a level to another is the one that is computed, and the way back its inverse."""
        return other == self.control or (one != self.control and one < other)

    def transported(
        self, s: Float[np.ndarray, "people salient"], one: int, other: int
    ) -> Float[np.ndarray, "people salient"]:
        """Return s' of people of one level at another."""
        means = self.contrast.means
        return means[other] + self.turned(s - means[one], one, other)

    def turned(
        self, left: Float[np.ndarray, "people salient"], one: int, other: int
    ) -> Float[np.ndarray, "people salient"]:
        """Return A (s - m), of s - m."""
        return left @ self._transport(one, other).T

    def prior(self, frame: pd.DataFrame, device: torch.device) -> SalientPrior:
        """Return what a network is trained by on these people."""
        contrast, units = self.contrast, np.sqrt(self.contrast.second)

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array, dtype=torch.float32, device=device)

        roots = np.stack([_root(own / np.outer(units, units)) for own in contrast.spreads])
        codes = torch.as_tensor(self._codes(frame), device=device)
        return SalientPrior(
            self.latents, codes, self.control, tensor(contrast.second), tensor(contrast.means / units), tensor(roots)
        )

    def swapped(
        self, linear: LinearModel, data: Data, frame: pd.DataFrame, donors: Dataset, conditions: Sequence[str]
    ) -> Float[np.ndarray, "people columns"]:
        """Return people with the salient part of others in place of theirs; all else stays, common latents exactly.

        Args:
            linear: The layer below.
            data: The people.
            frame: Their covariates.
            donors: As many others, in the same order.
            conditions: What the network is told.
        """
        own, other = (
            self.contrast.read(standardise(linear, rows, covariates, conditions))
            for rows, covariates in ((data, frame), (donors.values, donors.covariates))
        )
        return data + (other - own) @ self.contrast.salient * linear.sd * batch_scale(linear, frame, conditions)

    def drawn(self, z: Latents, frame: pd.DataFrame, rng: np.random.Generator) -> Latents:
        """Return latents drawn from N(0, I) with salient ones drawn as each one's level has them."""
        codes, contrast, drawn = self._codes(frame), self.contrast, np.array(z)
        own = rng.standard_normal((len(z), self.count))
        for code in set(codes.tolist()):
            some = codes == code
            s = contrast.means[code] + own[some] @ _root(contrast.spreads[code])
            drawn[some, self.latents :] = s / np.sqrt(contrast.second)
        return drawn

    @cached_property
    def _readings(self) -> Float[np.ndarray, "columns salient"]:
        return self.contrast.readings()

    def _codes(self, frame: pd.DataFrame) -> np.ndarray:
        places = {level: place for place, level in enumerate(self.levels)}
        labels = [str(level) for level in frame[self.covariate]]
        unknown = sorted(set(labels) - set(places))
        if unknown:
            raise CovariateError(
                f"{self.covariate}: {', '.join(unknown)}; the model's salient latents know {', '.join(self.levels)}"
            )
        return np.array([places[level] for level in labels], dtype=np.int64)

    def _transport(self, one: int, other: int) -> Float[np.ndarray, "salient salient"]:
        here, there = (np.eye(self.count) + self.contrast.spreads[code] for code in (one, other))
        root = _root(here)
        inverse = np.linalg.inv(root)
        return inverse @ _root(root @ there @ root) @ inverse


def _root(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
