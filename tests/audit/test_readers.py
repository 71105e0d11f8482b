import numpy as np
import pandas as pd
import pytest

from medrep.audit.predictors import Components, fit_predictor, fit_readings, split
from medrep.cohort.covariates import CovariateSchema
from medrep.errors import CohortError
from tests.models.planted import DECLARED, draw_data, draw_people, people_of

PEOPLE, COLUMNS = 240, 16


def cohort(n: int = PEOPLE, seed: int = 0):
    frame = draw_people(n, 3, seed)
    return frame, draw_data(frame, COLUMNS, seed), CovariateSchema.fit(frame, DECLARED), frame.index.to_numpy(object)


def test_halves_share_no_participant_and_are_alike():
    frame, data, schema, _ = cohort()
    who = np.repeat(np.arange(PEOPLE // 2), 2).astype(str).astype(object)
    people = people_of(data, frame, schema, who.tolist())
    train, test = split(people, 0)
    assert not set(who[train]) & set(who[test])
    assert sorted([*train, *test]) == list(range(PEOPLE))
    for name in ("sex", "site"):
        first, second = (frame[name].iloc[rows].value_counts(normalize=True) for rows in (train, test))
        assert (first - second).abs().max() < 0.08
    assert [list(part) for part in split(people, 0)] == [list(train), list(test)]
    assert any(list(split(people, seed)[0]) != list(train) for seed in range(1, 4))


def test_components_keep_what_the_columns_hold():
    _, data, _, _ = cohort()
    components = Components.fit(data, 0)
    found = components.of(data)
    scaled = (data - data.mean(axis=0)) / data.std(axis=0) / COLUMNS**0.5
    np.testing.assert_allclose(found @ found.T, scaled @ scaled.T, atol=1e-10)
    assert Components.fit(np.tile(data, (1, 20)), 0).weights.shape == (320, COLUMNS)
    holes = data.copy()
    holes[0, 0] = np.nan
    assert np.isfinite(Components.fit(holes, 0).of(holes)).all()


def test_readers_read_new_people():
    frame, data, schema, _ = cohort()
    people = people_of(data, frame, schema)
    readings = fit_readings(people, *split(people, 0), 0)
    assert all(reading.able for reading in readings.values())
    predictor = readings["age"].predictor
    assert predictor is not None
    assert np.corrcoef(predictor.number(data), frame["age"])[0, 1] > 0.7
    noise = np.random.default_rng(1).normal(size=data.shape)
    blind = fit_readings(people.with_values(noise), *split(people, 0), 0)
    assert not any(reading.able for reading in blind.values())


def test_rare_levels_are_not_learned():
    frame, data, _, who = cohort()
    site = frame["site"].where(np.arange(PEOPLE) > 3, "tiny")
    predictor = fit_predictor(Components.fit(data, 0), data, site, who, 0, continuous=False)
    assert predictor.levels == ("S0", "S1", "S2")
    np.testing.assert_allclose(predictor.shares(data).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("values", "continuous"), [(np.full(PEOPLE, 3.0), True), (np.full(PEOPLE, "A", object), False)]
)
def test_what_does_not_vary_cannot_be_learned(values, continuous):
    _, data, _, who = cohort()
    with pytest.raises(CohortError, match="dose cannot be learned from 240 participants"):
        fit_predictor(Components.fit(data, 0), data, pd.Series(values, name="dose"), who, 0, continuous=continuous)


def test_people_without_a_value_are_left_out():
    _, data, _, who = cohort()
    dose = pd.Series(data[:, 0].copy(), name="dose")
    dose[::3] = np.nan
    predictor = fit_predictor(Components.fit(data, 0), data, dose, who, 0, continuous=True)
    assert np.corrcoef(predictor.number(data), data[:, 0])[0, 1] > 0.95


def test_readers_are_taught_again_by_some_of_the_people():
    frame, data, schema, _ = cohort()
    people = people_of(data, frame, schema)
    readings = fit_readings(people, *split(people, 0), 0)
    for name, own in (("age", "number"), ("site", "level")):
        predictor = readings[name].predictor
        read = predictor.readings(data)
        assert read.shape == (11, len(data))
        np.testing.assert_array_equal(read[0], getattr(predictor, own)(data))
        assert predictor.teaching_error(read[:, :60].mean(axis=1)) > 0
        assert predictor.teaching_error(np.ones(11)) == 0
