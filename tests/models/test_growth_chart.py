"""Growth charts on generated people whose spread grows with age, who are skewed, and whose sites go with age."""

from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from medrep.cohort.covariates import POOLED
from medrep.cohort.dataset import Dataset
from medrep.models import ChartSettings, GrowthChart, restore_model

COLUMNS, SITES = 8, 6
GROWTH = 0.5  # log scale over 30 years


def cohort(people: int, seed: int, site: str = "", ages: tuple[float, float] = (20, 80)) -> tuple[Dataset, np.ndarray]:
    """People whose site goes with age, and how unusual they truly are."""
    rng, truth = np.random.default_rng([seed, 1]), np.random.default_rng(5)
    where = rng.integers(0, SITES, people)
    share = np.clip(0.75 * where / (SITES - 1) + rng.uniform(-0.1, 0.35, people), 0, 1)
    age = ages[0] + (ages[1] - ages[0]) * (share if not site else rng.uniform(size=people))
    sex = rng.choice(["F", "M"], people)
    slope, offset = truth.normal(size=COLUMNS), truth.normal(0, 0.5, (SITES, COLUMNS))
    width = 0.2 * np.outer([1, -1, 0, 0, -1, 1], truth.choice([-1, 1], COLUMNS))  # goes with no line over ages
    z = rng.standard_normal((people, COLUMNS))
    years = (age - 50) / 30
    log_scale = GROWTH * years[:, None] + (0.2 if site else width[where])
    mean = 20 + np.outer(years, slope) + 0.3 * (sex == "M")[:, None] + (1.0 if site else offset[where])
    values = mean + np.exp(log_scale) * skewed(z)
    keys = [f"p{k}" for k in range(people)]
    table = pd.DataFrame({"age": age, "sex": sex, "site": [site or f"S{k}" for k in where]}, index=keys)
    features = pd.DataFrame(values, columns=[f"f{k}" for k in range(COLUMNS)], index=keys)
    if site:
        chart = fitted()
        return chart.dataset(values, chart.schema.transfer(table, unseen="adapt")), z
    return Dataset.from_frames(features, table, {"age": "continuous", "sex": "categorical", "site": "batch"}), z


def skewed(z: np.ndarray) -> np.ndarray:
    """Skew, with heavy tails; mean 0 and variance 1, nearly."""
    found: np.ndarray = (np.sinh((np.arcsinh(z) + 0.35) / 0.85) - 0.52) / 1.49
    return found


@lru_cache(maxsize=1)
def fitted() -> GrowthChart:
    return GrowthChart.fit(cohort(900, 1)[0], ChartSettings(power="none"))[0]


@pytest.fixture(scope="module")
def chart() -> GrowthChart:
    return fitted()


def z_of(chart: GrowthChart, dataset: Dataset) -> np.ndarray:
    return chart.deviations(dataset).compute(slice(0, COLUMNS))


def test_z_of_new_people_are_those_that_were_planted(chart: GrowthChart) -> None:
    fresh, z = cohort(3000, 2)
    found = z_of(chart, chart.dataset(fresh.values, fresh.covariates))
    assert np.corrcoef(found.ravel(), z.ravel())[0, 1] > 0.975
    old = fresh.covariates["age"].to_numpy() > 65
    for rows in (old, ~old):
        assert found[rows].std() == pytest.approx(1, abs=0.06)
    for probability in (0.02, 0.25, 0.5, 0.75, 0.98):
        assert (found < norm.ppf(probability)).mean() == pytest.approx(probability, abs=0.02)


def test_scale_by_age_is_told_apart_from_that_of_sites(chart: GrowthChart) -> None:
    frame = chart.schema.transfer(
        pd.DataFrame({"age": [30.0, 70.0], "sex": "F", "site": POOLED}, index=["young", "old"])
    )
    low, high = chart.centiles(frame, norm.cdf([-1.0, 1.0]))
    growth = np.log((high - low)[1] / (high - low)[0]).mean()
    assert growth == pytest.approx(GROWTH * 40 / 30, abs=0.1)


def test_centiles_and_z_agree(chart: GrowthChart) -> None:
    people, _ = cohort(20, 3)
    frame = people.covariates
    for probability in (0.02, 0.5, 0.9):
        values = chart.centiles(frame, np.array([probability]))[0]
        np.testing.assert_allclose(z_of(chart, chart.dataset(values, frame)), norm.ppf(probability), atol=1e-6)


def test_densities_integrate_to_one(chart: GrowthChart) -> None:
    frame = cohort(9, 4)[0].covariates.iloc[:1]
    low, high = chart.centiles(frame, np.array([1e-7, 1 - 1e-7]))[:, 0]
    steps = 4000
    values = low + (high - low) * np.linspace(0, 1, steps)[:, None]
    dataset = chart.dataset(values, frame.iloc[np.zeros(steps, int)])
    total = np.exp(chart.log_density(dataset)).sum(axis=0) * (high - low) / steps
    np.testing.assert_allclose(total, 1, atol=2e-3)


def test_removal_moves_from_quantile_to_quantile_and_does_nothing_where_nothing_changes(chart: GrowthChart) -> None:
    people, _ = cohort(40, 6)
    same = chart.transform(people, people.covariates[["age", "site"]])
    assert np.array_equal(same, people.values)
    there = people.covariates.assign(site="S2", age=44.0)
    moved = chart.transform(people, there[["site", "age"]])

    def plain(dataset: Dataset) -> np.ndarray:
        rows = chart.scales.design.full(dataset.covariates)
        residuals = chart.location.residuals(dataset).compute(slice(0, COLUMNS))
        return np.asarray(residuals / np.exp(chart.scales.logs(rows)))

    np.testing.assert_allclose(plain(chart.dataset(moved, there)), plain(people), atol=1e-9)
    again = chart.transform(chart.dataset(moved, there), there[["site", "age"]])
    assert np.array_equal(again, moved)


def test_a_new_site_is_known_as_its_people_tell_it(chart: GrowthChart) -> None:
    covered = []
    for count in (5, 30):
        few = cohort(count, 7, "new")[0]
        known, (note,) = chart.adapt([few])
        assert (note.covariate, note.level, note.people) == ("site", "new", count)
        fresh, _ = cohort(2000, 8, "new")
        found = z_of(known, known.dataset(fresh.values, fresh.covariates))
        covered.append((np.abs(found) < norm.ppf(0.975)).mean())
        frame = fresh.covariates.iloc[:1]
        assert known.scales.freedom(known.scales.design.full(frame)) < 1e4
    assert 0.9 < covered[0] < 0.99
    assert covered[1] == pytest.approx(0.95, abs=0.03)
    sizes = [chart.adapt([cohort(count, 7, "new")[0]])[1][0].location_se for count in (5, 30)]
    assert sizes[1] < sizes[0]


def test_people_in_one_go_or_a_few_at_a_time_tell_the_same(chart: GrowthChart) -> None:
    few = cohort(9, 9, "new")[0]
    whole, _ = chart.adapt([few])
    parts, _ = chart.adapt(few.chunks(4))
    np.testing.assert_allclose(whole.scales.coefficients, parts.scales.coefficients, atol=1e-12)
    np.testing.assert_allclose(whole.location.covariance, parts.location.covariance, atol=1e-12)


def test_a_chart_that_was_written_says_the_same(chart: GrowthChart) -> None:
    people, _ = cohort(10, 10)
    again = restore_model("growth_chart", *chart.state())
    assert isinstance(again, GrowthChart)
    assert np.array_equal(z_of(again, people), z_of(chart, people))


def test_missing_values_have_no_z_and_change_nobody_else(chart: GrowthChart) -> None:
    people, _ = cohort(10, 11)
    holes = people.values.copy()
    holes[3, 2] = np.nan
    found, whole = z_of(chart, chart.dataset(holes, people.covariates)), z_of(chart, people)
    assert np.isnan(found[3, 2])
    found[3, 2] = whole[3, 2]
    assert np.array_equal(found, whole)


def test_a_logarithm_is_chosen_where_effects_multiply() -> None:
    people, _ = cohort(500, 12)
    values = people.values.copy()
    values[:, :4] = np.exp(values[:, :4] / 4)
    chart, history = GrowthChart.fit(people.with_values(values), ChartSettings(components=0))
    assert (chart.powers.exponents[:4] == 0).all()
    assert history.query("name == 'power 0'")["value"].item() >= 4
    moved = chart.remove(people.with_values(values), {"site": "S1"})
    assert (moved[:, :4] > 0).all()
    home = chart.transform(people.with_values(values), people.covariates[["site"]])
    assert np.array_equal(home, values)
    fresh, z = cohort(1000, 13)
    changed = fresh.values.copy()
    changed[:, :4] = np.exp(changed[:, :4] / 4)
    assert np.corrcoef(z_of(chart, fresh.with_values(changed))[:, :4].ravel(), z[:, :4].ravel())[0, 1] > 0.97
