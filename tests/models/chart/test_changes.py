"""Changes between visits as a growth chart tells them: N(0, 1) over people who change as those of training did."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.errors import ModelError
from medrep.models import ChartSettings, GrowthChart
from tests.models.planted import DECLARED, draw_people, people_of

COLUMNS, SITES = 12, 3


def draw_visits(people: int, seed: int, skew: float = 0.0) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Draw two or three visits of people whose spread grows with age, half of whose variance is their own."""
    rng = np.random.default_rng(seed)
    first = draw_people(people, SITES, seed)
    visits = rng.integers(2, 4, people)
    whose = np.repeat(np.arange(people), visits)
    frame = first.iloc[whose].copy()
    number = np.concatenate([np.arange(count) for count in visits])
    frame["age"] += number * rng.uniform(1, 3, len(frame))
    names = [f"sub-{k:04d}" for k in whose]
    frame.index = pd.Index([f"{name}_ses-{k}" for name, k in zip(names, number, strict=True)], name="participant_id")
    own, noise = rng.normal(size=(people, COLUMNS)), rng.normal(size=(len(frame), COLUMNS))
    z = (own[whose] + noise) / np.sqrt(2)
    if skew:
        z = np.sinh(np.arcsinh(z) + skew)
    age = frame["age"].to_numpy(float)[:, None]
    site = frame["site"].str[1:].astype(int).to_numpy()[:, None]
    return frame, 20 + 0.05 * age + 0.5 * site + np.exp(0.01 * (age - 50)) * z, names


def dataset_of(seed: int, schema: CovariateSchema | None = None, people: int = 150, skew: float = 0.0) -> Dataset:
    frame, data, names = draw_visits(people, seed, skew)
    schema = schema or CovariateSchema.fit(frame, DECLARED)
    return people_of(data, schema.transfer(frame), schema, names)


@pytest.fixture(scope="module")
def chart() -> GrowthChart:
    return GrowthChart.fit(dataset_of(1), ChartSettings(power="none", spline_degrees=1, scale_degrees=1))[0]


def test_typical_changes_have_variance_one_and_do_not_hang_on_the_visit_before(chart: GrowthChart) -> None:
    new = dataset_of(2, chart.schema)
    z, gains = (source.compute(slice(0, COLUMNS)) for source in (chart.deviations(new), chart.change_deviations(new)))
    later = np.array([not name.endswith("ses-0") for name in new.covariates.index])
    np.testing.assert_array_equal(np.isfinite(gains).all(axis=1), later)
    assert np.var(gains[later]) == pytest.approx(1, abs=0.1)
    before = np.roll(z, 1, axis=0)
    assert abs(np.corrcoef(gains[later].ravel(), before[later].ravel())[0, 1]) < 0.08
    assert np.corrcoef(z[later].ravel(), before[later].ravel())[0, 1] == pytest.approx(0.5, abs=0.08)


def test_scores_have_the_root_mean_square_of_each_visit(chart: GrowthChart) -> None:
    new = dataset_of(3, chart.schema, people=20)
    gains, found = chart.change_deviations(new).compute(slice(0, COLUMNS)), chart.scores(new).gain
    later = np.isfinite(gains[:, 0])
    np.testing.assert_allclose(found[later], np.sqrt((gains[later] ** 2).mean(axis=1)))
    assert np.isnan(found[~later]).all()
    assert chart.scores(new.take(~later)).gain is None


def test_a_planted_change_is_found_where_the_visit_alone_is_typical(chart: GrowthChart) -> None:
    new = dataset_of(4, chart.schema, people=30)
    gains = chart.change_deviations(new).compute(slice(0, COLUMNS))
    place = int(np.flatnonzero(np.isfinite(gains[:, 0]))[0])
    values = new.values.copy()
    values[place, 3] += 3.0
    changed = chart.change_deviations(new.with_values(values)).compute(slice(0, COLUMNS))
    assert changed[place, 3] - gains[place, 3] > 2
    np.testing.assert_array_equal(np.delete(changed[place], 3), np.delete(gains[place], 3))


def test_skewed_columns_have_typical_changes_too() -> None:
    skewed = GrowthChart.fit(dataset_of(5, skew=0.4), ChartSettings(power="none", spline_degrees=1, scale_degrees=1))[0]
    new = dataset_of(6, skewed.schema, skew=0.4)
    gains = skewed.change_deviations(new).compute(slice(0, COLUMNS))
    assert np.nanvar(gains) == pytest.approx(1, abs=0.15)


def test_what_is_unknown_of_a_new_site_is_the_same_at_both_visits(chart: GrowthChart) -> None:
    """A mean that is hardly known makes z small and changes no larger than they are: both visits share its error."""
    new = dataset_of(7, chart.schema, people=60)
    vague = replace(chart, location=replace(chart.location, covariance=chart.location.covariance + 4.0))
    assert np.nanvar(vague.deviations(new).compute(slice(0, COLUMNS))) < 0.5
    gains = [one.change_deviations(new).compute(slice(0, COLUMNS)) for one in (chart, vague)]
    assert np.nanvar(gains[1]) == pytest.approx(np.nanvar(gains[0]), rel=0.3)


def test_a_chart_of_single_visits_says_nothing_of_changes(chart: GrowthChart) -> None:
    visits = dataset_of(8)
    first = visits.take(np.array([name.endswith("ses-0") for name in visits.covariates.index]))
    once = GrowthChart.fit(first, ChartSettings(power="none", spline_degrees=1, scale_degrees=1))[0]
    assert not once.tells_changes
    assert once.scores(visits).gain is None
    with pytest.raises(ModelError, match="nobody had several visits"):
        once.change_deviations(visits)
    assert chart.capabilities == frozenset({"deviations"})
