import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

from medrep.audit.data import Question
from medrep.audit.dependence import audit_independence, centred_distances, correlation, projected, table_distances
from medrep.audit.permutation import conditional_exchanges
from medrep.errors import CohortError
from tests.shortened import at_most, seeds


def audit_data(table: np.ndarray, values, *, kept=None, participants=None, continuous=False, seed=0, permutations=99):
    people = len(table)
    who = np.arange(people) if participants is None else participants
    nothing = np.zeros((people, 0))
    question = Question("site", pd.Series(values), continuous, who, nothing if kept is None else kept)
    found = audit_independence({"latents": table}, question, seed, permutations=permutations)
    return {finding.metric: finding for finding in found}


def unbiased(x: np.ndarray, y: np.ndarray) -> float:
    """Return the squared distance covariance from sums of plain distances (Huo and Szekely 2016), without centring."""
    n, a, b = len(x), cdist(x, x), cdist(y, y)
    whole = a.sum() * b.sum() / ((n - 1) * (n - 2))
    return ((a * b).sum() + whole - 2 / (n - 2) * (a.sum(axis=1) * b.sum(axis=1)).sum()) / (n * (n - 3))


def bias_corrected(x: np.ndarray, y: np.ndarray) -> float:
    return unbiased(x, y) / (unbiased(x, x) * unbiased(y, y)) ** 0.5


def test_distances_and_correlations_are_those_of_the_literature():
    rng = np.random.default_rng(0)
    table, y, z = rng.normal(size=(40, 300)) * 3 + 5, rng.normal(size=(40, 2)), rng.normal(size=(40, 3))
    table[:, 0] += 20 * y[:, 0]
    rows = np.arange(40)
    scaled = (table - table.mean(axis=0)) / table.std(axis=0)
    assert correlation(table_distances(table, rows), centred_distances(y)) == pytest.approx(bias_corrected(scaled, y))
    given = centred_distances(z)
    partial = correlation(projected(table_distances(table, rows), given), projected(centred_distances(y), given))
    xy, xz, yz = bias_corrected(scaled, y), bias_corrected(scaled, z), bias_corrected(y, z)
    # Szekely and Rizzo 2014
    assert partial == pytest.approx((xy - xz * yz) / ((1 - xz**2) * (1 - yz**2)) ** 0.5)


@pytest.mark.parametrize("continuous", [False, True])
def test_the_estimate_and_its_note(continuous):
    rng = np.random.default_rng(1)
    values = rng.normal(size=100) if continuous else rng.choice(["A", "B", "C"], 100)
    table = rng.normal(size=(100, 4))
    table[:, 0] += 2 * values if continuous else 2 * (values == "A")
    found = audit_data(table, values, continuous=continuous)
    assert set(found) == {"dependence"}
    one = found["dependence"]
    assert (one.group, one.n, one.status, one.p) == ("latents/site", 100, "ok", 0.01)
    side = values[:, None] if continuous else np.eye(3)[np.unique(values, return_inverse=True)[1]]
    scaled = (table - table.mean(axis=0)) / table.std(axis=0)
    assert one.estimate == pytest.approx(bias_corrected(scaled, side))
    assert "floor" in one.note


@pytest.mark.shortened
def test_false_alarms_of_levels_numbers_and_sessions():
    ps = []
    for seed in seeds(150):
        rng = np.random.default_rng([2, seed])
        if seed % 3 == 0:
            who = np.repeat(np.arange(25), 2)
            table, values = (
                2 * rng.normal(size=(25, 3))[who] + rng.normal(size=(50, 3)),
                rng.choice(["A", "B"], 25)[who],
            )
        else:
            who, table = np.arange(40), rng.normal(size=(40, 3))
            values = rng.normal(size=40) if seed % 3 == 1 else rng.choice(["A", "B", "C"], 40)
        found = audit_data(table, values, participants=who, continuous=seed % 3 == 1, seed=seed)
        ps.append(found["dependence"].p)
    for level in (0.05, 0.2, 0.5):
        assert np.sum(np.array(ps) <= level) <= at_most(len(ps), level)
    assert np.mean(np.array(ps) <= 0.5) > 0.3


def test_what_probes_cannot_read_is_found():
    rng = np.random.default_rng(3)
    age = rng.uniform(-1, 1, 150)
    table = rng.normal(size=(150, 3)) + 3 * np.abs(age)[:, None]
    assert audit_data(table, age, continuous=True)["dependence"].p <= 0.01
    site = rng.choice(["A", "B"], 150)
    assert audit_data(rng.normal(size=(150, 3)) * np.where(site == "A", 0.4, 2)[:, None], site)["dependence"].p <= 0.01


@pytest.mark.shortened
@pytest.mark.parametrize("continuous", [False, True])
def test_kept_covariates_that_tell_both_are_no_dependence_given_them(continuous):
    plain, given = [], []
    for seed in seeds(100):
        rng = np.random.default_rng([4, seed])
        age = rng.normal(size=60)
        values = age + rng.normal(size=60) if continuous else np.where(2 * age + rng.logistic(size=60) > 0, "A", "B")
        table = rng.normal(size=(60, 5)) + age[:, None]
        found = audit_data(table, values, kept=age[:, None], continuous=continuous, seed=seed)
        plain.append(found["dependence"].p <= 0.05)
        given.append(found["dependence_given_kept"].p <= 0.05)
    # The model of labels is estimated: 6 to 7% of 1000 such cohorts, not 5%.
    assert np.sum(given) <= at_most(len(given), 0.07)
    assert np.mean(plain) > 0.8


def test_dependence_beyond_kept_covariates_is_found():
    rng = np.random.default_rng(5)
    age = rng.normal(size=150)
    site = np.where(2 * age + rng.logistic(size=150) > 0, "A", "B")
    table = rng.normal(size=(150, 5)) + age[:, None]
    table[:, 1] += 2.5 * (site == "A")
    found = audit_data(table, site, kept=age[:, None])["dependence_given_kept"]
    assert found.p <= 0.01
    assert found.estimate > 0.05


def test_conditional_exchanges_leave_the_tie_with_kept_covariates():
    rng = np.random.default_rng(6)
    age = rng.normal(size=400)
    labels = (3 * age + rng.logistic(size=400) > 0).astype(int)
    sources = conditional_exchanges(np.arange(400), labels, age[:, None], 50, rng, continuous=False)
    assert all(np.array_equal(np.sort(source), np.arange(400)) for source in sources)
    ties = [np.corrcoef(labels[source], age)[0, 1] for source in sources]
    assert np.mean(ties) == pytest.approx(np.corrcoef(labels, age)[0, 1], abs=0.05)
    assert np.mean([np.mean(source == np.arange(400)) for source in sources]) < 0.1
    numbers = 2 * age + rng.normal(size=400)
    sources = conditional_exchanges(np.arange(400), numbers, age[:, None], 50, rng, continuous=True)
    ties = [np.corrcoef(numbers[source], age)[0, 1] for source in sources]
    assert np.mean(ties) == pytest.approx(np.corrcoef(numbers, age)[0, 1], abs=0.05)


def test_conditional_exchanges_hold_sessions_together():
    rng = np.random.default_rng(7)
    sizes = rng.integers(1, 4, 60)
    who = np.repeat(np.arange(60), sizes)
    labels = rng.integers(2, size=len(who))
    for source in conditional_exchanges(who, labels, rng.normal(size=(len(who), 1)), 20, rng, continuous=False):
        assert np.array_equal(np.sort(source), np.arange(len(who)))
        for person in range(60):
            (giver,) = set(who[source[who == person]].tolist())
            assert sizes[giver] == sizes[person]


def test_few_people_and_one_value_are_insufficient():
    rng = np.random.default_rng(8)
    for table, values in ((rng.normal(size=(19, 2)), rng.choice(["A", "B"], 19)), (np.eye(30), ["A"] * 30)):
        found = audit_data(table, values, kept=np.ones((len(table), 1)))
        assert {f.status for f in found.values()} == {"insufficient"}
        assert all(np.isnan(f.estimate) and np.isnan(f.p) for f in found.values())
        assert set(found) == {"dependence", "dependence_given_kept"}


def test_a_table_that_does_not_vary_depends_on_nothing():
    found = audit_data(np.ones((40, 3)), ["A", "B"] * 20)["dependence"]
    assert (found.estimate, found.p) == (0.0, 1.0)


def test_missing_values_are_left_out_and_the_seed_decides():
    rng = np.random.default_rng(9)
    values = rng.normal(size=60)
    values[:10] = np.nan
    table = rng.normal(size=(60, 3))
    found = audit_data(table, values, continuous=True)
    assert found["dependence"].n == 50
    assert found == audit_data(table, values, continuous=True)
    assert found == audit_data(np.concatenate([table[:10] + 99, table[10:]]), values, continuous=True)
    assert found != audit_data(table, values, continuous=True, seed=1)


def test_tables_with_gaps_are_refused():
    with pytest.raises(CohortError, match="latents: 2 of 2 columns have missing cells"):
        audit_data(np.full((30, 2), np.nan), ["A", "B"] * 15)
