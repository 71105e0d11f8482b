"""Scanners told from people who were seen on several of them: generalised least squares, against matrices written out."""

import numpy as np
import pytest

from medrep.models.scanner.estimation import Group
from medrep.models.scanner.forward import Image
from medrep.models.scanner.pairs import contrasts

FEATURES, PEOPLE = 8, 40
LEVELS = ("A", "B", "C")


def draw(seed: int, *, travel: bool) -> tuple[dict[str, Group], np.ndarray, np.ndarray]:
    """Draw features of people who differ four times as much as their visits, and the levels' offsets."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([np.zeros((1, FEATURES)), rng.normal(0, 1, (2, FEATURES))])
    rows = []
    for who in range(PEOPLE):
        own, effects = rng.normal(0, 4, FEATURES), rng.normal(0, 1, 2)
        seen = rng.permutation(3)[: 2 if travel and who % 2 else 1]
        for level in seen:
            values = own + offsets[level] + effects.sum() + rng.normal(0, 1, FEATURES)
            rows.append((int(level), f"p{who}", effects, values))
    whose, box = np.array([who for _, who, _, _ in rows]), (slice(0, 1),) * 3
    groups = {}
    for number, level in enumerate(LEVELS):
        own = [k for k, row in enumerate(rows) if row[0] == number]
        images = [Image(np.zeros((len(rows), 1)), k, (1, 1, 1), box, rows[k][2]) for k in own]
        groups[level] = Group(images, np.stack([rows[k][3] for k in own]))
    return groups, whose, offsets


def test_nobody_who_travels_tells_nothing_more() -> None:
    groups, whose, _ = draw(0, travel=False)
    assert contrasts(groups, "A", whose) == {}
    again = {level: Group(own.images * 2, np.concatenate([own.features] * 2)) for level, own in groups.items()}
    assert contrasts(again, "A", whose) == {}


def test_differences_are_those_of_generalised_least_squares() -> None:
    groups, whose, _ = draw(1, travel=True)
    found = contrasts(groups, "A", whose)
    images = [image for level in LEVELS for image in groups[level].images]
    values = np.concatenate([groups[level].features for level in LEVELS])
    level_of = np.repeat(np.arange(3), [len(groups[level].images) for level in LEVELS])
    person = np.array([whose[image.row] for image in images])
    design = np.column_stack(
        [np.ones(len(images)), level_of == 1, level_of == 2, np.stack([image.effects for image in images])]
    )
    # The ratio is one of a grid: the right one is among these.
    solved = []
    for ratio in np.geomspace(0.25, 64, 9):
        inverse = np.linalg.inv(np.eye(len(person)) + ratio * (person[:, None] == person[None]))
        covariance = np.linalg.inv(design.T @ inverse @ design)
        solved.append((covariance @ design.T @ inverse @ values, (1 + ratio) / np.diag(covariance)))
    for place, level in ((1, "B"), (2, "C")):
        near = [k for k, (beta, _) in enumerate(solved) if np.allclose(beta[place], found[level].difference)]
        assert near
        assert any(found[level].people == pytest.approx(solved[k][1][place]) for k in near)


def test_people_who_travel_tell_scanners_better() -> None:
    errors, told = [], []
    for seed in range(20):
        groups, whose, offsets = draw(seed, travel=True)
        found = contrasts(groups, "A", whose)
        plain = np.stack([own.features.mean(axis=0) for own in groups.values()])
        errors.append(
            [
                np.mean((found["B"].difference - offsets[1]) ** 2),
                np.mean((plain[1] - plain[0] - offsets[1]) ** 2),
            ]
        )
        told.append(found["B"].people)
    within, between = np.sqrt(np.mean(errors, axis=0))
    assert within < 0.7 * between
    # 17 is the variance between people; as many people as are said tell as much.
    assert within == pytest.approx(np.sqrt(17 / np.mean(told)), rel=0.35)
