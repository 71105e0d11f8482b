import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medrep.cohort.splits import split_participants
from medrep.errors import CohortError

seeds = st.integers(0, 2**32)
shares = st.sampled_from([(0.5, 0.5), (0.8, 0.2), (0.6, 0.2, 0.2), (1 / 3, 1 / 3, 1 / 3), (1.0,), (0.25,) * 4])


@st.composite
def tables(draw, most=60):
    rows = draw(st.integers(8, most))
    number = st.integers(0, max(4, rows // 2))
    people = draw(st.lists(number, min_size=rows, max_size=rows))
    sites = draw(st.lists(st.sampled_from("ABC"), min_size=rows, max_size=rows))
    families = draw(st.lists(st.sampled_from(["1", "2", "3", "n/a", "", "unknown"]), min_size=rows, max_size=rows))
    return pd.DataFrame({"participant_id": [f"sub-{n}" for n in people], "site": sites, "family": families})


def parts(table, fractions, **options):
    try:
        return split_participants(table, fractions, **options)
    except CohortError:
        assume(False)
        raise


@given(tables(), shares, seeds, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_change_who_goes_where(table, fractions, seed, random):
    order = random.sample(range(len(table)), len(table))
    for options in ({}, {"stratify": "site"}, {"stratify": "site", "group": "family"}):
        part = parts(table, fractions, seed=seed, **options)
        np.testing.assert_array_equal(
            split_participants(table.iloc[order], fractions, seed=seed, **options), part[order]
        )


@given(tables(), shares, seeds)
def test_a_person_is_never_in_two_parts(table, fractions, seed):
    part = pd.Series(parts(table, fractions, stratify="site", seed=seed))
    assert part.groupby(table["participant_id"]).nunique().max() == 1


@given(tables(), shares, seeds)
def test_neither_people_nor_groups_straddle_parts(table, fractions, seed):
    part = pd.Series(parts(table, fractions, stratify="site", group="family", seed=seed))
    assert part.groupby(table["participant_id"]).nunique().max() == 1
    known = table["family"].isin(["1", "2", "3"])
    assert not known.any() or part[known].groupby(table["family"][known]).nunique().max() == 1


@given(st.lists(st.sampled_from("ABC"), min_size=12, max_size=80), shares, seeds)
def test_each_site_is_shared_out_within_rounding(sites, fractions, seed):
    table = pd.DataFrame({"participant_id": [f"sub-{n}" for n in range(len(sites))], "site": sites})
    part = parts(table, fractions, stratify="site", seed=seed)
    for site, rows in table.groupby("site").indices.items():
        counts = np.bincount(part[rows], minlength=len(fractions))
        assert np.all(np.abs(counts - np.array(fractions) * len(rows)) < 1 + 1e-6), site


@given(tables(), seeds)
def test_the_seed_is_the_only_chance(table, seed):
    np.testing.assert_array_equal(parts(table, (0.5, 0.5), seed=seed), parts(table, (0.5, 0.5), seed=seed))


def test_another_seed_splits_otherwise():
    table = pd.DataFrame({"participant_id": [f"sub-{n}" for n in range(50)]})
    assert not np.array_equal(
        split_participants(table, (0.5, 0.5), seed=0), split_participants(table, (0.5, 0.5), seed=1)
    )


def test_a_person_between_two_sites_counts_the_same_in_any_order_of_rows():
    rows = [(f"sub-{n}", site) for n in range(20) for site in "AB"]
    table = pd.DataFrame(rows, columns=["participant_id", "site"])
    swapped = table.iloc[::-1]
    part = split_participants(table, (0.5, 0.5), stratify="site")
    np.testing.assert_array_equal(split_participants(swapped, (0.5, 0.5), stratify="site"), part[::-1])


def test_people_without_a_group_are_not_tied_to_each_other():
    table = pd.DataFrame({"participant_id": list("abcdef"), "family": ["", "n/a", "NA", " unknown", None, "?"]})
    assert len(set(split_participants(table, (1 / 3, 1 / 3, 1 / 3), group="family"))) == 3


def test_groups_are_tied_through_shared_people():
    table = pd.DataFrame({"participant_id": ["a", "a", "b", "c", "d"], "family": ["1", "2", "2", "1", "3"]})
    part = split_participants(table, (0.5, 0.5), group="family")
    assert len(set(part[:4])) == 1
    assert part[4] != part[0]


@pytest.mark.parametrize(
    ("fractions", "options", "message"),
    [
        ((0.5, 0.6), {}, r"fractions \[0.5, 0.6\] must be positive and sum to 1"),
        ((1.5, -0.5), {}, "must be positive"),
        ((), {}, "must be positive"),
        ((float("nan"), 0.5), {}, "must be positive"),
        ((0.5, float("nan")), {}, "must be positive"),
        ((0.5, 0.5), {"stratify": "site"}, "does not have: site; columns: participant_id, family"),
        ((0.5, 0.5), {"stratify": "x", "group": "y"}, r"does not have \(2\):\n  x\n  y\n  columns: participant_id"),
        ((0.5, 0.5), {"group": "family"}, "1 participants or groups cannot fill 2 parts"),
        ((0.4, 0.3, 0.3), {}, "2 participants or groups cannot fill 3 parts"),
        ((0.9999, 0.0001), {}, "2 participants or groups leave a part empty: part 1 of 0.0001; give it a larger share"),
    ],
)
def test_splits_that_cannot_be_are_refused(fractions, options, message):
    table = pd.DataFrame({"participant_id": ["sub-1", "sub-2"], "family": ["1", "1"]})
    with pytest.raises(CohortError, match=message):
        split_participants(table, fractions, **options)
