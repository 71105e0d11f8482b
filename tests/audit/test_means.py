import numpy as np
import pytest

from medrep.audit.finding import Finding
from medrep.audit.intervals import jackknife_error, share_interval
from medrep.audit.means import (
    Sampling,
    mean_finding,
    shuffled_participants,
)


def found(values, participants=None, **options):
    values = np.asarray(values, float)
    who = np.arange(len(values)).astype(str) if participants is None else np.asarray(participants)
    about = {name: options.pop(name) for name in ("p", "note") if name in options}
    sampling = Sampling(0, options.pop("min_n", 20), options.pop("draws", 400))
    return mean_finding(Finding("m", "g", 0, **about), values, who, sampling, **options)


def test_a_participant_counts_once():
    values, who = np.r_[np.zeros(30), np.ones(30)], np.r_[np.arange(30), np.full(30, 30)]
    finding = found(values, who)
    assert finding.n == 31
    assert finding.estimate == pytest.approx(1 / 31)


def test_the_interval_covers_at_its_level():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        person = rng.normal(size=60)
        values = np.repeat(person, 2) + 0.1 * rng.normal(size=120)
        finding = found(values, np.repeat(np.arange(60), 2), draws=300)
        covered += finding.ci_low <= 0 <= finding.ci_high
    # Sessions taken for people would cover about 83%.
    assert 179 <= covered <= 199


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_few_people_say_nothing(n):
    finding = found(np.ones(n))
    assert finding.status == "insufficient"
    assert np.isnan(finding.estimate)
    assert finding.n == n


def test_missing_values_do_not_count():
    assert found(np.r_[np.full(10, np.nan), np.ones(30)]).n == 30
    assert found(np.r_[np.full(15, np.nan), np.ones(15)]).status == "insufficient"


def test_a_share_at_its_end_has_width():
    assert (
        found(np.ones(30), values_are="shares").ci_low,
        found(np.ones(30), values_are="shares").ci_high,
    ) == share_interval(1.0, 0.0, 30, 30)
    assert found(np.ones(30), values_are="shares").ci_low == pytest.approx(0.025 ** (1 / 30))
    assert found(np.zeros(30), values_are="shares").ci_high == pytest.approx(1 - 0.025 ** (1 / 30))


def test_shuffling_holds_rows_together_in_order():
    who = np.array(["a", "b", "a", "c", "b", "d", "d", "d"])
    visits = np.array([0, 0, 1, 0, 1, 0, 1, 2])
    seen = set()
    for order in shuffled_participants(who, 40, np.random.default_rng(0)):
        np.testing.assert_array_equal(np.sort(order), np.arange(8))
        np.testing.assert_array_equal(visits[order], visits)
        for one in "abcd":
            assert len(set(who[order][who == one])) == 1
        assert who[order][3] == "c"
        seen.add(who[order][0])
    assert seen == {"a", "b"}


@pytest.mark.parametrize("values", [np.full(30, 0.4), np.random.default_rng(2).normal(5, 1, 30)])
def test_an_error_that_all_have_in_common_makes_the_interval_longer(values):
    alone, more, most = (found(values, beside=error) for error in (0.0, 0.05, 1.0))
    assert alone == found(values)
    assert most.ci_low < more.ci_low < alone.ci_low
    assert alone.ci_high < more.ci_high < most.ci_high
    assert alone.estimate == most.estimate


@pytest.mark.parametrize(("estimate", "error"), [(1e-6, 5.0), (0.1, 0.01), (0.1, 0.3)])
def test_what_is_never_negative_has_no_negative_interval(estimate, error):
    finding = found(np.full(30, estimate), beside=error)
    assert 0 <= finding.ci_low < estimate < finding.ci_high < np.inf
    assert finding.ci_high >= estimate + 1.9 * error


@pytest.mark.parametrize("n", [20, 50, 200])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_at_its_end_counts_the_error_that_all_have_in_common(share, n):
    alone, little, much = (found(np.full(n, share), values_are="shares", beside=error) for error in (0.0, 0.01, 0.1))
    widths = [finding.ci_high - finding.ci_low for finding in (alone, little, much)]
    assert widths == sorted(widths)
    assert 0.1 < widths[2] < 0.9
    assert share in (much.ci_low, much.ci_high)


def test_a_share_with_an_error_that_all_have_in_common():
    hits = (np.arange(40) % 4 == 0).astype(float)
    alone, more = (found(hits, values_are="shares", beside=error) for error in (0.0, 0.1))
    assert 0 < more.ci_low < alone.ci_low < 0.25 < alone.ci_high < more.ci_high < 1


@pytest.mark.parametrize("n", [2, 5, 50])
def test_the_jackknife_of_a_mean_is_its_standard_error(n):
    values = np.random.default_rng(n).lognormal(size=n)
    without = (values.sum() - values) / (n - 1)
    assert jackknife_error(without) == pytest.approx(values.std(ddof=1) / n**0.5)
    assert jackknife_error(without[:1]) == 0
