"""``medrep chart``: the table, the pictures and the page, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import medrep as mr
from medrep.cli import main
from medrep.cohort.covariates import POOLED
from medrep.cohort.dataset import Dataset
from medrep.cohort.inputs import ConnectivityInput
from medrep.cohort.kinds.connectivity import ConnectivityKind
from medrep.cohort.kinds.volume import VolumeKind
from medrep.derivatives.charts import POSITIONS, Layout, Placed, previous_visits
from medrep.report.data_store import read_report_data
from medrep.workflows.chart import ChartRequest, _form, chart
from tests.small_runs import Runs
from tests.workflows.conftest import run

COLUMNS = ["feature", "age", "sex", "site", "probability", "value", "ci_low", "ci_high"]
DRAWN = ("region_001", "region_004")
DRAW = ("--draw", ",".join(DRAWN), "--quiet")


@pytest.fixture(scope="module")
def trained(table_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chart") / "trained"
    config = ("--config", "growth_chart.yaml", "--tracking", "none", "--set", "settings.power=none")
    assert run("train", table_cohort, out, *config, "--quiet") == 0
    return out / "model"


@pytest.fixture(scope="module")
def written(table_cohort: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("charts") / "out"
    assert run("chart", table_cohort, out, "--model", trained, *DRAW) == 0
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*(str(argument) for argument in arguments), "--quiet"]) == 1
    return " ".join(capsys.readouterr().err.split())


def table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "centiles.tsv", sep="\t")


def test_a_row_a_feature_place_and_probability(written: Path, trained: Path) -> None:
    found, model = table(written), mr.load(trained).model
    assert found.columns.tolist() == COLUMNS
    assert len(found) == 2 * 2 * POSITIONS * 7
    assert found["feature"].drop_duplicates().tolist() == list(DRAWN)
    assert (found["site"] == POOLED).all()
    assert found["age"].min() == pytest.approx(model.schema["age"].low)
    assert found["age"].max() == pytest.approx(model.schema["age"].high)
    assert (found["ci_low"] < found["value"]).all()
    assert (found["value"] < found["ci_high"]).all()
    wide = found.pivot(index=["feature", "age", "sex"], columns="probability", values="value")
    assert wide.columns.tolist() == [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98]
    assert (np.diff(wide.to_numpy(), axis=1) > 0).all()
    place = found.iloc[7 * POSITIONS + 3]
    told = model.curves(pd.DataFrame([place[["age", "sex", "site"]]]), np.array([place["probability"]]))
    k = model.columns.names.index(DRAWN[0])
    assert place["value"] == pytest.approx(told.value[0, 0, k], rel=1e-8)
    assert place["ci_high"] == pytest.approx(told.high[0, 0, k], rel=1e-8)


def test_files_beside_the_table(written: Path, table_cohort: Path) -> None:
    said = json.loads((written / "centiles.json").read_text())
    assert (said["Along"], said["By"], said["At"], said["Points"]) == ("age", ["sex"], {"site": POOLED}, "moved")
    assert set(COLUMNS) <= set(said)
    assert said["Figures"] == {name: f"{name}.png" for name in DRAWN}
    assert sorted(path.name for path in (written / "figures").iterdir()) == sorted(said["Figures"].values())
    people = pd.read_csv(table_cohort / "participants.tsv", sep="\t")["participant_id"]
    for path in (written / "figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    for name in ("centiles.tsv", "centiles.json"):
        assert people[0] not in (written / name).read_text()
    page = (written / "report.html").read_text()
    assert 'data-kind="chart"' in page
    assert people[0] in page
    before = (written / "report.html").read_bytes()
    assert run("report", written, "--quiet") == 0
    assert (written / "report.html").read_bytes() == before


def test_a_site_of_its_own_and_nobody_shown(written: Path, table_cohort: Path, trained: Path, tmp_path: Path) -> None:
    asked = (
        "--model",
        trained,
        "--set",
        "site=S1",
        "--set",
        "sex=F",
        "--points",
        "none",
        "--centiles",
        "5",
        "50",
        "95",
    )
    assert run("chart", table_cohort, tmp_path / "o", *asked, *DRAW) == 0
    found, pooled = table(tmp_path / "o"), table(written)
    assert (found["site"] == "S1").all()
    assert len(found) == 2 * POSITIONS * 3
    assert found["probability"].unique().tolist() == [0.05, 0.5, 0.95]
    own = found.loc[found["probability"] == 0.5, ["value", "ci_low", "ci_high"]].to_numpy()
    middle = pooled[(pooled["probability"] == 0.5) & (pooled["sex"] == "F")][["value", "ci_low", "ci_high"]].to_numpy()
    assert np.abs(own[:, 0] - middle[:, 0]).min() > 0
    assert (own[:, 2] - own[:, 1]).mean() > (middle[:, 2] - middle[:, 1]).mean(), "one site is known less than all"
    first = pd.read_csv(table_cohort / "participants.tsv", sep="\t")["participant_id"][0]
    assert first not in (tmp_path / "o" / "report.html").read_text()


def test_curves_of_each_site_are_those_that_it_has_alone(table_cohort: Path, trained: Path, tmp_path: Path) -> None:
    asked = ("chart", table_cohort, "--model", trained, "--draw", DRAWN[0], "--quiet")
    assert run(asked[0], asked[1], tmp_path / "all", *asked[2:], "--by", "sex,site") == 0
    assert run(asked[0], asked[1], tmp_path / "one", *asked[2:], "--set", "site=S2") == 0
    found = table(tmp_path / "all")
    assert sorted(found["site"].unique()) == ["S0", "S1", "S2", "S3"]
    own = found[found["site"] == "S2"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, table(tmp_path / "one"), check_exact=False, rtol=1e-8)


def test_people_lie_where_removal_puts_them(table_cohort: Path, trained: Path) -> None:
    model = mr.load(trained).model
    people = mr.read_cohort(table_cohort, mr.load(trained))
    layout = Layout.of(model.schema, "", None, {})
    placed = Placed.of(model, people, layout, transformed=True)
    np.testing.assert_array_equal(placed.values, model.remove(people, {"site": POOLED}))
    at = people.covariates.assign(site=POOLED)
    curves = model.curves(at, np.array([0.1, 0.9])).value
    # z counts what is unknown of the chart, curves do not: both agree but for people on the line.
    assert np.mean((placed.values < curves[0]) == (placed.z < -1.2816)) > 0.98
    assert np.mean((placed.values > curves[1]) == (placed.z > 1.2816)) > 0.98
    measured = Placed.of(model, people, layout, transformed=False)
    np.testing.assert_array_equal(measured.values, people.values)
    np.testing.assert_array_equal(measured.z, placed.z)
    assert np.isnan(placed.expected).all()


def test_the_visit_before_and_what_it_would_be_later(runs: Runs) -> None:
    assert previous_visits(["a", "b", "a", "a"], np.array([3.0, 1.0, 1.0, 2.0])).tolist() == [3, -1, -1, 2]
    saved = mr.load(runs("visits_charts"))
    model, visits = saved.model, mr.read_cohort(runs("visits"), saved)
    placed = Placed.of(model, visits, Layout.of(model.schema, "", None, {}), transformed=True)
    later = placed.before >= 0

    def z_of(dataset: Dataset) -> np.ndarray:
        return model.deviations(dataset).compute(slice(0, model.columns.count))

    assert later.sum() == 2 * 60
    assert np.isfinite(placed.expected[later]).all()
    assert np.isnan(placed.expected[~later]).all()
    row = int(np.flatnonzero(later)[0])
    frame = visits.covariates.iloc[[row]].assign(site=POOLED)
    kept = z_of(model.dataset(placed.expected[[row]], frame))
    own = placed.values[[placed.before[row]]]
    earlier = z_of(model.dataset(own, visits.covariates.iloc[[placed.before[row]]].assign(site=POOLED)))
    np.testing.assert_allclose(kept, earlier, atol=0.1)
    found = read_report_data(runs("visits_chart"), "chart")
    assert found is not None
    assert [len(axis["values"]) for axis in found.content["axes"]] == [3, 181, 2]
    offset, step = found.content["offsets"][1], found.content["steps"][1]
    names = [axis["values"] for axis in found.content["axes"]][:2]
    order = [list(visits.keys).index(key) for key in names[1][1:]]
    k = model.columns.names.index(names[0][1])
    np.testing.assert_allclose(offset + step * found.arrays["values"][1], placed.values[order, k], atol=step)
    np.testing.assert_allclose(found.arrays["z"][1] / 1000, placed.z[order, k], atol=6e-4)
    assert [found.content["people"]["before"][row] >= 0 for row in range(180)] == (placed.before[order] >= 0).tolist()


def test_what_cannot_be_drawn_is_refused_by_name(
    table_cohort: Path, trained: Path, table_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("chart", table_cohort, tmp_path / "o", "--model", trained)
    said = refused(capsys, "chart", table_cohort, tmp_path / "o", "--model", table_model)
    assert "a linear model has no centiles; train with --config growth_chart.yaml" in said
    assert "--centiles 0, 120: give per cent between 0 and 100" in refused(capsys, *asked, "--centiles", "0,50,120")
    assert "--along sex: curves are drawn over age" in refused(capsys, *asked, "--along", "sex")
    assert "--set age: curves are drawn over it" in refused(capsys, *asked, "--set", "age=50")
    assert "--by age: curves are drawn by sex, site" in refused(capsys, *asked, "--by", "age")
    assert "--by sex: curves are drawn by site" in refused(capsys, *asked, "--by", "sex", "--set", "sex=F")
    assert "allowed: S0, S1, S2, S3, pooled" in refused(capsys, *asked, "--set", "site=S9")
    assert "features that the model does not have: volume" in refused(capsys, *asked, "--draw", "volume,region_001")
    saved = mr.load(trained)
    with pytest.raises(mr.MedrepError, match="curves are drawn of the features of a table"):
        chart(table_cohort, tmp_path / "o", replace(saved, input=VolumeKind()))
    assert not (tmp_path / "o").exists()


def test_edges_are_drawn_as_they_are_given(trained: Path) -> None:
    saved = mr.load(trained)

    def released(**section: str) -> np.ndarray:
        kind = ConnectivityKind(ConnectivityInput(**section))
        form, rows = _form(replace(saved, input=kind)), np.array([[0.5, -1.0]])
        return rows if form is None else form.released(rows)

    np.testing.assert_allclose(released(edges="r"), np.tanh([[0.5, -1.0]]))
    np.testing.assert_array_equal(released(edges="z"), [[0.5, -1.0]])
    with pytest.raises(mr.MedrepError, match="charts are not of measure tangent"):
        released(measure="tangent")


def test_nothing_half_written_and_nothing_replaced_unasked(
    table_cohort: Path, trained: Path, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = (written / "centiles.tsv").read_bytes()
    assert run("chart", table_cohort, written, "--model", trained, *DRAW) == 1

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medrep.workflows.chart.write_pictures", interrupted)
    assert run("chart", table_cohort, tmp_path / "o", "--model", trained, *DRAW) == 130
    assert list(tmp_path.iterdir()) == []
    assert run("chart", table_cohort, written, "--model", trained, *DRAW, "--overwrite") == 130
    assert (written / "centiles.tsv").read_bytes() == held


def test_new_sites_and_people_far_out_are_as_in_score(
    table_cohort: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "features.tsv").write_bytes((table_cohort / "features.tsv").read_bytes())
    people = pd.read_csv(table_cohort / "participants.tsv", sep="\t")
    people["site"] = people["site"].replace("S3", "S9")
    people.to_csv(other / "participants.tsv", sep="\t", index=False)
    asked = ("chart", other, tmp_path / "o", "--model", trained, *DRAW)
    assert "--unseen-site adapt" in refused(capsys, *asked)
    assert run(*asked, "--unseen-site", "adapt", "--set", "site=S9") == 0
    assert (table(tmp_path / "o")["site"] == "S9").all()
    assert [one["level"] for one in json.loads((tmp_path / "o" / "centiles.json").read_text())["AdaptedLevels"]] == [
        "S9"
    ]
    women = ("--unseen-site", "adapt", "--reference-people", "sex=F")
    assert run("chart", other, tmp_path / "w", "--model", trained, *DRAW, *women) == 0
    told = json.loads((tmp_path / "w" / "centiles.json").read_text())["AdaptedLevels"]
    assert told[0]["people"] == ((people["site"] == "S9") & (people["sex"] == "F")).sum()
    people.loc[0, "age"] = 120
    people.to_csv(other / "participants.tsv", sep="\t", index=False)
    far = ("chart", other, tmp_path / "far", "--model", trained, *DRAW, "--unseen-site", "adapt")
    assert "age=120" in refused(capsys, *far)
    assert run(*far, "--extrapolate") == 0
    beside = json.loads((tmp_path / "far" / "centiles.json").read_text())["OutsideTraining"]
    assert beside[people["participant_id"][0]]["age"]["Value"] == 120


def test_names_of_features_make_files_of_their_own(table_cohort: Path, trained: Path, tmp_path: Path) -> None:
    saved = mr.load(trained)
    names = ("a/b", "a b", "A_B", *saved.model.columns.names[3:])
    columns = replace(saved.model.columns, names=names)
    model = replace(
        saved.model,
        columns=columns,
        location=replace(saved.model.location, line=replace(saved.model.location.line, columns=columns)),
    )
    cohort = tmp_path / "named"
    cohort.mkdir()
    (cohort / "participants.tsv").write_bytes((table_cohort / "participants.tsv").read_bytes())
    features = pd.read_csv(table_cohort / "features.tsv", sep="\t")
    features.columns = [features.columns[0], *names]
    features.to_csv(cohort / "features.tsv", sep="\t", index=False)
    chart(cohort, tmp_path / "o", replace(saved, model=model), ChartRequest(draw=names[:3]))
    figures = json.loads((tmp_path / "o" / "centiles.json").read_text())["Figures"]
    assert figures == {"a/b": "a_b.png", "a b": "a_b-2.png", "A_B": "A_B-3.png"}
    assert sorted(path.name for path in (tmp_path / "o" / "figures").iterdir()) == sorted(figures.values())
