import numpy as np

from medrep.models.shape.subject import carried, pull_back
from tests.models.shape.test_effects import ball


def test_the_same_field_pulls_nothing_back() -> None:
    _, modes = ball()
    points = np.random.default_rng(0).uniform(-12, 12, (40, 2))
    a = np.random.default_rng(1).standard_normal(2 * modes.count)
    np.testing.assert_array_equal(pull_back(points, modes, a, a.copy()), points)


def test_what_is_found_solves_the_equation_and_the_way_back_returns() -> None:
    _, modes = ball()
    rng = np.random.default_rng(2)
    points = rng.uniform(-11, 11, (200, 2))
    own, transformed = (0.4 * rng.standard_normal(2 * modes.count) for _ in range(2))

    def place(p: np.ndarray, a: np.ndarray) -> np.ndarray:
        return p + modes.field(p, a.reshape(-1, 2))

    found = pull_back(points, modes, own, transformed)
    np.testing.assert_allclose(place(found, own), place(points, transformed), atol=2e-4)
    np.testing.assert_allclose(pull_back(found, modes, transformed, own), points, atol=1e-3)


def test_the_same_effect_carries_nobody_anywhere() -> None:
    _, modes = ball()
    points = np.random.default_rng(3).uniform(-12, 12, (40, 2))
    identity, effect = np.random.default_rng(4).standard_normal((2, 2 * modes.count))
    np.testing.assert_array_equal(carried(points, modes, identity, effect, effect.copy()), points)


def test_a_carried_person_is_the_template_seen_through_identity_and_the_other_effect() -> None:
    _, modes = ball()
    rng = np.random.default_rng(5)
    points = rng.uniform(-11, 11, (200, 2))
    identity, own, transformed = (0.3 * rng.standard_normal(2 * modes.count) for _ in range(3))

    def place(p: np.ndarray, a: np.ndarray) -> np.ndarray:
        return p + modes.field(p, a.reshape(-1, 2))

    found = carried(points, modes, identity, own, transformed)
    np.testing.assert_allclose(
        place(place(found, identity), own), place(place(points, identity), transformed), atol=1e-3
    )


def test_a_shifted_person_is_carried_as_one_who_was_not() -> None:
    """An effect acts on the anatomy, wherever the organ lies."""
    _, modes = ball()
    rng = np.random.default_rng(6)
    points = rng.uniform(-9, 9, (100, 2))
    shift = np.array([1.5, -1.0])
    away = np.linalg.lstsq(modes.at(rng.uniform(-14, 14, (4000, 2))), np.tile(shift, (4000, 1)), rcond=1e-9)[0]
    still = np.zeros(2 * modes.count)
    own, transformed = (0.3 * rng.standard_normal(2 * modes.count) for _ in range(2))
    there = carried(points - shift, modes, away.ravel(), own, transformed)
    np.testing.assert_allclose(there + shift, carried(points, modes, still, own, transformed), atol=0.05)
