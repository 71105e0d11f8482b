"""Visits of people who come again: planned, stayed away from, and what is a person's own."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.errors import CohortError
from medrep.simulate import simulate_participants
from medrep.simulate.features import SLOPE_MM, STEADY, simulate_visits
from medrep.simulate.visits import FollowUp, attended, draw_own, plan_visits


def people(count: int = 40, sites: int = 4) -> pd.DataFrame:
    return simulate_participants(count, n_sites=sites, seed=2)


@given(st.integers(1, 5), st.integers(0, 6), st.integers(2, 5), st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_a_plan_is_what_was_asked(visits: int, travellers: int, sites: int, seed: int) -> None:
    own = people(20, sites)
    plan = plan_visits(own, FollowUp(visits, travellers), seed=seed)
    for who, rows in plan.table.groupby("participant_id"):
        first = own[own["participant_id"] == who].iloc[0]
        place = plan.table["participant_id"].to_numpy() == who
        assert rows["session_id"].tolist() == [f"ses-{k}" for k in range(1, len(rows) + 1)]
        assert rows["age"].iloc[0] == first["age"]
        assert rows["site"].iloc[0] == first["site"]
        assert (rows["sex"] == first["sex"]).all()
        np.testing.assert_allclose(rows["age"] - first["age"], plan.years[place], atol=0.011)
        if plan.travels[place].all():
            assert sorted(rows["site"]) == sorted(set(own["site"]))
            assert plan.years[place][-1] <= 0.06 * sites + 0.01
        else:
            assert len(rows) == visits
            assert (np.abs(plan.years[place] - 2 * np.arange(visits)) <= 0.51).all()
    travelling = plan.table["participant_id"][plan.travels].nunique()
    assert travelling == travellers
    if visits > 1 and not travellers:
        changed = plan.table.groupby("participant_id")["site"].nunique()
        assert (changed == 2).sum() == 10


def test_the_same_seed_plans_the_same_and_dropout_takes_from_it() -> None:
    own = people()
    whole = plan_visits(own, FollowUp(3), seed=1)
    again = plan_visits(own, FollowUp(3, dropout=0.4), seed=1)
    pd.testing.assert_frame_equal(whole.table, again.table)
    there = attended(again, None, FollowUp(3, dropout=0.4), seed=1)
    assert attended(whole, None, FollowUp(3), seed=1).all()
    kept = again.take(there).table
    # Nobody comes again who stayed away, and everybody comes first.
    for _, rows in kept.groupby("participant_id"):
        assert rows["session_id"].tolist() == [f"ses-{k}" for k in range(1, len(rows) + 1)]
    assert kept["participant_id"].nunique() == len(own)


@pytest.mark.parametrize(("by", "sign"), [("chance", 0), ("age", 1), ("value", -1)])
def test_dropout_is_of_the_size_asked_and_by_what_was_asked(by: str, sign: int) -> None:
    own = people(800)
    follow_up = FollowUp(2, dropout=0.3, dropout_by=by)  # type: ignore[arg-type]
    plan = plan_visits(own, follow_up, seed=4)
    values = np.random.default_rng(0).normal(size=(len(plan.person), 3))
    there = attended(plan, values, follow_up, seed=4)
    away = np.flatnonzero(~there)
    assert len(away) / len(own) == pytest.approx(0.3, abs=0.05)
    first = plan.years == 0
    driver = plan.table["age"].to_numpy() if by == "age" else values.mean(axis=1)
    apart = (driver[away - 1].mean() - driver[first].mean()) / driver[first].std()
    assert apart == pytest.approx(0, abs=0.15) if sign == 0 else sign * apart > 0.4


def test_travelling_people_never_stay_away() -> None:
    follow_up = FollowUp(2, 10, dropout=0.9)
    plan = plan_visits(people(), follow_up, seed=0)
    there = attended(plan, None, follow_up, seed=0)
    assert there[plan.travels].all()
    assert not there[~plan.travels & (plan.years > 0)].all()


def test_what_a_visit_would_be_without_its_site_is_as_written_in_the_formula() -> None:
    own = people(12)
    plan = plan_visits(own, FollowUp(3, 2), seed=3)
    made = simulate_visits(own, plan, n_features=5, seed=3)
    truth = made.truth["visits"]
    steady = made.levels.to_numpy()[plan.person]
    change = (np.array(truth["change"]) + made.slopes.to_numpy()[plan.person]) * plan.years[:, None]
    noise = np.array(truth["noise_sd"]) * draw_own(plan, 5, seed=3)[1]
    left = made.clean.to_numpy() - steady - change - noise
    # What is left is the mean of people like them: the same at every visit.
    for place in range(len(own)):
        rows = left[plan.person == place]
        np.testing.assert_allclose(rows, rows[:1].repeat(len(rows), axis=0), atol=1e-12)
    sites = made.truth["site"]["levels"]
    for at, site in enumerate(plan.table["site"]):
        expected = np.array(sites[site]["location"]) + (np.array(sites[site]["scale"]) - 1) * noise[at]
        np.testing.assert_allclose(made.features.to_numpy()[at] - made.clean.to_numpy()[at], expected, atol=1e-12)


def test_a_persons_draws_are_their_own() -> None:
    """Others, and further visits, change nothing of a person."""
    own = people(12)
    few, more = (plan_visits(own, FollowUp(count), seed=3) for count in (2, 3))
    one, other = (simulate_visits(own, plan, n_features=4, seed=3) for plan in (few, more))
    pd.testing.assert_frame_equal(one.slopes, other.slopes)
    pd.testing.assert_frame_equal(one.levels, other.levels)
    first = [key for key in one.clean.index if key[1] == "ses-1"]
    pd.testing.assert_frame_equal(one.clean.loc[first], other.clean.loc[first])


def test_slopes_and_noise_have_the_spread_that_is_stated() -> None:
    own = people(400)
    plan = plan_visits(own, FollowUp(2), seed=5)
    made = simulate_visits(own, plan, n_features=20, seed=5)
    assert made.slopes.to_numpy().std() == pytest.approx(SLOPE_MM, rel=0.1)
    slopes, noise = draw_own(plan, 20, seed=5)
    assert noise.std() == pytest.approx(1, rel=0.05)
    assert np.corrcoef(slopes.T)[np.triu_indices(20, 1)].mean() == pytest.approx(0.5, abs=0.1)
    assert 0 < STEADY < 1


def test_all_that_is_wrong_with_a_design_is_said() -> None:
    with pytest.raises(CohortError) as refused:
        plan_visits(people(6, 1), FollowUp(0, 9, 1.5, "age"), seed=0)
    for said in ("--visits 0", "--travellers 9: give 0 to 6", "no two sites", "--dropout 1.5: give a share"):
        assert said in str(refused.value)
    with pytest.raises(CohortError, match="--dropout-by age: nobody stays away"):
        FollowUp(2, dropout_by="age").check(5, 2)
    with pytest.raises(CohortError, match="several rows"):
        plan_visits(pd.concat([people(6), people(6)]), FollowUp(2), seed=0)
