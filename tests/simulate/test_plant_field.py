import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.errors import CohortError
from medrep.simulate.planted_effects import (
    DEGREES,
    draw_legendre,
    draw_wave_field,
    legendre_field,
    wave_field,
)

seeds = st.integers(0, 2**32)


@given(seeds)
def test_a_bias_field_has_the_wanted_sd_and_stays_above_minus_one(seed):
    field = legendre_field(draw_legendre(np.random.default_rng(seed), 0.1), (41, 41, 41))
    assert field.mean() == pytest.approx(0, abs=0.02)
    assert field.std() == pytest.approx(0.1, rel=0.12)
    assert field.min() > -1


def test_the_first_coefficient_is_a_slope_from_left_to_right():
    field = legendre_field((2.0, *[0.0] * (len(DEGREES) - 1)), (3, 2, 1))
    np.testing.assert_allclose(field[:, 0, 0], [-2, 0, 2])


def test_other_numbers_of_coefficients_are_refused():
    with pytest.raises(CohortError, match="has 9 coefficients, but it is given 2"):
        legendre_field((0.1, 0.2), (4, 4, 4))


@given(seeds)
def test_a_wave_field_fills_its_range(seed):
    values = wave_field(draw_wave_field(np.random.default_rng(seed)), (25, 25, 25))
    assert np.abs(values).max() == pytest.approx(1, abs=1e-5)


@given(seeds)
def test_a_wave_field_is_smooth_and_the_same_on_any_grid(seed):
    field = draw_wave_field(np.random.default_rng(seed))
    fine = wave_field(field, (33, 33, 33))
    np.testing.assert_allclose(fine[::2, ::2, ::2], wave_field(field, (17, 17, 17)), atol=1e-5)
    assert max(np.abs(np.diff(fine, axis=axis)).max() for axis in range(3)) < 1.2
