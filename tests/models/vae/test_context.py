import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.covariates import POOLED, CovariateSchema
from medrep.models.vae.objective import condition_vector, condition_width, known_sets
from tests.models.planted import DECLARED, DIAGNOSIS, draw_people

NAMES = ("age", "sex", "site")
subsets = st.sets(st.sampled_from(NAMES))
PARTS = {"age": slice(0, 2), "sex": slice(2, 5), "site": slice(5, 9)}
"""Flag and values of each covariate, with three sites."""


def people(seed: int = 0, n: int = 60):
    frame = draw_people(n, 3, seed)
    return frame, CovariateSchema.fit(frame, DECLARED)


@given(seed=st.integers(0, 999), known=subsets)
def test_the_width_is_fixed_and_what_is_unknown_is_zero(seed, known):
    frame, schema = people(seed)
    vector = condition_vector(schema, frame, known)
    assert vector.shape == (60, condition_width(schema)) == (60, 9)
    full = condition_vector(schema, frame, NAMES)
    for name, part in PARTS.items():
        np.testing.assert_array_equal(vector[:, part], full[:, part] if name in known else 0)
        assert (vector[:, part.start] == (name in known)).all()


@given(seed=st.integers(0, 999), known=subsets)
def test_labels_of_unknown_covariates_do_not_matter(seed, known):
    frame, schema = people(seed)
    expected = condition_vector(schema, frame, known)
    others = frame.iloc[::-1].set_axis(frame.index).assign(age=1e6)
    swapped = frame.assign(**{name: others[name] for name in NAMES if name not in known})
    np.testing.assert_array_equal(condition_vector(schema, swapped, known), expected)
    np.testing.assert_array_equal(condition_vector(schema, frame[sorted(known)], known), expected)


@given(seed=st.integers(0, 999))
def test_values_are_in_units_of_their_deviation_among_training_people(seed):
    frame, schema = people(seed)
    frame = frame.assign(site=["S0"] * 40 + ["S1"] * 15 + ["S2"] * 5)
    schema = CovariateSchema.fit(frame, DECLARED)
    vector = condition_vector(schema, frame, NAMES)
    np.testing.assert_allclose(vector[:, 1], (frame["age"] - frame["age"].mean()) / frame["age"].std(ddof=0))
    for part, levels in ((slice(3, 5), 2), (slice(6, 9), 3)):  # rare levels weigh as much as common ones
        np.testing.assert_allclose(vector[:, part].mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(vector[:, part].var(axis=0), 1 / levels)


def test_the_pooled_batch_is_known_and_an_unseen_one_is_not():
    frame, schema = people()
    for level, flag in ((POOLED, 1), ("S9", 0)):
        vector = condition_vector(schema, frame.assign(site=level), NAMES)
        assert (vector[:, PARTS["site"].start] == flag).all()
        assert not vector[:, PARTS["site"]][:, 1:].any()
        np.testing.assert_array_equal(vector[:, :5], condition_vector(schema, frame, NAMES)[:, :5])
    assert condition_vector(schema, frame.iloc[:0], NAMES).shape == (0, 9)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_sets_start_with_all_and_none_and_then_one_alone(count):
    declared = (*DECLARED, DIAGNOSIS)[:count]
    frame, _ = people()
    frame = frame.assign(diagnosis=["patient", "control"] * 30)
    schema = CovariateSchema.fit(frame, declared)
    names = frozenset(schema.names)
    sets = known_sets(schema.names, 99)
    assert len(sets) == len(set(sets)) == 2**count
    assert sets[:2] == (names, frozenset())
    assert {name for own in sets[: 2 + count] if len(own) == 1 for name in own} == names
    sizes = [min(len(own), count - len(own)) for own in sets]
    assert sizes == sorted(sizes)
    assert known_sets(schema.names, 2) == sets[:2]


def test_no_covariates_have_no_width():
    schema = CovariateSchema(())
    frame, _ = people()
    assert condition_vector(schema, frame, ()).shape == (60, condition_width(schema)) == (60, 0)
    assert known_sets((), 8) == (frozenset(),)
