import pytest

from medrep.cohort.parsing import age_limits, conversion, find_unit, same_unit


@pytest.mark.parametrize(
    "text", ["year", "Years", "yr", "yrs.", "y", "a", "Year(s)", "[years]", "years of age", "in years", " YEARS old "]
)
def test_words_for_a_year(text):
    assert same_unit(text, "year")
    assert not same_unit(text, "month")


@pytest.mark.parametrize(
    ("one", "other"),
    [("mo", "months"), ("wk", "Weeks"), ("d", "day"), ("kg", "kilograms"), ("mm³", "mm^3"), ("points", "Point")],
)
def test_words_for_one_unit(one, other):
    assert same_unit(one, other)


@pytest.mark.parametrize(
    ("one", "other"), [("months", "year"), ("kg", "g"), ("m", "month"), ("points", "year"), ("score", "items")]
)
def test_words_for_two_units(one, other):
    assert not same_unit(one, other)


def test_how_one_becomes_the_other():
    assert conversion("months", "yr") == "divide by 12"
    assert conversion("year", "mo") == "multiply by 12"
    assert conversion("cm", "m") == "divide by 100"
    assert conversion("kg", "year") == conversion("points", "year") == ""


def test_the_ages_there_can_be():
    assert age_limits("yrs") == (0, 130)
    assert age_limits("month") == (0, 1560)
    assert age_limits("") is None
    assert age_limits("kg") is None
    assert find_unit("") is None
