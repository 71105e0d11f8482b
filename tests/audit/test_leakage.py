import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from medrep.audit.data import Question
from medrep.audit.leakage import audit_leakage
from medrep.errors import CohortError
from tests.shortened import at_most, seeds

CHEAP = {"permutations": 99}


def audit_data(table: np.ndarray, values, *, kept=None, participants=None, continuous=False, seed=0, **more):
    people = len(table)
    kept = np.zeros((people, 0)) if kept is None else kept
    who = np.arange(people) if participants is None else participants
    found = audit_leakage(
        {"exported": table},
        Question("site", pd.Series(values), continuous, who, kept),
        seed,
        **{**CHEAP, **more},
    )
    return {finding.metric: finding for finding in found}, found


def test_findings_of_a_table():
    rng = np.random.default_rng(0)
    site = rng.choice(["A", "B"], 120)
    table = rng.normal(size=(120, 5)) + 2.0 * (site == "A")[:, None]
    by_metric, found = audit_data(table, site)
    assert [(f.metric, f.group) for f in found] == [
        ("leakage_kept", "site"),
        ("leakage", "exported/site"),
        ("leakage_excess", "exported/site"),
        ("leakage_shape", "exported/site"),
        ("leakage_equivalence", "exported/site"),
    ]
    assert {f.status for f in found} == {"ok"}
    assert {f.n for f in found} == {120}
    leakage, excess = by_metric["leakage"], by_metric["leakage_excess"]
    assert leakage.estimate > 0.95
    assert leakage.p == pytest.approx(0.01)
    assert leakage.ci_low <= leakage.estimate <= leakage.ci_high
    assert "AUC of a linear reader taught by four fifths of these people; p: of any reader; strongest: " in leakage.note
    assert excess.estimate == pytest.approx(leakage.estimate - 0.5)
    assert excess.ci_low > 0.3
    assert by_metric["leakage_equivalence"].p > 0.999
    kept = by_metric["leakage_kept"]
    assert (kept.estimate, kept.note) == (0.5, "nothing is kept")


def null_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Draw levels, numbers and levels over sessions in turn; the table does not tell them."""
    rng = np.random.default_rng([11, seed])
    if seed % 3 == 2:  # two sessions a participant, alike in the table and of one site
        who = np.repeat(np.arange(44), 2)
        table = rng.normal(size=(88, 4)) + 2 * rng.normal(size=(44, 4))[who]
        return table, np.repeat(rng.choice(["A", "B"], 44), 2), who, False
    table = rng.normal(size=(60, 4))
    return table, (rng.choice(["A", "B", "C"], 60) if seed % 3 else rng.normal(size=60)), np.arange(60), seed % 3 == 0


@pytest.mark.shortened
def test_false_alarms_are_as_rare_as_they_should_be():
    ps, excesses = [], []
    for seed in seeds(150):
        table, values, who, continuous = null_case(seed)
        by_metric, _ = audit_data(table, values, participants=who, continuous=continuous, seed=seed)
        ps.append(by_metric["leakage"].p)
        excesses.append(by_metric["leakage_excess"].ci_low > 0)
    for level in (0.05, 0.2):
        assert np.sum(np.array(ps) <= level) <= at_most(len(ps), level)
    assert kstest(ps, "uniform").pvalue > 0.001
    assert np.sum(excesses) <= at_most(len(ps), 0.05)


def leaky(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw 400 people of two sites that no mean tells apart, or only that of a few people."""
    site, table = rng.permutation(np.arange(400) % 2), rng.normal(size=(400, 20))
    other = site == 1
    if kind == "a product of two columns":
        flipped = rng.random(400) < 0.5
        site = np.where(flipped, rng.integers(2, size=400), table[:, 3] * table[:, 7] > 0).astype(int)
    elif kind == "the spread of three columns":
        table[other, :3] *= 1.5
    elif kind == "a tenth of the people":
        table[np.ix_(np.flatnonzero(other & (rng.random(400) < 0.1)), range(5))] += 3
    elif kind == "covariances":
        table[other] = 0.6**0.5 * table[other] + 0.4**0.5 * rng.normal(size=(other.sum(), 1))
    return table, np.where(site == 1, "B", "A")


@pytest.mark.parametrize(
    "kind", ["a product of two columns", "the spread of three columns", "a tenth of the people", "covariances"]
)
def test_what_no_mean_tells_is_found(kind):
    cases = [leaky(kind, np.random.default_rng([1, seed])) for seed in range(5)]
    found = [audit_data(*case, seed=seed, permutations=499)[0]["leakage"] for seed, case in enumerate(cases)]
    assert sum(one.p <= 0.01 for one in found) >= 4


def test_a_planted_number_is_found():
    rng = np.random.default_rng(2)
    age = rng.uniform(20, 80, 160)
    table = rng.normal(size=(160, 5)) + (age / 20)[:, None] * rng.normal(size=5)
    by_metric, _ = audit_data(table, age, continuous=True)
    assert by_metric["leakage"].estimate > 0.5
    assert "R2" in by_metric["leakage"].note
    assert by_metric["leakage_excess"].ci_low > 0.4


@pytest.mark.shortened
def test_what_kept_covariates_tell_is_no_excess():
    over, told, estimates, kept = 0, 0, [], []
    for seed in seeds(100):
        rng = np.random.default_rng([3, seed])
        age = rng.normal(size=120)
        site = np.where(2 * age + rng.logistic(size=120) > 0, "A", "B")
        table = rng.normal(size=(120, 6)) + age[:, None]
        by_metric, _ = audit_data(table, site, kept=age[:, None], seed=seed)
        told += by_metric["leakage"].p <= 0.05
        over += by_metric["leakage_excess"].ci_low > 0
        estimates.append(by_metric["leakage_excess"].estimate)
        kept.append(by_metric["leakage_kept"].estimate)
    assert over <= at_most(len(kept), 0.05)
    assert told <= at_most(len(kept), 0.07)  # the table tells the site, but through age only
    assert abs(np.mean(estimates)) < 0.05
    assert np.mean(kept) > 0.75


def test_leakage_on_top_of_kept_covariates_is_an_excess():
    rng = np.random.default_rng(4)
    age = rng.normal(size=200)
    site = np.where(1.5 * age + rng.logistic(size=200) > 0, "A", "B")
    table = rng.normal(size=(200, 6)) + age[:, None]
    table[:, 0] += 4.0 * (site == "A")
    by_metric, _ = audit_data(table, site, kept=age[:, None])
    assert by_metric["leakage_excess"].ci_low > 0.02
    assert by_metric["leakage_kept"].estimate > 0.8


def test_equivalence_takes_many_clean_people():
    passed = {}
    for people in (60, 800):
        rng = np.random.default_rng(people)
        verdicts = []
        for seed in range(10 if people == 60 else 3):
            table, site = rng.normal(size=(people, 5)), rng.choice(["A", "B"], people)
            found = audit_data(table, site, seed=seed)[0]["leakage_equivalence"]
            assert (found.estimate < 0.1) == (found.p <= 0.05)
            assert ("not shown" in found.note) == (found.estimate >= 0.1)
            verdicts.append(found.estimate < 0.1)
        passed[people] = np.mean(verdicts)
    assert passed[60] <= 0.4
    assert passed[800] == 1


@pytest.mark.shortened
def test_leakage_at_the_margin_hardly_ever_passes_as_equivalent():
    # A shift of d standard deviations has an AUC of Phi(d / sqrt 2): .36 gives .60, the margin.
    passed = 0
    for seed in seeds(60):
        rng = np.random.default_rng([5, seed])
        site = rng.choice(["A", "B"], 300)
        table = (0.36 * (site == "A") + rng.normal(size=300))[:, None]
        passed += audit_data(table, site, seed=seed)[0]["leakage_equivalence"].estimate < 0.1
    assert passed <= at_most(len(seeds(60)), 0.05)


def test_levels_with_few_people_are_listed_and_left_out():
    rng = np.random.default_rng(6)
    site = np.array(["A"] * 50 + ["B"] * 50 + ["S9"] * 9 + ["S1"], dtype=object)
    by_metric, found = audit_data(rng.normal(size=(110, 4)), site)
    few = {f.group: f for f in found if f.status == "insufficient"}
    assert set(few) == {"exported/site=S9", "exported/site=S1"}
    assert few["exported/site=S9"].n == 9
    assert np.isnan(few["exported/site=S9"].estimate)
    assert by_metric["leakage_excess"].status == "ok"
    assert by_metric["leakage"].n == 100


@pytest.mark.parametrize("size", [1, 2, 5])
def test_groups_of_a_few_are_never_judged(size):
    rng = np.random.default_rng(7)
    site = np.array(["A"] * 60 + ["B"] * size, dtype=object)
    _, found = audit_data(rng.normal(size=(60 + size, 4)), site)
    assert {f.status for f in found} == {"insufficient"}
    assert all(np.isnan(f.estimate) and np.isnan(f.p) for f in found)
    assert {f.group for f in found} == {"exported/site=B", "site", "exported/site"}


def test_too_few_people_in_all_are_insufficient():
    rng = np.random.default_rng(8)
    table = rng.normal(size=(22, 3))
    for values, continuous in ((np.array(["A", "B"] * 11), False), (rng.normal(size=22), True)):
        _, found = audit_data(table, values, continuous=continuous, min_n=24)
        assert {f.status for f in found} == {"insufficient"}
        assert "22 people, 22 of them with as many sessions as others; 24 are needed" in found[0].note
    _, found = audit_data(rng.normal(size=(80, 3)), np.full(80, 4.0), continuous=True)
    assert {f.note for f in found} == {"everybody has the same value"}


def test_repeated_sessions_that_look_alike_are_no_leakage_of_the_participant():
    # Judged by row, a probe could recognise the participant; 60 participants of eight sessions each.
    rng = np.random.default_rng(10)
    who = np.repeat(np.arange(60), 8)
    table = 5 * rng.normal(size=(60, 6))[who] + rng.normal(size=(480, 6))
    by_metric, _ = audit_data(table, rng.choice(["A", "B"], 60)[who], participants=who)
    assert by_metric["leakage"].p > 0.05
    assert by_metric["leakage"].n == 60


def test_participants_whose_number_of_sessions_nobody_shares_do_not_exchange():
    rng = np.random.default_rng(11)
    who = np.repeat(np.arange(45), np.arange(1, 46))
    _, found = audit_data(rng.normal(size=(len(who), 3)), rng.choice(["A", "B"], len(who)), participants=who)
    assert {f.status for f in found} == {"insufficient"}
    assert "as many sessions as others" in found[-1].note


def test_missing_values_are_left_out_and_the_seed_decides():
    rng = np.random.default_rng(12)
    site = rng.choice(["A", "B"], 100).astype(object)
    table = rng.normal(size=(100, 3))
    site[:20] = None
    found = audit_data(table, site, seed=3)[1]
    assert found[0].n == 80
    assert found == audit_data(table, site, seed=3)[1]
    assert found != audit_data(table, site, seed=4)[1]
    changed = table.copy()
    changed[:20] = 9.0
    assert found == audit_data(changed, site, seed=3)[1]


def test_tables_with_gaps_are_refused():
    table = np.zeros((60, 3))
    table[4, 1] = np.nan
    with pytest.raises(CohortError, match="exported: 1 of 3 columns have missing cells; audit whole columns"):
        audit_data(table, ["A", "B"] * 30)


def planted(people: int, training: int, seed: int, *, fault: float = 0.0, number: bool = False):
    """Draw what models hand out that learned from so many people a level: their errors, and a fault if asked."""
    rng = np.random.default_rng([seed, 5])
    mixed = np.eye(30) + 0.3 * rng.normal(size=(30, 30))
    errors = (rng.normal(size=(2, training, 30)) @ mixed).mean(axis=1)
    errors[0] += fault * mixed.sum(axis=0)
    labels = rng.normal(size=people) if number else rng.permutation(np.arange(people) % 2)
    steps = labels[:, None] * errors[:1] if number else errors[labels]
    known = {"exported": dict.fromkeys([""] if number else ["0", "1"], float(training))}
    return rng.normal(size=(people, 30)) @ mixed + steps, labels if number else labels.astype(str), known


@pytest.mark.parametrize("number", [False, True])
def test_what_few_people_of_training_leave_is_known_beforehand(number):
    beyond, excess = [], []
    for seed in range(4):
        table, labels, known = planted(160, 40, seed, number=number)
        found, _ = audit_data(table, labels, continuous=number, trained=known, seed=seed)
        beyond.append(found["leakage_beyond_training"])
        excess.append(found["leakage_excess"].estimate)
    assert np.mean(excess) > 0.1
    assert np.mean([row.estimate for row in beyond]) == pytest.approx(0, abs=0.06)
    assert sum(row.ci_low > 0.085 for row in beyond) == 0


def test_a_fault_is_beyond_what_training_leaves():
    table, labels, known = planted(160, 160, 0, fault=0.3)
    found, _ = audit_data(table, labels, trained=known)
    beyond = found["leakage_beyond_training"]
    assert beyond.ci_low > 0.085
    assert beyond.estimate < found["leakage_excess"].estimate
    assert "learned from 160 to 160 people a level" in beyond.note


def test_nothing_is_said_of_levels_that_nobody_of_training_had():
    table, labels, _ = planted(80, 40, 0)
    for known in (
        None,
        {},
        {"exported": {}},
        {"exported": {"0": 40.0}},
        {"exported": {"0": 40.0, "1": 0.0}},
        {"raw": {"0": 40.0, "1": 40.0}},
    ):
        found, _ = audit_data(table, labels, trained=known)
        assert "leakage_beyond_training" not in found


@pytest.mark.parametrize("number", [False, True])
def test_moved_means_are_no_shape_however_large(number):
    found = []
    for seed in range(6):
        rng = np.random.default_rng([seed, 7])
        label = rng.normal(size=120) if number else rng.integers(3, size=120).astype(float)
        table = rng.normal(size=(120, 80)) + label[:, None] * rng.normal(size=80)
        rows, _ = audit_data(table, label if number else label.astype(str), continuous=number, seed=seed)
        assert rows["leakage"].p == pytest.approx(0.01)
        found.append(rows["leakage_shape"].p)
    assert sum(p <= 0.05 for p in found) <= 1
    assert np.mean(found) > 0.2


def test_the_interval_of_a_number_counts_who_taught_its_reader():
    """Of 30 people with long tails, predictions held fixed say little more than half of the spread."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng([8, seed])
        age = rng.lognormal(size=30)
        table = rng.lognormal(size=(30, 8)) + 0.4 * age[:, None]
        found.append(audit_data(table, age, continuous=True, seed=seed)[0]["leakage_excess"])
    half = np.mean([(row.ci_high - row.ci_low) / 2 for row in found])
    assert half > 1.5 * np.std([row.estimate for row in found])


@pytest.mark.parametrize("people", [40, 120])
def test_what_kept_covariates_tell_has_an_interval_where_they_tell_everybody(people):
    site = np.arange(people) % 2
    age = site + 1e-3 * np.random.default_rng(0).normal(size=people)
    by_metric, _ = audit_data(np.zeros((people, 2)), np.where(site, "A", "B"), kept=age[:, None])
    kept = by_metric["leakage_kept"]
    if kept.status == "ok":
        assert kept.estimate == 1
        assert kept.ci_low < 0.99
        assert kept.ci_high == 1
