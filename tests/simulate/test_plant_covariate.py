import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep._persisted import to_json
from medrep.errors import CohortError, CovariateError
from medrep.simulate.planted_effects import (
    apply_covariate_effect,
    apply_feature_covariate_effect,
    draw_covariate_effect,
    draw_feature_covariate_effect,
    intensity_scale,
    strength,
    wave_field,
)

AGES = [25.0, 40.0, 55.0, 70.0, 85.0]
SEXES = ["F", "M", "F"]
COLUMNS = ["a", "b", "c", "d"]


def volume(seed=0, shape=(9, 8, 7)):
    return np.random.default_rng(seed).uniform(100.0, 900.0, shape).astype(np.float32)


@given(st.integers(0, 2**32))
def test_the_reference_is_the_identity(seed):
    before = volume(seed)
    for effect, reference in (
        (draw_covariate_effect("age", AGES, seed=seed), 55.0),
        (draw_covariate_effect("sex", SEXES, seed=seed), "F"),
    ):
        np.testing.assert_array_equal(apply_covariate_effect(before, effect, reference), before)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_or_name_others():
    drawn = [
        draw_covariate_effect(name, AGES, seed=seed) for name, seed in [("age", 1), ("age", 1), ("age", 2), ("bmi", 1)]
    ]
    planted = [apply_covariate_effect(volume(), effect, 80.0).tobytes() for effect in drawn]
    assert planted[0] == planted[1]
    assert len(set(planted)) == 3


@given(value=st.floats(20, 90), seed=st.integers(0, 1000))
def test_tissue_moves_by_the_formula(value, seed):
    before = volume()
    effect = draw_covariate_effect("age", AGES, seed=seed, amplitude=0.05)
    transformed = (apply_covariate_effect(before, effect, value) - before) / intensity_scale(before)
    expected = 0.05 * wave_field(effect.field, before.shape) * strength("age", effect.curve, value)
    np.testing.assert_allclose(transformed, expected, atol=1e-5)


def test_air_and_unknown_voxels_stay():
    before = volume()
    before[0], before[1] = 0.0, np.nan
    after = apply_covariate_effect(before, draw_covariate_effect("sex", SEXES, seed=0), "M")
    assert (after[0] == 0).all()
    assert np.isnan(after[1]).all()
    assert np.isfinite(after[2:]).all()


def test_regression_over_a_cohort_recovers_two_planted_fields():
    rng = np.random.default_rng(0)
    ages, sexes = rng.uniform(20, 85, 300), rng.choice(["F", "M"], 300)
    age, sex = draw_covariate_effect("age", ages, seed=1), draw_covariate_effect("sex", sexes, seed=1)
    shape = (6, 6, 6)
    planted, scales = [], []
    for person in range(300):
        before = volume(person, shape) / 8 + 500
        scales.append(intensity_scale(before))
        planted.append(apply_covariate_effect(apply_covariate_effect(before, age, ages[person]), sex, sexes[person]))
    design = np.column_stack(
        [
            np.ones(300),
            [strength("age", age.curve, value) for value in ages],
            [strength("sex", sex.curve, value) for value in sexes],
        ]
    )
    maps = np.linalg.lstsq(design, np.stack(planted).reshape(300, -1) / np.mean(scales), rcond=None)[0] / 0.08
    for fitted, effect in zip(maps[1:], (age, sex), strict=True):
        assert np.corrcoef(fitted, wave_field(effect.field, shape).ravel())[0, 1] > 0.97


def test_unusable_values_are_refused():
    with pytest.raises(CovariateError, match="age: None is not a number"):
        apply_covariate_effect(volume(), draw_covariate_effect("age", AGES, seed=0), None)
    with pytest.raises(CovariateError, match="sex: level 'm'"):
        apply_covariate_effect(volume(), draw_covariate_effect("sex", SEXES, seed=0), "m")
    with pytest.raises(CohortError, match="no nonzero finite voxel"):
        apply_covariate_effect(np.zeros((2, 2, 2)), draw_covariate_effect("sex", SEXES, seed=0), "M")


def table(n=200):
    return pd.DataFrame(np.random.default_rng(0).normal(size=(n, 4)) * [1, 10, 0.1, 3], columns=COLUMNS)


def test_regression_recovers_the_planted_pattern_of_a_table():
    features = table(2000)
    ages = np.random.default_rng(1).uniform(20, 85, 2000)
    effect = draw_feature_covariate_effect("age", ages, COLUMNS, seed=3, amplitude=0.5)
    planted = apply_feature_covariate_effect(features, effect, ages)
    t = (ages - ages.mean()) / ages.std()
    fitted = np.polynomial.polynomial.polyfit(t + 0.3 * t**2, planted / features.std(ddof=0), 1)[1]
    np.testing.assert_allclose(fitted, 0.5 * np.array(list(effect.pattern.values())), atol=0.06)


def test_the_reference_level_leaves_a_row_as_it_is():
    effect = draw_feature_covariate_effect("sex", SEXES, COLUMNS, seed=0)
    planted = apply_feature_covariate_effect(table(4), effect, ["F", "M", "M", "F"])
    np.testing.assert_array_equal(planted.iloc[[0, 3]], table(4).iloc[[0, 3]])
    assert (planted.iloc[[1, 2]] != table(4).iloc[[1, 2]]).all(axis=None)


def test_mismatched_tables_are_refused():
    effect = draw_feature_covariate_effect("sex", SEXES, COLUMNS, seed=0)
    with pytest.raises(CohortError, match="1 values are given for a table of 4 rows"):
        apply_feature_covariate_effect(table(4), effect, ["F"])
    with pytest.raises(CohortError, match="other columns"):
        apply_feature_covariate_effect(table(4)[["b", "a", "c", "d"]], effect, ["F"] * 4)


def test_effects_survive_json():
    for effect in (
        draw_covariate_effect("age", AGES, seed=0),
        draw_covariate_effect("sex", SEXES, seed=0),
        draw_feature_covariate_effect("sex", SEXES, COLUMNS, seed=0),
    ):
        said = to_json(effect)
        assert json.loads(json.dumps(said)) == said
        assert said["name"] == effect.name
