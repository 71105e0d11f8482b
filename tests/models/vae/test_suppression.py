import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr

from medrep.models.vae.latents import forecast_auc, most_directions

pytestmark = pytest.mark.rounding

counts = st.lists(st.integers(0, 200), min_size=1, max_size=5).map(lambda own: np.array(own, dtype=float))


@given(counts=counts, directions=st.integers(1, 50))
def test_the_forecast_rises_with_directions_and_stays_an_auc(counts, directions):
    less, more = (forecast_auc(d, counts) for d in (directions, directions + 1))
    assert 0.5 <= less <= more <= 1
    assert more > less or not counts.any() or less > 0.999
    assert forecast_auc(0, counts) == 0.5


@given(counts=counts, directions=st.integers(1, 50), factor=st.integers(2, 9))
def test_more_people_are_forecast_to_leak_less(counts, directions, factor):
    assert forecast_auc(directions, factor * counts) <= forecast_auc(directions, counts)


def test_the_forecast_is_the_formula_averaged_over_batches_with_people():
    expected = []
    for n in (30.0, 70.0):
        squared, noise = 8 / n, 8 * (1 / n + 1 / (100 - n))
        expected.append(ndtr(np.sqrt(squared * noise / (2 * (squared + noise)))))
    assert forecast_auc(8, np.array([30.0, 0, 70])) == pytest.approx(np.mean(expected))
    assert forecast_auc(8, np.zeros(2)) == 0.5


def test_the_forecast_is_what_a_linear_probe_reads_on_new_people():
    rng = np.random.default_rng(0)
    n, directions, read = 60, 8, []
    label = np.arange(2 * n) < n
    for _ in range(400):
        fitted, people, judges = (rng.normal(size=(2 * n, directions)) for _ in range(3))
        # Each batch is corrected by the mean of its training people.
        for own in (label, ~label):
            people[own] -= fitted[own].mean(axis=0)
            judges[own] -= fitted[own].mean(axis=0)
        score = judges @ (people[label].mean(axis=0) - people[~label].mean(axis=0))
        read.append((score[label][:, None] > score[~label][None]).mean())
    # Both batches are off, so the gap is twice the error of one of them.
    squared, noise = directions * 2 / n, directions * 2 / n
    assert np.mean(read) == pytest.approx(ndtr(np.sqrt(squared * noise / (2 * (squared + noise)))), abs=0.015)


@given(counts=counts, available=st.integers(1, 60), allowed=st.floats(0.5, 1))
def test_as_many_directions_as_are_allowed(counts, available, allowed):
    most = most_directions(available, allowed, counts)
    assert 1 <= most <= available
    assert most == 1 or forecast_auc(most, counts) <= allowed
    assert most == available or forecast_auc(most + 1, counts) > allowed
