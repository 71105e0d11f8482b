"""Values that many share exactly, as a part of a growth chart's distributions."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.models import ChartSettings, GrowthChart, restore_model
from medrep.models.chart.atoms import Atoms
from medrep.models.chart.shapes import normal_score
from medrep.models.exceptions import PointMasses
from tests.models.planted import DECLARED, draw_data, draw_people, people_of

SHARE = 0.3


def masses(*ranks: tuple[float, float]) -> PointMasses:
    """Return point masses of one column: value and share each."""
    return PointMasses(*(np.array(part, float)[:, None] for part in zip(*ranks, strict=True)))


@pytest.fixture(scope="module")
def people() -> Dataset:
    """400 people of 3 sites; of the second of two columns 30 % have 0, which others do not come near."""
    frame = draw_people(400, 3, 5)
    data = draw_data(frame, 2, 5)
    data[np.random.default_rng(1).permutation(400)[: int(400 * SHARE)], 1] = 0.0
    schema = CovariateSchema.fit(frame, DECLARED)
    return people_of(data, schema.transfer(frame), schema)


@pytest.fixture(scope="module")
def chart(people: Dataset) -> GrowthChart:
    return GrowthChart.fit(people, ChartSettings(power="none"))[0]


def test_a_mixture_is_its_textbook_quantile() -> None:
    values, z = np.array([[0.0], [-1.0], [2.0], [np.nan]]), np.array([[-3.0], [-4.0], [0.5], [np.nan]])
    found = Atoms(masses((0.0, SHARE))).z(values, z)
    below = 0.7 * norm.cdf(z[:, 0])
    told = [below[0] + SHARE / 2, below[1], below[2] + SHARE]
    np.testing.assert_allclose(found[:3, 0], norm.ppf(told), rtol=1e-10)
    assert np.isnan(found[3, 0])


def test_several_atoms_of_a_scale_with_floor_and_ceiling() -> None:
    found = Atoms(masses((0.0, 0.2), (10.0, 0.1))).z(np.array([[0.0], [10.0], [5.0]]), np.array([[-9.0], [9.0], [0.0]]))
    np.testing.assert_allclose(found[:, 0], norm.ppf([0.1, 0.95, 0.2 + 0.35]), atol=1e-10)


def test_tails_are_not_rounded_away() -> None:
    far = np.array([[45.0], [-45.0]])
    found = Atoms(masses((0.0, SHARE))).z(np.array([[60.0], [-60.0]]), far)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, far, atol=0.02)


def test_columns_without_atoms_stay_to_the_last_bit() -> None:
    values, z = np.random.default_rng(0).normal(size=(2, 7, 3))
    some = PointMasses(np.array([[np.nan, 0.0, np.nan]]), np.array([[0.0, SHARE, 0.0]]))
    atoms = Atoms(some)
    for found in (atoms.z(values, z), atoms.log_density(values, z)):
        np.testing.assert_array_equal(found[:, [0, 2]], z[:, [0, 2]])
        assert not np.array_equal(found[:, 1], z[:, 1])
    assert Atoms(PointMasses.none(3)).z(values, z) is z


def test_an_atom_that_nobody_of_training_had_in_the_column_says_nothing() -> None:
    found = Atoms(masses((0.0, 0.0), (1.0, SHARE))).z(np.array([[0.0], [1.0]]), np.array([[-9.0], [-8.0]]))
    assert np.isnan(found[0, 0])
    assert found[1, 0] == pytest.approx(norm.ppf(SHARE / 2))


def test_quantiles_undo_z_and_stay_at_an_atom() -> None:
    """The continuous chart is N(0, 1): centiles of the mixture lead back to their probability, or fall into the atom."""
    atoms = Atoms(masses((-0.5, SHARE)))
    low = 0.7 * norm.cdf(-0.5)
    for probability in (0.01, 0.1, low + 0.01, low + SHARE - 0.01, 0.6, 0.99):
        z, fallen = atoms.quantile(probability, lambda values: values, (1, 1))
        assert np.isfinite(fallen[0, 0]) == (low < probability < low + SHARE)
        if np.isnan(fallen[0, 0]):
            assert norm.cdf(atoms.z(z, z)[0, 0]) == pytest.approx(probability, abs=1e-9)
        else:
            assert fallen[0, 0] == -0.5


def test_a_chart_counts_people_at_the_atom(people: Dataset, chart: GrowthChart) -> None:
    z = chart.deviations(people).compute(slice(0, 2))
    at = people.values[:, 1] == 0
    assert chart.exceptions.masses.columns().tolist() == [1]
    np.testing.assert_allclose(z[at, 1], norm.ppf(SHARE / 2), atol=0.02)
    # Everybody's z has the quantiles of a normal distribution beyond the atom, the others of the column all lie above it.
    assert z[~at, 1].min() > norm.ppf(SHARE / 2)
    assert (norm.cdf(z[:, 1])).mean() == pytest.approx(0.5, abs=0.02)
    assert (z[:, 1] > norm.ppf(0.9)).mean() == pytest.approx(0.1, abs=0.03)


def test_a_cohort_of_the_atom_alone(people: Dataset, chart: GrowthChart) -> None:
    some = people.take(np.arange(8))
    same = some.with_values(np.column_stack([some.values[:, 0], np.zeros(8)]))
    z = chart.deviations(same).compute(slice(0, 2))
    np.testing.assert_allclose(z[:, 1], norm.ppf(SHARE / 2), atol=0.02)
    assert np.isfinite(chart.scores(same).deviation).all()


def test_a_column_without_atoms_is_as_if_the_other_had_none(people: Dataset, chart: GrowthChart) -> None:
    z, alone = chart.deviations(people).compute(slice(0, 2)), chart.deviations(people).compute(slice(0, 1))
    np.testing.assert_allclose(z[:, 0], alone[:, 0], rtol=1e-12)
    residual = chart.location.residuals(people).compute(slice(0, 1))
    scale, freedom = chart._predictive(people.covariates)
    part = slice(0, 1)
    np.testing.assert_array_equal(alone, normal_score(chart.shapes.z(residual / scale(part), part), freedom))


def test_density_and_centiles_of_a_chart_with_an_atom(people: Dataset, chart: GrowthChart) -> None:
    at = people.values[:, 1] == 0
    density = chart.log_density(people)
    np.testing.assert_allclose(density[at, 1], np.log(SHARE), atol=1e-9)
    assert np.isfinite(density).all()
    levels = np.array([0.05, 0.2, 0.35, 0.5, 0.95])
    centiles = chart.centiles(people.covariates, levels)
    assert (centiles[:2, :, 1] == 0).all()
    assert (centiles[2:, :, 1] > 0).all()
    # The density of the others holds the rest of the probability: integrated over a grid of values, at one person's covariates.
    grid = np.linspace(-15, 40, 4001)
    frame = pd.DataFrame(
        np.repeat(people.covariates.iloc[:1].to_numpy(object), len(grid), axis=0), columns=people.covariates.columns
    )
    frame["age"] = frame["age"].astype(float)
    same = chart.dataset(np.column_stack([grid, grid]), frame)
    told = np.exp(chart.log_density(same)).sum(axis=0) * (grid[1] - grid[0])
    np.testing.assert_allclose(told, [1, 1 - SHARE], atol=0.02)
    # Centiles are where people of the chart have that z.
    for place in (2, 3, 4):
        moved = people.with_values(np.ascontiguousarray(centiles[place]))
        z = chart.deviations(moved).compute(slice(0, 2))
        np.testing.assert_allclose(norm.cdf(z), levels[place], atol=1e-6)


def test_a_chart_that_was_saved_without_atoms_has_the_same_centiles(people: Dataset) -> None:
    positive = np.exp(0.3 * people.values[:, :1]).repeat(2, axis=1)
    plain = GrowthChart.fit(people.with_values(positive))[0]
    assert plain.powers.used
    again = restore_model("growth_chart", *plain.state())
    levels, some = np.array([0.02, 0.5, 0.98]), people.covariates.iloc[:5]
    np.testing.assert_array_equal(again.centiles(some, levels), plain.centiles(some, levels))
    rows = people.take(np.arange(9)).with_values(positive[:9])
    np.testing.assert_array_equal(again.log_density(rows), plain.log_density(rows))
    assert not len(again.exceptions.masses.columns())
