"""U-centred distances and their product (Szekely and Rizzo 2014): what dCor2 and JdCov2 are made of.

A_ij = d_ij - (sum_l d_il + sum_k d_kj) / (n - 2) + sum_kl d_kl / ((n - 1) (n - 2)), 0 on the diagonal,
<A, B> = sum_ij A_ij B_ij / (n (n - 3)).
"""

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist


def centred_distances(rows: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, "people people"]:
    """Return the U-centred Euclidean distances of rows that are taken as they are; zeros where all are alike."""
    rows = np.ascontiguousarray(rows, dtype=float)
    return u_centred(cdist(rows, rows))


def u_centred(distances: Float[np.ndarray, "people people"]) -> Float[np.ndarray, "people people"]:
    """Return A, for three people or more."""
    people = len(distances)
    sums = distances.sum(axis=1)
    means = sums / (people - 2)
    centred = distances - means[None, :]
    centred -= means[:, None]
    centred += sums.sum() / ((people - 1) * (people - 2))
    np.fill_diagonal(centred, 0.0)
    return centred


def u_product(left: Float[np.ndarray, "people people"], right: Float[np.ndarray, "people people"]) -> float:
    """Return <A, B>, for four people or more."""
    people = len(left)
    return float((left * right).sum() / (people * (people - 3)))
