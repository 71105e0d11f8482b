"""Intervals hold a planted truth about as often as they say, errors with short and with long tails, few people."""

import numpy as np
import pytest
from scipy.stats import binom

from medrep.audit.identity import agreement_interval
from medrep.audit.intervals import change_interval, joined_interval, share_interval
from medrep.audit.means import difference_interval, mean_interval

SEEDS, DRAWS = 200, 300
ERRORS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "lognormal": lambda rng, size: rng.lognormal(size=size) - np.exp(0.5),
    "chi-square": lambda rng, size: rng.chisquare(1, size) - 1,
}


def held(interval, count=SEEDS):
    """Whether so many seeds hold 0 as would at 93 to 97% (a chance of 1 in 1000 each way)."""
    ends = [interval(np.random.default_rng([20, seed])) for seed in range(count)]
    hits = sum(low <= 0 <= high for low, high in ends)
    return binom.ppf(0.001, count, 0.93) <= hits <= binom.isf(0.001, count, 0.97)


@pytest.mark.parametrize("errors", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("n", [20, 50])
def test_means_hold(errors, n):
    assert held(lambda rng: mean_interval(errors(rng, n), DRAWS, rng))


def test_percentiles_of_twenty_people_do_not_hold():
    def percentiles(rng):
        values = ERRORS["lognormal"](rng, 20)
        return np.quantile(rng.choice(values, (DRAWS, 20)).mean(axis=1), [0.025, 0.975])

    assert not held(percentiles)


@pytest.mark.parametrize("errors", ERRORS.values(), ids=ERRORS)
def test_differences_of_people_who_are_partly_the_same_hold(errors):
    def interval(rng):
        values = np.full((60, 2), np.nan)
        values[:40, 0], values[25:, 1] = errors(rng, 40), errors(rng, 35)
        values[25:40, 1] = values[25:40, 0] + 0.1 * errors(rng, 15)
        return difference_interval(values, DRAWS, rng)

    assert held(interval)


def test_a_difference_within_people_is_the_mean_of_differences():
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=(30, 2))
    same = difference_interval(values, DRAWS, np.random.default_rng(1))
    np.testing.assert_allclose(
        same, mean_interval(values[:, 0] - values[:, 1], DRAWS, np.random.default_rng(1)), rtol=1e-9
    )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 1e3])
def test_units_do_not_matter(scale, shift):
    values = np.random.default_rng(2).lognormal(size=25)
    low, high = mean_interval(values, DRAWS, np.random.default_rng(3))
    found = mean_interval(scale * (values + shift), DRAWS, np.random.default_rng(3))
    np.testing.assert_allclose(found, (scale * (low + shift), scale * (high + shift)), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9])
def test_the_same_value_everywhere_has_no_width(value):
    assert mean_interval(np.full(30, value), DRAWS, np.random.default_rng(0)) == pytest.approx((value, value))


def test_one_value_that_is_not_zero_has_a_finite_interval():
    low, high = mean_interval(np.r_[1.0, np.zeros(24)], DRAWS, np.random.default_rng(0))
    assert low <= 1 / 25 <= high < 1


@pytest.mark.parametrize("icc", [0.5, 0.9])
def test_agreement_of_repeats_holds_on_long_tails(icc):
    def interval(rng):
        person, noise = (ERRORS["lognormal"](rng, (25, k, 3)) for k in (1, 2))
        low, high = agreement_interval(np.sqrt(icc) * person + np.sqrt(1 - icc) * noise, 100, rng)
        return low - icc, high - icc

    # The median over columns is narrower than resampling says, never wider.
    ends = [interval(np.random.default_rng([21, seed])) for seed in range(60)]
    assert sum(low <= 0 <= high for low, high in ends) >= binom.ppf(0.001, 60, 0.93)


def test_repeats_without_error_agree_in_an_interval_that_ends_at_one():
    person = np.repeat(np.random.default_rng(0).normal(size=(25, 1, 3)), 2, axis=1)
    low, high = agreement_interval(person, 100, np.random.default_rng(0))
    assert low == pytest.approx(1)
    assert high == pytest.approx(1)


@pytest.mark.parametrize(("gained", "lost"), [(0.1, 0.1), (0.02, 0.5), (0.0, 0.05)])
def test_changes_of_shares_hold(gained, lost):
    rng = np.random.default_rng(4)
    counts = rng.multinomial(25, [gained, lost, 1 - gained - lost], size=2000)
    ends = [change_interval((up - down) / 25, (up + down) / 25, 25) for up, down, _ in counts]
    assert np.mean([low <= gained - lost <= high for low, high in ends]) >= 0.93


def test_where_nothing_changed_something_may_have():
    low, high = change_interval(0.0, 0.0, 30)
    assert -0.12 < low < 0 < high < 0.12


def test_shares_of_participants_with_many_rows_are_narrower_than_of_as_many_with_one():
    one, many = share_interval(0.5, 0.5 / np.sqrt(20), 20, 20), share_interval(0.5, 0.2 / np.sqrt(20), 20, 200)
    assert many[1] - many[0] < one[1] - one[0]


@pytest.mark.parametrize("one", [(0.7, 1.0, 1.0), (0.2, 0.5, 0.8), (0.0, 0.0, 0.3)])
def test_a_difference_is_as_sure_as_its_two_sides(one):
    low, high = joined_interval(one, (0.4, 0.5, 0.7))
    assert low < one[1] - 0.5 < high
    assert high - low > max(one[2] - one[0], 0.3)
    assert joined_interval(one, one, correlation=1.0)[0] <= 0 <= joined_interval(one, one, correlation=1.0)[1]
    exact = joined_interval((0.4, 0.5, 0.6), (0.4, 0.5, 0.6), correlation=1.0)
    assert exact == pytest.approx((0.0, 0.0), abs=1e-12)
