import json

import numpy as np
import pandas as pd
import pytest

from medrep.errors import CohortError, CovariateError
from medrep.simulate import simulate_features, simulate_participants
from medrep.simulate.participants import age_curve, age_terms


def people(n=40, seed=0):
    return simulate_participants(n, seed=seed)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    first, again, other = (simulate_features(people(), n_features=7, seed=seed) for seed in (3, 3, 4))
    assert first.features.to_numpy().tobytes() == again.features.to_numpy().tobytes()
    assert first.truth == again.truth
    assert not np.allclose(first.features, other.features)


def test_tables_are_keyed_by_participant_and_named_by_region():
    made = simulate_features(people(9), n_features=12)
    for table in (made.features, made.clean):
        assert table.shape == (9, 12)
        assert table.index.name == "participant_id"
        assert list(table.index) == list(made.participants["participant_id"])
        assert list(table.columns)[:2] == ["region_001", "region_002"]
    assert made.features.to_numpy().min() > 0.5
    assert made.features.to_numpy().max() < 6


def test_the_truth_survives_json():
    truth = simulate_features(people(), n_features=5).truth
    assert json.loads(json.dumps(truth)) == truth


def test_the_reference_site_is_untouched_and_the_others_are_not():
    made = simulate_features(people(), n_features=5)
    at_reference = (made.participants["site"] == "S0").to_numpy()
    np.testing.assert_array_equal(made.features[at_reference], made.clean[at_reference])
    assert (made.features[~at_reference] != made.clean[~at_reference]).all(axis=None)


def test_permuting_people_permutes_the_features():
    table = people()
    order = np.random.default_rng(0).permutation(len(table))
    straight = simulate_features(table, n_features=6, seed=5).features
    shuffled = simulate_features(table.iloc[order], n_features=6, seed=5).features
    np.testing.assert_array_equal(straight.iloc[order], shuffled)


def test_a_person_ten_years_on_differs_by_the_age_curve_alone():
    table = people()
    made = simulate_features(table, n_features=6, seed=5)
    older = simulate_features(table.assign(age=table["age"] + 10), n_features=6, seed=5)
    curve = np.stack([made.truth["age"]["linear"], made.truth["age"]["quadratic"]])
    age = table["age"].to_numpy()
    np.testing.assert_allclose(older.features - made.features, (age_terms(age + 10) - age_terms(age)) @ curve)


def test_regression_recovers_every_planted_location_effect():
    table = people(4000, seed=1)
    made = simulate_features(table, n_features=10, seed=1)
    sites = ["S1", "S2", "S3"]
    design = np.column_stack(
        [
            np.ones(len(table)),
            age_terms(table["age"].to_numpy()),
            table["sex"] == "M",
            table["diagnosis"] == "patient",
            *(table["site"] == name for name in sites),
        ]
    ).astype(float)
    fitted = np.linalg.lstsq(design, made.features.to_numpy(), rcond=None)[0]
    truth = made.truth
    planted = np.array(
        [
            truth["intercept"],
            truth["age"]["linear"],
            truth["age"]["quadratic"],
            truth["sex"]["M"],
            truth["diagnosis"]["patient"],
            *(truth["site"]["levels"][name]["location"] for name in sites),
        ]
    )
    np.testing.assert_allclose(fitted, planted, atol=0.025)
    residual = made.features - design @ fitted
    for name in sites:
        ratio = residual[(table["site"] == name).to_numpy()].std() / residual[(table["site"] == "S0").to_numpy()].std()
        np.testing.assert_allclose(ratio, truth["site"]["levels"][name]["scale"], rtol=0.12)


def test_residuals_have_the_planted_covariance():
    table = people(4000, seed=1).assign(age=50.0, sex="F", diagnosis="control")
    made = simulate_features(table, n_features=6, seed=1)
    loadings, noise = np.array(made.truth["loadings"]), np.array(made.truth["noise_sd"])
    np.testing.assert_allclose(np.cov(made.clean.T), loadings.T @ loadings + np.diag(noise**2), atol=0.002)


def test_diagnosis_acts_on_a_focal_subset():
    effect = np.array(simulate_features(people(), n_features=60).truth["diagnosis"]["patient"])
    assert (effect != 0).sum() == 12
    assert (effect <= 0).all()


def test_age_terms_and_curve_agree():
    age = np.array([20.0, 50.0, 80.0])
    np.testing.assert_allclose(age_terms(age), [[-3, 0], [0, 0], [3, 9]])
    assert [age_curve(a, 2.0, 1.0) for a in age] == [-6.0, 0.0, 15.0]


def test_no_features_and_unknown_levels_are_refused():
    with pytest.raises(CohortError, match="n_features is 0"):
        simulate_features(people(), n_features=0)
    with pytest.raises(CovariateError, match="diagnosis 'AD' is not one of control, patient"):
        simulate_features(people().assign(diagnosis="AD"))


def test_an_empty_table_of_people_gives_an_empty_table():
    made = simulate_features(people().iloc[:0], n_features=4)
    assert made.features.shape == (0, 4)
    assert isinstance(made.features, pd.DataFrame)
