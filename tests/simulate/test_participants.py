import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.errors import CohortError, CovariateError
from medrep.simulate import simulate_participants
from medrep.simulate.participants import require_columns


def test_the_same_seed_gives_the_same_table_and_another_seed_another():
    first, again, other = (simulate_participants(50, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


@settings(deadline=None, max_examples=40)
@given(n_sites=st.integers(1, 8), extra=st.integers(0, 60), seed=st.integers(0, 2**32))
def test_every_table_is_well_formed(n_sites, extra, seed):
    table = simulate_participants(n_sites + extra, n_sites=n_sites, seed=seed)
    assert list(table.columns) == ["participant_id", "age", "sex", "site", "diagnosis"]
    assert len(table) == n_sites + extra
    assert table["participant_id"].is_unique
    assert table["age"].between(20, 85).all()
    assert (table["age"].round(1) == table["age"]).all()
    assert set(table["sex"]) <= {"F", "M"}
    assert set(table["site"]) == {f"S{index}" for index in range(n_sites)}
    by_site = table.groupby("site")
    assert by_site.size().min() >= min(2, len(table) // n_sites)
    for _, people in by_site:
        if len(people) > 1:
            assert set(people["diagnosis"]) == {"control", "patient"}


def test_text_columns_are_text_and_ids_start_at_one():
    table = simulate_participants(12)
    assert table["participant_id"].iloc[0] == "sub-0001"
    assert all(pd.api.types.is_string_dtype(table[name]) for name in ("participant_id", "sex", "site", "diagnosis"))


def test_sites_differ_in_age_but_overlap():
    table = simulate_participants(800, seed=1)
    means = table.groupby("site")["age"].mean()
    explained = table["site"].map(means).var() / table["age"].var()
    assert 0.2 < explained < 0.6
    youngest, oldest = (table.loc[table["site"] == name, "age"] for name in (means.idxmin(), means.idxmax()))
    assert youngest.max() > oldest.quantile(0.25)


def test_about_three_in_ten_are_patients_and_half_are_women():
    table = simulate_participants(1000, seed=2)
    assert (table["diagnosis"] == "patient").mean() == pytest.approx(0.3, abs=0.01)
    share = (table["sex"] == "F").groupby(table["site"]).mean()
    assert share.min() < 0.48 < 0.52 < share.max()


@pytest.mark.parametrize(("n", "n_sites"), [(3, 4), (0, 1), (5, 0)])
def test_fewer_people_than_sites_are_refused(n, n_sites):
    with pytest.raises(CohortError, match=f"{n} people cannot fill {n_sites} sites"):
        simulate_participants(n, n_sites=n_sites)


def test_all_unusable_rows_are_listed():
    table = pd.DataFrame({"participant_id": ["a", "b", "b"], "age": [50.0, None, 60.0], "sex": ["F", "M", "f"]})
    with pytest.raises(CovariateError) as error:
        require_columns(table, ["participant_id", "age", "sex"])
    for text in ("b: more than one row", "b: no age", "sex 'f' is not one of F, M"):
        assert text in str(error.value)
    with pytest.raises(CovariateError, match="column 'site'; its columns are: participant_id, age, sex"):
        require_columns(table, ["participant_id", "site"])


def test_ages_written_as_text_are_refused():
    with pytest.raises(CovariateError, match="not numbers of years"):
        require_columns(pd.DataFrame({"participant_id": ["a"], "age": ["89+"]}), ["participant_id", "age"])
