import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from medrep._persisted import to_json
from medrep._structuring import from_json
from medrep.models.shift import ShiftReference

NAMES, SCANNERS = ("a", "b", "c"), ("S0", "S1", "S2")


def draw(counts: tuple[int, ...], apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(len(counts)), counts)
    own = rng.normal(size=(len(codes), 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 2.0]])
    return own + apart * np.array([[1.0, -1.0, 0.5], [0.0, 2.0, 0.0], [-1.0, 0.0, 3.0]])[codes], codes


def test_the_distance_is_that_of_mahalanobis_where_there_are_many_people():
    values, codes = draw((3000, 3000, 3000), 3.0)
    reference = ShiftReference.fit(values, codes, SCANNERS, NAMES)
    for code in range(3):
        own = values[codes == code]
        away = own - own.mean(axis=0)
        wanted = np.einsum("ij,jk,ik->i", away, np.linalg.inv(np.cov(own, rowvar=False)), away)
        np.testing.assert_allclose(reference.distances(own)[:, code], wanted, rtol=0.1, atol=0.1)


def test_deviations_are_those_of_each_statistic_and_of_its_regression_on_the_others():
    values, codes = draw((4000, 0, 0), 0.0)
    reference = ShiftReference.fit(values, codes, SCANNERS, NAMES)
    alone, given = reference.deviations(values, 0)
    np.testing.assert_allclose(alone, (values - values.mean(axis=0)) / values.std(axis=0), atol=0.02)
    centred = values - values.mean(axis=0)
    left = centred[:, 0] - centred[:, 1:] @ np.linalg.lstsq(centred[:, 1:], centred[:, 0], rcond=None)[0]
    np.testing.assert_allclose(given[:, 0], left / left.std(), atol=0.1)
    assert alone.std() == pytest.approx(1, abs=0.02)


def test_a_location_is_kept_as_far_as_scanners_differ():
    values, codes = draw((200, 200, 3), 0.0)
    alike = ShiftReference.fit(values, codes, SCANNERS, NAMES)
    # Nothing between scanners: three people say little of theirs, and nothing of it is unknown.
    assert np.abs(alike.location[2] - alike.location[0]).max() < np.abs(values[-3:].mean(axis=0)).max()
    values, codes = draw((200, 200, 3), 50.0)
    far = ShiftReference.fit(values, codes, SCANNERS, NAMES)
    np.testing.assert_allclose(far.location[2], values[-3:].mean(axis=0), atol=0.2)
    # What is unknown is the error of a mean of three, a third of the variance.
    np.testing.assert_allclose(far.variance[2], 1 + 1 / 3, atol=0.02)
    assert (far.variance[0] < 1.01).all()


def test_a_scanner_without_people_is_where_the_others_are():
    values, codes = draw((100, 100, 0), 1.0)
    reference = ShiftReference.fit(values, codes, SCANNERS, NAMES)
    low, high = np.sort(reference.location[:2], axis=0)
    assert ((low - 0.2 <= reference.location[2]) & (reference.location[2] <= high + 0.2)).all()
    assert (reference.variance[2] >= reference.variance[0]).all()


def test_json_is_exact_and_checked():
    reference = ShiftReference.fit(*draw((20, 10, 3), 1.0), SCANNERS, NAMES)
    content = to_json(reference)
    again = from_json(ShiftReference, content)
    values = draw((5, 5, 5), 1.0, seed=1)[0]
    np.testing.assert_array_equal(again.distances(values), reference.distances(values))
    with pytest.raises(ValueError, match=r"location has the shape \(3, \d\), not \(3, 2\)"):
        from_json(ShiftReference, {**content, "names": ["a", "b"]})


SIDED = ("reconstruction_error", "b", "deviation")


@settings(max_examples=15)
@given(seed=st.integers(0, 999))
def test_one_sided_statistics_count_at_their_least_odd_value(seed):
    values, codes = draw((40, 40, 40), 1.0, seed)
    reference = ShiftReference.fit(values, codes, SCANNERS, SIDED)
    two_sided = ShiftReference.fit(values, codes, SCANNERS, NAMES)
    person = np.random.default_rng(seed).normal(0, 3, (1, 3))
    start = np.maximum(person[0, [0, 2]], reference.location[1, [0, 2]])
    best = minimize(
        lambda errors: two_sided.distances(np.array([[errors[0], person[0, 1], errors[1]]]))[0, 1],
        start,
        bounds=[(person[0, 0], None), (person[0, 2], None)],
    )
    assert reference.distances(person)[0, 1] == pytest.approx(best.fun, rel=1e-4, abs=1e-5)
    assert reference.distances(person)[0, 1] <= two_sided.distances(person)[0, 1] + 1e-9


def test_nobody_is_unlike_others_for_fitting_well():
    values, codes = draw((60, 60, 60), 1.0)
    reference = ShiftReference.fit(values, codes, SCANNERS, SIDED)
    usual = reference.location[[0]]
    well = usual - np.array([[9.0, 0.0, 9.0]])
    np.testing.assert_allclose(reference.distances(well)[:, 0], 0, atol=1e-9)
    assert max(np.abs(found).max() for found in reference.deviations(well, 0)) < 1e-6
    badly = usual + np.array([[9.0, 0.0, 0.0]])
    assert reference.distances(badly)[0, 0] > 20
    # What is odd beside stays odd.
    assert reference.distances(well + np.array([[0.0, 9.0, 0.0]]))[0, 0] > 20
