import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep._persisted import to_json
from medrep.errors import CohortError
from medrep.simulate.planted_effects import apply_feature_site_effects, draw_feature_site_effects

COLUMNS = ["a", "b", "c"]


def table(n=60, seed=0):
    values = np.random.default_rng(seed).normal([1.0, 50.0, -3.0], [0.1, 10.0, 1.0], (n, 3))
    return pd.DataFrame(values, columns=COLUMNS, index=[f"sub-{row:04d}" for row in range(n)])


def sites(n=60):
    return [f"S{row % 3}" for row in range(n)]


@given(st.integers(0, 2**32))
def test_the_untouched_site_keeps_its_values_exactly(seed):
    effects = draw_feature_site_effects(sites(), COLUMNS, seed=seed)
    planted = apply_feature_site_effects(table(), sites(), effects)
    at_first = np.array(sites()) == "S0"
    np.testing.assert_array_equal(planted[at_first], table()[at_first])
    assert (planted[~at_first] != table()[~at_first]).all(axis=None)
    assert list(planted.index) == list(table().index)


def test_location_and_scale_are_recovered():
    features, where = table(6000), sites(6000)
    effects = draw_feature_site_effects(where, COLUMNS, seed=3)
    planted = apply_feature_site_effects(features, where, effects)
    for name, effect in effects.items():
        rows = np.array(where) == name
        shift = (planted[rows].mean() - features[rows].mean()) / features.std()
        np.testing.assert_allclose(shift, effect.location, atol=0.03)
        np.testing.assert_allclose(planted[rows].std() / features[rows].std(), effect.scale, rtol=1e-6)


def test_the_same_seed_gives_the_same_effects_and_another_seed_others():
    first, again, other = (draw_feature_site_effects("AB", COLUMNS, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["B"] != other["B"]


def test_missing_values_stay_missing_and_harm_no_other():
    features = table().astype(object)
    features.iloc[1, 0] = None
    features = features.astype(float)
    planted = apply_feature_site_effects(features, sites(), draw_feature_site_effects(sites(), COLUMNS, seed=0))
    assert planted.isna().sum().sum() == 1
    assert np.isnan(planted.iloc[1, 0])


def test_mismatches_are_refused():
    effects = draw_feature_site_effects("AB", COLUMNS, seed=0)
    with pytest.raises(CohortError, match="2 sites are given for a table of 60 rows"):
        apply_feature_site_effects(table(), ["A", "B"], effects)
    with pytest.raises(CohortError, match="'C'; effects are drawn for: A, B"):
        apply_feature_site_effects(table(), ["C"] * 60, effects)
    with pytest.raises(CohortError, match="other columns than the table's: A"):
        apply_feature_site_effects(table()[["b", "a", "c"]], ["A"] * 60, effects)


def test_an_empty_table_stays_empty():
    empty = table().iloc[:0]
    assert apply_feature_site_effects(empty, [], {}).shape == (0, 3)


def test_effects_survive_json():
    effect = draw_feature_site_effects("AB", COLUMNS, seed=0)["B"]
    assert tuple(json.loads(json.dumps(to_json(effect)))["location"]) == effect.location
