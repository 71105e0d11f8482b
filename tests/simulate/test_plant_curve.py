import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.errors import CovariateError
from medrep.simulate.planted_effects import ContinuousCurve, LevelCurve, draw_curve, strength


@given(value=st.floats(-1e3, 1e3), reference=st.floats(-1e3, 1e3), sd=st.floats(0.1, 100))
def test_numbers_act_by_a_line_and_a_quadratic(value, reference, sd):
    t = (value - reference) / sd
    assert strength("age", ContinuousCurve(reference, sd), value) == pytest.approx(t + 0.3 * t**2)


def test_a_column_of_numbers_gives_a_curve_around_its_mean():
    curve = draw_curve("age", pd.Series([20.0, np.nan, 60.0]), seed=0)
    assert curve == ContinuousCurve(40.0, 20.0)
    assert strength("age", curve, np.float32(40)) == 0


@given(st.integers(0, 2**32))
def test_a_column_of_texts_gives_a_strength_a_level(seed):
    curve = draw_curve("site", ["B", "A", None, "C", "B"], seed=seed)
    assert isinstance(curve, LevelCurve)
    assert (curve.reference, list(curve.strengths)) == ("A", ["A", "B", "C"])
    assert strength("site", curve, "A") == 0
    assert all(0.7 <= abs(strength("site", curve, level)) <= 1.3 for level in "BC")


def test_truth_values_are_levels():
    assert isinstance(draw_curve("smoker", [True, False], seed=0), LevelCurve)


@pytest.mark.parametrize("values", [[], [None], [3.0, 3.0], ["F", "F", None]])
def test_a_column_that_does_not_vary_is_refused(values):
    with pytest.raises(CovariateError, match="sex: an effect needs two different values"):
        draw_curve("sex", values, seed=0)


@pytest.mark.parametrize("value", [None, "old", float("nan"), pd.NA])
def test_a_missing_number_is_refused(value):
    with pytest.raises(CovariateError, match=r"age: .* is not a number"):
        strength("age", ContinuousCurve(50.0, 10.0), value)


def test_an_unknown_level_is_refused():
    with pytest.raises(CovariateError, match="sex: level 'X' is not one of F, M"):
        strength("sex", LevelCurve("F", {"F": 0.0, "M": 1.0}), "X")
