import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from medrep.audit.leakage import audit_leakage
from medrep.audit.probing.probe_halves import Halves
from medrep.errors import CohortError
from tests.shortened import at_most, seeds

CHEAP = {"permutations": 99, "draws": 200}
PLAIN = ("linear", "rbf")


def audited(table: np.ndarray, values, *, kept=None, participants=None, continuous=False, seed=0, **more):
    people = len(table)
    kept = np.zeros((people, 0)) if kept is None else kept
    who = np.arange(people) if participants is None else participants
    found = audit_leakage(
        {"exported": table},
        pd.Series(values),
        continuous=continuous,
        name="site",
        participants=who,
        kept=kept,
        seed=seed,
        **{**CHEAP, **more},
    )
    return {finding.metric: finding for finding in found}, found


def test_findings_of_a_table():
    rng = np.random.default_rng(0)
    site = rng.choice(["A", "B"], 120)
    table = rng.normal(size=(120, 5)) + 2.0 * (site == "A")[:, None]
    by_metric, found = audited(table, site)
    assert [(f.metric, f.group) for f in found] == [
        ("leakage_kept", "site"),
        ("leakage", "exported/site"),
        ("leakage_excess", "exported/site"),
        ("leakage_equivalence", "exported/site"),
    ]
    assert {f.status for f in found} == {"ok"}
    assert {f.n for f in found} == {60}
    leakage, excess = by_metric["leakage"], by_metric["leakage_excess"]
    assert leakage.estimate > 0.95
    assert leakage.p == pytest.approx(0.01)
    assert leakage.ci_low <= leakage.estimate <= leakage.ci_high
    assert "AUC" in leakage.note
    assert "floor" in leakage.note
    assert "60 people to train probes and 60 to judge them" in leakage.note
    assert excess.ci_low > 0.3
    assert by_metric["leakage_equivalence"].p == 1.0
    kept = by_metric["leakage_kept"]
    assert (kept.estimate, kept.p, kept.note) == (0.5, 1.0, "AUC; nothing is kept")


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
        by_metric, _ = audited(
            table, values, participants=who, continuous=continuous, seed=seed, probes=PLAIN, draws=100
        )
        ps.append(by_metric["leakage"].p)
        excesses.append(by_metric["leakage_excess"].ci_low > 0)
    for level in (0.05, 0.2):
        assert np.sum(np.array(ps) <= level) <= at_most(len(ps), level)
    assert kstest(ps, "uniform").pvalue > 0.001
    # The interval is a bootstrap's: 2.5% in large samples, 44 to 60 people have somewhat more.
    assert np.sum(excesses) <= at_most(len(ps), 0.05)


def test_a_difference_of_spread_is_found_by_all_probes_together():
    rng = np.random.default_rng(1)
    site = rng.choice(["A", "B"], 200)
    table = rng.normal(size=(200, 6))
    table[:, 0] *= np.where(site == "A", 0.3, 3.0)
    by_metric, _ = audited(table, site)
    assert by_metric["leakage"].p <= 0.01
    assert by_metric["leakage_excess"].ci_low > 0.15
    assert "strongest probe, linear" not in by_metric["leakage"].note
    linear, _ = audited(table, site, probes=("linear",))
    assert linear["leakage_excess"].ci_low < 0.05


def test_a_planted_number_is_found():
    rng = np.random.default_rng(2)
    age = rng.uniform(20, 80, 160)
    table = rng.normal(size=(160, 5)) + (age / 20)[:, None] * rng.normal(size=5)
    by_metric, _ = audited(table, age, continuous=True)
    assert by_metric["leakage"].estimate > 0.5
    assert "signed r2" in by_metric["leakage"].note
    assert by_metric["leakage_excess"].ci_low > 0.4


@pytest.mark.shortened
def test_what_kept_covariates_tell_is_no_excess():
    over, told, estimates, kept = 0, 0, [], []
    for seed in seeds(40):
        rng = np.random.default_rng([3, seed])
        age = rng.normal(size=120)
        site = np.where(2 * age + rng.logistic(size=120) > 0, "A", "B")
        table = rng.normal(size=(120, 6)) + age[:, None]
        by_metric, _ = audited(table, site, kept=age[:, None], seed=seed, probes=PLAIN)
        told += by_metric["leakage"].p <= 0.05
        over += by_metric["leakage_excess"].ci_low > 0
        estimates.append(by_metric["leakage_excess"].estimate)
        kept.append(by_metric["leakage_kept"].estimate)
    assert over <= at_most(len(kept), 0.05)
    assert told >= 0.9 * len(kept)  # the table does tell the site, through age
    assert -0.06 < np.mean(estimates) < 0.02  # six noisy columns tell age a little less well than age itself
    assert np.mean(kept) > 0.75


def test_leakage_on_top_of_kept_covariates_is_an_excess():
    rng = np.random.default_rng(4)
    age = rng.normal(size=200)
    site = np.where(1.5 * age + rng.logistic(size=200) > 0, "A", "B")
    table = rng.normal(size=(200, 6)) + age[:, None]
    table[:, 0] += 4.0 * (site == "A")
    by_metric, _ = audited(table, site, kept=age[:, None], probes=PLAIN)
    assert by_metric["leakage_excess"].ci_low > 0.02
    assert by_metric["leakage_kept"].estimate > 0.8


def test_equivalence_takes_many_clean_people():
    passed = {}
    for people in (60, 900):
        rng = np.random.default_rng(people)
        verdicts = []
        for seed in range(10 if people == 60 else 5):
            table, site = rng.normal(size=(people, 5)), rng.choice(["A", "B"], people)
            found = audited(table, site, seed=seed, probes=PLAIN)[0]["leakage_equivalence"]
            assert (found.estimate < 0.1) == (found.p <= 0.05)
            assert ("not shown" in found.note) == (found.estimate >= 0.1)
            verdicts.append(found.estimate < 0.1)
        passed[people] = np.mean(verdicts)
    assert passed[60] <= 0.2
    assert passed[900] >= 0.9


@pytest.mark.shortened
def test_leakage_at_the_margin_hardly_ever_passes_as_equivalent():
    # A shift of d standard deviations has an AUC of Phi(d / sqrt 2): .36 gives .60, the margin.
    passed = 0
    for seed in seeds(60):
        rng = np.random.default_rng([5, seed])
        site = rng.choice(["A", "B"], 300)
        table = (0.36 * (site == "A") + rng.normal(size=300))[:, None]
        passed += audited(table, site, seed=seed, probes=PLAIN)[0]["leakage_equivalence"].estimate < 0.1
    assert passed <= at_most(len(seeds(60)), 0.05)


def test_levels_with_few_people_are_listed_and_left_out():
    rng = np.random.default_rng(6)
    site = np.array(["A"] * 50 + ["B"] * 50 + ["S9"] * 9 + ["S1"], dtype=object)
    by_metric, found = audited(rng.normal(size=(110, 4)), site, probes=PLAIN)
    few = {f.group: f for f in found if f.status == "insufficient"}
    assert set(few) == {"exported/site=S9", "exported/site=S1"}
    assert few["exported/site=S9"].n == 9
    assert np.isnan(few["exported/site=S9"].estimate)
    assert by_metric["leakage_excess"].status == "ok"
    assert by_metric["leakage"].n == 50


@pytest.mark.parametrize("size", [1, 2, 5])
def test_groups_of_a_few_are_never_judged(size):
    rng = np.random.default_rng(7)
    site = np.array(["A"] * 60 + ["B"] * size, dtype=object)
    _, found = audited(rng.normal(size=(60 + size, 4)), site, probes=PLAIN)
    assert {f.status for f in found} == {"insufficient"}
    assert all(np.isnan(f.estimate) and np.isnan(f.p) for f in found)
    assert {f.group for f in found} == {"exported/site=B", "site", "exported/site"}


def test_too_few_people_in_all_are_insufficient():
    rng = np.random.default_rng(8)
    table = rng.normal(size=(38, 3))
    for values, continuous in ((rng.choice(["A", "B"], 38), False), (rng.normal(size=38), True)):
        _, found = audited(table, values, continuous=continuous)
        assert {f.status for f in found} == {"insufficient"}
        assert "19 people in the half that judges, 20 are needed" in found[0].note
    _, found = audited(rng.normal(size=(80, 3)), np.full(80, 4.0), continuous=True)
    assert {f.note for f in found} == {"everybody has the same value"}


def test_sessions_of_a_participant_stay_in_one_half():
    rng = np.random.default_rng(9)
    who = np.repeat(np.arange(80), rng.integers(1, 4, 80))
    for seed in range(20):
        values = pd.Series(rng.choice(["A", "B"], len(who)))
        halves = Halves.of(values, who, seed, continuous=False, permutations=20, draws=20)
        assert not set(who[halves.train]) & set(who[halves.test])
        assert len(halves.train) + len(halves.test) == len(who)
        own = who[halves.test]
        for source in halves.sources:  # a series of labels goes from one participant to another as a whole
            for person in np.unique(own):
                givers = own[source[own == person]]
                assert len(set(givers)) == 1
                assert (own == givers[0]).sum() == (own == person).sum()
        for weights in halves.weights:
            assert all(len(set(weights[own == person])) == 1 for person in np.unique(own))


def test_repeated_sessions_that_look_alike_are_no_leakage_of_the_participant():
    # Judged by row, a probe could recognise the participant; 30 participants of eight sessions each.
    rng = np.random.default_rng(10)
    who = np.repeat(np.arange(60), 8)
    table = 5 * rng.normal(size=(60, 6))[who] + rng.normal(size=(480, 6))
    by_metric, _ = audited(table, rng.choice(["A", "B"], 60)[who], participants=who, probes=PLAIN)
    assert by_metric["leakage"].p > 0.05
    assert by_metric["leakage"].n == 30


def test_participants_whose_number_of_sessions_nobody_shares_do_not_exchange():
    rng = np.random.default_rng(11)
    who = np.repeat(np.arange(45), np.arange(1, 46))
    _, found = audited(rng.normal(size=(len(who), 3)), rng.choice(["A", "B"], 45)[who], participants=who)
    assert {f.status for f in found} == {"insufficient"}
    assert "as many sessions as others" in found[-1].note


def test_missing_values_are_left_out_and_the_seed_decides():
    rng = np.random.default_rng(12)
    site = rng.choice(["A", "B"], 100).astype(object)
    table = rng.normal(size=(100, 3))
    site[:20] = None
    found = audited(table, site, probes=PLAIN, seed=3)[1]
    assert found[0].n == 40
    assert found == audited(table, site, probes=PLAIN, seed=3)[1]
    assert found != audited(table, site, probes=PLAIN, seed=4)[1]
    changed = table.copy()
    changed[:20] = 9.0
    assert found == audited(changed, site, probes=PLAIN, seed=3)[1]


def test_tables_with_gaps_are_refused():
    table = np.zeros((60, 3))
    table[4, 1] = np.nan
    with pytest.raises(CohortError, match="exported: 1 of 3 columns have missing cells; audit whole columns"):
        audited(table, ["A", "B"] * 30)
