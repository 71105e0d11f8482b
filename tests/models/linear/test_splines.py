import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline

from medrep.models.linear.design import natural_spline, spline_knots

AGES = np.random.default_rng(0).uniform(20, 80, 200)


@pytest.mark.parametrize("degrees", [1, 2, 4, 7])
def test_as_many_columns_as_degrees(degrees):
    knots = spline_knots(AGES, degrees)
    assert len(knots) == degrees + 1
    assert natural_spline(AGES, knots).shape == (200, degrees)


def test_straight_outside_the_knots():
    knots = spline_knots(AGES, 5)
    for start, step in ((knots[0], -7.0), (knots[-1], 7.0)):
        rows = natural_spline(start + step * np.arange(5.0), knots)
        np.testing.assert_allclose(np.diff(rows, 2, axis=0), 0, atol=1e-10)


def test_two_derivatives_at_the_knots():
    knots, h = spline_knots(AGES, 4), 1e-3
    for knot in knots:
        left, right = (natural_spline(knot + side * h * np.arange(4.0), knots) for side in (-1, 1))
        slopes = [(-3 * b[0] + 4 * b[1] - b[2]) / (2 * h) for b in (left, right)]
        np.testing.assert_allclose(slopes[0], -slopes[1], atol=1e-5)
        bends = [np.diff(b, 2, axis=0)[0] / h**2 for b in (left, right)]
        np.testing.assert_allclose(bends[0], bends[1], atol=1e-4)


@pytest.mark.parametrize("degrees", [1, 4])
def test_reproduces_lines(degrees):
    basis = natural_spline(AGES, spline_knots(AGES, degrees))
    design = np.concatenate([np.ones((200, 1)), basis], axis=1)
    line = 3 - 0.2 * AGES
    np.testing.assert_allclose(design @ np.linalg.lstsq(design, line)[0], line, atol=1e-9)


def test_interpolates_a_natural_spline_of_scipy():
    knots = spline_knots(AGES, 5)
    curve = CubicSpline(knots, np.sin(np.arange(6.0)), bc_type="natural")
    x = np.linspace(knots[0], knots[-1], 100)
    design = np.concatenate([np.ones((100, 1)), natural_spline(x, knots)], axis=1)
    np.testing.assert_allclose(design @ np.linalg.lstsq(design, curve(x))[0], curve(x), atol=1e-8)


def test_the_unit_of_the_covariate_does_not_matter():
    years, days = AGES, AGES * 365.25
    np.testing.assert_allclose(
        natural_spline(years, spline_knots(years, 4)), natural_spline(days, spline_knots(days, 4)), atol=1e-10
    )


def test_knots_stand_at_quantiles():
    assert spline_knots(np.arange(101.0), 4) == pytest.approx((2, 26, 50, 74, 98))


@given(
    values=st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5, 7.0, 30.0]), min_size=12, max_size=60),
    degrees=st.integers(1, 6),
)
def test_ties_never_make_more_columns_than_the_values_support(values, degrees):
    distinct = len(set(values))
    if distinct < 2:
        return
    array = np.array(values)
    knots = spline_knots(array, degrees)
    assert list(knots) == sorted(set(knots))
    assert 2 <= len(knots) <= min(degrees, distinct - 1) + 1
    design = np.concatenate([np.ones((len(array), 1)), natural_spline(array, knots)], axis=1)
    assert np.linalg.matrix_rank(design) == design.shape[1]
