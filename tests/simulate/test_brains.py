import json

import numpy as np
import pandas as pd
import pytest

from medrep.errors import CovariateError
from medrep.simulate import simulate_participants
from medrep.simulate.brains import BrainEffects, brain_truth, draw_brains
from medrep.simulate.participants import age_curve


def person(**covariates):
    row = {"participant_id": "sub-0001", "age": 50.0, "sex": "F", "diagnosis": "control", **covariates}
    return draw_brains(pd.DataFrame([row]), seed=2)[0]


def test_the_same_seed_gives_the_same_brains_and_another_seed_others():
    table = simulate_participants(5)
    assert draw_brains(table, seed=1) == draw_brains(table, seed=1)
    assert draw_brains(table, seed=1) != draw_brains(table, seed=2)


def test_permuting_people_permutes_the_brains():
    table = simulate_participants(6)
    assert draw_brains(table.iloc[::-1], seed=1) == draw_brains(table, seed=1)[::-1]


def test_age_moves_what_it_should_and_leaves_the_person():
    young, old = person(age=25.0), person(age=80.0)
    assert (young.folds, young.deformation, young.noise_seed) == (old.folds, old.deformation, old.noise_seed)
    assert young.head_scale == old.head_scale
    effects = BrainEffects()
    change = age_curve(80.0, *effects.cortex_age) - age_curve(25.0, *effects.cortex_age)
    assert old.cortex_mm - young.cortex_mm == pytest.approx(change)
    assert old.ventricle_scale > 1.5 * young.ventricle_scale
    assert old.contrast < young.contrast
    assert old.sulcus_mm > young.sulcus_mm


def test_sex_scales_the_head_alone():
    woman, man = person(sex="F"), person(sex="M")
    assert man.head_scale / woman.head_scale == pytest.approx(BrainEffects().head_male)
    assert man.cortex_mm == woman.cortex_mm


def test_diagnosis_shrinks_the_hippocampus_alone():
    control, patient = person(), person(diagnosis="patient")
    assert patient.hippocampus_scale / control.hippocampus_scale == pytest.approx(BrainEffects().hippocampus_patient)
    assert patient.ventricle_scale == control.ventricle_scale


def test_regression_recovers_the_ventricles_age_curve():
    table = simulate_participants(1500, seed=4)
    scales = np.array([brain.ventricle_scale for brain in draw_brains(table, seed=4)])
    decades = (table["age"].to_numpy() - 50) / 10
    design = np.column_stack([np.ones(len(table)), decades, np.maximum(0, decades) ** 2])
    fitted = np.linalg.lstsq(design, scales, rcond=None)[0]
    np.testing.assert_allclose(fitted[1:], BrainEffects().ventricle_age, atol=0.012)


def test_the_truth_survives_json_and_names_everybody():
    table = simulate_participants(4)
    truth = brain_truth(draw_brains(table, seed=0))
    assert json.loads(json.dumps(truth)) == truth
    assert list(truth["participants"]) == list(table["participant_id"])
    assert truth["age"]["cortex"] == {"linear": -0.10, "quadratic": -0.03}


def test_a_missing_covariate_is_refused():
    with pytest.raises(CovariateError, match="column 'sex'"):
        draw_brains(simulate_participants(4).drop(columns="sex"), seed=0)
