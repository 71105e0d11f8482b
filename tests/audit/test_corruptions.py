"""Corruptions: strength nothing changes nothing, more is worse, and a gate sees what is strong and not what is not."""

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from medrep.audit.corruptions import (
    METRICS,
    NOTHING,
    READ,
    STRENGTHS,
    audit_corruptions,
    corrupted,
    corrupted_rows,
)
from medrep.audit.data import AuditData
from medrep.audit.finding import findings_table
from medrep.audit.stress import check_stress
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns, Grid, Mask
from medrep.errors import MedrepError
from medrep.models import LinearModel, LinearSettings
from medrep.models.chart.model import GrowthChart
from medrep.models.chart.settings import ChartSettings
from tests.models.planted import DECLARED, draw_people

SHAPE = (12, 14, 10)
GRID = Grid(SHAPE, (2.0, 2.0, 2.0))


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=SHAPE), 1.0)
    return (10 + 3 * smooth / smooth.std() + 0.3 * rng.normal(size=SHAPE)).astype(np.float32)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_nothing_changes_nothing_and_more_is_farther(kind: str, volume: np.ndarray) -> None:
    assert corrupted(volume, kind, NOTHING[kind], 3) is volume
    apart = [float(np.abs(corrupted(volume, kind, strength, 3) - volume).mean()) for strength in STRENGTHS[kind]]
    assert apart[0] > 0
    assert (np.diff(apart) > 0).all()
    one, again = (corrupted(volume, kind, STRENGTHS[kind][1], seed) for seed in (3, 3))
    np.testing.assert_array_equal(one, again)
    assert one.dtype == np.float32
    assert one.shape == SHAPE


def test_a_head_that_stays_where_the_middle_of_k_space_is_keeps_its_mean(volume: np.ndarray) -> None:
    moved = corrupted(volume, "motion", 2.0, 1)
    assert moved.mean() == pytest.approx(volume.mean(), rel=1e-5)


def test_gamma_keeps_the_ends_and_blur_the_mean(volume: np.ndarray) -> None:
    bent = corrupted(volume, "gamma", 2.0, 0)
    assert bent.min() == pytest.approx(volume.min(), abs=1e-4)
    assert bent.max() == pytest.approx(volume.max(), abs=1e-4)
    flat = np.full(SHAPE, 4, np.float32)
    np.testing.assert_allclose(corrupted(flat, "resolution", 2.0, 0), 4, atol=1e-5)
    assert corrupted(volume, "blur", 1.0, 0)[4:-4, 4:-4, 3:-3].std() < volume[4:-4, 4:-4, 3:-3].std()


def test_masked_columns_and_missing_cells_keep_their_places(volume: np.ndarray) -> None:
    columns = Columns.of_grid(GRID, Mask.of(volume > 8, 0.0))
    rows = columns.inside(volume)[None].repeat(2, axis=0)
    rows[1, 5] = np.nan
    found = corrupted_rows(rows, columns, "noise", 0.1, 0)
    assert np.isnan(found[1, 5])
    assert np.isfinite(found[0]).all()
    assert found.shape == rows.shape
    np.testing.assert_array_equal(corrupted_rows(rows, columns, "noise", 0.0, 0), rows)


@pytest.fixture(scope="module")
def audited() -> AuditData:
    frame = draw_people(200, 2, 0)
    rng = np.random.default_rng(1)
    noise = gaussian_filter(rng.normal(size=(200, *SHAPE)), (0, 0.7, 0.7, 0.7)).reshape(200, -1)
    data = 10 + noise / noise.std()
    data[:, :400] += 0.6 * ((frame["age"] - frame["age"].mean()) / frame["age"].std()).to_numpy()[:, None]
    half = np.arange(200) < 80
    schema = CovariateSchema.fit(frame[half], DECLARED)
    columns = Columns.of_grid(GRID)
    data = data.astype(np.float32)
    model, _ = LinearModel.fit(
        Dataset(data[half], schema.transfer(frame[half]), schema, columns), LinearSettings(components=4)
    )
    own = frame[~half]
    people = Dataset(data[~half], schema.transfer(own), schema, columns)
    return AuditData(model, people, own, {"site": str(own["site"].iloc[0])})


def test_scores_grow_with_strength_and_a_gate_sees_it(audited: AuditData, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"blur": (0.5, 2.0), "noise": (0.02, 0.2)}
    monkeypatch.setattr("medrep.audit.corruptions.STRENGTHS", few)
    rng = np.random.default_rng(0)
    coin = pd.Series(rng.choice(["ill", "well"], len(audited.frame)), audited.frame.index, name="diagnosis")
    table = findings_table(audit_corruptions(audited, (coin, False))).set_index(["metric", "group"])
    for metric in METRICS[:3]:
        clean = table.loc[(metric, "clean")]
        assert clean[["estimate", "ci_low", "ci_high"]].tolist() == [0, 0, 0]
    assert table.loc[(METRICS[0], "noise/0.2"), "ci_low"] > max(0, table.loc[(METRICS[0], "noise/0.02"), "estimate"])
    moved = [table.loc[(METRICS[2], kind), "estimate"] for kind in ("noise/0.02", "noise/0.2")]
    assert 0 < moved[0] < moved[1]
    assert table.loc[(METRICS[3], "clean"), "estimate"] < 0.3
    for kind in ("blur/2", "noise/0.2"):
        assert table.loc[(METRICS[3], kind), "ci_low"] > 0.8
    groups = {f"noise/0.2 & exported/{name}" for name in ("age", "sex", "site", "diagnosis")}
    assert groups <= {group for metric, group in table.index if metric == READ[1]}
    age = table.loc[(READ[0], "clean & exported/age")]
    assert age["ci_low"] > 0.3
    assert table.loc[(READ[1], "clean & exported/age"), "estimate"] == 0
    assert table.loc[(READ[1], "clean & latents/age"), "n"] == 60
    assert table.loc[(READ[2], "clean & exported/age"), "estimate"] == pytest.approx(0, abs=1e-12)


def test_a_growth_chart_says_how_many_more_are_unusual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medrep.audit.corruptions.STRENGTHS", {"noise": (0.01, 0.1)})
    frame, columns = draw_people(140, 2, 0), Columns.of_grid(Grid((5, 5, 4), (2.0, 2.0, 2.0)))
    data = (10 + np.random.default_rng(1).normal(size=(140, 100))).astype(np.float32)
    half = np.arange(140) < 90
    schema = CovariateSchema.fit(frame[half], DECLARED)
    taught = Dataset(data[half], schema.transfer(frame[half]), schema, columns)
    chart = GrowthChart.fit(taught, ChartSettings(power="none", components=0))[0]
    own = frame[~half]
    people = Dataset(data[~half], schema.transfer(own), schema, columns)
    table = findings_table(audit_corruptions(AuditData(chart, people, own, {"site": str(own["site"].iloc[0])})))
    shares = table[table["metric"] == "corruption_outside"].set_index("group")
    assert shares.loc["clean", "estimate"] == 0
    assert shares.loc["noise/0.1", "ci_low"] > max(0.02, shares.loc["noise/0.01", "estimate"])


def test_few_people_say_nothing(audited: AuditData) -> None:
    few = AuditData(audited.model, audited.dataset.take(np.arange(30)), audited.table.iloc[:30], audited.target)
    found = audit_corruptions(few)
    assert {row.status for row in found} == {"insufficient"}


def test_tables_have_no_scans_to_corrupt() -> None:
    schema = CovariateSchema.fit(draw_people(60, 2, 0), DECLARED)
    check_stress(("corruptions",), schema, ("site",), scans=True)
    with pytest.raises(MedrepError, match="needs scans to corrupt"):
        check_stress(("corruptions",), schema, ("site",))
