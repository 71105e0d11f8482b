import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from medrep.audit.data import covariate_design
from medrep.audit.identity import (
    agreement,
    audit_identity,
    identity_kept,
    reidentification,
    retest_agreement,
)
from medrep.cohort.covariates import CovariateSchema
from tests.models.planted import AGE, DECLARED, draw_data, draw_people, fit, moved_by, people_of
from tests.shortened import at_most, seeds

COLUMNS = 30


def repeats(people: int = 40, visits: int = 2, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return profiles of people at visits: their own (variance 1), and noise."""
    rng = np.random.default_rng(seed)
    own = np.repeat(rng.normal(size=(people, COLUMNS)), visits, axis=0)
    who = np.repeat([f"sub-{k:03d}" for k in range(people)], visits).astype(object)
    return own + noise * rng.normal(size=own.shape), who


def test_people_are_known_again_and_noise_is_not():
    data, who = repeats(noise=0.5)
    noise = np.random.default_rng(1).normal(size=data.shape)
    raw, exported, change = reidentification({"raw": data, "exported": noise}, who, 0)
    assert raw.estimate > 0.9
    assert raw.p < 0.01
    assert raw.ci_low > 0.8
    assert exported.ci_low <= 1 / 79 + 0.03
    assert exported.p > 0.05
    assert "chance 0.013" in raw.note
    assert change.metric == "reidentification_change"
    assert change.group == "exported"
    assert change.estimate == pytest.approx(exported.estimate - raw.estimate)
    assert change.ci_high < -0.7


@pytest.mark.shortened
def test_noise_is_known_again_as_often_as_chance_says():
    rates, alarms = [], 0
    for seed in seeds(120):
        _, who = repeats(25, 3, seed=seed)
        data = np.random.default_rng([seed, 9]).normal(size=(75, 8))
        finding = reidentification({"raw": data}, who, seed, draws=20)[0]
        rates.append(finding.estimate)
        alarms += finding.p <= 0.05
    assert np.mean(rates) == pytest.approx(2 / 74, abs=0.008 * np.sqrt(120 / len(rates)))
    assert alarms <= at_most(len(rates), 0.05, 0.99)


def test_ties_are_no_recognition():
    who = repeats(30)[1]
    flat = np.tile(
        np.random.default_rng(0).normal(size=(2, COLUMNS)), (30, 1)
    )  # all first visits alike, all second ones
    assert reidentification({"raw": flat}, who, 0)[0].estimate == 0
    constant = reidentification({"raw": np.ones((60, 5))}, who, 0)[0]
    assert constant.status == "insufficient"


def test_perfect_recognition_has_an_interval():
    data, who = repeats(30, noise=0.01)
    finding = reidentification({"raw": data}, who, 0)[0]
    assert finding.estimate == 1
    assert finding.ci_low < 0.9


@pytest.mark.parametrize("people", [1, 2, 5])
def test_few_repeats_say_nothing(people):
    data, who = repeats(people)
    data = np.concatenate([data, np.random.default_rng(0).normal(size=(40, COLUMNS))])
    who = np.concatenate([who, np.array([f"single-{k}" for k in range(40)], object)])
    finding = reidentification({"raw": data}, who, 0)[0]
    assert finding.status == "insufficient"
    assert finding.n == people
    retest = retest_agreement("raw", data, who, 0)
    assert retest.status == "insufficient"
    assert retest.n == people


def test_intraclass_correlations_are_those_of_the_analysis_of_variance():
    rng = np.random.default_rng(3)
    visits = rng.normal(size=(12, 3, 2)) + rng.normal(size=(12, 1, 2)) + np.array([0.0, 0.5, 1.5])[None, :, None]
    found = agreement(visits)
    for column in range(2):
        table = pd.DataFrame(
            [(p, v, visits[p, v, column]) for p in range(12) for v in range(3)], columns=["person", "visit", "y"]
        )
        squares = anova_lm(ols("y ~ C(person) + C(visit)", table).fit())
        rows, columns, error = (squares.loc[name, "mean_sq"] for name in ("C(person)", "C(visit)", "Residual"))
        assert found.consistent[0, column] == pytest.approx((rows - error) / (rows + 2 * error))
        assert found.absolute[0, column] == pytest.approx(
            (rows - error) / (rows + 2 * error + 3 * (columns - error) / 12)
        )


def test_weights_count_people_so_often():
    visits = np.random.default_rng(0).normal(size=(6, 2, 3)) + 5
    weights = np.array([[2.0, 0, 1, 1, 3, 0], [1, 1, 1, 1, 1, 1]])
    found = agreement(visits, weights)
    for draw in range(2):
        own = agreement(visits[np.repeat(np.arange(6), weights[draw].astype(int))])
        np.testing.assert_allclose(found.absolute[draw], own.absolute[0])
        np.testing.assert_allclose(found.consistent[draw], own.consistent[0])


def test_agreement_is_what_was_planted():
    # Own variance 1, noise variance 1/3: 0.75. A shift between visits lowers the absolute one alone.
    data, who = repeats(80, noise=3**-0.5)
    finding = retest_agreement("exported", data, who, 0)
    assert finding.ci_low < 0.75 < finding.ci_high
    assert finding.estimate == pytest.approx(0.75, abs=0.05)
    shifted = retest_agreement("exported", data + np.tile([[0.0], [2.0]], (80, 1)), who, 0)
    assert shifted.estimate < 0.45
    assert f"ICC(3,1) {finding.estimate:.2f}"[:-1] in shifted.note
    noise = retest_agreement("exported", np.random.default_rng(1).normal(size=data.shape), who, 0)
    assert noise.estimate == pytest.approx(0, abs=0.1)


def cohort(n: int = 120, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, CovariateSchema, np.ndarray]:
    frame = draw_people(n, 3, seed)
    return frame, draw_data(frame, COLUMNS, seed), CovariateSchema.fit(frame, DECLARED), frame.index.to_numpy(object)


def test_removal_keeps_the_person_and_blur_does_not():
    frame, data, schema, who = cohort()
    design = covariate_design(frame, schema)
    transformed = moved_by(fit(frame, data), data, frame, {"age": 50.0, "site": "S0"})
    kept = identity_kept(data, transformed, design, who, 0)
    assert kept.ci_low > 0.85
    assert kept.p < 0.01
    half = identity_kept(data, transformed + 2 * np.random.default_rng(1).normal(size=data.shape), design, who, 0)
    assert half.ci_high < 0.7
    stranger = identity_kept(data, transformed[np.random.default_rng(2).permutation(len(data))], design, who, 0)
    assert stranger.ci_high < 0.2
    assert stranger.p > 0.01


def test_effects_of_covariates_are_no_identity():
    # Raw and exported share the covariates' effects and nothing else.
    frame, data, schema, who = cohort()
    other = draw_data(frame, COLUMNS, 0) - data + np.random.default_rng(5).normal(size=data.shape)
    mean = (frame["age"].to_numpy(float)[:, None] - 50) * np.linspace(-1, 1, COLUMNS)
    finding = identity_kept(data + mean, other + mean, covariate_design(frame, schema), who, 0)
    assert abs(finding.estimate) < 0.1
    assert np.corrcoef((data + mean).ravel(), (other + mean).ravel())[0, 1] > 0.9


def test_a_column_that_was_flattened_is_lost():
    frame, data, schema, who = cohort()
    flat = data.copy()
    flat[:, ::2] = data[:, ::2].mean(axis=0)
    finding = identity_kept(data, flat, covariate_design(frame, schema), who, 0)
    assert 0.5 < finding.estimate < 0.85
    nothing = identity_kept(data, np.tile(data.mean(axis=0), (len(data), 1)), covariate_design(frame, schema), who, 0)
    assert nothing.estimate == pytest.approx(0, abs=1e-6)


def test_few_people_or_columns_say_nothing():
    frame, data, schema, who = cohort(24)
    finding = identity_kept(data, data, covariate_design(frame, schema), who, 0)
    assert finding.status == "insufficient"
    frame, data, schema, who = cohort(120)
    narrow = identity_kept(data[:, :2], data[:, :2], covariate_design(frame, schema), who, 0)
    assert narrow.status == "insufficient"


def test_the_whole_of_it_is_decided_by_the_seed():
    data, _who = repeats(60)
    frame = draw_people(60, 3, 0).loc[lambda table: table.index.repeat(2)]
    schema = CovariateSchema.fit(frame, (AGE,))
    tables = {"raw": data, "exported": data + 0.1, "latents": data[:, :6]}
    found, again = (audit_identity(tables, people_of(data, frame, schema), 1, draws=50) for _ in range(2))
    assert found == again
    assert [(f.metric, f.group) for f in found] == [
        *(("reidentification", name) for name in tables),
        ("reidentification_change", "exported"),
        ("reidentification_change", "latents"),
        *(("test_retest", name) for name in tables),
        ("identity_kept", "exported"),
    ]
    assert found[-1].n == 60
    assert found[3].estimate == 0
