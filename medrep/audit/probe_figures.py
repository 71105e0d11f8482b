"""Figures of probes: how well fixed predictions tell labels, in parts of participants that are alike.

Both need no calibration of the predictions, so that labels may be exchanged: R2 of fixed predictions falls far below zero under
exchanged labels and says more of their spread than of their order. The sign is that of the correlation: a probe that
predicts the wrong way round tells nothing. Chance is 0.5 and 0.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import rankdata


def stratified_group_split(
    participants: Shaped[np.ndarray, " rows"],
    labels: Shaped[np.ndarray, " rows"],
    parts: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, " rows"]:
    """Return the part of each row, 0 to ``parts`` - 1.

    Participants are ordered by the label of their first row, at random where it is the same, and dealt out in turn: every
    level, and every stretch of a number, comes in equal shares. Who gets into a part depends on how often each label occurs
    and on nothing else of the labels, so that it takes nothing from a permutation test within a part.

    Args:
        participants: Whose each row is.
        labels: A number or a level a row.
        parts: How many parts.
        rng: Of the order.
    """
    _, first, codes = np.unique(participants, return_index=True, return_inverse=True)
    order = rng.permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]
    part = np.empty(len(order), dtype=int)
    part[order] = (np.arange(len(order)) + rng.integers(parts)) % parts
    return part[codes]


AUC, NUMBER = "AUC", "signed r2"
CHANCE = {AUC: 0.5, NUMBER: 0.0}


def weighted_figures(
    scores: Float[np.ndarray, "probes people outputs"],
    labels: Shaped[np.ndarray, " people"],
    weights: Float[np.ndarray, "draws people"],
    measure: str,
) -> Float[np.ndarray, "draws probes"]:
    """Return each probe's figure on samples of people.

    Args:
        scores: A probe's prediction of a number (one output), or its score of each level.
        labels: The number, or the level's place among the outputs.
        weights: How often a person is in a sample.
        measure: `AUC` or `NUMBER`; a level that a sample does not have, or that everybody has, does not count for AUC.
    """
    if measure == NUMBER:
        return np.stack([_signed_square(weights, own[:, 0], labels.astype(float)) for own in scores], axis=1)
    present = [level for level in range(scores.shape[2]) if (labels == level).any()]
    areas = [[weighted_area(own[:, level], labels == level, weights) for level in present] for own in scores]
    return _mean_over_levels(np.array(areas).reshape(len(scores), len(present), len(weights)))


def permuted_figures(
    scores: Float[np.ndarray, "probes people outputs"],
    labels: Shaped[np.ndarray, " people"],
    sources: Int[np.ndarray, "draws people"],
    measure: str,
) -> Float[np.ndarray, "draws probes"]:
    """Return each probe's figure under exchanged labels.

    Args:
        scores: As for `weighted_figures`.
        labels: The same.
        sources: For each row the row whose label it gets.
        measure: `AUC` or `NUMBER`.
    """
    given = labels[sources]
    if measure == NUMBER:
        y = given - given.mean(axis=1, keepdims=True)
        x = scores[:, :, 0] - scores[:, :, 0].mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(y, axis=1)[:, None] * np.linalg.norm(x, axis=1)
        r = _ratio(y @ x.T, lengths, 0.0)
        return r * np.abs(r)
    areas = []
    for level in range(scores.shape[2]):
        ranks = rankdata(scores[:, :, level], axis=1)
        member = (given == level).astype(float)
        ones = member.sum(axis=1, keepdims=True)
        areas.append(
            _ratio(member @ ranks.T - ones * (ones + 1) / 2, ones * (member.shape[1] - ones), np.nan)
        )  # Mann and Whitney's U over the number of pairs
    return _mean_over_levels(np.stack(areas).transpose(2, 0, 1))


def weighted_area(
    scores: Float[np.ndarray, " people"],
    member: Bool[np.ndarray, " people"],
    weights: Float[np.ndarray, "draws people"],
) -> Float[np.ndarray, " draws"]:
    """Return the AUC of weighted people, ties counted half; NaN where a sample lacks members or others."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)
    ones = np.add.reduceat(weights[:, order] * member[order], starts, axis=1)
    others = np.add.reduceat(weights[:, order] * ~member[order], starts, axis=1)
    below = np.cumsum(others, axis=1) - others / 2
    return _ratio((ones * below).sum(axis=1), ones.sum(axis=1) * others.sum(axis=1), np.nan)


def recentred(draws: Float[np.ndarray, " draws"], estimate: float) -> Float[np.ndarray, " defined"]:
    """Return bootstrap draws moved so that their mean is the estimate; those that are not defined are left out.

    The largest of several figures is larger in a resample than on the people themselves, as it is larger on these than among all
    people: the bootstrap's own bias estimate is taken off (Efron and Tibshirani 1993, ch. 10). It is zero where one probe is
    far ahead.
    """
    draws = draws[np.isfinite(draws)]
    return draws - draws.mean() + estimate if len(draws) else draws


def _signed_square(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    share = weights / weights.sum(axis=1, keepdims=True)
    x, y = x - x.mean(), y - y.mean()
    mean_x, mean_y = share @ x, share @ y
    r = _ratio(
        share @ (x * y) - mean_x * mean_y,
        np.sqrt(np.maximum(share @ x**2 - mean_x**2, 0.0) * np.maximum(share @ y**2 - mean_y**2, 0.0)),
        0.0,
    )
    r = np.clip(r, -1.0, 1.0)
    return r * np.abs(r)


def _ratio(above: np.ndarray, below: np.ndarray, otherwise: float) -> np.ndarray:
    below, above = np.broadcast_to(below, above.shape), np.asarray(above, float)
    return np.divide(above, below, out=np.full(above.shape, otherwise), where=below > 1e-12)


def _mean_over_levels(areas: Float[np.ndarray, "probes levels draws"]) -> Float[np.ndarray, "draws probes"]:
    known = np.isfinite(areas)
    return _ratio(np.where(known, areas, 0.0).sum(axis=1), known.sum(axis=1).astype(float), np.nan).T
