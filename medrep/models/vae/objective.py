"""The objective of the conditional VAE, and what its network is trained on.

Training shows the network people of whom only some covariates are known. So one network serves any removal - what is kept
is unknown to it, and a kept label cannot be written into the data - and people whose covariates nobody knows.
"""

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from medrep._files import release_pages
from medrep.cohort.covariates import POOLED, Continuous, CovariateSchema, membership
from medrep.cohort.dataset import Dataset
from medrep.models.chunks import row_blocks_of
from medrep.models.linear.model import LinearModel
from medrep.models.vae.bodies import Autoencoder
from medrep.models.vae.losses import (
    concatenated_distance_covariance,
    distance_correlation,
    gaussian_nll,
    hsic,
    joint_distance_covariance,
    moment_gap,
)
from medrep.models.vae.residuals import standardise
from medrep.models.vae.roles import PLAIN, Roles
from medrep.models.vae.salient_prior import SalientPrior
from medrep.models.vae.settings import VaeSettings
from medrep.training.loop import TOTAL


def condition_width(schema: CovariateSchema) -> int:
    """Return the width of `condition_vector`."""
    return sum(1 + max(1, len(schema.levels(name))) for name in schema.names)


def condition_vector(
    schema: CovariateSchema, frame: pd.DataFrame, known: Collection[str]
) -> Float[np.ndarray, "people width"]:
    """Return scaled covariates, each behind a flag that says whether it is known; zeros where it is not.

    Continuous: (value - mean) / sd. Levels: one column each, in units of a level's own deviation, so that rare levels weigh
    as much as common ones. The pooled level is known and has zeros; a level that training did not have counts as unknown.
    """
    chunks = []
    for covariate in schema.fitted:
        name = covariate.declared.name
        width = 1 if isinstance(covariate, Continuous) else len(covariate.levels)
        if name not in known:
            chunks.append(np.zeros((len(frame), 1 + width)))
            continue
        if isinstance(covariate, Continuous):
            values = ((frame[name].to_numpy(float) - covariate.mean) / covariate.sd)[:, None]
            flag = np.ones((len(frame), 1))
        else:
            shares = np.asarray(covariate.counts, float) / sum(covariate.counts)
            rows = membership(frame[name], covariate)
            flag = rows.sum(axis=1, keepdims=True).round()
            centred = (rows - shares) / np.sqrt(np.maximum(shares * (1 - shares), 1e-6)) / width**0.5
            values = np.where((frame[name] == POOLED).to_numpy()[:, None], 0.0, centred) * flag
        chunks.append(np.concatenate([flag, values], axis=1))
    return np.concatenate(chunks, axis=1) if chunks else np.zeros((len(frame), 0))


def told_places(schema: CovariateSchema, ordered: Collection[str]) -> Float[np.ndarray, " width"]:
    """Return 1 at the places of `condition_vector` that a network is told, 0 at the values of ordered covariates."""
    places = []
    for covariate in schema.fitted:
        width = 1 if isinstance(covariate, Continuous) else len(covariate.levels)
        places += [1.0, *[0.0 if covariate.declared.name in ordered else 1.0] * width]
    return np.array(places)


def known_sets(names: Sequence[str], most: int) -> tuple[frozenset[str], ...]:
    """Return the sets of covariates that training goes through: all, none, one alone, all but one, then any others."""
    sizes = sorted(range(len(names) + 1), key=lambda size: (size not in {len(names), 0}, min(size, len(names) - size)))
    sets = [frozenset(names), frozenset[str]()]
    sets += [frozenset(chosen) for size in sizes for chosen in combinations(names, size)]
    return tuple(dict.fromkeys(sets))[:most]


_MOST_CELLS, _HELD_CELLS = 2e8, 2**25


@dataclass(frozen=True)
class Task:
    """A network's training data: residuals and covariate vectors, one each for every set of covariates that is known.

    The first set has all conditions known. `parts` are standardised covariates that latents are not to tell, `known` those of
    each set (and the carried one), `used` columns that vary, `salient` the prior of salient latents.
    Residuals of many people and columns are memory-mapped, and leave their file a few people at a time.
    """

    residuals: list[Float[torch.Tensor, "people columns"] | Float[np.ndarray, "people columns"]]
    contexts: list[Float[torch.Tensor, "people context"]]
    parts: list[Float[torch.Tensor, "people _"]]
    known: list[list[int]]
    used: Bool[torch.Tensor, " columns"]
    whose: Shaped[np.ndarray, " people"]
    salient: SalientPrior | None = None

    @classmethod
    def of(
        cls,
        linear: LinearModel,
        dataset: Dataset,
        device: torch.device,
        roles: Roles = PLAIN,
        salient: SalientPrior | None = None,
    ) -> "Task":
        """Standardise the people for every set of known conditions, as many sets as memory allows.

        Of ordered conditions the network is told that they are known, and not their values.
        """
        schema, data, frame = linear.schema, dataset.values, dataset.covariates
        conditions = roles.conditions(schema.names)
        names = (*conditions, *roles.carried)
        sets = known_sets(conditions, int(np.clip(_MOST_CELLS // max(data.size, 1), 2, 8)))

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array, dtype=torch.float32).to(device)

        def residuals(known: frozenset[str]) -> torch.Tensor | np.ndarray:
            if data.size <= _HELD_CELLS:
                return tensor(standardise(linear, data, frame, known))
            with tempfile.TemporaryFile() as scratch:
                room = np.memmap(scratch, np.float32, mode="w+", shape=data.shape)
            return standardise(linear, data, frame, known, room)

        return cls(
            [residuals(known) for known in sets],
            [tensor(condition_vector(schema, frame, known) * told_places(schema, roles.ordered)) for known in sets],
            [tensor(part) for part in _covariate_parts(schema, frame, names)],
            [[k for k, name in enumerate(names) if name in own or name in roles.carried] for own in sets],
            torch.as_tensor(linear.sd > 0, device=device),
            dataset.whose,
            salient,
        )

    def rows(self, chosen: int, people: Int[Tensor, " some"]) -> Float[Tensor, "some columns"]:
        """Return residuals of some people, for a set of covariates that is known, where the network is."""
        held = self.residuals[chosen]
        if isinstance(held, torch.Tensor):
            return held[people]
        found = torch.from_numpy(np.array(held[people.cpu().numpy()])).to(people.device)
        release_pages(held)
        return found

    def one_each(self, people: Int[Tensor, " some"]) -> "Int[Tensor, ' single'] | None":
        """Return one visit of each person among some, by positions in these; None where nobody is there twice."""
        names = self.whose[people.cpu().numpy()]
        _, first = np.unique(names, return_index=True)
        return None if len(first) == len(names) else torch.as_tensor(np.sort(first), device=people.device)

    def encode(self, network: Autoencoder, people: Int[Tensor, " some"]) -> Float[np.ndarray, "some latents"]:
        """Return the latents of people with all conditions known; the common ones alone, where there are salient ones."""
        found = [
            network.encode(self.rows(0, people[part]).cpu().numpy(), self.contexts[0][people[part]].cpu().numpy())
            for part in row_blocks_of(len(people), self.residuals[0].shape[1])
        ]
        z = np.concatenate(found)
        return z if self.salient is None else z[:, : self.salient.common]


def _covariate_parts(
    schema: CovariateSchema, frame: pd.DataFrame, names: Sequence[str]
) -> list[Float[np.ndarray, "people _"]]:
    """Return some covariates, each as standardised columns of unit total variance."""
    parts = []
    for name in names:
        alone = CovariateSchema((schema[name],))
        vector = alone.vector(frame)
        if not isinstance(schema[name], Continuous):
            vector = (vector - vector.mean(axis=0)) / np.sqrt(np.maximum(vector.var(axis=0).sum(), 1e-12))
        parts.append(vector)
    return parts


_FEWEST = 4


class VaeObjective:
    """Loss parts of the evidence bound and its penalties, per column.

    In training every batch counts a set of covariates as known, more than half of the time all of them; in validation all.
    `strength` is the weight of the independence penalty.
    """

    def __init__(self, network: Autoencoder, task: Task, settings: VaeSettings, strength: float) -> None:
        self._network, self._task, self._settings, self._strength = network, task, settings, strength

    def __call__(self, people: Int[Tensor, " some"], epoch: int) -> dict[str, Tensor]:
        """Return the loss parts; nats and penalties are per column, so that weights mean the same for any width."""
        settings, chosen = self._settings, 0
        if self._network.training and float(torch.rand(())) < 0.5:
            chosen = int(torch.randint(len(self._task.residuals), ()))
        context = self._task.contexts[chosen][people]
        per_column = 1 / max(int(self._task.used.sum()), 1)
        salient = None if self._task.salient is None else self._task.salient.of(people)
        prior = self._network.prior if salient is None else salient
        blocks = [] if torch.is_grad_enabled() else row_blocks_of(len(people), len(self._task.used))
        if len(blocks) < 2:  # without slices, through which gradients would be summed in another order
            h = self._task.rows(chosen, people)
            mean, log_variance = self._network.encoder(h, context)
            z = prior.draw(mean, log_variance)
            missed = self._missed(h, z, context)
        else:
            encoded = [self._network.encoder(self._task.rows(chosen, people[part]), context[part]) for part in blocks]
            mean, log_variance = (torch.cat(own) for own in zip(*encoded, strict=True))
            z = prior.draw(mean, log_variance)
            missed = torch.cat(
                [self._missed(self._task.rows(chosen, people[part]), z[part], context[part]) for part in blocks]
            )
        beta = settings.beta * settings.training.beta_share(epoch)
        parts = {
            "reconstruction": missed.mean() * per_column,
            "divergence": prior.divergence(mean, log_variance).sum(dim=1).mean() * per_column,
        }
        total = parts["reconstruction"] + beta * parts["divergence"]
        if salient is not None and settings.roles.swap > 0:
            parts["swap"] = salient.swap(self._network, self._task.rows(chosen, people), context, mean) * per_column
            total = total + settings.roles.swap * parts["swap"]
        single = self._task.one_each(people)
        if single is not None:  # visits of a person are alike, whatever depends on what
            people, mean, log_variance, z = people[single], mean[single], log_variance[single], z[single]
        if len(people) >= _FEWEST:
            centre = prior.expected(mean, log_variance)
            parts["dependence"] = self._dependence(
                centre, [self._task.parts[k][people] for k in self._task.known[chosen]]
            )
            total = total + self._strength * parts["dependence"]
            # Of people some of whose covariates are unknown the latents hold these too: they are not N(0, I).
            if settings.prior == "gaussian" and chosen == 0:
                own = self._task.salient
                parts["aggregate"] = moment_gap(z) if own is None else own.of(people).gap(mean, z)
                total = total + settings.aggregate * parts["aggregate"] * per_column * z.shape[1]
        return {**parts, TOTAL: total}

    def _missed(
        self,
        h: Float[Tensor, "people columns"],
        z: Float[Tensor, "people latents"],
        context: Float[Tensor, "people context"],
    ) -> Float[Tensor, " people"]:
        """Return the negative log likelihood of each person's residual."""
        expected, log_scale = self._network.decoder(z, context)
        if self._settings.noise > 0:
            log_scale = torch.full_like(log_scale, self._settings.noise).log()
        return gaussian_nll(h, expected, log_scale)[:, self._task.used].sum(dim=1)

    def _dependence(
        self, z: Float[Tensor, "people latents"], parts: Sequence[Float[Tensor, "people _"]]
    ) -> Float[Tensor, ""]:
        kind = self._settings.independence
        if kind == "none" or not parts:
            return z.new_zeros(())
        scaled = z / z.shape[1] ** 0.5
        if kind == "joint":
            return joint_distance_covariance(scaled, parts)
        if kind == "concatenated":
            return concatenated_distance_covariance(scaled, parts)
        measure = hsic if kind == "hsic" else distance_correlation
        return torch.stack([measure(scaled, part) for part in parts]).mean()
