"""Robustness values: what they claim is true of a confounder of that strength; outcomes told by acquisition alone are seen."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import t as student_t

from medrep.audit.data import AuditData
from medrep.audit.finding import findings_table
from medrep.audit.robustness import (
    METRICS,
    Effects,
    audit_robustness,
    effects_on,
    robustness_value,
    share_left,
    told_beyond,
)
from medrep.audit.stress import audit_stress, check_stress
from medrep.cohort.covariates import CovariateSchema
from medrep.errors import MedrepError
from tests.models.planted import AGE, DECLARED, SITE, draw_data, draw_people, fit, people_of


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A table, a covariate and what else is held fixed, of 90 people."""
    rng = np.random.default_rng(0)
    others = np.concatenate([np.ones((90, 1)), rng.normal(size=(90, 3))], axis=1)
    covariate = others @ rng.normal(size=4) + rng.normal(size=90)
    table = np.outer(covariate, [0.0, 0.2, -0.6, 3.0]) + others @ rng.normal(size=(4, 4)) + rng.normal(size=(90, 4))
    return table, covariate, others


def rest(values: np.ndarray, on: np.ndarray) -> np.ndarray:
    left = values - on @ np.linalg.lstsq(on, values, rcond=None)[0]
    return left / np.linalg.norm(left)


def test_effects_are_those_of_least_squares_written_out(drawn) -> None:
    table, covariate, others = drawn
    design = np.concatenate([covariate[:, None], others], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    slopes = inverse @ design.T @ table
    variance = ((table - design @ slopes) ** 2).sum(axis=0) / (90 - 5)
    t = slopes[0] / np.sqrt(variance * inverse[0, 0])
    found = effects_on(table, covariate, others)
    assert found.freedom == 85
    np.testing.assert_allclose(found.t, t, rtol=1e-9)
    np.testing.assert_allclose(found.partial_r2, t**2 / (t**2 + 85), atol=1e-9)
    f = np.abs(t) / 85**0.5
    np.testing.assert_allclose(found.values, 0.5 * (np.sqrt(f**4 + 4 * f**2) - f**2), atol=1e-9)
    inner = np.maximum(f - student_t.ppf(0.975, 84) / 84**0.5, 0)
    expected = 0.5 * (np.sqrt(inner**4 + 4 * inner**2) - inner**2)
    np.testing.assert_allclose(found.significant()[:3], expected[:3], atol=1e-9)


def test_a_confounder_of_the_robustness_value_makes_the_coefficient_zero(drawn) -> None:
    table, covariate, others = drawn
    values = effects_on(table, covariate, others).values
    given = np.concatenate([others, covariate[:, None]], axis=1)
    own = rest(covariate, others)
    for column, value in zip(table.T, values, strict=True):
        left = rest(column, given)
        noise = rest(np.random.default_rng(1).normal(size=90), np.concatenate([given, left[:, None]], axis=1))
        beyond = np.sign(own @ column) * value**0.5 * left + (1 - value) ** 0.5 * noise
        confounder = value**0.5 * own + (1 - value) ** 0.5 * beyond
        of_covariate = told_beyond(covariate[:, None], confounder[:, None], others)
        of_column = told_beyond(column[:, None], confounder[:, None], given)
        np.testing.assert_allclose([of_covariate[0], of_column[0]], value, atol=1e-9)
        design = np.concatenate([covariate[:, None], confounder[:, None], others], axis=1)
        assert np.linalg.lstsq(design, column, rcond=None)[0][0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("f", [0.1, 0.4, 2.0, 20.0])
def test_the_value_at_a_level_is_where_no_weaker_confounder_lets_the_interval_reach_zero(f: float) -> None:
    """The least t that confounders of R2 up to R leave, over all of these, is the critical one at R."""
    freedom = 60
    strength = float(Effects(np.array([f * freedom**0.5]), freedom).significant()[0])
    critical = float(student_t.ppf(0.975, freedom - 1))

    def left(of_column: float) -> float:
        bias = np.sqrt(of_column * strength / (1 - strength))
        return float((freedom - 1) ** 0.5 * (f - bias) * np.sqrt((1 - strength) / (1 - of_column)))

    if f < critical / (freedom - 1) ** 0.5:
        assert strength == 0
        return
    least = minimize_scalar(left, bounds=(0, strength), method="bounded", options={"xatol": 1e-12})
    assert min(least.fun, left(strength)) == pytest.approx(critical, rel=1e-4)


def test_the_robustness_value_grows_with_the_effect_and_stays_below_one() -> None:
    values = robustness_value(np.array([0.0, 1e-6, 1.0, 1e6]))
    assert values[0] == 0
    assert (np.diff(values) > 0).all()
    assert values[2] == pytest.approx((5**0.5 - 1) / 2)
    assert values[3] <= 1


def test_a_block_that_tells_nothing_takes_nothing_and_one_that_tells_all_says_nothing() -> None:
    f = np.array([0.5, 1.0])
    np.testing.assert_allclose(share_left(f, 0.0, np.array([0.3, 0.0])), 1)
    np.testing.assert_allclose(share_left(f, 0.2, np.array([0.0, 0.0])), 1)
    left = share_left(f, 0.2, np.array([0.2, 0.2]))
    assert left[0] < left[1] < 1
    assert np.isnan(share_left(f, 0.6, np.array([0.1, 0.1]))).all()


@pytest.fixture(scope="module")
def audited() -> AuditData:
    frame = draw_people(240, 3, 0)
    data = draw_data(frame, 6, 0)
    half = np.arange(240) < 120
    model = fit(frame[half], data[half])
    own = frame[~half]
    people = people_of(data[~half], model.schema.transfer(own), model.schema)
    return AuditData(model, people, own, {"site": str(own["site"].iloc[0])})


def test_findings_of_every_effect_stand_beside_what_the_batches_tell(audited: AuditData) -> None:
    rng = np.random.default_rng(2)
    site = audited.frame["site"].astype(str)
    shortcut = pd.Series(
        np.where((site == site.iloc[0]) ^ (rng.random(len(site)) < 0.1), "ill", "well"),
        index=site.index,
        name="diagnosis",
    )
    shortcut.iloc[:3] = None
    table = findings_table(audit_robustness(audited, (shortcut, False))).set_index(["metric", "group"])
    effects = {"age", "sex=M" if (audited.frame["sex"] == "F").mean() >= 0.5 else "sex=F"}
    assert effects <= {group for metric, group in table.index if metric == "acquisition_covariate"}
    for metric in METRICS[:3]:
        rows = table.loc[metric]
        assert {"raw/age", "exported/age"} <= set(rows.index)
        assert rows["estimate"].between(0, 1).all()
        assert len([group for group in rows.index if group.startswith("raw/age & ")]) == 3
    value = table.loc[("robustness_value", "raw/age")]
    assert value["ci_low"] <= value["estimate"] <= value["ci_high"]
    assert table.loc[("acquisition_outcome", "diagnosis"), "estimate"] > 0.8
    assert table.loc[("acquisition_outcome", "diagnosis"), "p"] <= 0.01
    excess = table.loc[("acquisition_outcome_excess", "diagnosis")]
    assert excess["ci_low"] > 0.1
    # The diagnosis is nearly the site: no confounder as strong as that leaves an effect to speak of.
    of_diagnosis = [
        row for (metric, group), row in table.iterrows() if metric == "effect_left" and "diagnosis" in group
    ]
    assert {row["status"] for row in of_diagnosis} == {"insufficient"}


def test_an_outcome_that_acquisition_does_not_tell_is_at_its_floor(audited: AuditData) -> None:
    coin = pd.Series(
        np.random.default_rng(5).permutation(np.arange(120) % 2).astype(str), audited.frame.index, name="coin"
    )
    rows = {row.metric: row for row in audit_robustness(audited, (coin, False)) if row.group == "coin"}
    assert rows["acquisition_outcome"].p > 0.05
    assert rows["acquisition_outcome_excess"].ci_low < 0.05


def test_an_outcome_that_is_the_site_cannot_be_told_from_it(audited: AuditData) -> None:
    site = audited.frame["site"].astype(str).rename("place")
    rows = [row for row in audit_robustness(audited, (site, False)) if "place=" in row.group]
    assert {row.status for row in rows} == {"insufficient"}
    assert "wholly" in rows[0].note


def test_few_people_say_nothing(audited: AuditData) -> None:
    few = AuditData(audited.model, audited.dataset.take(np.arange(18)), audited.table.iloc[:18], audited.target)
    found = audit_stress(few, ("mechanisms", "robustness"))
    assert found
    assert {row.status for row in found} == {"insufficient"}


def test_stress_that_cannot_be_asked_is_refused_with_all_reasons() -> None:
    frame = draw_people(60, 2, 0)
    schema, single = CovariateSchema.fit(frame, DECLARED), CovariateSchema.fit(frame, (AGE,))
    check_stress(("mechanisms", "robustness"), schema, ("site",))
    with pytest.raises(MedrepError, match="cues: not known") as refused:
        check_stress(("cues", "mechanisms", "volume"), single, ("age",))
    for part in ("--stress volume", "no batch covariate", "no covariate is kept", "mechanisms, robustness, traversals"):
        assert part in str(refused.value)
    with pytest.raises(MedrepError, match="name fewer in --remove"):
        check_stress(("mechanisms",), CovariateSchema.fit(frame, (AGE, SITE)), ("age", "site"))
