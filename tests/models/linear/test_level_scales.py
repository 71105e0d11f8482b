import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cohort.covariates import POOLED
from medrep.models.linear.bands import column_bands
from medrep.models.linear.batch_effects import Borrowing, centre_scales, fit_batches
from medrep.models.linear.design import Design
from medrep.models.linear.fit import Moments, fit_moments
from medrep.models.linear.scales import Apart, log_scales, pooled_level, told_scales, weight_steps
from tests.models.planted import AGE, SETTINGS, SEX, SITE, CovariateSchema, draw_people, fit, moved_by

DECLARED = (AGE, SEX, SITE)


def noisy(scales: list[float], per_site: int, columns: int, only: int | None = None, seed: int = 0) -> tuple:
    """Return people, data, the covariates' part of the data, and the site of each person."""
    rng = np.random.default_rng(seed)
    site = np.repeat(np.arange(len(scales)), per_site)
    frame = draw_people(len(site), 2, seed).assign(site=[f"S{k}" for k in site])
    mean = 0.05 * (frame["age"].to_numpy(float)[:, None] - 50) * rng.normal(size=columns)
    deviation = np.ones((len(scales), columns))
    deviation[:, slice(None) if only is None else only] = (
        np.array(scales) if only is not None else np.array(scales)[:, None]
    )
    data = (
        mean + rng.normal(size=(len(scales), columns))[site] + deviation[site] * rng.normal(size=(len(site), columns))
    )
    return frame, data, mean, site


def spreads(transformed: np.ndarray, site: np.ndarray) -> np.ndarray:
    """Return the geometric mean over columns of each site's deviation."""
    return np.array([np.exp(np.log(transformed[site == k].std(axis=0, ddof=1)).mean()) for k in np.unique(site)])


@pytest.mark.parametrize(
    ("scales", "per_site"),
    [([1, 1, 1, 4], 40), ([1, 1, 1, 30], 40), ([1, 1, 1, 1 / 30], 40), ([1, 1, 30, 30], 40), ([1, 1000], 60)],
)
def test_a_site_of_another_scale_comes_out_like_the_others(scales, per_site):
    frame, data, mean, site = noisy(scales, per_site, 15)
    transformed = moved_by(fit(frame, data, declared=DECLARED), data, frame, {"site": POOLED}) - mean
    found = spreads(transformed, site)
    assert found.max() / found.min() < 1.1
    # The measure of everybody is the geometric mean, so no site among many dictates it.
    assert np.exp(np.log(found).mean()) == pytest.approx(np.exp(np.log(scales).mean()), rel=0.1)


@pytest.mark.parametrize("columns", [10, 60])
def test_a_site_of_another_scale_in_one_column_alone(columns):
    frame, data, mean, site = noisy([1, 1, 1, 30], 50, columns, only=3)
    transformed = moved_by(fit(frame, data, declared=DECLARED), data, frame, {"site": "S0"}) - mean
    assert spreads(transformed[:, [3]], site)[3] == pytest.approx(
        spreads(transformed[:, [3]], site)[:3].mean(), rel=0.25
    )
    rest = spreads(np.delete(transformed, 3, axis=1), site)
    np.testing.assert_allclose(rest, 1, rtol=0.1)


def test_a_noisy_site_does_not_spoil_what_the_others_tell_of_age():
    frame, data, mean, site = noisy([1, 1, 1, 30], 40, 15)
    model = fit(frame, data, declared=DECLARED)
    told = (model.design.effects(frame)[:, 1:] @ model.coefficients[1:])[site < 3]
    error = told - told.mean(axis=0) - (mean[site < 3] - mean[site < 3].mean(axis=0))
    assert np.sqrt((error**2).mean()) < 0.6  # unweighted 2.9


def moments_of(frame: pd.DataFrame, data: np.ndarray) -> tuple[Moments, tuple[slice, ...]]:
    schema = CovariateSchema.fit(frame, DECLARED)
    frame = schema.transfer(frame)
    design = Design.fit(schema, frame, 2, ())
    return fit_moments(data, design, frame), tuple(design.batch_slices().values())


@settings(max_examples=10)
@given(seed=st.integers(0, 99), factor=st.sampled_from([1.0, 3.0, 30.0]))
def test_centring_moves_the_pool_alone(seed, factor):
    frame, data, _, _ = noisy([1, 1, factor], 25, 6, seed=seed)
    moments, parts = moments_of(frame, data)
    bands = column_bands(moments.sd > 0)
    before = fit_batches(moments, Borrowing(lambda: bands, lambda: bands), parts, scale=True)
    after, level = centre_scales(before, moments, parts)
    np.testing.assert_allclose(np.exp(after.log_scale) * level, np.exp(before.log_scale))
    np.testing.assert_array_equal(after.location, before.location)
    np.testing.assert_allclose((moments.freedom[:, None] * after.log_scale).sum(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize("name", ["default", "gain"])
def test_sites_of_like_scale_are_solved_once(name, monkeypatch):
    frame, data, _, _ = noisy([1, 1.5, 0.8], 30, 8)
    transformed = moved_by(fit(frame, data, SETTINGS[name]), data, frame, {"site": "S1"})
    monkeypatch.setattr("medrep.models.linear.least_squares.REWEIGHTINGS", 0)
    np.testing.assert_array_equal(transformed, moved_by(fit(frame, data, SETTINGS[name]), data, frame, {"site": "S1"}))


def test_steps_of_weights():
    freedom, ratio = np.full(4, 50.0), np.ones((4, 3))
    ratio[:, 0] = [0.9, 1.1, 1.05, 0.95]
    ratio[:, 1] = [0.004, 0.004, 0.0041, 3.9]
    ratio[:, 2] = [1.3, 1.3, 1.31, 0.001]
    assert weight_steps(ratio, freedom, (slice(0, 4),), sure=True).T.tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0, 2],
        [0, 0, 0, -3],
    ]
    assert not weight_steps(ratio, np.full(4, 0.2), (slice(0, 4),), sure=False).any()


def test_scales_that_nobody_shares_are_apart():
    rng = np.random.default_rng(0)
    freedom, parts = np.full(4, 40.0), (slice(0, 4),)
    raw = rng.normal(0, 0.15, (4, 30))
    told = np.ones(raw.shape, dtype=bool)
    assert not Apart.of(raw, freedom, told, parts).share.any()
    raw[2, 7] += 3
    found = Apart.of(raw, freedom, told, parts)
    assert np.argwhere(found.share > 0).tolist() == [[2, 7]]
    assert found.excess[2, 7] == pytest.approx(3, abs=0.5)
    told[2, 7] = False
    assert not Apart.of(raw, freedom, told, parts).share.any()


def test_small_sites_are_not_apart_for_a_low_mean_square():
    rng = np.random.default_rng(0)
    freedom = np.array([3.0, 3.0, 100.0])
    ratio = rng.chisquare(freedom[:, None], (3, 2000)) / freedom[:, None]
    share = Apart.of(log_scales(ratio, freedom), freedom, told_scales(ratio, freedom), (slice(0, 3),)).share
    assert (share > 0).mean() < 0.002


def test_the_level_of_the_pool_is_weighed_by_people():
    log_scale = np.log([[1.0], [4.0], [2.0], [8.0]])
    weights = np.array([[30.0], [10.0], [20.0], [0.0]])
    level = pooled_level(log_scale, weights, (slice(0, 2), slice(2, 4)))
    np.testing.assert_allclose(np.exp(level.ravel()), [4**0.25, 4**0.25, 2, 2])


def test_a_column_constant_in_one_site_tells_no_scale_there():
    frame, data, _, site = noisy([1, 1, 1], 30, 6)
    data[site == 2, 3] = 4.0
    model = fit(frame, data, declared=(SITE,))
    own = [model.sd[3] * np.exp(model.batches.log_scale[k, 3]) for k in (0, 1)]
    np.testing.assert_allclose(own, [data[site == k, 3].std(ddof=1) for k in (0, 1)], rtol=0.25)
    np.testing.assert_allclose(
        model.remove(model.dataset(data, frame), {"site": POOLED})[site == 2, 3].std(), 0, atol=1e-9
    )
