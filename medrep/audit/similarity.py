"""Similarity of two representations of the same people, whatever their axes: kernels, anchors, neighbours, matched latents.

With X and Y the latents of n people, centred, K = X X', L = Y Y' and their diagonals set to 0:

    HSIC(K, L) = (tr(K L) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K L1) / (n (n - 3))
    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

HSIC is the U-statistic of Song et al. 2012, so that CKA (Kornblith et al. 2019) is about 0 for unrelated latents; the plain one
grows with the number of latents. Similarities to anchors are those of Moschella et al. 2023, mutual neighbours those of Huh et
al. 2024. All but matched latents stay as they are when latents are rotated, mirrored, moved, or scaled as a whole.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

First = Float[np.ndarray, "people first"]
Second = Float[np.ndarray, "people second"]

NEIGHBOURS = 10
_COLLAPSED = 0.01  # share of the widest latent's variance
_CONSTANT = 1e-9  # of the largest value; less is rounding


def active_latents(latents: Float[np.ndarray, "people latents"]) -> Bool[np.ndarray, " latents"]:
    """Return which latents vary: by more than a hundredth of the widest one's variance; none where nothing varies."""
    deviation = latents.std(axis=0)
    varies = deviation > _CONSTANT * np.abs(latents).max(axis=0, initial=0.0)
    return varies & (deviation**2 > _COLLAPSED * (deviation**2).max(initial=0.0))


def debiased_cka(first: First, second: Second) -> float:
    """Return linear CKA by U-statistics: 1 for latents that are a rotation of each other, about 0 for unrelated ones."""
    kernels = [_hollow_products(latents) for latents in (first, second)]
    cross = _hsic(kernels[0], kernels[1])
    own = _hsic(kernels[0], kernels[0]) * _hsic(kernels[1], kernels[1])
    return float(cross / np.sqrt(own)) if own > 0 else 0.0


def _hollow_products(latents: Float[np.ndarray, "people latents"]) -> Float[np.ndarray, "people people"]:
    centred = latents - latents.mean(axis=0)
    products = centred @ centred.T
    np.fill_diagonal(products, 0.0)
    return products


def _hsic(k: Float[np.ndarray, "people people"], other: Float[np.ndarray, "people people"]) -> float:
    n = len(k)
    rows, others = k.sum(axis=0), other.sum(axis=0)
    total = np.vdot(k, other) + rows.sum() * others.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows @ others)
    return float(total / (n * (n - 3)))


def anchor_similarity(first: First, second: Second, anchors: Int[np.ndarray, " anchors"]) -> float:
    """Return how alike people stand to the anchors in both: the mean correlation of their cosines to them.

    Args:
        first: Latents.
        second: Latents of the same people.
        anchors: Rows of the anchors; the others are compared.
    """
    others = np.setdiff1d(np.arange(len(first)), anchors)
    profiles = [_cosines(latents, others, anchors) for latents in (first, second)]
    profiles = [_unit(profile - profile.mean(axis=1, keepdims=True)) for profile in profiles]
    return float((profiles[0] * profiles[1]).sum(axis=1).mean())


def _cosines(
    latents: Float[np.ndarray, "people latents"], rows: Int[np.ndarray, " rows"], anchors: Int[np.ndarray, " anchors"]
) -> Float[np.ndarray, "rows anchors"]:
    directions = _unit(latents - latents.mean(axis=0))
    return directions[rows] @ directions[anchors].T


def _unit(rows: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def mutual_neighbours(first: First, second: Second, count: int = NEIGHBOURS) -> float:
    """Return the share of each person's nearest neighbours that both have, beyond chance: 1 all of them, 0 as many as by chance.

    Args:
        first: Latents.
        second: Latents of the same people.
        count: How many neighbours.
    """
    people = len(first)
    near = [_nearest(latents, count) for latents in (first, second)]
    shared = np.count_nonzero(near[0] & near[1]) / (people * count)
    chance = count / (people - 1)
    return float((shared - chance) / (1 - chance))


def _nearest(latents: Float[np.ndarray, "people latents"], count: int) -> Bool[np.ndarray, "people people"]:
    centred = latents - latents.mean(axis=0)
    squares = (centred**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * centred @ centred.T
    np.fill_diagonal(distances, np.inf)
    near = np.zeros(distances.shape, dtype=bool)
    np.put_along_axis(near, np.argpartition(distances, count, axis=1)[:, :count], True, axis=1)
    return near


def correlations(first: First, second: Second) -> Float[np.ndarray, "first second"]:
    """Return the correlation of each latent with each of the others; 0 of one that does not vary."""
    a, b = (_unit((latents - latents.mean(axis=0)).T) for latents in (first, second))
    return a @ b.T


def matched_latents(first: First, second: Second) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Return which latents of both are one another's: pairs with the largest sum of absolute correlations (Hungarian method)."""
    rows, columns = linear_sum_assignment(-np.abs(correlations(first, second)))
    return rows, columns


def held_out_matching(
    first: First, second: Second, learners: Bool[np.ndarray, " people"], judged: Bool[np.ndarray, " people"]
) -> float:
    """Return the mean correlation of matched latents on people who did not match them, signs as the others have them.

    Args:
        first: Latents that vary.
        second: The same of the other representation.
        learners: Who tells which latents are one another's, and their signs.
        judged: On whom they are correlated.
    """
    rows, columns = matched_latents(first[learners], second[learners])
    signs = np.sign(correlations(first[learners], second[learners])[rows, columns])
    return float((signs * correlations(first[judged], second[judged])[rows, columns]).mean())
