"""How many directions of the latents are handed out, and the forecast by which that is chosen.

Whoever corrects a batch with n people in training is off by a random vector whose squared Mahalanobis length is the number of
directions d over n. New people of that batch all share this error, and a probe reads it. No correction that learns from n
people can avoid it; handing out fewer directions can. The forecast for a batch of n of N people, among as many new ones, is
that of a linear probe that has to learn the error's direction from the new people themselves (`erasure.py` derives it):

    d2 = d / n,   v = d (1 / n + 1 / (N - n)),   AUC = Phi(sqrt(d2 v / (2 (d2 + v)))),

averaged over batches. It is a bound for probes that weigh all directions alike; regularised ones read less. Directions are
handed out in the order of what they are worth in the data, as many as the forecast allows: within a target, or as far beyond
what the kept covariates alone tell of the batch as the target is beyond chance.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr


def forecast_auc(directions: int, counts: Float[np.ndarray, " batches"]) -> float:
    """Return the forecast AUC of a batch on new people, averaged over batches with people.

    Args:
        directions: d.
        counts: Training people of each batch.
    """
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
