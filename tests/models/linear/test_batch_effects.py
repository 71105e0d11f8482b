import numpy as np
import pandas as pd
import pytest

from medrep.cohort.covariates import CovariateSchema
from medrep.models.linear.bands import column_bands
from medrep.models.linear.batch_effects import (
    BatchEffects,
    Borrowing,
    NewLevel,
    fit_batches,
    shrink_new_level,
)
from medrep.models.linear.design import Design
from medrep.models.linear.fit import fit_moments
from tests.models.planted import AGE, SITE, draw_people

pytestmark = pytest.mark.rounding


def borrowing(columns: int) -> Borrowing:
    bands = column_bands(np.ones(columns, dtype=bool))
    return Borrowing(lambda: bands, lambda: bands)


def effects_of(frame: pd.DataFrame, data: np.ndarray, *, scale: bool = True) -> BatchEffects:
    schema = CovariateSchema.fit(frame, (AGE, SITE))
    frame = schema.transfer(frame)
    moments = fit_moments(data, Design.fit(schema, frame, 1, ()), frame)
    return fit_batches(moments, borrowing(data.shape[1]), (slice(0, len(moments.freedom)),), scale=scale)


def sized(sizes: dict[str, int], seed: int = 0) -> pd.DataFrame:
    frame = draw_people(sum(sizes.values()), 2, seed)
    return frame.assign(site=[name for name, size in sizes.items() for _ in range(size)])


def test_planted_location_and_scale_are_found():
    rng = np.random.default_rng(0)
    frame = sized({"A": 400, "B": 400})
    site = (frame["site"] == "B").to_numpy().astype(int)
    location, scale = rng.normal(0, 1, (2, 50)), np.exp(rng.normal(0, 0.4, (2, 50)))
    effects = effects_of(frame, location[site] + scale[site] * rng.normal(size=(800, 50)))
    np.testing.assert_allclose(effects.location[1] - effects.location[0], location[1] - location[0], atol=0.4)
    found = effects.log_scale[1] - effects.log_scale[0]
    np.testing.assert_allclose(found, np.log(scale[1] / scale[0]), atol=0.2)


def test_without_batch_effects_next_to_nothing_is_found():
    frame = sized({"A": 60, "B": 60})
    effects = effects_of(frame, np.random.default_rng(0).normal(size=(120, 200)))
    assert np.sqrt((effects.location**2).mean()) < 0.03
    assert np.sqrt((effects.log_scale**2).mean()) < 0.03


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_the_scale_of_a_small_site_is_not_biased(size):
    frame = sized({"A": 100, "B": 100, "C": size})
    found = [
        effects_of(frame, np.random.default_rng(seed).normal(size=(200 + size, 100))).log_scale[2].mean()
        for seed in range(12)
    ]
    # Uncorrected, the log of a mean square on 1, 2, 4 and 9 degrees of freedom is low by 0.64, 0.29, 0.14 and 0.06.
    assert abs(np.mean(found)) < 0.06


@pytest.mark.parametrize("size", [10, 30])
def test_a_scale_that_all_columns_share_is_no_noise(size):
    frame = sized({"A": size, "B": size, "C": size})
    scale = frame["site"].map({"A": 1.0, "B": 1.5, "C": 0.7}).to_numpy()[:, None]
    found = [
        effects_of(frame, scale * np.random.default_rng(seed).normal(size=(3 * size, 60))).log_scale.mean(axis=1)
        for seed in range(6)
    ]
    differences = np.mean(found, axis=0)
    assert differences[1] - differences[2] == pytest.approx(np.log(1.5 / 0.7), rel=0.25)


def test_shrinking_beats_the_raw_estimates():
    rng = np.random.default_rng(1)
    frame = sized({"A": 12, "B": 12, "C": 200})
    site = frame["site"].map({"A": 0, "B": 1, "C": 2}).to_numpy()
    truth = np.concatenate(
        [0.5 + 0.15 * rng.normal(size=(1, 300)), 0.15 * rng.normal(size=(1, 300)), np.zeros((1, 300))]
    )
    data = truth[site] + rng.normal(size=(224, 300))
    found = effects_of(frame, data).location
    raw = np.stack([data[site == k].mean(axis=0) - data.mean(axis=0) for k in range(3)])
    centred = truth - truth[site].mean(axis=0)
    assert ((found - centred)[:2] ** 2).mean() < 0.4 * ((raw - centred)[:2] ** 2).mean()


def test_one_person_has_a_location_and_the_pooled_scale():
    frame = sized({"A": 60, "B": 60, "C": 1})
    data = np.random.default_rng(0).normal(size=(121, 30))
    data[-1] += 50
    effects = effects_of(frame, data)
    np.testing.assert_array_equal(effects.log_scale[2], 0)
    np.testing.assert_allclose(effects.location[2], 50, atol=5)
    assert np.isfinite(effects.location_noise).all()


def test_one_column_and_one_person():
    frame = sized({"A": 30, "B": 30, "C": 1})
    effects = effects_of(frame, np.random.default_rng(0).normal(size=(61, 1)))
    assert np.isfinite(effects.location).all()
    np.testing.assert_array_equal(effects.log_scale[2], 0)


def test_without_scale_all_scales_are_one():
    frame = sized({"A": 60, "B": 60})
    data = np.random.default_rng(0).normal(size=(120, 30)) * np.where(frame["site"] == "B", 3.0, 1.0)[:, None]
    np.testing.assert_array_equal(effects_of(frame, data, scale=False).log_scale, 0)


def test_a_column_that_is_constant_within_sites_is_believed():
    frame = sized({"A": 30, "B": 30})
    data = np.random.default_rng(0).normal(size=(60, 10))
    data[:, 3] = np.where(frame["site"] == "B", 7.0, 2.0)
    effects = effects_of(frame, data)
    assert effects.location[1, 3] - effects.location[0, 3] == pytest.approx(5)
    np.testing.assert_array_equal(effects.log_scale[:, 3], 0)


def new_level(people: int, seed: int = 0) -> tuple:
    rng = np.random.default_rng(seed)
    trained = effects_of(sized({"A": 100, "B": 100}), rng.normal(size=(200, 80)))
    rows = 1 + 2 * rng.normal(size=(people, 80))
    variance = rows.var(axis=0, ddof=1) if people > 1 else np.ones(80)
    varies = np.ones(80, dtype=bool)
    return shrink_new_level(
        trained, borrowing(80), NewLevel(people, rows.mean(axis=0), variance), varies, scaled=np.zeros(80), scale=True
    )


@pytest.mark.parametrize("people", [3, 20, 500])
def test_a_new_level_is_estimated_without_bias(people):
    levels = [new_level(people, seed) for seed in range(8)]
    assert np.mean([location.mean() for location, *_ in levels]) == pytest.approx(1, abs=0.1)
    assert np.mean([log_scale.mean() for _, log_scale, *_ in levels]) == pytest.approx(np.log(2), abs=0.06)
    location_se, log_scale_se = levels[0][2]
    assert location_se == pytest.approx(2 / np.sqrt(people), rel=0.2)
    assert log_scale_se == pytest.approx(np.sqrt(0.5 / (people - 1)), rel=0.5)


def test_a_new_level_of_one_person():
    location, log_scale, (location_se, log_scale_se), kept = new_level(1)
    assert np.isfinite(location).all()
    np.testing.assert_array_equal(log_scale, 0)
    assert log_scale_se is None
    assert location_se == pytest.approx(1)
    assert all(0 <= share <= 1 for share in kept)


def test_columns_that_do_not_vary_do_not_touch_a_new_level():
    rng = np.random.default_rng(0)
    trained = effects_of(sized({"A": 100, "B": 100}), rng.normal(size=(200, 80)))
    varies = np.arange(80) < 40
    bands = column_bands(varies)
    mean, variance = np.where(varies, rng.normal(1, 0.1, 80), 0), np.where(varies, rng.normal(4, 0.3, 80), 0)
    scaled = np.zeros(len(mean))
    one = shrink_new_level(
        trained,
        Borrowing(lambda: bands, lambda: bands),
        NewLevel(20, mean, variance),
        varies,
        scaled=scaled,
        scale=True,
    )
    spread = variance + 9 * ~varies
    other = shrink_new_level(
        trained, Borrowing(lambda: bands, lambda: bands), NewLevel(20, mean, spread), varies, scaled=scaled, scale=True
    )
    np.testing.assert_array_equal(one[1], other[1])
    assert np.exp(one[1][varies]).mean() == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("only", [None, 5])
def test_the_scale_of_a_noisy_new_level_is_not_held_back(only):
    rng = np.random.default_rng(3)
    trained = effects_of(sized({"A": 100, "B": 100}), rng.normal(size=(200, 80)))
    scale = np.full(80, 30.0) if only is None else np.where(np.arange(80) == only, 30.0, 1.0)
    rows, varies = scale * rng.normal(size=(30, 80)), np.ones(80, dtype=bool)
    given = (NewLevel(30, rows.mean(axis=0), rows.var(axis=0, ddof=1)), varies)
    _, log_scale, _, _ = shrink_new_level(trained, borrowing(80), *given, scaled=np.zeros(80), scale=True)
    left = rows[:, :6].std(axis=0, ddof=1) / np.exp(log_scale[:6])
    np.testing.assert_allclose(left, 1, atol=0.35)
    assert left[5] == pytest.approx(1, abs=0.2)
    np.testing.assert_allclose(log_scale - np.log(scale), 0, atol=0.4)
