import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.parsing import MISSING_WORDS, merge_levels, parse_level, parse_number

finite = st.floats(allow_nan=False, allow_infinity=False)
spellings = st.lists(st.sampled_from(["A", "a", "B", "b", "Straße", "STRASSE", "x-1"]), min_size=1, max_size=12)


@given(finite)
def test_a_number_written_by_python_is_read_back_exactly(value):
    number = parse_number(repr(value))
    assert number.reading == "exact"
    assert number.value == value


@given(finite, st.sampled_from(["", " ", "\t", "  "]))
def test_blanks_around_a_number_do_not_count(value, blank):
    assert parse_number(f"{blank}{value!r}{blank}").value == value


@given(st.integers(0, 999), st.integers(0, 99))
def test_a_decimal_comma_is_read_with_a_note(whole, rest):
    number = parse_number(f"{whole},{rest:02d}")
    assert number.reading == "tidied"
    assert number.value == float(f"{whole}.{rest:02d}")


@given(st.integers(0, 120), st.integers(0, 120), st.sampled_from(["-", " - ", "\u2013", " to ", ".."]))
def test_a_range_is_its_midpoint_and_a_reversed_one_unreadable(low, high, dash):
    number = parse_number(f"{low}{dash}{high}")
    assert number.reading == ("range" if low <= high else "unreadable")
    assert math.isnan(number.value) if low > high else number.value == (low + high) / 2


@given(st.text(max_size=30))
def test_any_text_gets_one_reading_and_a_value_only_if_it_is_one(text):
    number = parse_number(text)
    assert math.isnan(number.value) == (number.reading in {"missing", "unreadable"})
    assert not math.isinf(number.value)


@pytest.mark.parametrize(
    ("text", "value", "reading"),
    [
        ("26", 26.0, "exact"),
        ("+26.", 26.0, "exact"),
        (".5", 0.5, "exact"),
        ("1e2", 100.0, "exact"),
        ("26,9", 26.9, "tidied"),
        ("26,", 26.0, "tidied"),
        ("26;", 26.0, "tidied"),
        ("89+", 89.0, "bound"),
        ("89 +", 89.0, "bound"),
        (">89", 89.0, "bound"),
        (">= 89", 89.0, "bound"),
        ("<18", 18.0, "bound"),
        ("≥89", 89.0, "bound"),
        ("≤18", 18.0, "bound"),
        ("20-25", 22.5, "range"),
    ],
)
def test_what_tables_in_the_wild_hold(text, value, reading):
    number = parse_number(text)
    assert (number.value, number.reading) == (value, reading)


@pytest.mark.parametrize(
    "text",
    ["26,934", "1,234,5", "26.9.1", "26 years", "twenty", "0x1A", "1_0", "inf", "-inf", "26-", "1e999", "--3", "25-20"]
    + [f"1{'0' * 400}{ending}" for ending in ("", ",", ",5", "+", "-2" + "0" * 400)],
)
def test_what_is_no_finite_number_is_unreadable(text):
    number = parse_number(text)
    assert number.reading == "unreadable"
    assert math.isnan(number.value)


@pytest.mark.parametrize("word", sorted(MISSING_WORDS))
def test_missing_words_are_missing_in_any_case_for_numbers_and_levels(word):
    for text in (word, word.upper(), f" {word.title()} "):
        assert parse_number(text).reading == "missing"
        assert parse_level(text) is None


@pytest.mark.parametrize(("text", "level"), [("M,", "M"), (" m ; ", "m"), ("a,b", "a,b"), (",", None), ("0", "0")])
def test_a_level_loses_stray_marks_and_keeps_its_case(text, level):
    assert parse_level(text) == level


@given(spellings)
def test_levels_that_differ_in_case_become_one_whatever_their_order(levels):
    spelling = merge_levels(levels)
    assert set(spelling) == set(levels)
    assert spelling == merge_levels(levels[::-1])
    assert len(set(spelling.values())) == len({level.casefold() for level in levels})
    assert all(spelling[own] == own for own in spelling.values())


def test_the_most_frequent_spelling_wins_unless_one_is_known():
    assert merge_levels(["m", "M", "m"]) == {"m": "m", "M": "m"}
    assert merge_levels(["m", "M", "m"], known=("M", "F")) == {"m": "M", "M": "M"}
    assert merge_levels(["a", "A"], known=("a", "A")) == {"a": "a", "A": "A"}
