"""Exchanging labels as kept covariates would have it: the conditional permutation test (Berrett et al. 2020).

A plain exchange breaks the tie between a covariate and the kept ones, and so finds a dependence wherever kept covariates tell
both. Here an exchange is drawn with a probability proportional to prod_i p(label of i after it | kept covariates of i), which
leaves that tie as it is. Exact where p(label | kept) is known; it is estimated here, by a logistic regression of levels or a
normal linear one of a number, on kept covariates and their squares: good where these draw it well. Where they do (a level tied to
a kept number by a logistic curve, 60 or 200 people), 6 to 7% of 1000 simulated cohorts without a dependence had p <= 0.05.
"""

import warnings

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

_STEPS = 50  # of pairwise swaps, from the observed order to a hub and from there to every draw
_STRENGTH = 10.0


def conditional_exchanges(
    participants: Int[np.ndarray, " rows"],
    labels: Shaped[np.ndarray, " rows"],
    kept: Float[np.ndarray, "rows width"],
    count: int,
    rng: np.random.Generator,
    *,
    continuous: bool,
) -> Int[np.ndarray, "count rows"]:
    """Return for each row the row whose label it gets; participants of as many rows exchange theirs as one series.

    All draws start from one hub that was itself drawn from the observed order, so that with the observed one they are
    exchangeable (Berrett et al., algorithm 1 and section 3).

    Args:
        participants: A code of the participant of each row.
        labels: A number, or a code of a level.
        kept: Kept covariates, scaled.
        count: Number of draws.
        rng: Of the draws.
        continuous: Whether labels are numbers.
    """
    told = _log_likelihood(labels, kept, continuous=continuous)
    order = np.argsort(participants, kind="stable")
    starts = np.flatnonzero(np.diff(participants[order], prepend=-1))
    series = np.split(order, starts[1:])
    sources = np.tile(np.arange(len(participants)), (count, 1))
    for size in sorted({len(rows) for rows in series}):
        block = np.stack([rows for rows in series if len(rows) == size])
        likelihood = sum(told[np.ix_(block[:, k], block[:, k])] for k in range(size))
        hub = _swapped(np.arange(len(block))[None], np.asarray(likelihood), rng)
        drawn = _swapped(np.tile(hub, (count, 1)), np.asarray(likelihood), rng)
        sources[:, block.ravel()] = block[drawn].reshape(count, -1)
    return sources


def _swapped(
    places: Int[np.ndarray, "draws people"], likelihood: Float[np.ndarray, "people people"], rng: np.random.Generator
) -> Int[np.ndarray, "draws people"]:
    """Swap the labels of random pairs, `_STEPS` times over, each with the odds that the likelihood gives.

    Args:
        places: Whose label each person has.
        likelihood: Of each person (rows) with each person's label.
        rng: Of pairs and swaps.
    """
    places = places.copy()
    half = places.shape[1] // 2
    for _ in range(_STEPS if half else 0):
        pairs = rng.permutation(places.shape[1])
        one, other = pairs[:half], pairs[half : 2 * half]
        left, right = places[:, one], places[:, other]
        gain = likelihood[one, right] + likelihood[other, left] - likelihood[one, left] - likelihood[other, right]
        swap = rng.random(gain.shape) < 1 / (1 + np.exp(-np.clip(gain, -500, 500)))
        places[:, one], places[:, other] = np.where(swap, right, left), np.where(swap, left, right)
    return places


def expected_labels(
    labels: Shaped[np.ndarray, " rows"],
    kept: Float[np.ndarray, "rows width"],
    *,
    continuous: bool,
    at: "Float[np.ndarray, 'others width'] | None" = None,
) -> Float[np.ndarray, "_ outputs"]:
    """Return what kept covariates let expect of each row's label: a number's mean, or the probability of each level in order.

    Args:
        labels: A number, or a code of a level.
        kept: Kept covariates, scaled; without columns nothing but the mean, or the shares of levels, is known.
        continuous: Whether labels are numbers.
        at: Kept covariates of others, whose labels are asked for; of the rows themselves by default.
    """
    design, there = _design(kept), _design(kept, kept if at is None else at)
    if continuous:
        return (there @ np.linalg.lstsq(design, labels.astype(float), rcond=1e-9)[0])[:, None]
    if not kept.shape[1]:
        shares = np.unique(labels, return_counts=True)[1] / max(len(labels), 1)
        return np.tile(shares, (len(there), 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=_STRENGTH, max_iter=1000).fit(design[:, 1:], labels)
    return np.asarray(model.predict_proba(there[:, 1:]))


def _log_likelihood(labels: np.ndarray, kept: np.ndarray, *, continuous: bool) -> Float[np.ndarray, "rows rows"]:
    """Return log p(label of the column's row | kept covariates of the row)."""
    expected = expected_labels(labels, kept, continuous=continuous)
    if continuous:
        free = max(len(labels) - np.linalg.matrix_rank(_design(kept)), 1)
        variance = max(float(((labels - expected[:, 0]) ** 2).sum()) / free, 1e-12 * float(labels.var()))
        return -((labels[None] - expected) ** 2) / (2 * variance)
    return np.log(np.maximum(expected, 1e-300))[:, np.unique(labels, return_inverse=True)[1]]


def _design(kept: np.ndarray, at: np.ndarray | None = None) -> Float[np.ndarray, "_ width"]:
    """Return a constant, the kept columns, and squares of those that have more than two values; of other rows, if asked."""
    many = [len(np.unique(column)) > 2 for column in kept.T]
    rows = kept if at is None else at
    return np.concatenate([np.ones((len(rows), 1)), rows, rows[:, many] ** 2], axis=1)
