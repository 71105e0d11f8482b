"""Change within people: kept by a proper removal, missed after another; a switch of scanners shows until it is removed."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.audit.finding import Finding
from medrep.audit.means import Sampling
from medrep.audit.visits import Visits
from medrep.audit.within_person import Switch, audit_within_people, switch_size
from medrep.cohort.covariates import POOLED
from medrep.cohort.dataset import Dataset
from medrep.models import LinearModel, LinearSettings
from tests.models.linear.test_visits import Planted

QUICK = Sampling(0, 10, 200)
Rows = dict[tuple[str, str], Finding]


def audited(raw: np.ndarray, exported: np.ndarray, dataset: Dataset, sampling: Sampling = QUICK) -> Rows:
    found = audit_within_people({"raw": raw, "exported": exported}, dataset, ("site",), sampling)
    return {(one.metric, one.group): one for one in found}


def within_switch(noise: np.ndarray, dataset: Dataset, sampling: Sampling) -> Finding:
    visits = Visits.of(dataset)
    assert visits is not None
    return switch_size(
        Finding("within_switch", "raw/site", 0), Switch.of(visits.centred(noise), visits, "site"), sampling
    )


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted(2, people=160, spread=0.1)


@pytest.fixture(scope="module")
def unseen(planted: Planted) -> tuple[Dataset, np.ndarray]:
    """Return people whom the model never saw, and what it makes of them."""
    dataset = planted.dataset()
    first = planted.frame["who"].to_numpy() < "p080"
    model, _ = LinearModel.fit(dataset.take(first), LinearSettings(components=0))
    others = dataset.take(~first)
    return others, model.remove(others, {"site": POOLED})


def test_the_linear_model_keeps_change_and_takes_the_switch(unseen: tuple[Dataset, np.ndarray]) -> None:
    dataset, exported = unseen
    found = audited(dataset.values, exported, dataset)
    for metric in ("change_correlation", "change_slope"):
        one = found[metric, "exported"]
        assert one.estimate == pytest.approx(1, abs=0.1)
        assert one.ci_low <= one.estimate <= one.ci_high
    raw, after = found["within_switch", "raw/site"], found["within_switch", "exported/site"]
    assert raw.estimate > 0.8
    assert raw.p < 0.01
    assert raw.ci_low > 0.5
    assert after.estimate < 0.5 * raw.estimate
    assert found["within_switch_auc", "raw/site"].ci_low > 0.6
    assert found["within_switch_auc", "exported/site"].estimate < found["within_switch_auc", "raw/site"].estimate


@pytest.mark.parametrize("left", [0.0, 0.5, 1.0, 1.5])
def test_what_is_left_of_change_is_its_slope(planted: Planted, left: float) -> None:
    """Each visit moved towards the person's mean: all the way it is the mean itself."""
    dataset = planted.dataset()
    mean = pd.DataFrame(dataset.values).groupby(planted.frame["who"].to_numpy()).transform("mean").to_numpy()
    found = audited(dataset.values, mean + left * (dataset.values - mean), dataset)
    assert found["change_slope", "exported"].estimate == pytest.approx(left)
    assert found["change_correlation", "exported"].estimate == pytest.approx(float(left > 0))
    gone = found["within_switch", "exported/site"]
    assert gone.status == ("insufficient" if left == 0 else "ok")
    if left:
        assert gone.estimate == pytest.approx(found["within_switch", "raw/site"].estimate)


@given(st.integers(0, 1000))
@settings(max_examples=3, deadline=None)
def test_shifts_of_batches_cost_nothing(planted: Planted, seed: int) -> None:
    dataset = planted.dataset()
    site = planted.frame["site"].str[1:].astype(int).to_numpy()
    shift = np.random.default_rng(seed).normal(0, 3, (4, dataset.values.shape[1]))
    found = audited(dataset.values, dataset.values + shift[site], dataset)
    assert found["change_slope", "exported"].estimate == pytest.approx(1)
    assert found["change_correlation", "exported"].estimate == pytest.approx(1)


def test_a_change_that_everybody_loses_is_seen(planted: Planted) -> None:
    frame, dataset = planted.frame, planted.dataset()
    age = frame["age"].to_numpy()
    away = (age - frame.groupby("who")["age"].transform("mean").to_numpy())[:, None]
    raw = dataset.values + 3 * away
    found = audited(raw, raw - 3 * away, dataset)
    assert found["change_slope", "exported"].ci_high < 0.5


def test_of_the_size_of_a_switch_its_estimate_is_right() -> None:
    """Every site away from the last by one within-person deviation and more, in columns without anything else."""
    planted = Planted(5, people=120, spread=0.0, slope=0.0)
    dataset = planted.dataset()
    apart, frame = 1.5, planted.frame
    noise = planted.noise + apart * frame["site"].isin(["S1", "S3"]).to_numpy()[:, None]
    found = audited(noise, planted.noise, dataset)
    # People go from S0 to S1, S1 to S2 and so on: all of these differ by as much.
    one = found["within_switch", "raw/site"]
    assert one.ci_low < apart < one.ci_high
    assert found["within_switch", "exported/site"].ci_low < 0.3


@pytest.mark.parametrize("far", [10.0, 30.0, 100.0])
def test_who_is_far_out_within_hardly_makes_the_unit(far: float) -> None:
    """Of 120 people one at one site is far out: squares would make differences smaller by a tenth of how far."""
    planted = Planted(5, people=120, spread=0.0, slope=0.0)
    dataset = planted.dataset()
    frame = planted.frame
    sites, counts = frame.groupby("who")["site"].nunique(), frame.groupby("who").size()
    stays = frame["who"].to_numpy() == sites.index[(sites == 1) & (counts == counts.max())][0]
    values = planted.noise + 1.5 * frame["site"].isin(["S1", "S3"]).to_numpy()[:, None]
    before = within_switch(values, dataset, QUICK)
    values[stays] = values[stays].mean(axis=0) + far * (values[stays] - values[stays].mean(axis=0))
    after = within_switch(values, dataset, QUICK)
    assert after.estimate > before.estimate / (1 + far / 40)
    assert after.ci_low < after.estimate < after.ci_high


@given(st.integers(0, 1000))
@settings(max_examples=3, deadline=None)
def test_units_of_columns_do_not_count(planted: Planted, seed: int) -> None:
    dataset = planted.dataset()
    units = np.exp(np.random.default_rng(seed).normal(0, 3, dataset.values.shape[1]))
    one, other = (within_switch(values, dataset, QUICK) for values in (dataset.values, dataset.values * units))
    for end in ("estimate", "ci_low", "ci_high", "p"):
        assert getattr(one, end) == pytest.approx(getattr(other, end), rel=1e-6)


def test_rows_in_another_order_say_the_same(planted: Planted) -> None:
    dataset = planted.dataset()
    exported = dataset.values * 0.9
    visit = np.argsort(planted.frame.groupby("who").cumcount().to_numpy(), kind="stable")
    one, other = (
        audited(dataset.values, exported, dataset),
        audited(dataset.values[visit], exported[visit], dataset.take(visit)),
    )
    assert one.keys() == other.keys()
    for key, found in one.items():
        assert found.estimate == pytest.approx(other[key].estimate)
        assert found.p == pytest.approx(other[key].p, nan_ok=True)


def test_cross_sections_are_not_asked() -> None:
    planted = Planted(1, people=30, visits=(1, 1))
    assert audited(planted.values, planted.values, planted.dataset()) == {}


def test_few_people_are_insufficient(planted: Planted) -> None:
    rows = np.flatnonzero(planted.frame["who"].to_numpy() < "p010")
    dataset = planted.dataset().take(rows)
    found = audited(dataset.values, dataset.values, dataset, Sampling(0, 20, 100))
    assert {one.status for one in found.values()} == {"insufficient"}
    assert "20 are needed" in found["change_slope", "exported"].note
    assert "participants changed site" in found["within_switch", "raw/site"].note


def test_a_switch_that_is_time_cannot_be_told() -> None:
    planted = Planted(6, people=40, visits=(2, 2))
    planted.frame["site"] = [f"S{visit}" for visit in planted.frame.groupby("who").cumcount()]
    planted.frame["age"] = 40.0 + 2 * planted.frame.groupby("who").cumcount()
    found = audited(planted.values, planted.values, planted.dataset())
    assert found["within_switch", "raw/site"].status == "insufficient"
    assert "site changes as age does" in found["within_switch", "raw/site"].note
    # With age kept and the switch removed, what change people have of their own is still compared.
    assert found["change_slope", "exported"].status == "ok"


def test_travelling_people_who_do_not_age_are_asked_of_the_switch_alone() -> None:
    planted = Planted(8, people=30, visits=(3, 3), slope=0.0)
    planted.frame["age"] = planted.frame.groupby("who")["age"].transform("first")
    planted.frame["site"] = [f"S{visit}" for visit in planted.frame.groupby("who").cumcount()]
    planted.values = planted.noise + 2 * planted.frame["site"].eq("S2").to_numpy()[:, None]
    found = audited(planted.values, planted.noise, planted.dataset())
    assert found["change_slope", "exported"].note.startswith("change over the order of visits")
    assert "held fixed" not in found["within_switch", "raw/site"].note
    # Two of three pairs of sites are two deviations apart.
    one = found["within_switch", "raw/site"]
    assert one.ci_low < np.sqrt(2 / 3) * 2 < one.ci_high
    assert found["within_switch", "exported/site"].ci_low < 0.3


def test_of_pure_noise_the_test_is_seldom_significant() -> None:
    """A dozen cohorts; many seeds are in benchmarks/within_people.py."""
    small = []
    for seed in range(12):
        planted = Planted(100 + seed, people=40, columns=6)
        found = within_switch(planted.noise, planted.dataset(), Sampling(seed, 10, 20))
        small.append(found.p <= 0.05)
    assert sum(small) <= 3
