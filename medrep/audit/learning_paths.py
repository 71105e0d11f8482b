"""Learning paths: a linear reader of two classes at checkpoints of its training, judged on people who did not teach it.

The reader is trained by gradient descent on the squared error, from zero. With U S V' the singular value decomposition of what
teaching people show (in deviations) and y their classes, its coefficients after t steps of length 1 / s_1^2 are

    V diag((1 - (1 - s^2 / s_1^2)^t) / s) U'y,

so that nothing has to be iterated: what varies most between people is learned first (Yao, Rosasco and Caponnetto 2007). Training
stops at the checkpoint with the least generalised cross-validation error (Golub, Heath and Wahba 1979). The threshold lies midway
between the means of both classes, so that it is no matter how frequent they are.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from medrep.audit.probe_figures import stratified_group_split

STEPS = tuple(2**k for k in range(15))
"""Checkpoints, in steps of training."""
FOLDS = 5
_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class LearningPath:
    """Readings of people at checkpoints.

    Attributes:
        scores: Of each person, by a reader whom they did not teach; above 0: class 1.
        stop: At which checkpoint training of each class stops.
    """

    scores: Float[np.ndarray, "checkpoints people classes"]
    stop: Int[np.ndarray, " classes"]

    @property
    def last(self) -> Float[np.ndarray, "people classes"]:
        """Scores where training stops."""
        return np.stack([self.scores[stop, :, k] for k, stop in enumerate(self.stop)], axis=1)


def learning_path(
    rows: Float[np.ndarray, "people columns"],
    classes: Float[np.ndarray, "people classes"],
    folds: Int[np.ndarray, " people"],
) -> LearningPath:
    """Teach readers, and let them read the people of the fold that they did not see.

    Args:
        rows: One a person; constant columns do no harm.
        classes: -1 or 1; each is read by itself, and each fold's complement has both.
        folds: Part of each person.
    """
    steps = np.array(STEPS, dtype=float)
    scores = np.zeros((len(steps), *classes.shape))
    errors = np.zeros((len(steps), classes.shape[1]))
    for fold in np.unique(folds):
        teach, judged = folds != fold, folds == fold
        centre, aim = rows[teach].mean(axis=0), classes[teach]
        left, sizes, right = np.linalg.svd(rows[teach] - centre, full_matrices=False)
        told = sizes > _TINY * sizes.max(initial=0.0)
        left, sizes, right = left[:, told], sizes[told], right[told]
        if not len(sizes):
            continue
        along = left.T @ (aim - aim.mean(axis=0))
        gone = 1 - sizes**2 / sizes[0] ** 2
        learned = 1 - gone[None, :] ** steps[:, None]
        taught = (left * sizes) @ (learned[:, :, None] * (along / sizes[:, None])[None])
        ones = aim > 0
        middle = np.stack([_midway(taught[:, :, k], ones[:, k]) for k in range(aim.shape[1])], axis=1)
        others = (rows[judged] - centre) @ right.T
        scores[:, judged] = others @ (learned[:, :, None] * (along / sizes[:, None])[None]) - middle[:, None, :]
        missed = ((aim - aim.mean(axis=0) - taught) ** 2).mean(axis=1)
        free = 1 - (learned.sum(axis=1) + 1) / len(aim)
        errors += np.where(free[:, None] > _TINY, missed / np.maximum(free, _TINY)[:, None] ** 2, np.inf)
    return LearningPath(scores, errors.argmin(axis=0))


def _midway(scores: Float[np.ndarray, "checkpoints people"], ones: np.ndarray) -> Float[np.ndarray, " checkpoints"]:
    middle: np.ndarray = (scores[:, ones].mean(axis=1) + scores[:, ~ones].mean(axis=1)) / 2
    return middle


def folds_of(classes: Shaped[np.ndarray, " people"], rng: np.random.Generator) -> Int[np.ndarray, " people"]:
    """Return the fold of each person; every class comes in equal shares.

    Args:
        classes: A code a person.
        rng: Of the order.
    """
    return stratified_group_split(np.arange(len(classes)), classes, FOLDS, rng)


def separability(
    scores: Float[np.ndarray, "people classes"], classes: Float[np.ndarray, "people classes"]
) -> Float[np.ndarray, "people classes"]:
    """Return what each person has in d', by how many deviations within classes the mean scores of two classes lie apart.

    Args:
        scores: Of readers.
        classes: -1 or 1; each has three people or more.

    Returns:
        Parts whose sum over people is d', and whose spread is that of the jackknife; 0 where all scores are the same.
    """
    member = np.stack([classes > 0, classes <= 0]).astype(float)
    sums = np.stack([(member * scores**power).sum(axis=1) for power in range(3)])
    own = np.stack([member * scores**power for power in range(3)])
    whole, without = _separation(sums), _separation(sums[:, :, None] - own)
    n = len(scores)
    return (n - 1) / n * (without.mean(axis=0) - without) + whole / n


def _separation(sums: Float[np.ndarray, "3 2 *shape"]) -> Float[np.ndarray, "*shape"]:
    """Return d' from counts, sums and sums of squares in two classes."""
    count, total, squares = sums
    means = total / count
    within = np.maximum(squares - total * means, 0.0).sum(axis=0) / (count.sum(axis=0) - 2)
    apart: np.ndarray = (means[0] - means[1]) / np.sqrt(np.where(within > 0, within, np.inf))
    return apart
