"""Draws that hold a participant's rows together: samples of people as weights of rows, and exchanged labels."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
from jaxtyping import Float, Int, Shaped

_CELLS = 1_000_000  # of a draws x rows matrix, at a time


def sample_weights(
    participants: Int[np.ndarray, " rows"], draws: int, rng: np.random.Generator
) -> Iterator[Float[np.ndarray, "some rows"]]:
    """Yield how often each row is in samples of participants with replacement, some draws at a time."""
    owners, codes = np.unique(participants, return_inverse=True)
    people = len(owners)
    for size in _portions(draws, len(participants)):
        drawn = rng.integers(people, size=(size, people)) + people * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * people).reshape(size, people)[:, codes].astype(float)


def relabellings(
    participants: Int[np.ndarray, " rows"],
    labels: Shaped[np.ndarray, " rows"],
    strata: Int[np.ndarray, " rows"],
    count: int,
    rng: np.random.Generator,
) -> Iterator[Int[np.ndarray, "some rows"]]:
    """Yield for each row the row whose label it gets when labels are exchanged between participants, some draws at a time.

    Where all rows of a participant have one label, labels go from any participant to any other of the same strata. Otherwise
    (age over sessions) participants exchange their whole series of labels with others of as many rows and the same strata.

    Args:
        participants: A code of the participant of each row.
        labels: What is exchanged; only whether it varies within a participant is looked at.
        strata: Participants exchange only with others whose rows lie in the same strata.
        count: Number of draws.
        rng: Of the draws.
    """
    order = np.argsort(participants, kind="stable")
    series = [np.array(list(rows)) for _, rows in groupby(order, key=lambda row: participants[row])]
    fixed = all((labels[rows] == labels[rows[0]]).all() for rows in series if len(rows) > 1)
    alike: dict[tuple[int, ...], list[np.ndarray]] = {}
    for rows in series:
        own = strata[rows].tolist()
        alike.setdefault(tuple(sorted(set(own))) if fixed else tuple(own), []).append(rows)
    for size in _portions(count, len(participants)):
        source = np.tile(np.arange(len(participants)), (size, 1))
        for members in alike.values():
            places = rng.permuted(np.tile(np.arange(len(members)), (size, 1)), axis=1)
            if fixed:
                first = np.array([rows[0] for rows in members])
                lengths = [len(rows) for rows in members]
                source[:, np.concatenate(members)] = np.repeat(first[places], lengths, axis=1)
            else:
                block = np.stack(members)
                source[:, block.ravel()] = block[places].reshape(size, -1)
        yield source


def _portions(count: int, rows: int) -> list[int]:
    most = max(1, _CELLS // max(1, rows))
    return [min(most, count - start) for start in range(0, count, most)]
