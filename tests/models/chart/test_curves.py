"""Curves of a growth chart: what is known of them, by planted truth."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

from medrep.cohort.covariates import POOLED, Covariate, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.models.chart.model import GrowthChart
from medrep.models.chart.settings import ChartSettings

LEVELS = np.array([0.02, 0.5, 0.98])
DECLARED = (Covariate("age", "continuous"), Covariate("site", "categorical", role="batch"))
PLAIN = ChartSettings(spline_degrees=1, scale_degrees=1, shape="gaussian", power="none", components=0)


def fitted(people: int, settings: ChartSettings = PLAIN, *, positive: bool = False) -> GrowthChart:
    rng = np.random.default_rng(people)
    age, site = rng.uniform(20, 80, people), rng.integers(0, 3, people)
    data = 0.02 * age[:, None] + np.array([-0.4, 0.0, 0.5])[site][:, None] + rng.normal(size=(people, 8))
    frame = pd.DataFrame({"age": age, "site": [f"S{k}" for k in site]}, index=[f"p{k}" for k in range(people)])
    schema = CovariateSchema.fit(frame, DECLARED)
    values = np.exp(0.2 * data) if positive else data
    return GrowthChart.fit(Dataset(values, frame, schema, Columns(tuple("abcdefgh"), 8, None)), settings)[0]


def at(model: GrowthChart, site: str = POOLED) -> pd.DataFrame:
    return pd.DataFrame({"age": [20.0, model.schema["age"].mean, 80.0], "site": [site] * 3})


@pytest.mark.parametrize("people", [150, 600])
def test_normal_curves_are_known_as_well_as_the_books_say(people: int) -> None:
    """Of n people a normal centile z has the variance (1 + z^2 / 2) / n, where location is at its mean."""
    model = fitted(people)
    found = model.curves(at(model), LEVELS)
    half = ((found.high - found.low) / 2)[:, 1].mean(axis=1)
    z = np.array([-2.0537, 0.0, 2.0537])
    np.testing.assert_allclose(half, 1.96 * np.sqrt((1 + z**2 / 2) / people), rtol=0.1)
    ends = ((found.high - found.low) / 2).mean(axis=2)
    assert (ends[:, [0, 2]] > ends[:, [1]]).all(), "less is known at the ends of the range"


def test_a_shape_that_is_told_too_makes_far_centiles_less_known() -> None:
    plain, shaped = (fitted(600, settings) for settings in (PLAIN, ChartSettings(1, 1, power="none", components=0)))
    wide, wider = (
        (one.high - one.low)[:, 1].mean(axis=1)
        for one in (model.curves(at(model), LEVELS) for model in (plain, shaped))
    )
    assert wider[1] == pytest.approx(wide[1], rel=0.15)
    assert (wider[[0, 2]] > 1.15 * wide[[0, 2]]).all()


def test_people_on_a_curve_are_less_unusual_than_it_says_since_the_chart_is_not_quite_known() -> None:
    model = fitted(150)
    found = model.curves(at(model), LEVELS)
    z = [model.deviations(model.dataset(one, at(model))).compute(slice(0, 8)) for one in found.value]
    np.testing.assert_allclose(z[1], 0, atol=1e-9)
    assert ((z[0] > -2.0537) & (z[0] < -1.7)).all()
    assert ((z[2] < 2.0537) & (z[2] > 1.7)).all()


def test_a_site_is_known_less_than_all_and_lies_elsewhere() -> None:
    model = fitted(600)
    pooled, own = (model.curves(at(model, site), LEVELS) for site in (POOLED, "S2"))
    assert ((own.high - own.low).mean(axis=2) > (pooled.high - pooled.low).mean(axis=2)).all()
    assert (own.value - pooled.value)[:, :, :].mean() == pytest.approx(0.47, abs=0.15)


def test_intervals_go_back_through_the_power() -> None:
    model = fitted(600, ChartSettings(1, 1, power="auto", components=0), positive=True)
    assert model.powers.used
    found = model.curves(at(model), LEVELS)
    assert (found.low > 0).all()
    assert ((found.low < found.value) & (found.value < found.high)).all()


def test_a_column_that_does_not_vary_has_no_curve() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"age": rng.uniform(20, 80, 60), "site": np.tile(["A", "B"], 30)}, index=[f"p{k}" for k in range(60)]
    )
    values = np.stack([np.full(60, 3.0), rng.normal(size=60)], axis=1)
    dataset = Dataset(values, frame, CovariateSchema.fit(frame, DECLARED), Columns(("flat", "own"), 2, None))
    found = GrowthChart.fit(dataset, PLAIN)[0].curves(frame.iloc[:4], LEVELS)
    for one in (found.value, found.low, found.high):
        assert np.isnan(one[:, :, 0]).all()
        assert np.isfinite(one[:, :, 1]).all()


def test_a_centile_that_falls_into_a_value_that_many_share_is_that_value() -> None:
    rng = np.random.default_rng(3)
    people = 400
    frame = pd.DataFrame(
        {"age": rng.uniform(20, 80, people), "site": np.resize(["A", "B"], people)},
        index=[f"p{k}" for k in range(people)],
    )
    values = np.stack([rng.normal(10, 1, people), rng.normal(10, 1, people)], axis=1)
    values[rng.random(people) < 0.3, 0] = 0
    dataset = Dataset(values, frame, CovariateSchema.fit(frame, DECLARED), Columns(("lesion", "own"), 2, None))
    model = GrowthChart.fit(dataset, PLAIN)[0]
    levels = np.array([0.1, 0.25, 0.65, 0.98])
    found = model.curves(at(model), levels)
    for one in (found.value, found.low, found.high):
        assert (one[:2, :, 0] == 0).all()
    share = (values[:, 0] == 0).mean()
    middle, far = ((one - share) / (1 - share) for one in levels[2:])
    np.testing.assert_allclose(found.value[2, 1, 0], 10 + ndtri(middle), atol=0.25)
    np.testing.assert_allclose(found.value[3, 1, 0], 10 + ndtri(far), atol=0.35)
    assert (found.low[2:] < found.value[2:]).all()
