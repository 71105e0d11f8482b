"""What chance alone shows between groups: their labels are exchanged between participants and everything is measured again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from medrep.audit.person_metrics import PersonMetric
from medrep.audit.resampling.intervals import permutation_p
from medrep.audit.resampling.relabelling import relabellings


@dataclass(frozen=True, eq=False)
class Exchange:
    """The outcome of exchanging labels.

    Attributes:
        against_rest: p of each group against everybody else, two-sided; NaN where there is nobody else.
        largest: p of the largest difference between two groups; NaN for fewer than two groups.
    """

    against_rest: tuple[float, ...]
    largest: float


def exchange_labels(
    statistic: PersonMetric,
    codes: Int[np.ndarray, " people"],
    rows: Int[np.ndarray, " present"],
    places: Sequence[int],
    permutations: int,
    rng: np.random.Generator,
) -> Exchange:
    """Compare groups with what they show under exchanged labels.

    Differences are studentised, so that the test is one of the statistic and not of its spread: exact where groups are
    alike, and right in large groups where they differ in spread alone (Chung and Romano 2013).

    Args:
        statistic: What is measured.
        codes: Everybody's group.
        rows: Rows that have all that the statistic needs.
        places: The groups that are compared; labels are exchanged among everybody in ``rows``.
        permutations: Number of exchanges.
        rng: Of these.
    """
    if not len(places):
        return Exchange((), np.nan)
    labels = codes[rows]
    sources = relabellings(statistic.participants[rows], labels, statistic.strata()[rows], permutations, rng)
    parts = [_measured(statistic, labels[None], rows, places)]
    parts += [_measured(statistic, labels[source], rows, places) for source in sources]
    own, own_error, rest, rest_error = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    against = _studentised(own - rest, own_error, rest_error)
    against_rest = tuple(
        np.nan if np.isnan(rest[0, k]) else permutation_p(against[0, k], against[1:, k]) for k in range(len(places))
    )
    if len(places) < 2:
        return Exchange(against_rest, np.nan)
    between = np.zeros(len(own))
    for first in range(len(places) - 1):
        other = slice(first + 1, None)
        pairs = _studentised(own[:, [first]] - own[:, other], own_error[:, [first]], own_error[:, other])
        between = np.maximum(between, pairs.max(axis=1))
    return Exchange(against_rest, permutation_p(between[0], between[1:]))


def _measured(
    statistic: PersonMetric, labels: Int[np.ndarray, "draws present"], rows: np.ndarray, places: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return draws x groups of the statistic and its error in each group, and among everybody else."""
    own, rest = [], []
    for place in places:
        inside = (labels == place).astype(float)
        own.append(statistic.measure(inside, rows))
        rest.append(statistic.measure(1 - inside, rows))
    columns = [np.stack([pair[part] for pair in side], axis=1) for side in (own, rest) for part in (0, 1)]
    return columns[0], columns[1], columns[2], columns[3]


def _studentised(difference: np.ndarray, error: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return |difference| over its standard error; 0/0 is no difference; one that is not defined counts as extreme."""
    size, total = np.abs(difference), np.hypot(error, other)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(size > 0, size / total, 0.0)
    return np.where(np.isnan(size) | np.isnan(total), np.inf, ratio)
