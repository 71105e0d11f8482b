import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.cohort.covariates import Covariate, CovariateSchema
from medrep.errors import CovariateError
from medrep.models.linear.design import Design
from medrep.models.linear.fit import Moments, fit_moments
from tests.models.planted import DECLARED, draw_data, draw_people


def prepared(frame: pd.DataFrame) -> tuple[Design, pd.DataFrame]:
    schema = CovariateSchema.fit(frame, DECLARED)
    frame = schema.transfer(frame)
    return Design.fit(schema, frame, 4, ()), frame


def moments_of(frame: pd.DataFrame, data: np.ndarray) -> tuple[Design, pd.DataFrame, Moments]:
    design, frame = prepared(frame)
    return design, frame, fit_moments(data, design, frame)


def expected(design: Design, frame: pd.DataFrame, column: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Return coefficients, sd and level ratios by plain least squares on the people who have a value."""
    known = np.isfinite(column)
    frame, column = frame[known], column[known]
    levels = design.batches(frame)
    X = design.full(frame) @ design.contrasts(levels.any(axis=0))
    solution = np.linalg.lstsq(X, column)[0]
    residual = column - X @ solution
    hat = np.diag(X @ np.linalg.pinv(X))
    sd = np.sqrt((residual**2).sum() / (len(column) - X.shape[1]))
    ratio = np.array([(residual[own] ** 2).sum() / (1 - hat[own]).sum() for own in (levels.T > 0) if own.any()]) / sd**2
    return design.contrasts(levels.any(axis=0)) @ solution, float(sd), ratio


@given(
    n=st.integers(30, 60),
    sites=st.integers(2, 4),
    columns=st.integers(1, 5),
    seed=st.integers(0, 999),
    holes=st.sampled_from([0.0, 0.02, 0.1]),
)
def test_agrees_with_plain_least_squares_column_by_column(n, sites, columns, seed, holes):
    frame = draw_people(n, sites, seed)
    data = draw_data(frame, columns, seed)
    data[np.random.default_rng(seed).random(data.shape) < holes] = np.nan
    design, frame, moments = moments_of(frame, data)
    assert len(moments.unfitted) == 0
    for k in range(columns):
        coefficients, sd, ratio = expected(design, frame, data[:, k])
        np.testing.assert_allclose(moments.coefficients[:, k], coefficients, atol=1e-7)
        assert moments.sd[k] == pytest.approx(sd)
        np.testing.assert_allclose(moments.ratio[:, k], ratio, rtol=1e-6)


@given(seed=st.integers(0, 999))
def test_a_missing_cell_does_not_touch_other_columns(seed):
    frame = draw_people(40, 3, seed)
    data = draw_data(frame, 4, seed)
    holed = data.copy()
    holed[7, 2] = np.nan
    whole, part = moments_of(frame, data)[2], moments_of(frame, holed)[2]
    for name in ("coefficients", "sd", "ratio", "total"):
        np.testing.assert_allclose(getattr(part, name)[..., [0, 1, 3]], getattr(whole, name)[..., [0, 1, 3]])


def test_a_column_that_a_whole_site_lacks_is_fitted_on_the_others():
    frame = draw_people(60, 3, 0)
    data = draw_data(frame, 3, 0)
    away = (frame["site"] == "S1").to_numpy()
    data[away, 1] = np.nan
    design, frame, moments = moments_of(frame, data)
    assert len(moments.unfitted) == 0
    coefficients, sd, _ = expected(design, frame, data[:, 1])
    np.testing.assert_allclose(moments.coefficients[:, 1], coefficients, atol=1e-8)
    assert moments.sd[1] == pytest.approx(sd)
    assert moments.coefficients[6 + 1, 1] == 0
    assert moments.ratio[1, 1] == 1


@pytest.mark.parametrize("left", [0, 1, 6])
def test_a_column_with_too_few_values_is_set_aside(left):
    frame = draw_people(60, 3, 0)
    data = draw_data(frame, 3, 0)
    data[left:, 1] = np.nan
    moments = moments_of(frame, data)[2]
    assert moments.unfitted.tolist() == [1]
    assert moments.sd[1] == 0
    np.testing.assert_array_equal(moments.coefficients[:, 1], 0)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("rest", ["few", "whole numbers"])
def test_a_column_that_is_mostly_one_value_is_set_aside(rest, holes):
    frame = draw_people(300, 3, 0)
    data = draw_data(frame, 3, 0)
    stuck = np.random.default_rng(0).permutation(300) < 300 * (0.96 if rest == "few" else 0.57)
    data[stuck, 1] = 0
    if rest == "whole numbers":
        data[:, 1] = np.round(data[:, 1] / 10)
    if holes:
        data[::3, 1] = np.nan
    moments = moments_of(frame, data)[2]
    assert moments.atoms.tolist() == [1]
    assert moments.sd[1] == 0
    np.testing.assert_array_equal(moments.coefficients[1:, 1], 0)


def test_a_column_of_few_values_is_fitted():
    frame = draw_people(300, 3, 0)
    data = np.round(draw_data(frame, 3, 0))
    assert len(moments_of(frame, data)[2].atoms) == 0


@pytest.mark.parametrize("value", [0.0, 1.0, -3e7, 0.1])
def test_a_constant_column_has_no_deviation(value):
    frame = draw_people(40, 3, 0)
    data = draw_data(frame, 2, 0)
    data[:, 1] = value
    moments = moments_of(frame, data)[2]
    assert moments.sd[1] == 0
    np.testing.assert_allclose(moments.coefficients[1:, 1], 0, atol=1e-9 * max(1, abs(value)))


@given(seed=st.integers(0, 999))
def test_the_order_of_people_does_not_matter(seed):
    frame = draw_people(150, 3, seed)
    data, order = draw_data(frame, 3, seed), np.random.default_rng(seed).permutation(150)
    one, other = moments_of(frame, data)[2], moments_of(frame.iloc[order], data[order])[2]
    for name in ("coefficients", "sd", "total", "ratio", "freedom", "leverage", "residuals"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), atol=1e-5 if name == "residuals" else 1e-9)


def test_freedom_and_leverage():
    frame = draw_people(60, 3, 0)
    design, frame, moments = moments_of(frame, draw_data(frame, 2, 0))
    reduced = design.full(frame) @ design.contrasts()
    assert moments.freedom.sum() == pytest.approx(60 - reduced.shape[1])
    covariance = design.contrasts() @ np.linalg.inv(reduced.T @ reduced) @ design.contrasts().T
    np.testing.assert_allclose(moments.leverage, np.diag(covariance)[6:])


def test_tangled_batch_covariates_share_the_credit_for_scale():
    rng = np.random.default_rng(0)
    frame = draw_people(600, 2, 0)
    second = (frame["site"] == "S1").to_numpy()
    turned = np.where(rng.random(600) < 0.85, second, ~second)
    frame["coil"] = np.where(turned, "C1", "C0").tolist()
    data = rng.normal(size=(600, 20)) * np.where(second, 2.0, 1.0)[:, None]
    schema = CovariateSchema.fit(frame, (*DECLARED, Covariate("coil", "categorical", "batch")))
    ratio = fit_moments(data, Design.fit(schema, frame, 1, ()), frame).ratio.mean(axis=1)
    assert ratio[1] / ratio[0] == pytest.approx(4, rel=0.1)
    assert ratio[3] / ratio[2] == pytest.approx(1, rel=0.1)


def test_total_is_the_variance_over_people():
    frame = draw_people(60, 3, 0)
    data = draw_data(frame, 3, 0)
    np.testing.assert_allclose(moments_of(frame, data)[2].total, data.var(axis=0))


def test_progress_counts_every_column():
    frame = draw_people(40, 3, 0)
    design, frame = prepared(frame)
    done: list[int] = []
    fit_moments(np.zeros((40, 50_000), dtype=np.float32), design, frame, done.append)
    assert sum(done) == 50_000
    assert len(done) > 1


def test_a_known_level_that_nobody_has_is_refused():
    frame = draw_people(60, 3, 0)
    design, frame = prepared(frame)
    some = (frame["site"] != "S2").to_numpy()
    with pytest.raises(CovariateError, match="site alone has more columns than its values support"):
        fit_moments(np.zeros((int(some.sum()), 2)), design, frame[some])
