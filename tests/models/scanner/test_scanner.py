"""The parts: content, scanner, point spread, quantiles, restoration, the choice of the anchor."""

import numpy as np
import pytest

from medrep.models.scanner.estimation import (
    LOCAL,
    OVERALL,
    common_window,
    fit_point_spread,
    mean_power,
    quantile_features,
    transfer,
)
from medrep.models.scanner.fitting import choose_reference
from medrep.models.scanner.forward import TABLE, Rendering, Scanner, curve_table, filled, foreground_box, spread, void
from medrep.models.scanner.restoration import BUCKETS, Restoration, fit_restoration, orbit_sums
from tests.models.scanner.conftest import BOX, GRID, padded, person, true_scanner

WINDOW = (16, 20, 16)


def test_content_is_what_padding_does_not_repeat():
    assert foreground_box(padded(person(np.random.default_rng(1)))) == BOX
    assert foreground_box(np.zeros((3, 4, 5), np.float32)) == (slice(0, 3), slice(0, 4), slice(0, 5))


def test_void_is_blocks_of_zeros():
    image = person(np.random.default_rng(1))
    assert void(image) is None
    image[:4] = image[9, 9, 9] = 0
    empty = void(image)
    assert empty[:4].all()
    assert not empty[4:].any()


def test_the_median_stands_for_nan():
    image = np.array([[[1.0, np.nan, 3.0, 8.0, np.inf]]])
    np.testing.assert_array_equal(filled(image), np.float32([[[1, 3, 3, 8, 3]]]))


def test_straighten_undoes_bend_over_a_wide_range(axes):
    values = np.concatenate([np.linspace(-60, 60, 5000), np.linspace(-0.5, 4, 120)]).astype(np.float32)
    image = values.reshape(16, 20, 16)
    rendering = Rendering(axes, true_scanner(axes))
    np.testing.assert_allclose(rendering.invert(rendering.apply_response(image, BOX), BOX), image, atol=2e-3, rtol=1e-3)


def test_zero_parameters_are_the_identity(axes):
    image = person(np.random.default_rng(1))
    rendering = Rendering(axes, Scanner.identity(axes))
    np.testing.assert_array_equal(rendering.simulate(image, BOX, np.random.default_rng(0)), image)


def test_the_field_is_a_legendre_sum(axes):
    """Log field sum_j s_j P_j at the content's corner, where all P are one, and at its middle in x."""
    weights = np.arange(1.0, 11.0)
    field = axes.log_field(weights)
    assert field.shape == GRID.shape
    assert field[17, 21, 18] == pytest.approx(weights.sum(), rel=1e-5)
    alone = axes.log_field(np.eye(10)[0])
    np.testing.assert_array_equal(alone, 1)


@pytest.mark.parametrize("curve", [(0.3, 0.0, 0.0), (-0.3, 1.0, -2.0), (-2.0, 5.0, 5.0)])
def test_the_curve_increases_and_keeps_zero_and_the_median(axes, curve):
    table = curve_table(axes, np.array(curve))
    assert (np.diff(table) > 0).all()
    assert np.interp(0.0, TABLE, table) == pytest.approx(0, abs=1e-9)
    assert np.interp(axes.middle, TABLE, table) == pytest.approx(axes.middle, abs=1e-4)


def test_spread_keeps_constants_and_has_the_transfer():
    taps = np.array([[0.1, 0.02], [0.2, 0.0], [-0.1, 0.0]])
    assert spread(np.ones((9, 9, 9), np.float32), taps) == pytest.approx(1, abs=1e-6)
    point = np.zeros((17, 17, 17), np.float32)
    point[8, 8, 8] = 1
    response = np.abs(np.fft.fftn(spread(point, taps)))[:9, :9, :9]
    np.testing.assert_allclose(response, np.abs(transfer(taps, (17, 17, 17))), atol=1e-6)


def test_taps_and_noise_are_found_in_other_people():
    rng = np.random.default_rng(0)
    taps = np.array([[0.2, 0.0], [0.1, 0.0], [0.05, 0.0]])

    def everybody():
        return [person(rng, sharpness=0.6) for _ in range(40)]

    own = [spread(p, taps) + 0.03 * rng.standard_normal(p.shape).astype(np.float32) for p in everybody()]
    found, noise = fit_point_spread(mean_power(own, WINDOW), mean_power(everybody(), WINDOW), WINDOW)
    np.testing.assert_allclose(found, taps, atol=0.05)
    assert noise == pytest.approx(0.03, rel=0.1)


def test_one_tiny_image_does_not_narrow_the_window():
    assert common_window([(20, 20, 80)] * 9 + [(2, 20, 90)]) == (10, 20, 64)


def test_quantiles_are_those_of_blocks_and_volume(axes):
    image = person(np.random.default_rng(2))
    labels = axes.chunks()[BOX]
    features = quantile_features(image, labels, int(labels.max()) + 1)
    np.testing.assert_allclose(features[: len(LOCAL)], np.quantile(image[labels == 0], LOCAL), atol=1e-6)
    np.testing.assert_allclose(features[-len(OVERALL) :], np.quantile(image, OVERALL), atol=1e-6)


def test_blocks_cover_the_grid(axes):
    labels = axes.chunks()
    assert labels.shape == GRID.shape
    assert set(np.unique(labels)) == set(range(labels.max() + 1))
    assert 60 < labels.max() < 110


def test_the_filter_has_no_handedness():
    image = person(np.random.default_rng(2))
    sums = orbit_sums(image)
    np.testing.assert_allclose(orbit_sums(image[::-1])[::-1], sums, atol=1e-5)
    np.testing.assert_allclose(np.swapaxes(orbit_sums(np.swapaxes(image, 0, 1)), 0, 1), sums, atol=1e-5)


def test_restoration_beats_what_it_is_given(monkeypatch):
    rng = np.random.default_rng(0)

    def pair():
        clean = person(rng)
        return clean + 0.05 * rng.standard_normal(clean.shape).astype(np.float32), clean

    edges = np.linspace(0.03, 0.1, len(BUCKETS))
    pairs = [pair() for _ in range(10)]
    restoration = Restoration(edges, fit_restoration(pairs, edges), 0.0)
    noisy, clean = pair()
    restored = restoration.restore(noisy)
    assert np.mean((restored - clean) ** 2) < 0.6 * np.mean((noisy - clean) ** 2)
    monkeypatch.setattr("medrep.models.scanner.restoration._SLAB", 700)
    np.testing.assert_allclose(restoration.restore(noisy), restored, atol=1e-6)
    np.testing.assert_allclose(fit_restoration(pairs, edges), restoration.weights, atol=1e-4)


def test_nothing_to_restore_is_left_alone():
    rng = np.random.default_rng(0)
    people = [person(rng) for _ in range(3)]
    edges = np.linspace(0.05, 0.1, len(BUCKETS))
    weights = fit_restoration([(p, p) for p in people], edges)
    np.testing.assert_allclose(Restoration(edges, weights, 0.0).restore(people[0]), people[0], atol=1e-5)
    assert Restoration.idle().restore(people[0]) is people[0]


def test_the_anchor_is_sharp_and_quiet():
    rng = np.random.default_rng(0)
    taps = np.full((3, 2), [0.2, 0.0])

    def power(blur: bool, noise: float, gain: float):
        images = [person(rng, sharpness=0.7) for _ in range(12)]
        seen = [spread(image, taps) if blur else image for image in images]
        return mean_power([gain * (x + noise * rng.standard_normal(x.shape).astype(np.float32)) for x in seen], WINDOW)

    powers = {
        "blurred": power(True, 0.005, 1.0),
        "noisy": power(False, 0.06, 1.3),
        "quiet": power(False, 0.005, 0.7),
        "loud": power(True, 0.06, 2.0),
        "few": power(False, 0.0, 1.0),
    }
    people = dict.fromkeys(powers, 12) | {"few": 9}
    assert choose_reference(powers, people, WINDOW) == "quiet"
    assert choose_reference(dict(reversed(powers.items())), people, WINDOW) == "quiet"
    assert choose_reference(powers, dict.fromkeys(powers, 3) | {"loud": 4}, WINDOW) == "loud"
