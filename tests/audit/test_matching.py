import numpy as np
import pandas as pd

from medrep.audit.utility import first_rows, match_participants
from medrep.cohort.covariates import Covariate, CovariateSchema
from tests.models.planted import AGE, SEX, SITE, draw_people


def people(n: int = 200, seed: int = 0) -> tuple[pd.DataFrame, CovariateSchema]:
    frame = draw_people(n, 3, seed)
    return frame, CovariateSchema.fit(frame, (AGE, SEX, SITE))


def test_pairs_agree_in_levels_and_are_near_in_numbers():
    frame, schema = people()
    ill = np.random.default_rng(0).random(200) < 1 / (1 + np.exp(-(frame["age"].to_numpy() - 55) / 8))
    matched = match_participants(frame, schema, np.flatnonzero(ill), np.flatnonzero(~ill))
    one, other = frame.iloc[matched.rows[:, 0]], frame.iloc[matched.rows[:, 1]]
    assert len(matched.rows) > 20
    assert len(np.unique(matched.rows)) == matched.rows.size
    assert ill[matched.rows[:, 0]].all()
    assert not ill[matched.rows[:, 1]].any()
    for name in ("sex", "site"):
        assert (one[name].to_numpy() == other[name].to_numpy()).all()
    assert np.abs(one["age"].to_numpy() - other["age"].to_numpy()).max() <= 0.25 * frame["age"].std(ddof=0)
    # The ill were older by far; what is left of it is small.
    before = (frame["age"][ill].mean() - frame["age"][~ill].mean()) / frame["age"].std(ddof=0)
    assert before > 1
    assert matched.imbalance < 0.15


def test_as_many_pairs_as_possible_before_the_nearest():
    # Greedily 0.0 takes 0.1, and 0.5, too far from -0.4, stays alone.
    values = [-0.0, 0.5, 0.1, -0.4]
    frame = pd.DataFrame({"age": np.array([*values, 10.0, -10.0])})
    schema = CovariateSchema.fit(frame, (AGE,))
    caliper = 0.45 / float(frame["age"].std(ddof=0))
    matched = match_participants(frame, schema, np.array([0, 1]), np.array([2, 3]), caliper=caliper)
    assert sorted(map(tuple, matched.rows)) == [(0, 3), (1, 2)]


def test_an_outcome_that_is_the_site_has_no_pairs():
    frame, schema = people()
    ill = (frame["site"] == "S0").to_numpy()
    matched = match_participants(frame, schema, np.flatnonzero(ill), np.flatnonzero(~ill))
    assert len(matched.rows) == 0
    assert matched.imbalance == 0
    free = match_participants(frame, schema, np.flatnonzero(ill), np.flatnonzero(~ill), leave_out=["site"])
    assert len(free.rows) > 20
    assert free.covariates == ("age", "sex")


def test_without_numbers_and_without_levels():
    frame, _ = people(60)
    ill = np.arange(60) % 3 == 0
    for declared in ((SEX,), (AGE,)):
        schema = CovariateSchema.fit(frame, declared)
        matched = match_participants(frame, schema, np.flatnonzero(ill), np.flatnonzero(~ill))
        assert len(matched.rows) >= 15


def test_a_covariate_that_is_the_outcome_is_not_matched():
    frame, _ = people(60)
    frame["diagnosis"] = np.where(np.arange(60) % 2 == 0, "AD", "CN")
    schema = CovariateSchema.fit(frame, (SEX, Covariate("diagnosis", "categorical")))
    ones, others = (np.flatnonzero(frame["diagnosis"] == level) for level in ("AD", "CN"))
    assert len(match_participants(frame, schema, ones, others).rows) == 0
    assert len(match_participants(frame, schema, ones, others, leave_out=["diagnosis"]).rows) > 0


def test_first_rows():
    np.testing.assert_array_equal(first_rows(np.array(["b", "a", "b", "c", "a"], object)), [0, 1, 3])
