"""Which columns of a wide table go along most with a label, in place or in spread."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from medrep.audit.probing.coordinates import standardised_blocks


def associated_columns(
    table: Float[np.ndarray, "people columns"],
    rows: Int[np.ndarray, " rows"],
    labels: Shaped[np.ndarray, " rows"],
    levels: int,
    most: int,
) -> Int[np.ndarray, " chosen"]:
    """Return column numbers: half of them by R2 of the column on the label, half by R2 of its distance from its mean.

    A number enters with its square, so that bent courses count.

    Args:
        table: Rows of people.
        rows: Rows to look at.
        labels: Their labels: a number, or a code of 0 to ``levels`` - 1.
        levels: How many levels there are; 0 for a number.
        most: How many columns; all of them where the table has no more.
    """
    if table.shape[1] <= most:
        return np.arange(table.shape[1])
    basis = _basis(labels, levels)
    numbers, place, spread = [np.zeros(0, int)], [np.zeros(0)], [np.zeros(0)]
    for own, block in standardised_blocks(table, rows, len(rows)):
        away = np.abs(block)
        away -= away.mean(axis=0)
        numbers.append(own)
        place.append(((basis.T @ block) ** 2).sum(axis=0))
        spread.append(((basis.T @ away) ** 2).sum(axis=0) / np.maximum((away**2).mean(axis=0), 1e-12))
    columns = np.concatenate(numbers)
    first = columns[np.argsort(-np.concatenate(place), kind="stable")[: most // 2]]
    by_spread = columns[np.argsort(-np.concatenate(spread), kind="stable")]
    rest = by_spread[~np.isin(by_spread, first)][: most - len(first)]
    return np.concatenate([first, rest])


def _basis(labels: np.ndarray, levels: int) -> Float[np.ndarray, "rows width"]:
    """Return an orthonormal basis of what the label tells, the mean taken out."""
    y = np.eye(levels)[labels.astype(int)] if levels else ((labels - labels.mean()) / labels.std())[:, None]
    design = y if levels else np.concatenate([y, y**2], axis=1)
    left, sizes, _ = np.linalg.svd(design - design.mean(axis=0), full_matrices=False)
    return left[:, sizes > 1e-9 * max(sizes.max(initial=0.0), 1e-300)]
