"""The growth chart inside scikit-learn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

import medrep
from medrep.errors import EstimatorError
from medrep.estimators import Chart
from tests.estimators.people import DECLARED, People, draw

PLAIN = {"power": "none", "components": 0}


@pytest.fixture(scope="module")
def people() -> People:
    return draw(200)


@pytest.fixture(scope="module")
def chart(people: People) -> Chart:
    return Chart(covariates=DECLARED, settings=PLAIN).fit(people.features, covariates=people.covariates)


def test_z_are_the_models_and_have_one_column_a_feature(chart: Chart, people: People) -> None:
    z = chart.transform(people.features, covariates=people.covariates)
    assert z.shape == people.features.shape
    assert z.std() == pytest.approx(1, abs=0.1)
    assert list(chart.get_feature_names_out()) == list(people.features)
    assert isinstance(chart.model_, medrep.GrowthChart)
    beside = Chart(covariates=DECLARED, settings=PLAIN).fit_transform(people.both)
    np.testing.assert_allclose(beside, z, atol=1e-9)


def test_centiles_are_where_z_says(chart: Chart, people: People) -> None:
    found = chart.centiles(people.covariates.iloc[:4], (0.1, 0.9))
    z = chart.transform(found[0.9], covariates=people.covariates.iloc[:4])
    np.testing.assert_allclose(z, 1.2815515655446004, atol=1e-6)
    assert (found[0.1] < found[0.9]).all(axis=None)
    with pytest.raises(EstimatorError, match="not between 0 and 1"):
        chart.centiles(people.covariates, (0.5, 1.0))


def test_a_saved_chart_says_the_same(chart: Chart, people: People, tmp_path: Path) -> None:
    chart.save(tmp_path / "chart")
    again = Chart.load(tmp_path / "chart")
    z = chart.transform(people.features, covariates=people.covariates)
    assert np.array_equal(again.transform(people.features, covariates=people.covariates), z)


def test_an_unseen_site_is_told_from_controls(chart: Chart, people: People) -> None:
    unit = people.features.std(axis=0).to_numpy()
    ill = np.arange(len(people.features)) % 2 == 0
    shifted = people.features + 3 * unit * ill[:, None]
    elsewhere = people.covariates.assign(site="new")
    adapting = Chart(covariates=DECLARED, settings=PLAIN, unseen_site="adapt").fit(
        people.features, None, people.covariates
    )
    everybody = adapting.transform(shifted, elsewhere)
    told = adapting.transform(shifted, elsewhere, reference_people=~ill)
    assert abs(told[~ill].mean()) < 0.2 < 0.5 < everybody[ill].mean() < told[ill].mean() - 0.5
    alone = adapting.transform(people.features[~ill], elsewhere[~ill])
    np.testing.assert_allclose(told[~ill], alone, rtol=1e-9, atol=1e-9)
    with pytest.raises(EstimatorError, match="for each of the 200 rows"):
        adapting.transform(shifted, elsewhere, reference_people=[True])
    elsewhere.loc[ill, "site"] = "clinic"
    with pytest.raises(EstimatorError, match=r"none of whose people is in reference_people[^a-z]*site 'clinic'"):
        adapting.transform(shifted, elsewhere, reference_people=~ill)


def test_it_is_cloned_and_works_in_a_cross_validation(people: People) -> None:
    made = make_pipeline(clone(Chart(covariates=DECLARED, settings=PLAIN)), LogisticRegression(max_iter=500))
    shifted = people.features.copy()
    ill = np.arange(len(shifted)) % 4 == 0
    shifted.iloc[ill, :3] += 2 * shifted.std(axis=0).iloc[:3]
    table = pd.concat([people.covariates, shifted], axis=1)
    assert cross_val_score(made, table, ill, cv=3, scoring="roc_auc").mean() > 0.8


def test_a_chart_has_no_other_outputs(people: People) -> None:
    with pytest.raises(TypeError):
        Chart(output="data")  # type: ignore[call-arg]
    with pytest.raises(EstimatorError, match="does not say how unusual"):
        medrep.CovariateRemover(covariates=DECLARED, output="deviations").fit(people.both)
