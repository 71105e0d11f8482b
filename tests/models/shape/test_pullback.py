import numpy as np

from medrep.models.shape.pullback import pull_back
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
    own, moved = (0.4 * rng.standard_normal(2 * modes.count) for _ in range(2))

    def place(p: np.ndarray, a: np.ndarray) -> np.ndarray:
        return p + modes.field(p, a.reshape(-1, 2))

    found = pull_back(points, modes, own, moved)
    np.testing.assert_allclose(place(found, own), place(points, moved), atol=2e-4)
    np.testing.assert_allclose(pull_back(found, modes, moved, own), points, atol=1e-3)
