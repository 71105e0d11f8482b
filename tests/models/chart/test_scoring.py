"""Log scales and shapes are found for each column by itself, and found to the end."""

import numpy as np
import pytest

from medrep.models.chart.scoring import searched
from medrep.models.chart.shapes import Shapes
from medrep.models.chart.spread import ScalePrior, ScaleRows, _Problem, log_scales

PEOPLE, COLUMNS = 240, 60


@pytest.fixture(scope="module")
def people() -> ScaleRows:
    """People with a curve of age whose parts go together, and four sites."""
    rng = np.random.default_rng(0)
    t = rng.uniform(-1.7, 1.7, PEOPLE)
    curve = np.column_stack([np.ones(PEOPLE), t, 3 * t**2, 3 * t**3, t**4])
    rows = np.column_stack([curve, np.eye(4)[rng.integers(0, 4, PEOPLE)]])
    return ScaleRows(rows, 4, np.full(PEOPLE, 0.02), np.ones(PEOPLE))


@pytest.fixture(scope="module")
def residuals(people) -> np.ndarray:
    """Residuals with heavy tails, whose scale grows many times over."""
    rng = np.random.default_rng(1)
    growth = rng.normal(0, 0.8, COLUMNS)
    return rng.standard_t(3, (PEOPLE, COLUMNS)) * np.exp(
        people.rows[:, 1:2] * growth + 0.2 * people.rows[:, 4:5] * growth
    )


def test_log_scales_of_every_column_are_at_their_best(people, residuals):
    prior = ScalePrior(np.zeros(4), 0.05, 0.8)
    found = log_scales(people, residuals, prior)
    problem = _Problem.of(people, residuals, prior)
    found[0] -= 0.5 * np.log(problem.usual)
    loss, state = problem.look(found)
    assert np.abs(problem.step(found, state)).max() < 0.005
    better = searched(problem, found + np.random.default_rng(2).normal(0, 0.1, found.shape), 100, 1e-6)
    np.testing.assert_allclose(loss, problem.look(better)[0], atol=1e-3)


def test_a_column_does_not_hang_on_those_beside_it(people, residuals):
    prior = ScalePrior(np.zeros(4), 0.05, 0.8)
    together, alone = log_scales(people, residuals, prior), log_scales(people, residuals[:, 7:8], prior)
    np.testing.assert_allclose(together[:, 7:8], alone, atol=1e-9)
    holed = residuals.copy()
    holed[::3, 3] = np.nan
    np.testing.assert_allclose(log_scales(people, holed, prior)[:, 7:8], alone, atol=1e-9)
    shapes = [Shapes.fit(some).parameters for some in (residuals, residuals[:, 7:8])]
    np.testing.assert_allclose(shapes[0][:, 7:8], shapes[1], atol=1e-9)


def test_the_shape_of_a_very_skewed_column_is_found_to_the_end():
    values = np.random.default_rng(3).exponential(size=(400, 20))
    shapes = Shapes.fit(values)
    z = shapes.z(values)
    assert np.abs(z.mean(axis=0)).max() < 0.08
    assert np.abs(z.std(axis=0) - 1).max() < 0.05
    assert (shapes.skewness() > 1.2).all()
