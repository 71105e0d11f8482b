import numpy as np
import pytest

from medrep.cohort.grid import Lattice
from medrep.models.shape.effects import Equations, Group, Told, fit_effects, resampled_effects
from medrep.models.shape.mean_shape import SCALES, LevelFunction, SmoothBasis


def ball(radius: float = 10.0) -> tuple[LevelFunction, SmoothBasis]:
    lattice = Lattice((-18.0,) * 2, (1.0,) * 2, (37,) * 2)
    template = LevelFunction.through(lattice, np.linalg.norm(lattice.nodes(), axis=1) - radius)
    return template, SmoothBasis.around(np.full(2, -18.0), np.full(2, 18.0), template.values, radius, 60)


def planted(strength: float, people: int = 300) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(people), rng.standard_normal((people, 2))])
    G = np.stack([np.full(12, 0.5), strength * rng.standard_normal(12), np.zeros(12)])
    return X, G, rng.standard_normal((people, 12))


def equations(X: np.ndarray, G: np.ndarray, rest: np.ndarray, before: np.ndarray | None = None) -> Equations:
    """Return what people tell whose fields are X G + rest, all of it known, with rest of unit variance."""
    before = np.zeros_like(G) if before is None else before
    found = Equations(before)
    for own, code in zip(X, X @ G + rest, strict=True):
        found.add(own, Told(code - own @ before, np.eye(G.shape[1])))
    return found


def least_squares(X: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(X, codes, rcond=None)[0]


APART = [Group(slice(1, 2)), Group(slice(2, 3))]


def test_strong_effects_are_found_as_least_squares_finds_them() -> None:
    X, G, rest = planted(2.0)
    found = fit_effects(equations(X, G, rest), APART, 1)
    np.testing.assert_allclose(found.rows[1], least_squares(X, X @ G + rest)[1], atol=0.03)
    assert np.linalg.norm(found.rows[1] - G[1]) < 0.1 * np.linalg.norm(G[1])


def test_an_effect_that_is_none_is_shrunk() -> None:
    X, G, rest = planted(2.0)
    found = fit_effects(equations(X, G, rest), APART, 1)
    assert np.linalg.norm(found.rows[2]) < 0.7 * np.linalg.norm(least_squares(X, X @ G + rest)[2])
    assert np.median(found.prior[:, 2, 2]) < 0.02 * np.median(found.prior[:, 1, 1])


def test_what_was_known_before_changes_the_start_and_not_the_end() -> None:
    X, G, rest = planted(1.0)
    fresh, later = (fit_effects(equations(X, G, rest, before), APART, 1) for before in (None, 0.7 * G))
    np.testing.assert_allclose(fresh.rows, later.rows, atol=1e-10)


def test_directions_that_a_persons_surface_does_not_show_are_told_by_others() -> None:
    """Young people show one half of the coefficients, old ones the other; nobody's blind half pulls the effect to nothing."""
    rng = np.random.default_rng(3)
    age = rng.uniform(-1, 1, 400)
    X, G = np.column_stack([np.ones(400), age]), np.stack([np.zeros(8), np.full(8, 2.0)])
    found = Equations(np.zeros_like(G))
    for own, rest in zip(X, 0.3 * rng.standard_normal((400, 8)), strict=True):
        seen = np.repeat([own[1] < 0, own[1] >= 0], 4).astype(float) / 0.09
        found.add(own, Told(seen * (own @ G + rest), np.diag(seen)))
    np.testing.assert_allclose(fit_effects(found, [Group(slice(1, 2))], 1).rows[1], G[1], atol=0.2)


def test_an_effect_in_one_direction_of_hundreds_is_kept() -> None:
    """One strength for all directions would take it for noise."""
    rng = np.random.default_rng(5)
    X = np.column_stack([np.ones(40), rng.standard_normal(40)])
    G = np.zeros((2, 300))
    G[1, 0] = 1.0
    found = fit_effects(equations(X, G, rng.standard_normal((40, 300))), [Group(slice(1, 2))], 1).rows[1]
    assert found[0] > 0.6
    assert np.linalg.norm(found - G[1]) < 0.5 * np.linalg.norm(least_squares(X, rng.standard_normal((40, 300)))[1])


def test_a_bend_that_is_alike_to_the_line_is_found_better_together() -> None:
    rng = np.random.default_rng(6)
    X, place = np.column_stack([np.ones(60), rng.standard_normal((60, 2))]), rng.standard_normal(100)
    G = np.stack([np.zeros(100), place, 0.3 * place])
    known = equations(X, G, rng.standard_normal((60, 100)))
    wrong = [np.linalg.norm(fit_effects(known, groups, 1).rows[2] - G[2]) for groups in ([Group(slice(1, 3))], APART)]
    assert wrong[0] < 0.9 * wrong[1]


def test_levels_of_a_batch_have_one_strength_and_are_found_beside_what_goes_with_them() -> None:
    rng = np.random.default_rng(7)
    site = rng.integers(3, size=300)
    age = rng.standard_normal(300) + site  # older people at later sites
    X = np.column_stack([np.ones(300), age, *(site == k for k in range(3))]).astype(float)
    G = np.stack([np.zeros(12), np.ones(12), *rng.standard_normal((3, 12))])
    found = fit_effects(
        equations(X, G, rng.standard_normal((300, 12))), [Group(slice(1, 2)), Group(slice(2, 5), exchangeable=True)], 1
    )
    own = found.prior[:, 2:, 2:]
    np.testing.assert_allclose(own, own[:, :1, :1] * np.eye(3), atol=1e-12)
    np.testing.assert_allclose(found.rows[1], G[1], atol=0.3)
    apart = [rows[4] - rows[2] for rows in (found.rows, G)]
    np.testing.assert_allclose(*apart, atol=0.9)


def test_resampled_people_spread_as_the_fit_errs() -> None:
    X, G, rest = planted(1.0)
    known = equations(X, G, rest)
    found = fit_effects(known, APART, 1)
    # At the solution scores are of what is left.
    draws = resampled_effects(found, equations(X, G, rest, found.rows), APART, 1, 400, np.random.default_rng(0))
    assert draws.shape == (400, *G.shape)
    np.testing.assert_allclose(draws.mean(axis=0), found.rows, atol=0.02)
    np.testing.assert_allclose(draws[:, 1].std(axis=0).mean(), 300**-0.5, rtol=0.15)


def test_without_columns_only_what_is_shared_is_found() -> None:
    X, G, rest = planted(1.0)
    found = fit_effects(equations(X[:, :1], G[:1], rest), [], 1)
    np.testing.assert_allclose(found.rows[0], G[0], atol=0.3)


@pytest.mark.parametrize("count", [10, 40])
def test_fields_of_unit_coefficients_are_as_large_as_the_scales_say(count: int) -> None:
    _, modes = ball()
    few = SmoothBasis(modes.lattice, modes.nodes, modes.shapes[:, :count])
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
