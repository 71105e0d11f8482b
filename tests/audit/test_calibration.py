"""Calibration of growth charts: groups that are off are found, calibrated ones are left alone, few people say nothing."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from medrep.audit.calibration import METRICS, Calibrated, audit_calibration, calibration_findings
from medrep.audit.data import AuditData
from medrep.audit.finding import findings_table
from medrep.audit.groups import group_participants, parse_by
from medrep.cohort.covariates import CovariateSchema
from medrep.config import SHIPPED
from medrep.models import ChartSettings, GrowthChart
from medrep.tracking.gates import Gates, read_gates
from tests.models.planted import DECLARED, draw_data, draw_people, people_of

COLUMNS, TRAINED = 8, 300
BY = parse_by("sex,age:45,site")
Audited = Callable[..., pd.DataFrame]


def correlated(people: int, seed: int, columns: int = COLUMNS) -> np.ndarray:
    """Standard normal z, correlated over columns."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((people, 1)) + rng.standard_normal((people, columns))) / np.sqrt(2)


def measured(z: np.ndarray, groups: np.ndarray, participants: np.ndarray | None = None) -> pd.DataFrame:
    people = Calibrated(z, np.arange(len(z)) if participants is None else participants)
    groupings = group_participants(pd.DataFrame({"g": groups}), parse_by("g"))
    return findings_table(calibration_findings(people, groupings)).set_index(["metric", "group"])


@pytest.fixture(scope="module")
def three() -> np.ndarray:
    return np.repeat(["A", "B", "C"], [60, 60, 60])


def test_standard_normal_people_are_calibrated(three: np.ndarray) -> None:
    found = measured(correlated(180, 1), three)
    assert set(found.index) == {(metric, group) for metric in METRICS for group in ("everybody", "g=A", "g=B", "g=C")}
    assert (found["q"] > 0.1).all()
    truth = pd.Series({"z_outside": 0.05, "z_mean": 0, "z_log_sd": 0, "pit_distance": 0})
    assert ((found["ci_low"] <= found.index.get_level_values(0).map(truth)) & (found["ci_high"] > 0)).all()


def test_a_group_that_is_shifted_is_found_and_others_are_not(three: np.ndarray) -> None:
    z = correlated(180, 2)
    z[three == "B"] += 0.8
    found = measured(z, three)
    assert found.loc[("z_mean", "g=B"), "estimate"] == pytest.approx(0.8, abs=0.25)
    assert (found.loc[[("z_mean", "g=B"), ("pit_distance", "g=B")], "q"] < 0.01).all()
    assert found.loc[("pit_distance", "g=B"), "ci_low"] > 0
    assert (found.loc[[(metric, group) for metric in METRICS for group in ("g=A", "g=C")], "q"] > 0.05).all()


def test_columns_that_are_off_in_opposite_directions_are_found_by_the_distance(three: np.ndarray) -> None:
    z = correlated(180, 3)
    z[three == "B"] += 0.8 * np.where(np.arange(COLUMNS) % 2, 1, -1)
    found = measured(z, three)
    assert found.loc[("pit_distance", "g=B"), "q"] < 0.01
    assert found.loc[("z_mean", "g=B"), "q"] > 0.05


def test_a_spread_that_is_off_is_told_as_its_logarithm(three: np.ndarray) -> None:
    z = correlated(180, 4)
    z[three == "C"] *= 1.6
    row = measured(z, three).loc[("z_log_sd", "g=C")]
    assert row["ci_low"] < np.log(1.6) < row["ci_high"]
    assert row["q"] < 0.01
    assert measured(z, three).loc[("z_outside", "g=C"), "q"] < 0.05


def test_few_people_say_nothing(three: np.ndarray) -> None:
    few = measured(correlated(180, 5), np.where(np.arange(180) < 12, "few", three))
    rows = few.xs("g=few", level="group")
    assert (rows["status"] == "insufficient").all()
    assert (rows["n"] == 12).all()
    assert rows[["estimate", "p", "q"]].isna().all(axis=None)
    assert (few.drop("g=few", level="group")["status"] == "ok").all()


def test_visits_of_a_person_are_one_person(three: np.ndarray) -> None:
    """Everybody twice is no more evidence than once."""
    once = correlated(180, 6)
    twice = measured(np.repeat(once, 2, axis=0), np.repeat(three, 2), np.repeat(np.arange(180), 2))
    alone = measured(once, three)
    assert (twice["n"] == alone["n"]).all()
    for metric in METRICS:
        np.testing.assert_allclose(twice.loc[metric, "p"], alone.loc[metric, "p"], atol=0.05)


def test_what_few_people_of_training_leave_is_no_fault(three: np.ndarray) -> None:
    """A shift of .3 is much for the 60 audited people, and not for a site that the chart learned from 10."""
    z = correlated(180, 7) + 0.4 * (three == "B")[:, None]
    groupings = group_participants(pd.DataFrame({"g": three}), parse_by("g"))

    def p(people: int) -> float:
        levels = (pd.Series(np.where(three == "B", people, 200.0), index=three),)
        known = Calibrated(z, np.arange(180), 400 + people, levels)
        rows = {(row.metric, row.group): row.p for row in calibration_findings(known, groupings)}
        return rows["z_mean", "g=B"]

    assert p(10) > 0.1 > 0.02 > p(5000)


@pytest.fixture(scope="module")
def audited() -> Audited:
    """A chart of 300 people, and audits of 240 others of the same population, some of them moved by .8 sd or renamed."""
    frame = draw_people(540, 3, 1)
    data, train = draw_data(frame, COLUMNS, 1), np.arange(540) < TRAINED
    schema = CovariateSchema.fit(frame[train], DECLARED)
    chart = GrowthChart.fit(people_of(data[train], schema.transfer(frame[train]), schema), ChartSettings(power="none"))[
        0
    ]

    def run(shifted: str = "", placed: str = "", spread: float = 1.0, people: int = 240) -> pd.DataFrame:
        where, moved, model = frame[~train].iloc[:people].copy(), data[~train][:people].copy(), chart
        moved += (spread - 1) * (moved - chart.location.means(chart.schema.transfer(where))(slice(0, COLUMNS)))
        if shifted:
            moved[where["site"] == shifted] += 0.8 * chart.location.line.sd
        if placed:
            where["site"] = where["site"].replace("S2", placed)
            new = (where["site"] == placed).to_numpy()
            adapting = people_of(moved[new], chart.schema.transfer(where[new], unseen="adapt"), chart.schema)
            model = chart.adapt([adapting])[0]
        dataset = people_of(moved, model.schema.transfer(where), model.schema)
        material = AuditData(model, dataset, where, {"site": "S0"}, TRAINED)
        return findings_table(audit_calibration(material, BY)).set_index(["metric", "group"])

    return run


def test_a_chart_is_audited_by_group_and_by_age_and_sex(audited: Audited) -> None:
    found = audited()
    groups = found.loc["z_mean"].index
    assert {"everybody", "sex=F", "age<45", "site=S1", "sex=M & age>=45"} <= set(groups)
    assert not found.index.duplicated().any()
    assert (found["q"].dropna() > 0.05).all()


def test_a_site_that_changed_since_training_is_found(audited: Audited) -> None:
    found = audited(shifted="S1")
    assert (found.loc[[("z_mean", "site=S1"), ("pit_distance", "site=S1")], "q"] < 0.01).all()
    assert (found.loc[[("z_mean", "site=S0"), ("z_mean", "site=S2")], "q"] > 0.05).all()


def test_people_who_placed_their_own_site_are_no_evidence(audited: Audited) -> None:
    found = audited(placed="new")
    assert set(found.xs("site=new", level="group")["status"]) == {"insufficient"}
    assert found.loc[("z_mean", "everybody"), "n"] == 160
    assert "placed" in found.loc[("z_mean", "site=new"), "note"]


def verdict(found: pd.DataFrame) -> str:
    """What gates.yaml makes of calibration alone."""
    every = read_gates(SHIPPED / "gates.yaml").gates
    return Gates(tuple(gate for gate in every if gate.metric in METRICS), "").judge(found.reset_index()).verdict


def test_gates_pass_a_chart_that_is_right_and_refuse_one_that_is_not(audited: Audited) -> None:
    assert verdict(audited()) == "passed"
    assert verdict(audited(shifted="S1")) == "refused"
    assert verdict(audited(spread=2.0)) == "refused"


def test_gates_find_too_few_people_too_little_evidence(audited: Audited) -> None:
    assert verdict(audited(people=44)) == "insufficient"


def test_gates_refuse_a_chart_of_skewed_columns_without_a_shape() -> None:
    rng, frame = np.random.default_rng(0), draw_people(1200, 3, 1)
    data, train = rng.exponential(1.0, (1200, COLUMNS)), np.arange(1200) < 700
    schema = CovariateSchema.fit(frame[train], DECLARED)
    settings = ChartSettings(power="none", shape="gaussian", components=0)
    chart = GrowthChart.fit(people_of(data[train], schema.transfer(frame[train]), schema), settings)[0]
    people = people_of(data[~train], schema.transfer(frame[~train]), schema)
    found = audit_calibration(AuditData(chart, people, frame[~train], {"site": "S0"}, 700), BY)
    assert verdict(findings_table(found)) == "refused"


def test_of_many_columns_some_are_drawn_and_those_of_shared_values_are_left_out() -> None:
    frame = draw_people(120, 2, 3)
    data = draw_data(frame, 270, 3)
    data[:50, :2] = 0.0
    schema = CovariateSchema.fit(frame, DECLARED)
    people = people_of(data, schema.transfer(frame), schema)
    chart = GrowthChart.fit(people, ChartSettings(power="none", spline_degrees=1, scale_degrees=1))[0]
    found = audit_calibration(AuditData(chart, people, frame, {"site": "S0"}), parse_by("sex"))
    assert {row.group for row in found} == {"everybody", "sex=F", "sex=M"}
    for row in found:
        assert "256 of 268 columns drawn; 2 columns with shared values left out" in row.note
        assert "people of training are not known" in row.note


def test_missing_values_are_left_out_and_columns_of_few_people_too(three: np.ndarray) -> None:
    z = correlated(180, 8)
    z[np.random.default_rng(0).uniform(size=z.shape) < 0.2] = np.nan
    z[:-10, 0] = np.nan
    found = measured(z, three)
    assert (found["status"] == "ok").all()
    assert found[["estimate", "ci_low", "ci_high", "p"]].notna().all(axis=None)
    z[three == "A"] = np.nan
    assert (measured(z, three).xs("g=A", level="group")["status"] == "insufficient").all()
