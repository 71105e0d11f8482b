import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.parsing import (
    alike_key,
    certain_key,
    find_level,
    is_code,
    look_alikes,
    merge_levels,
    shown_spelling,
)

words = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("M", "m"),
        ("1", "1.0"),
        ("1", "1."),
        ("12", "12.00"),
        ("-9", "-9.0"),
        ("Zürich", unicodedata.normalize("NFD", "Zürich")),
        ("ZÜRICH", unicodedata.normalize("NFD", "Zürich")),
        ("Site A", "Site  A"),
        ("Site A", "Site\u00a0A"),
        ("Site A", " Site\u3000A\t"),
        ("Site A", '"Site A"'),
        ("A", "\u201cA\u201d"),
        ("A", "\uff21"),
        ("A", "A\u200b"),
        ("A", "\ufeffA"),
        ("1", "\uff11.0"),
    ],
)
def test_what_is_certainly_one_level(one, other):
    assert certain_key(one) == certain_key(other)
    assert set(merge_levels([one, other]).values()) == {one}
    assert find_level(other, (one, "else")) == one


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "01"),
        ("1", "True"),
        ("0", "false"),
        ("no", "False"),
        ("1.5", "1.50"),
        ("1.1", "1.10"),
        ("1,5", "1.5"),
        ("+1", "1"),
        ("S1", "S01"),
        ("site-007", "site-7"),
        ("T2", "T\u00b2"),
    ],
)
def test_what_looks_like_one_level_is_left_apart_and_found(one, other):
    assert len(set(merge_levels([one, other]).values())) == 2
    assert [set(group) for group in look_alikes([one, other])] == [{one, other}]
    assert [set(group) for group in look_alikes([one], (other,))] == [{one, other}]
    assert look_alikes([one, other], (one, other)) == []
    assert find_level(one, (other,)) is None


@pytest.mark.parametrize(
    ("one", "other"), [("1", "10"), ("1.01", "1.1"), ("A", "B"), ("S1", "S10"), ("1", "-1"), ("n", "no")]
)
def test_what_is_two_levels_stays_two(one, other):
    assert look_alikes([one, other]) == []
    assert len(set(merge_levels([one, other]).values())) == 2


@given(words)
def test_keys_are_fixed_points(word):
    assert certain_key(certain_key(word)) == certain_key(word)
    assert alike_key(certain_key(word)) == alike_key(word)


@given(st.lists(words, min_size=1, max_size=6))
def test_one_key_is_one_spelling(levels):
    spelling = merge_levels(levels)
    assert len(set(spelling.values())) == len({certain_key(level) for level in levels})


def test_the_plainest_spelling_wins_over_the_most_frequent():
    assert set(merge_levels(["1.0", "1.0", "1"]).values()) == {"1"}
    assert set(merge_levels(["1.0", "1.0"]).values()) == {"1.0"}
    assert merge_levels(["1"], known=("1.0",)) == {"1": "1.0"}


def test_a_level_is_found_by_its_own_spelling_first_and_never_between_two():
    assert find_level("a", ("A", "a")) == "a"
    assert find_level("1.00", ("1", "1.0")) is None


def test_codes_are_found_as_numbers_and_as_levels():
    assert is_code("-9.0", ("-9",))
    assert is_code(" 999 ", ("999",))
    assert is_code("x", ("X",))
    assert not is_code("99", ("999",))
    assert not is_code("n/a", ("999",))
    assert not is_code("1", ())


def test_a_spelling_that_looks_the_same_is_spelled_out():
    assert shown_spelling("Zu\u0308rich", "Zürich") == "'Zu\\u0308rich'"
    assert shown_spelling("m", "M") == "'m'"
