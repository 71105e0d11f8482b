"""Unknown subtypes: a mixture of normal distributions as the prior of the latents.

    z_i ~ sum_k w_k N(m_k, diag(s^2)),    w, m and s learned

The KL term is the closed-form bound of Hershey & Olsen (2007), with its share of each subtype for a person:

    KL(q || p) <= -log sum_k w_k exp(-KL(q || N(m_k, s^2))),    share_k ~ w_k exp(-KL(q || N(m_k, s^2)))

Latents are those of people without what the network is told of them, so that subtypes are not sites, or ages.

**Start**: a mixture with one covariance within all subtypes, by expectation maximisation on the latents of the closed form, which
are turned to the axes of that covariance. Most starts of that end in halves of a cloud: clusters of people (k-means, Lloyd 1982)
in many random projections of uncorrelated latents, to as many directions as tell subtypes apart, are followed for a few steps,
and the likeliest to the end. Likelihood is a matter of starts where subtypes lie near each other.

**How many**: the log likelihood of people held out, of mixtures of 1, 2, ... fitted to the others, is highest at what data tell.
**Limitations**: any number that is asked for is given people: of a population without subtypes it divides a cloud. Subtypes that
differ in spread alone are not looked for.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medrep.errors import ModelError

_FEWEST, _FEWEST_OWN = 10, 5  # people a subtype, asked for and found
_STARTS, _HELD_OUT_STARTS, _MOST_AT_START = 200, 60, 5000
_FOLLOWED, _MOST_SHARES = 20, 4_000_000
_LLOYD, _FEW_STEPS, _MOST_STEPS, _TOLERANCE = 5, 40, 1000, 1e-6
_RIDGE = 1e-6

Parameters = Float[Tensor, "people latents"]


class Mixture(nn.Module):
    """The subtypes, the commonest first; takes the place of a prior."""

    def __init__(self, latents: int, subtypes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(subtypes))
        self.means = nn.Parameter(torch.zeros(subtypes, latents))
        self.log_sd = nn.Parameter(torch.zeros(latents))

    def draw(self, mean: Parameters, log_variance: Parameters) -> Parameters:
        """Draw z once for each person, so that gradients pass."""
        return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)

    def expected(self, mean: Parameters, log_variance: Parameters) -> Parameters:  # noqa: ARG002
        """Return the posterior mean of z."""
        return mean

    def divergence(self, mean: Parameters, log_variance: Parameters) -> Float[Tensor, "people _"]:
        """Return the bound on KL(posterior || prior), one column."""
        return -torch.logsumexp(self._logs(mean, log_variance), dim=1)[:, None]

    def shares(self, mean: Parameters, log_variance: Parameters) -> Float[Tensor, "people subtypes"]:
        """Return how probable each subtype is for each person."""
        return torch.softmax(self._logs(mean, log_variance), dim=1)

    def sample(self, people: int, latents: int, rng: np.random.Generator) -> Float[np.ndarray, "people latents"]:
        """Draw subtypes by their weights, then z of each."""
        weights, means, sd = (
            own.detach().double().cpu().numpy()
            for own in (torch.softmax(self.logits, dim=0), self.means, torch.exp(self.log_sd))
        )
        whose = rng.choice(len(weights), people, p=weights / weights.sum())
        return means[whose] + sd * rng.standard_normal((people, latents))

    def _logs(self, mean: Parameters, log_variance: Parameters) -> Float[Tensor, "people subtypes"]:
        apart = ((mean[:, None, :] - self.means) * torch.exp(-self.log_sd)) ** 2
        ratio = log_variance - 2 * self.log_sd
        spread = (torch.expm1(ratio) - ratio).sum(dim=1, keepdim=True)
        return torch.log_softmax(self.logits, dim=0) - 0.5 * (apart.sum(dim=2) + spread)


def found_subtypes(
    z: Float[np.ndarray, "people latents"], subtypes: int, seed: int
) -> tuple[Float[np.ndarray, " subtypes"], Float[np.ndarray, "subtypes latents"], Float[np.ndarray, "latents latents"]]:
    """Return weights and means of subtypes, the commonest first, and the covariance within them.

    Raises:
        ModelError: Fewer than ten people a subtype.
    """
    if len(z) < _FEWEST * subtypes:
        most = len(z) // _FEWEST
        raise ModelError(
            f"settings.roles.subtypes is {subtypes}, for which {len(z)} people are too few; give {most} at most"
        )
    centre = z.mean(axis=0)
    white, back = _whitened(z - centre)
    found = _likeliest(white, subtypes, _STARTS, np.random.default_rng(seed))
    order = np.argsort(-found.weights[0], kind="stable")
    return found.weights[0][order], centre + found.means[0][order] @ back, back.T @ found.within[0] @ back


def held_out_gains(
    z: Float[np.ndarray, "people latents"], folds: Sequence[Bool[np.ndarray, " people"]], most: int, seed: int
) -> dict[int, float]:
    """Return the log likelihood of held-out people under so many subtypes, above that of one, in nats.

    Args:
        z: Latents of people, of which none knows subtypes.
        folds: Who is held out, one at a time; none where people are few, and nothing is judged.
        most: The highest number that is judged, if people of each fold suffice for so many.
        seed: Of the starts.
    """
    people = min((len(fold) - int(fold.sum()) for fold in folds), default=0)
    counts = range(1, min(most, people // _FEWEST) + 1)
    white, _ = _whitened(z - z.mean(axis=0))
    heights = dict.fromkeys(counts, 0.0)
    for number, fold in enumerate(folds):
        for count in counts:
            rng = np.random.default_rng([seed, number, count])
            found = _likeliest(white[~fold], count, _HELD_OUT_STARTS, rng)
            heights[count] += float(_heights(white[fold], found)[0]) * int(fold.sum())
    return {count: height - heights[1] for count, height in heights.items()}


class _Found(NamedTuple):
    """Mixtures of several starts."""

    weights: Float[np.ndarray, "starts subtypes"]
    means: Float[np.ndarray, "starts subtypes latents"]
    within: Float[np.ndarray, "starts latents latents"]

    def take(self, starts: np.ndarray) -> "_Found":
        """Return some of them."""
        return _Found(self.weights[starts], self.means[starts], self.within[starts])


def _whitened(
    z: Float[np.ndarray, "people latents"],
) -> tuple[Float[np.ndarray, "people latents"], Float[np.ndarray, "latents latents"]]:
    """Return uncorrelated latents of unit variance, and the map back."""
    variances, axes = np.linalg.eigh(z.T @ z / len(z))
    deviations = np.sqrt(np.maximum(variances, 1e-10 * max(float(variances.max()), 1e-300)))
    return z @ (axes / deviations), (axes * deviations).T


def _likeliest(z: Float[np.ndarray, "people latents"], subtypes: int, starts: int, rng: np.random.Generator) -> _Found:
    """Return the likeliest mixture that many starts lead to, as one start."""
    some = z if len(z) <= _MOST_AT_START else z[rng.choice(len(z), _MOST_AT_START, replace=False)]
    found = _followed(some, _clusters(some, subtypes, 1 if subtypes == 1 else starts, rng), _FEW_STEPS)
    followed = int(np.clip(_MOST_SHARES // (len(z) * subtypes), 1, _FOLLOWED))
    best = np.argsort(-_heights(some, found), kind="stable")[:followed]
    found = _followed(z, _shares(z, found.take(best))[0], _MOST_STEPS)
    # A few people far from all others are no subtype, unless there is nothing else.
    few = found.weights.min(axis=1) * len(z) < _FEWEST_OWN
    return found.take(np.lexsort((-_heights(z, found), few))[:1])


def _clusters(
    z: Float[np.ndarray, "people latents"], subtypes: int, starts: int, rng: np.random.Generator
) -> Float[np.ndarray, "starts subtypes people"]:
    """Return clusters of people in random projections."""
    directions = min(max(subtypes - 1, 1), z.shape[1])
    turns, _ = np.linalg.qr(rng.standard_normal((starts, z.shape[1], directions)))
    seen = z @ turns
    centres = np.stack([own[rng.choice(len(z), subtypes, replace=False)] for own in seen])
    for _ in range(_LLOYD):
        # The distance without what is the same for all centres.
        distances = (centres**2).sum(axis=2)[:, :, None] - 2 * centres @ seen.transpose(0, 2, 1)
        own = (distances.argmin(axis=1)[:, None, :] == np.arange(subtypes)[:, None]).astype(float)
        counts = own.sum(axis=2)[:, :, None]
        centres = np.where(counts > 0, own @ seen / np.maximum(counts, 1), centres)
    return own


def _followed(
    z: Float[np.ndarray, "people latents"], shares: Float[np.ndarray, "starts subtypes people"], most: int
) -> _Found:
    """Go on by expectation maximisation, so many steps at most."""
    last = np.full(len(shares), -np.inf)
    for step in range(most):
        found = _maximised(z, shares)
        if step % 10 == 9:
            heights = _heights(z, found)
            if (np.abs(heights - last) < 10 * _TOLERANCE).all():
                break
            last = heights
        shares = _shares(z, found)[0]
    return found


def _maximised(z: Float[np.ndarray, "people latents"], shares: Float[np.ndarray, "starts subtypes people"]) -> _Found:
    counts = shares.sum(axis=2)
    means = shares @ z / np.maximum(counts, 1e-9)[:, :, None]
    weights = counts / len(z)
    between = (weights[:, :, None] * means).transpose(0, 2, 1) @ means
    return _Found(weights, means, z.T @ z / len(z) - between + _RIDGE * np.eye(z.shape[1]))


def _shares(
    z: Float[np.ndarray, "people latents"], found: _Found
) -> tuple[Float[np.ndarray, "starts subtypes people"], Float[np.ndarray, "starts people"]]:
    """Return shares, and log densities without what is the same for all subtypes."""
    slopes = np.linalg.solve(found.within, found.means.transpose(0, 2, 1))
    levels = np.log(np.maximum(found.weights, 1e-12)) - 0.5 * (found.means.transpose(0, 2, 1) * slopes).sum(axis=1)
    logs = slopes.transpose(0, 2, 1) @ z.T + levels[:, :, None]
    highest = logs.max(axis=1, keepdims=True)
    shares = np.exp(logs - highest)
    sums = shares.sum(axis=1, keepdims=True)
    return shares / sums, (np.log(sums) + highest)[:, 0]


def _heights(z: Float[np.ndarray, "people latents"], found: _Found) -> Float[np.ndarray, " starts"]:
    """Return the log likelihood, a person's mean, but for a constant."""
    same = np.trace(np.linalg.solve(found.within, z.T @ z / len(z)), axis1=1, axis2=2)
    return _shares(z, found)[1].mean(axis=1) - 0.5 * (np.linalg.slogdet(found.within)[1] + same)
