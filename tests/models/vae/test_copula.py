import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kurtosis, skew

from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep.models.vae.components import FEWEST_KNOTS, KNOTS, Marginals

PLAIN = np.array([False, False, False, True, True])
"""Columns without a residual: one value for all, and one for most."""


def cohort(seed: int, people: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return data - skewed, whole numbers, normal in tenths, constant, mostly 0 - and a model's draws for them."""
    rng = np.random.default_rng(seed)
    stuck = np.where(rng.uniform(size=(2, people)) < 0.7, 0, rng.integers(1, 9, (2, people))).astype(float)
    smooth = [rng.exponential(size=people), rng.poisson(4, people), np.round(rng.normal(50, 9, people), 1)]
    data = np.stack([*smooth, np.full(people, 7.3), stuck[0]], axis=1).astype(float)
    draws = data.mean(axis=0) + 1.3 * data.std(axis=0) * rng.normal(size=data.shape)
    draws[:, 3], draws[:, 4] = 7.3, stuck[1]
    return data, draws


def probabilities(knots: int) -> np.ndarray:
    return np.array([0, *((np.arange(knots - 2) + 0.5) / (knots - 2)), 1])


@given(seed=st.integers(0, 999))
def test_bending_keeps_ranks_and_stays_within_training(seed):
    data, draws = cohort(seed)
    bent = Marginals.fit(data, draws).bend(draws + 0.1)
    for column in range(3):
        assert (np.diff(bent[np.argsort(draws[:, column]), column]) >= 0).all()
    assert (bent >= data.min(axis=0) - 1e-9).all()
    assert (bent <= data.max(axis=0) + 1e-9).all()


@given(seed=st.integers(0, 999))
def test_quantiles_of_the_draws_become_those_of_training(seed):
    data, draws = cohort(seed)
    marginals = Marginals.fit(data[:, [0]], draws[:, [0]])
    ends = probabilities(KNOTS)
    bent = marginals.bend(np.quantile(draws[:, [0]], ends, axis=0))
    np.testing.assert_allclose(bent, np.quantile(data[:, [0]], ends, axis=0), atol=1e-9)


def test_bent_draws_have_the_shape_of_training():
    data, draws = cohort(0, people=4000)
    bent = Marginals.fit(data, draws).bend(cohort(1, people=4000)[1])
    np.testing.assert_allclose(bent.mean(axis=0), data.mean(axis=0), rtol=0.1)
    np.testing.assert_allclose(bent.std(axis=0), data.std(axis=0), rtol=0.1, atol=1e-12)
    np.testing.assert_allclose(skew(bent[:, :3]), skew(data[:, :3]), atol=0.4)
    assert kurtosis(bent[:, 0]) > 2


@given(seed=st.integers(0, 999))
def test_a_value_that_most_people_share_stays_common(seed):
    data, draws = cohort(seed)
    bent = Marginals.fit(data, draws).bend(draws)
    assert (bent[:, 3] == 7.3).all()
    assert (bent[:, 4] == 0).mean() == pytest.approx((data[:, 4] == 0).mean(), abs=0.1)


@given(seed=st.integers(0, 999))
def test_columns_that_are_drawn_from_training_are_not_bent_again(seed):
    data, draws = cohort(seed)
    draws[:, 4] /= 2  # as long as only ends and median were known, draws were others
    marginals = Marginals.fit(data, draws, PLAIN)
    drawn = marginals.draw(np.random.default_rng(seed), 500, PLAIN)
    shift = (marginals.bend(drawn) - drawn)[:, PLAIN]
    np.testing.assert_allclose(shift, 0, atol=1e-9)


def test_without_draws_nothing_is_bent():
    data, draws = cohort(0)
    np.testing.assert_array_equal(Marginals.fit(data, None).bend(draws), draws)


@pytest.mark.parametrize("bends", [False, True])
def test_columns_without_a_residual_are_drawn_from_training(bends):
    data, draws = cohort(0, people=2000)
    data[::3, 3] = np.nan
    marginals = Marginals.fit(data, draws if bends else None)
    drawn = marginals.draw(np.random.default_rng(0), 3000, PLAIN)
    assert drawn.shape == (3000, 5)
    assert not drawn[:, ~PLAIN].any()
    assert (drawn[:, 3] == 7.3).all()
    assert drawn[:, 4].min() == 0
    assert drawn[:, 4].max() == pytest.approx(8, abs=0.05)
    if bends:
        assert set(np.unique(drawn[:, 4])) <= set(range(9))
        assert (drawn[:, 4] == 0).mean() == pytest.approx((data[:, 4] == 0).mean(), abs=0.05)
    np.testing.assert_array_equal(marginals.draw(np.random.default_rng(0), 3000, PLAIN), drawn)


def test_values_are_whole_or_tenths_where_those_of_training_are():
    data, draws = cohort(0)
    data[4, 1] = np.nan
    marginals = Marginals.fit(data, draws)
    np.testing.assert_array_equal(marginals.step[[0, 1, 2, 4]], [0, 1, 0.1, 1])
    bent = marginals.bend(draws)
    np.testing.assert_array_equal(bent[:, 1] % 1, 0)
    np.testing.assert_allclose(bent[:, 2], np.round(bent[:, 2], 1), atol=1e-9)


@pytest.mark.parametrize("unit", [1e-3, 1e-9])
def test_a_small_unit_is_not_taken_for_whole_numbers(unit):
    data, draws = (unit * values[:, [0]] for values in cohort(0))
    bent = Marginals.fit(data, draws).bend(draws)
    assert len(np.unique(bent)) > 300
    np.testing.assert_allclose(bent.mean(), data.mean(), rtol=0.1)


def test_the_median_is_what_is_usual():
    data, draws = cohort(0, people=401)
    data[::5, 0] = np.nan
    for found in (Marginals.fit(data, None), Marginals.fit(data, draws)):
        assert len(found.real) in {FEWEST_KNOTS, KNOTS}
        np.testing.assert_allclose(found.usual(), np.nanmedian(data, axis=0), atol=1e-12)


def test_a_column_that_nobody_has_is_no_obstacle():
    data, draws = cohort(0)
    data[:, 2], draws[:, 2] = np.nan, 0
    for found in (Marginals.fit(data, None), Marginals.fit(data, draws)):
        assert all(np.isfinite(array).all() for array in to_state(found)[1].values())
        assert np.isfinite(found.bend(draws)).all()


@given(seed=st.integers(0, 99), bends=st.booleans())
def test_storage_is_faithful(seed, bends):
    data, draws = cohort(seed)
    marginals = Marginals.fit(data, draws if bends else None)
    again = from_state(Marginals, *to_state(marginals))
    np.testing.assert_array_equal(again.bend(draws), marginals.bend(draws))
    drawn = [each.draw(np.random.default_rng(0), 9, PLAIN) for each in (again, marginals)]
    np.testing.assert_array_equal(*drawn)
