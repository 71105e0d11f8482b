import numpy as np
import pandas as pd
import pytest

from medrep.audit.utility import audit_utility
from medrep.cohort.covariates import Covariate, CovariateSchema
from tests.models.planted import DECLARED, draw_people, people_of
from tests.shortened import at_most, seeds

COLUMNS = 12


def cohort(n: int = 220, effect: float = 1.5, seed: int = 0):
    """Return covariates, raw data in which diagnosis and age act, and an outcome that older people have more often."""
    frame = draw_people(n, 2, seed)
    rng = np.random.default_rng([seed, 1])
    decades = (frame["age"].to_numpy(float) - 50) / 10
    ill = rng.random(n) < 1 / (1 + np.exp(-0.6 * decades))
    noise = rng.normal(size=(n, COLUMNS))
    raw = noise + np.outer(decades, np.linspace(1, 2, COLUMNS))
    raw[:, :2] += effect * ill[:, None]
    outcome = pd.Series(np.where(ill, "AD", "CN"), index=frame.index, name="diagnosis")
    return frame, raw, noise, outcome, CovariateSchema.fit(frame, DECLARED)


def audit_data(frame, tables, outcome, schema, seed=0, **options):
    found = audit_utility(tables, outcome, people_of(tables["raw"], frame, schema), seed, **{"draws": 300, **options})
    return {(f.metric, f.group): f for f in found}


def test_what_is_lost_is_found():
    frame, raw, noise, outcome, schema = cohort()
    found = audit_data(frame, {"raw": raw, "exported": noise}, outcome, schema)
    before, after = found["utility", "raw/diagnosis"], found["utility", "exported/diagnosis"]
    assert before.estimate > 0.7
    assert before.p < 0.01
    assert after.ci_low < 0.5 < after.ci_high
    change = found["utility_change", "exported/diagnosis"]
    assert change.estimate == pytest.approx(after.estimate - before.estimate)
    assert change.ci_high < 0
    assert "CN against AD: " in change.note
    assert "matched on age, sex, site" in change.note


def test_what_is_kept_has_lost_nothing():
    frame, raw, _, outcome, schema = cohort()
    decades = (frame["age"].to_numpy(float) - 50) / 10
    found = audit_data(
        frame, {"raw": raw, "exported": raw - np.outer(decades, np.linspace(1, 2, COLUMNS))}, outcome, schema
    )
    assert found["utility_change", "exported/diagnosis"].ci_low > -0.12
    assert found["utility", "exported/diagnosis"].estimate > 0.75


def test_age_alone_tells_nothing_of_matched_people():
    # Diagnosis follows age, and the data tell age well: unmatched, they would tell diagnosis with an AUC near .8.
    frame, raw, _, outcome, schema = cohort(effect=0.0)
    finding = audit_data(frame, {"raw": raw}, outcome, schema)["utility", "raw/diagnosis"]
    assert finding.ci_low < 0.5 < finding.ci_high
    assert finding.p > 0.01


def test_noise_tells_nothing_over_cohorts():
    found = []
    for seed in range(8):
        frame, _, noise, outcome, schema = cohort(120, seed=seed)
        found.append(
            audit_data(frame, {"raw": noise[:, :3]}, outcome, schema, seed, draws=50)["utility", "raw/diagnosis"]
        )
    assert np.mean([f.estimate for f in found]) == pytest.approx(0.5, abs=0.06)
    assert sum(f.p <= 0.05 for f in found) <= 2


@pytest.mark.shortened
def test_intervals_of_no_change_hold_it():
    # Two tables that tell the diagnosis alike, with noise of their own. Predictions held fixed would reach 90%.
    held = lost = 0
    count = len(seeds(60))
    for seed in seeds(60):
        frame, _, noise, outcome, schema = cohort(150, seed=seed)
        effect = 0.7 * (outcome == "AD").to_numpy(float)[:, None]
        other = np.random.default_rng([seed, 3]).normal(size=noise.shape)
        found = audit_data(frame, {"raw": noise + effect, "exported": other + effect}, outcome, schema, seed)
        change = found["utility_change", "exported/diagnosis"]
        held += change.ci_low <= 0 <= change.ci_high
        lost += change.ci_high < 0
    assert held >= count - at_most(count, 0.05, 0.975)
    assert lost <= at_most(count, 0.025, 0.99)


def test_a_difference_of_spread_is_told():
    rng = np.random.default_rng(0)
    frame, _, _, outcome, schema = cohort(240)
    data = rng.normal(size=(240, 3)) * np.where(outcome == "AD", 3.0, 0.7)[:, None]
    assert audit_data(frame, {"raw": data}, outcome, schema)["utility", "raw/diagnosis"].ci_low > 0.7


def test_a_perfect_outcome_has_an_interval():
    frame, _, noise, outcome, schema = cohort()
    data = np.concatenate([noise, 100.0 * (outcome == "AD").to_numpy(float)[:, None]], axis=1)
    found = audit_data(frame, {"raw": data, "exported": data}, outcome, schema)
    assert found["utility", "raw/diagnosis"].estimate == 1
    assert found["utility", "raw/diagnosis"].ci_low < 0.98
    change = found["utility_change", "exported/diagnosis"]
    assert change.ci_low < -0.01 < 0.01 < change.ci_high


def test_more_columns_than_people_give_the_same_answer():
    frame, raw, _, outcome, schema = cohort()
    wide = np.tile(raw, (1, 40))
    narrow = audit_data(frame, {"raw": raw, "exported": wide}, outcome, schema)
    assert narrow["utility_change", "exported/diagnosis"].estimate == pytest.approx(0, abs=0.02)


def test_diagnosis_that_is_the_site_cannot_be_judged():
    frame, raw, noise, _, schema = cohort()
    outcome = pd.Series(np.where(frame["site"] == "S0", "AD", "CN"), index=frame.index, name="diagnosis")
    found = audit_data(frame, {"raw": raw, "exported": noise}, outcome, schema)
    assert len(found) == 3
    assert {f.status for f in found.values()} == {"insufficient"}
    assert "0 pairs" in found["utility", "raw/diagnosis"].note


def test_each_class_is_told_from_the_most_frequent_one():
    frame, raw, noise, outcome, schema = cohort(300)
    third = outcome.where(~((outcome == "CN") & (np.arange(300) % 12 == 0)), "FTD")
    found = audit_data(frame, {"raw": raw, "exported": noise}, third, schema)
    assert set(third.unique()) == {"AD", "CN", "FTD"}
    assert third.value_counts().index[0] == "AD"
    assert found["utility", "raw/diagnosis=FTD"].status == "insufficient"
    assert found["utility", "raw/diagnosis=CN"].ci_low > 0.6
    alone = audit_data(frame, {"raw": raw}, outcome.where(outcome == "AD"), schema)
    assert alone["utility", "raw/diagnosis"].note == "everybody is AD"


def test_a_number_is_told_beyond_covariates():
    frame, raw, noise, _, schema = cohort()
    decades = (frame["age"].to_numpy(float) - 50) / 10
    rng = np.random.default_rng(4)
    score = pd.Series(5 * decades**2 + noise[:, 0] + 0.5 * rng.normal(size=len(frame)), index=frame.index, name="score")
    tables = {"raw": raw, "exported": rng.normal(size=raw.shape)}
    found = audit_data(frame, tables, score, schema, continuous=True)
    before = found["utility", "raw/score"]
    # 1 of 1.25 of what covariates leave is in the data, behind their age effect.
    assert before.estimate > 0.5
    assert before.p < 0.01
    assert found["utility", "exported/score"].ci_high < 0.1
    assert found["utility_change", "exported/score"].ci_high < -0.3
    flat = pd.Series(5 * decades**2 + rng.normal(size=len(frame)), index=frame.index, name="score")
    null = audit_data(frame, {"raw": raw}, flat, schema, continuous=True)["utility", "raw/score"]
    assert null.estimate < 0.08
    assert null.p > 0.01


def test_a_number_that_covariates_tell_or_few_people_have_cannot_be_judged():
    frame, raw, _, _, schema = cohort()
    age = pd.Series(2 * frame["age"].to_numpy() + 1, index=frame.index, name="bone")
    few = age.where(np.arange(len(frame)) < 12) + np.random.default_rng(0).normal(size=len(frame))
    for outcome in (age, few, age * 0):
        found = audit_data(frame, {"raw": raw, "exported": raw}, outcome, schema, continuous=True)
        assert {f.status for f in found.values()} == {"insufficient"}
        assert len(found) == 3


def test_sessions_and_people_without_an_outcome():
    frame, raw, _, outcome, schema = cohort(160)
    twice = frame.loc[frame.index.repeat(2)]
    doubled = outcome.loc[frame.index.repeat(2)].copy()
    doubled.iloc[:40] = np.nan
    tables = {"raw": np.repeat(raw, 2, axis=0)}
    people = people_of(tables["raw"], twice, schema)
    found = audit_utility(tables, doubled, people, 0, draws=20)
    assert 0 < found[0].n <= 140
    assert found == audit_utility(tables, doubled, people, 0, draws=20)


def test_the_interval_of_a_number_counts_who_taught_its_reader():
    """Of 30 people, predictions held fixed say too little of how far figures are spread."""
    found = []
    for seed in range(12):
        rng = np.random.default_rng([6, seed])
        frame = pd.DataFrame({"sex": ["F", "M"] * 15}, index=[f"p{k:02d}" for k in range(30)])
        score = pd.Series(rng.normal(size=30), index=frame.index, name="score")
        raw = rng.normal(size=(30, 6)) + 0.5 * score.to_numpy()[:, None]
        schema = CovariateSchema.fit(frame, (Covariate("sex", "categorical"),))
        asked = {"continuous": True, "seed": seed, "draws": 100}
        found.append(audit_data(schema.transfer(frame), {"raw": raw}, score, schema, **asked)["utility", "raw/score"])
    half = np.mean([(row.ci_high - row.ci_low) / 2 for row in found])
    assert half > 1.5 * np.std([row.estimate for row in found])
