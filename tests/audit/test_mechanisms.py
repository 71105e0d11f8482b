"""Mechanisms that differ between sites: found where planted, silent where effects add up, people turn as one."""

import numpy as np
import pandas as pd
import pytest

from medrep.audit.data import AuditData
from medrep.audit.finding import findings_table
from medrep.audit.mechanisms import (
    Products,
    audit_mechanisms,
    mechanism_findings,
    mechanism_test,
    products_of,
    slope_spread,
)
from medrep.cohort.covariates import CovariateSchema
from tests.models.planted import DECLARED, draw_data, draw_people, fit, people_of

N, COLUMNS, SITES = 240, 8, 4


def drawn(seed: int, slope: float = 0.0, where: slice = slice(0, 1)) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Covariates with age confounded with site, columns with a bent age effect, and age in deviations."""
    rng = np.random.default_rng(seed)
    site = np.arange(N) % SITES
    age = rng.normal(size=N) + 0.5 * site
    age = (age - age.mean()) / age.std()
    frame = pd.DataFrame(
        {"age": 50 + 10 * age, "sex": np.take(["F", "M"], rng.integers(2, size=N)), "site": [f"S{k}" for k in site]}
    )
    data = rng.normal(size=(N, COLUMNS)) * np.take([0.5, 1.0, 1.0, 2.0], site)[:, None]
    data += age[:, None] + 0.7 * age[:, None] ** 2 + rng.normal(size=(SITES, COLUMNS))[site]
    data[:, where] += slope * (np.where(site % 2, 1, -1) * age)[:, None]
    return frame, data, age


def asked_of(frame: pd.DataFrame, participants: np.ndarray | None = None, effect: str = "age") -> Products:
    who = np.arange(len(frame)).astype(str) if participants is None else participants
    return products_of(frame, CovariateSchema.fit(frame, DECLARED), "site", effect, who)


def test_a_planted_mechanism_is_found_in_its_column_with_its_size() -> None:
    frame, data, _ = drawn(0, 0.8)
    asked = asked_of(frame)
    tested = mechanism_test(data, asked, 0)
    assert tested.p_any <= 0.01
    assert tested.p_largest <= 0.01
    assert np.flatnonzero(tested.q <= 0.05).tolist() == [0]
    size, low, high = slope_spread(data[:, 0], asked)
    deviation = np.sqrt(np.mean(np.array([0.5, 1.0, 1.0, 2.0]) ** 2))
    assert low < 0.8 / deviation < high
    assert low < size < high


def test_effects_that_add_up_are_silent_where_sites_spread_unlike_and_age_is_confounded() -> None:
    p_any, p = [], []
    for seed in range(40):
        frame, data, _ = drawn(100 + seed)
        asked = asked_of(frame)
        tested = mechanism_test(data, asked, seed, 199)
        p_any.append(tested.p_any)
        p += list(tested.p)
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(np.array(p_any) <= 0.05) <= 0.15


def test_what_the_reduced_model_tells_changes_nothing() -> None:
    """Any effect of site, sex and bent age may be added: the test does not see it."""
    frame, data, _ = drawn(1)
    asked = asked_of(frame)
    moved = data + 5 * asked.base @ np.random.default_rng(0).normal(size=(asked.base.shape[1], COLUMNS))
    one, other = mechanism_test(data, asked, 0, 99), mechanism_test(moved, asked, 0, 99)
    np.testing.assert_allclose(one.statistics, other.statistics, rtol=1e-6)
    np.testing.assert_allclose(one.p, other.p, atol=0.02)
    assert slope_spread(moved[:, 0], asked)[0] == pytest.approx(slope_spread(data[:, 0], asked)[0], abs=1e-6)


def test_units_of_columns_do_not_matter() -> None:
    frame, data, _ = drawn(2, 0.5)
    asked = asked_of(frame)
    one, other = mechanism_test(data, asked, 0, 99), mechanism_test(3 - 1000 * data, asked, 0, 99)
    np.testing.assert_allclose(one.statistics, other.statistics, rtol=1e-6)
    assert slope_spread(data[:, 0], asked) == pytest.approx(slope_spread(-1000 * data[:, 0], asked), rel=1e-6)


def test_everybody_twice_is_no_more_evidence_than_once() -> None:
    frame, data, _ = drawn(3, 0.3, slice(0, 3))
    once = mechanism_test(data, asked_of(frame), 0)
    who = np.tile(np.arange(N).astype(str), 2)
    again = asked_of(pd.concat([frame, frame], ignore_index=True), who)
    twice = mechanism_test(np.concatenate([data, data]), again, 0)
    assert again.people == N
    np.testing.assert_allclose(twice.statistics, once.statistics, rtol=0.1)
    np.testing.assert_allclose(twice.p, once.p, atol=0.06)


def test_a_difference_between_sexes_of_its_own_at_each_site_is_found() -> None:
    frame, data, _ = drawn(4)
    data[:, 2] += 2.0 * ((frame["sex"] == "M") & frame["site"].isin(["S0", "S2"])).to_numpy()
    found = mechanism_test(data, asked_of(frame, effect="sex"), 0)
    assert np.flatnonzero(found.q <= 0.05).tolist() == [2]


def test_too_few_people_say_nothing() -> None:
    frame, _, _ = drawn(5)
    assert "10 people" in asked_of(frame[:32].copy()).too_few
    alone = frame.assign(site=np.where(np.arange(N) < 4, "S1", "S0"))
    assert "fewer than two levels of site" in asked_of(alone).too_few
    assert asked_of(frame[:60].copy()).too_few == ""


def test_findings_name_the_columns_and_correct_for_them() -> None:
    frame, data, _ = drawn(6, 1.0, slice(1, 3))
    labels = [f"thickness_{k}" for k in range(COLUMNS + 1)]
    whole = np.concatenate([np.full((N, 1), 7.0), data], axis=1)
    found = findings_table(mechanism_findings("raw/site x age", whole, asked_of(frame), labels, 0))
    first, columns = found.iloc[0], found.iloc[1:]
    assert first["metric"] == "mechanism_columns"
    assert first["estimate"] == pytest.approx(2 / COLUMNS)
    assert first["p"] <= 0.01
    assert set(columns["group"]) == {"raw/site x age & thickness_2", "raw/site x age & thickness_3"}
    assert (columns["ci_low"] > 0).all()
    same = mechanism_findings("raw/site x age", np.full((N, 2), 1.0), asked_of(frame), labels, 0)
    assert [row.status for row in same] == ["insufficient"]


def test_removal_of_location_and_scale_leaves_a_mechanism_in_the_export() -> None:
    frame = draw_people(300, 3, 0)
    data = draw_data(frame, 6, 0)
    age = (frame["age"].to_numpy(float) - 50) / 17
    data[:, 0] += 2.0 * np.where(frame["site"] == frame["site"].iloc[0], age, -age) * data[:, 0].std() / 2
    half = np.arange(300) < 150
    model = fit(frame[half], data[half])
    people = people_of(data[~half], model.schema.transfer(frame[~half]), model.schema)
    found = audit_mechanisms(AuditData(model, people, frame[~half], {"site": str(frame["site"].iloc[0])}))
    table = findings_table(found).set_index(["metric", "group"])
    assert {group for metric, group in table.index if metric == "mechanism_columns"} == {
        f"{name}/site x {effect}" for name in ("raw", "exported") for effect in ("age", "sex")
    }
    for name in ("raw", "exported"):
        assert table.loc[("mechanism_columns", f"{name}/site x age"), "p"] <= 0.01
        own = [group for metric, group in table.index if metric == "mechanism_slope" and group.startswith(f"{name}/")]
        assert len([group for group in own if "x age" in group]) >= 1
