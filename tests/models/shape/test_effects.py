import numpy as np
import pytest

from medrep.cohort.lattice import Lattice
from medrep.models.shape.effects import Group, across, fit_effects
from medrep.models.shape.modes import SCALES, SmoothModes
from medrep.models.shape.template import LevelFunction


def ball(radius: float = 10.0) -> tuple[LevelFunction, SmoothModes]:
    lattice = Lattice((-18.0,) * 2, (1.0,) * 2, (37,) * 2)
    template = LevelFunction.through(lattice, np.linalg.norm(lattice.nodes(), axis=1) - radius)
    return template, SmoothModes.around(np.full(2, -18.0), np.full(2, 18.0), template.values, radius, 60)


def planted(strength: float, people: int = 300) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((people, 2))
    G = np.stack([strength * rng.standard_normal(12), np.zeros(12)])
    codes = 3.0 + X @ G + rng.multivariate_normal(np.zeros(12), np.diag(rng.uniform(0.2, 2.0, 12)), people)
    return X, G, codes


def least_squares(X: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(np.column_stack([np.ones(len(X)), X]), codes, rcond=None)[0][1:]


APART = [Group(slice(0, 1)), Group(slice(1, 2))]


def test_strong_effects_are_found_as_least_squares_finds_them() -> None:
    X, G, codes = planted(2.0)
    found = fit_effects(X, codes, APART)
    np.testing.assert_allclose(found.rows[0], least_squares(X, codes)[0], atol=0.02)
    assert np.linalg.norm(found.rows[0] - G[0]) < 0.1 * np.linalg.norm(G[0])


def test_an_effect_that_is_none_is_shrunk() -> None:
    X, _, codes = planted(2.0)
    found = fit_effects(X, codes, APART)
    assert np.linalg.norm(found.rows[1]) < 0.6 * np.linalg.norm(least_squares(X, codes)[1])
    strengths = np.trace(found.prior, axis1=1, axis2=2) - found.prior[:, 1, 1], found.prior[:, 1, 1]
    assert np.median(strengths[1]) < 0.01 * np.median(strengths[0])


def test_an_effect_in_one_direction_of_hundreds_is_kept() -> None:
    """One strength for all directions would take it for noise; people differ in some directions much more than in others."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((40, 1))
    G = np.zeros((1, 300))
    G[0, 0] = 1.0
    codes = X @ G + rng.standard_normal((40, 300)) * 1.5 / np.arange(1, 301)
    found = fit_effects(X, codes, [Group(slice(0, 1))]).rows[0]
    assert found[0] > 0.6
    assert np.linalg.norm(found - G) < 0.4


def test_a_bend_that_is_alike_to_the_line_is_found_better_together() -> None:
    rng = np.random.default_rng(6)
    X, place = rng.standard_normal((60, 2)), rng.standard_normal(100)
    G = np.stack([place, 0.3 * place])
    codes = X @ G + 1.5 * rng.standard_normal((60, 100))
    wrong = [np.linalg.norm(fit_effects(X, codes, groups).rows[1] - G[1]) for groups in ([Group(slice(0, 2))], APART)]
    assert wrong[0] < 0.8 * wrong[1]


def test_levels_of_a_batch_have_one_strength() -> None:
    X, _, codes = planted(2.0)
    prior = fit_effects(X, codes, [Group(slice(0, 2), exchangeable=True)]).prior
    np.testing.assert_allclose(prior, prior[:, :1, :1] * np.eye(2), atol=1e-12)


def test_a_refit_on_the_same_people_is_the_fit() -> None:
    X, _, codes = planted(0.5)
    found = fit_effects(X, codes, [Group(slice(0, 2))])
    np.testing.assert_allclose(found.refit(X, codes), found.rows, atol=1e-9)


def test_without_columns_there_is_nothing_to_find() -> None:
    _, _, codes = planted(1.0)
    assert fit_effects(np.zeros((len(codes), 0)), codes, []).rows.shape == (0, 12)


def test_motion_across_the_surface_is_kept_and_motion_along_it_is_not() -> None:
    template, modes = ball()
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    normals = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points, tangents = 10 * normals, normals[:, ::-1] * [-1, 1]
    amount = np.cos(2 * angle)[:, None]
    basis = modes.at(points)
    kept = across(modes, template, 10.0)

    def through(field: np.ndarray) -> np.ndarray:
        coefficients = np.linalg.lstsq(basis, field, rcond=1e-8)[0].ravel()
        return basis @ (coefficients @ kept).reshape(-1, 2)

    assert np.abs(through(amount * normals) - amount * normals).max() < 0.05
    assert np.abs(through(amount * tangents)).max() < 0.05


@pytest.mark.parametrize("count", [10, 40])
def test_fields_of_unit_coefficients_are_as_large_as_the_scales_say(count: int) -> None:
    _, modes = ball()
    few = SmoothModes(modes.lattice, modes.nodes, modes.shapes[:, :count])
    assert few.count == count
    rng = np.random.default_rng(2)
    coefficients = rng.standard_normal((count, 2000))
    near = few.field(np.array([[10.0, 0.0]]), coefficients)
    whole = 10.0 * np.sqrt(sum(sd**2 for sd, _ in SCALES))
    assert 0.6 * whole < near.std() < 1.1 * whole


def test_the_slopes_of_a_field_are_its_differences() -> None:
    _, modes = ball()
    points = np.random.default_rng(3).uniform(-11, 11, (15, 2))
    coefficients = np.random.default_rng(4).standard_normal((modes.count, 2))
    field, slopes = modes.field_slopes(points, coefficients)
    np.testing.assert_allclose(field, modes.field(points, coefficients), atol=1e-12)
    for axis in range(2):
        shift = 1e-5 * np.eye(2)[axis]
        there = (modes.field(points + shift, coefficients) - modes.field(points - shift, coefficients)) / 2e-5
        np.testing.assert_allclose(slopes[:, :, axis], there, atol=1e-6)
