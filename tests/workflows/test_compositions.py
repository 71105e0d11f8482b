"""Parts of a whole from a table to a cleaned one: sums, signs, zeros, and that nobody without need is changed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medrep.cli import main
from medrep.estimators import Chart, CovariateRemover
from medrep.models.saved import SavedModel

PARTS = ["gm", "wm", "csf"]
PEOPLE = 60
TISSUE = "input.compositions={tissue: [gm, wm, csf]}"
MODELS = {
    "linear.yaml": [],
    "growth_chart.yaml": [],
    "vae_features.yaml": ["settings.training.epochs=2", "settings.strength=1"],
}


def run(*arguments: object) -> int:
    return main([str(one) for one in arguments])


def people() -> pd.DataFrame:
    """Fractions that sites multiply, one of which one person lacks; thickness beside them."""
    rng = np.random.default_rng(3)
    site, age = np.arange(PEOPLE) % 3, rng.uniform(20, 80, PEOPLE).round(1)
    logs = np.array([0.4, 0.2, -0.5]) + rng.normal(size=(PEOPLE, 3)) * 0.1 + np.outer(age - 50, [-0.004, 0.0, 0.008])
    parts = np.exp(logs + rng.normal(size=(3, 3))[site])
    parts[4, 2] = 0
    table = pd.DataFrame(parts / parts.sum(axis=1, keepdims=True), columns=PARTS)
    table.insert(0, "participant_id", [f"sub-{k:02d}" for k in range(PEOPLE)])
    sites, sex = np.array(["A", "B", "C"])[site], np.array(["F", "M"])[np.arange(PEOPLE) // 3 % 2]
    return table.assign(thickness=rng.normal(2.5, 0.1, PEOPLE) + 0.1 * site, age=age, sex=sex, site=sites)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fractions") / "people.csv"
    people().to_csv(path, index=False)
    return path


@pytest.fixture(scope="module", params=MODELS)
def trained(request: pytest.FixtureRequest, table: Path) -> Path:
    out = table.parent / request.param.removesuffix(".yaml")
    changes = [f"--set={one}" for one in (TISSUE, *MODELS[request.param])]
    assert run("train", table, out, "--config", request.param, *changes, "--tracking", "none", "--quiet") == 0
    return out / "model"


def written(path: Path) -> pd.DataFrame:
    """Return a table with each number as it stands there, to the last digit."""
    table = pd.read_csv(path, dtype=str, sep="\t" if path.suffix == ".tsv" else ",")
    return table.assign(**{name: table[name].map(float) for name in [*PARTS, "thickness"]})


def test_what_is_written_are_parts_of_the_same_whole(trained: Path, table: Path, tmp_path: Path) -> None:
    before = written(table)
    assert run("export", table, tmp_path / "o", "--model", trained, "--remove", "site", "--quiet") == 0
    after = written(tmp_path / "o/tables/people.csv")
    assert list(after) == list(before)
    np.testing.assert_allclose(after[PARTS].sum(axis=1), before[PARTS].sum(axis=1), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(after[PARTS].to_numpy() == 0, before[PARTS].to_numpy() == 0)
    assert (after[PARTS].to_numpy() >= 0).all()
    logs = np.log(after[PARTS].drop(4))
    apart = (logs.sub(logs.mean(axis=1), axis=0)).groupby(after["site"]).mean().std().max()
    assert apart < 0.2  # sites were about 1 apart
    tidy = written(tmp_path / "o/features.tsv")
    np.testing.assert_array_equal(tidy[PARTS], after[PARTS])


def test_nobody_at_the_value_that_is_set_is_changed(trained: Path, table: Path, tmp_path: Path) -> None:
    before = written(table)
    assert run("counterfactual", table, tmp_path / "o", "--model", trained, "--set", "sex=F", "--quiet") == 0
    after = written(tmp_path / "o/tables/people.csv")
    there = (before["sex"] == "F").to_numpy()
    np.testing.assert_array_equal(after[PARTS][there], before[PARTS][there])
    assert (after[PARTS][~there].to_numpy() != before[PARTS][~there].to_numpy()).any()


def test_the_model_knows_what_it_needs(trained: Path, table: Path) -> None:
    section = SavedModel.load(trained).input.section
    assert section.compositions == {"tissue": ("gm", "wm", "csf")}
    assert section.composition_sums == {"tissue": 1.0}
    csf = written(table)["csf"]
    assert section.composition_limits["csf"] == pytest.approx(0.65 * csf[csf > 0].min())


def test_people_are_scored_and_charts_drawn(trained: Path, table: Path, tmp_path: Path) -> None:
    assert run("score", table, tmp_path / "s", "--model", trained, "--quiet") == 0
    if "growth_chart" in str(trained):
        assert list(pd.read_csv(tmp_path / "s/deviations.tsv", sep="\t"))[-4:] == [*PARTS, "thickness"]
        assert run("chart", table, tmp_path / "c", "--model", trained, "--draw", "gm", "--quiet") == 0
        values = pd.read_csv(tmp_path / "c/centiles.tsv", sep="\t").filter(regex="^(value|ci_low|ci_high)$")
        assert ((values > 0) & (values < 1)).to_numpy().all()


def test_estimators_do_the_same(tmp_path: Path) -> None:
    own = people()
    X, covariates = own[[*PARTS, "thickness"]], own[["age", "sex", "site"]]
    said = {"age": "continuous", "sex": "categorical", "site": "batch"}
    remover = CovariateRemover("site", covariates=said, compositions={"tissue": PARTS}).set_output(transform="pandas")
    found = remover.fit_transform(X, covariates=covariates)
    np.testing.assert_allclose(found[PARTS].sum(axis=1), X[PARTS].sum(axis=1), rtol=1e-12)
    assert (found[PARTS].to_numpy() == 0).sum() == 1
    same = remover.counterfactual(X, covariates, sex="F")[(own["sex"] == "F").to_numpy()]
    np.testing.assert_array_equal(same[PARTS], X[PARTS][(own["sex"] == "F").to_numpy()])
    remover.save(tmp_path / "model")
    loaded = CovariateRemover.load(tmp_path / "model", remove="site")
    np.testing.assert_allclose(loaded.transform(X, covariates), found.to_numpy(), rtol=1e-12)


def test_of_a_chart_centiles_are_parts() -> None:
    own = people()
    said = {"age": "continuous", "sex": "categorical", "site": "batch"}
    remover = CovariateRemover(covariates=said, model="growth_chart", output="deviations", compositions={"t": PARTS})
    remover.fit(own[PARTS], covariates=own[["age", "sex", "site"]])
    chart = Chart()
    chart.__dict__ |= vars(remover)
    places = pd.DataFrame({"age": [30.0, 60.0], "sex": "F", "site": "A"})
    found = chart.centiles(places, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(found[0.5].sum(axis=1), 1)
    assert ((found[0.1] > 0) & (found[0.1] < found[0.5]) & (found[0.5] < found[0.9])).to_numpy().all()
