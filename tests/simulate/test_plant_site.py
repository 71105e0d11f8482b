import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep._persisted import to_json
from medrep.errors import CohortError
from medrep.simulate.planted_effects import (
    DEGREES,
    NO_SITE_EFFECT,
    SiteEffect,
    apply_site_effect,
    draw_site_effects,
    intensity_scale,
    legendre_field,
)

MM = (2.0, 1.0, 3.0)
seeds = st.integers(0, 2**32)


def volume(seed=0, shape=(14, 12, 10)):
    return np.random.default_rng(seed).gamma(4.0, 100.0, shape).astype(np.float32)


@given(seeds)
def test_drawn_effects_lie_in_their_ranges(seed):
    effects = draw_site_effects(["A", "B", "C"], seed=seed)
    assert effects["A"] == NO_SITE_EFFECT
    for effect in (effects["B"], effects["C"]):
        assert 0.08 <= abs(np.log(effect.gain)) <= 0.3
        assert abs(np.log(effect.gamma)) <= 0.25
        assert 0.3 <= effect.blur_mm <= 0.8
        assert 0.01 <= effect.noise <= 0.03
        assert legendre_field(effect.bias, (41, 41, 41)).std() == pytest.approx(0.1, rel=0.12)


def test_an_effect_depends_on_the_seed_and_the_name_alone():
    assert draw_site_effects("ABC", seed=1)["C"] == draw_site_effects("AXCAC", seed=1)["C"]
    assert draw_site_effects("ABC", seed=1)["C"] != draw_site_effects("ABC", seed=2)["C"]


@pytest.mark.parametrize("sites", [[], ["A", None], ["A", float("nan")]])
def test_missing_sites_are_refused(sites):
    with pytest.raises(CohortError, match="sites must be texts"):
        draw_site_effects(iter(sites), seed=0)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    effect = draw_site_effects("AB", seed=0)["B"]
    first, again, other = (apply_site_effect(volume(), MM, effect, seed=seed) for seed in (3, 3, 4))
    assert first.dtype == np.float32
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, other)


@settings(deadline=None)
@given(seed=seeds, unit=st.sampled_from([1e-3, 1.0, -7.0, 1e5]))
def test_no_site_effect_is_the_identity(seed, unit):
    before = volume(seed) * np.float32(unit)
    before[0, 0, 0] = np.nan
    np.testing.assert_array_equal(apply_site_effect(before, MM, NO_SITE_EFFECT, seed=seed), before)


def test_the_input_is_left_alone():
    before = volume()
    kept = before.copy()
    apply_site_effect(before, MM, draw_site_effects("AB", seed=0)["B"], seed=0)
    np.testing.assert_array_equal(before, kept)


def test_regression_recovers_gain_gamma_and_bias():
    drawn = draw_site_effects("AB", seed=5)["B"]
    before = volume(shape=(20, 20, 20))
    after = apply_site_effect(before, MM, SiteEffect(drawn.gain, drawn.gamma, drawn.bias), seed=0)
    scale = intensity_scale(before)
    shading = np.log1p(legendre_field(drawn.bias, before.shape)).ravel()
    design = np.column_stack([np.ones(before.size), np.log(before / scale).ravel(), shading])
    fitted = np.linalg.lstsq(design, np.log(after / scale).ravel(), rcond=None)[0]
    np.testing.assert_allclose(fitted, [np.log(drawn.gain), drawn.gamma, 1.0], atol=1e-3)


def test_noise_has_the_planted_size():
    before = volume(shape=(30, 30, 30))
    after = apply_site_effect(before, MM, SiteEffect(noise=0.02), seed=1)
    assert (after - before).std() / intensity_scale(before) == pytest.approx(0.02, rel=0.03)


def test_blur_is_in_millimetres():
    point = np.zeros((21, 21, 21), dtype=np.float32)
    point[10, 10, 10] = 1.0
    spread = apply_site_effect(point, (0.5, 1.0, 0.5), SiteEffect(blur_mm=1.5), seed=0)
    offsets = (np.arange(21) - 10.0)[:, None, None] * 0.5
    assert np.sqrt((spread * offsets**2).sum() / spread.sum()) == pytest.approx(1.5, rel=0.05)
    assert spread.sum() == pytest.approx(1.0, rel=0.01)


def test_unknown_voxels_stay_and_do_not_spread():
    before = np.full((8, 8, 8), 50.0, dtype=np.float32)
    before[3, 3, 3], before[5, 5, 5] = np.nan, np.inf
    after = apply_site_effect(before, MM, SiteEffect(blur_mm=2.0), seed=0)
    assert np.isnan(after[3, 3, 3])
    assert np.isposinf(after[5, 5, 5])
    np.testing.assert_allclose(after[np.isfinite(before)], 50.0, rtol=1e-5)


@given(seeds)
def test_the_unit_does_not_matter_and_the_sign_is_kept(seed):
    effect = draw_site_effects("AB", seed=seed)["B"]
    before = volume(seed) - np.float32(200)
    after = apply_site_effect(before, MM, effect, seed=1)
    np.testing.assert_allclose(apply_site_effect(before * 64, MM, effect, seed=1), after * 64, rtol=1e-3, atol=1)
    np.testing.assert_allclose(
        apply_site_effect(-before, MM, SiteEffect(gamma=1.2), seed=1),
        -apply_site_effect(before, MM, SiteEffect(gamma=1.2), seed=1),
        rtol=1e-5,
    )


def test_integer_volumes_and_spacings_from_a_header_are_taken():
    before = volume().astype(np.int16)
    effect = draw_site_effects("AB", seed=0)["B"]
    header = tuple(np.float32(MM))
    from_header = apply_site_effect(before, header, effect, seed=0)
    np.testing.assert_array_equal(from_header, apply_site_effect(before, np.array(MM), effect, seed=0))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, float("nan"), 1.0)])
def test_impossible_spacings_are_refused(spacing):
    with pytest.raises(CohortError, match="three positive numbers"):
        apply_site_effect(volume(), spacing, NO_SITE_EFFECT, seed=0)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_empty_volume_is_refused(value):
    with pytest.raises(CohortError, match="no nonzero finite voxel"):
        apply_site_effect(np.full((3, 3, 3), value), MM, SiteEffect(gain=2.0), seed=0)


def test_effects_survive_json():
    effect = draw_site_effects("AB", seed=0)["B"]
    said = json.loads(json.dumps(to_json(effect)))
    assert said["gain"] == effect.gain
    assert tuple(said["bias"]) == effect.bias
    assert len(said["bias_degrees"]) == len(DEGREES)
