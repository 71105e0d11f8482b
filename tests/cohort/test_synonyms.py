import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.dictionary import alike, certain_pairs, folded, meaning, same_cell

ids = st.lists(
    st.sampled_from(["1", "01", "sub-1", "sub-001", "A1", "a01", "b", "B", "sub-b", "10", "010"]), unique=True
)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Age", "age"), (" AGE ", "age"), ("Gender", "sex"), ("\uff53ite", "Center"), ("Dx", "diagnosis")],
)
def test_columns_of_one_meaning(one, other):
    assert meaning(one) == meaning(other)
    assert meaning(one) != meaning("age_at_onset")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("30", "30.0", True),
        ("M", "m", True),
        ("1e1", "10", True),
        ("30", "31", False),
        ("x", "3", False),
        ("é", "e\u0301", True),
    ],
)
def test_cells_that_say_the_same(one, other, same):
    assert same_cell(one, other) is same


@pytest.mark.parametrize(
    ("one", "other"),
    [("sub-01", "1"), ("SUB-A01", "a1"), ("01_ses-02", "1_ses-2"), ("site10-003", "site10-3"), ("7.0", "007")],
)
def test_ids_that_may_be_one(one, other):
    assert folded(one) == folded(other)


@pytest.mark.parametrize(("one", "other"), [("10", "1"), ("100", "1"), ("1.05", "1.5"), ("a", "b"), ("1-0", "1")])
def test_ids_that_are_not(one, other):
    assert folded(one) != folded(other)


@given(ids, ids)
def test_a_pair_is_certain_only_where_nobody_else_could_be_meant(wanted, there):
    pairs = certain_pairs(wanted, there)
    for who, row in pairs.items():
        assert who != row
        assert [one for one in wanted if folded(one) == folded(who)] == [who]
        assert [one for one in there if folded(one) == folded(who)] == [row]
    assert len(set(pairs.values())) == len(pairs)


def test_ids_that_look_like_one_are_grouped():
    assert alike(["1", "2", "01", "b", "B", "1"]) == [("1", "01"), ("b", "B")]
