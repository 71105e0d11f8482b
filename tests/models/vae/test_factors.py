import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.models.chunks import ChunkSource
from medrep.models.vae.components import FactorModel


def source(h: np.ndarray) -> ChunkSource:
    return ChunkSource(h.shape, lambda part: h[:, part].copy())


def planted(rng: np.random.Generator, factors: int, columns: int, *, still: int = 0) -> FactorModel:
    """Draw loadings and a different noise for each column; some columns never vary."""
    loadings = rng.normal(size=(factors, columns))
    loadings *= (np.linspace(3, 1, factors) / np.maximum(np.linalg.norm(loadings, axis=1), 1e-9))[:, None]
    noise = rng.uniform(0.2, 0.8, columns)
    loadings[:, :still], noise[:still] = 0, 0
    return FactorModel(loadings, noise)


def dense(model: FactorModel) -> np.ndarray:
    return model.loadings.T @ model.loadings + np.diag(model.noise)


@st.composite
def models(draw: st.DrawFn) -> FactorModel:
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    return planted(rng, draw(st.integers(0, 4)), draw(st.integers(5, 12)), still=draw(st.integers(0, 2)))


def test_planted_factors_and_noise_are_found():
    rng = np.random.default_rng(0)
    truth = planted(rng, 3, 40, still=1)
    h = rng.normal(size=(3000, 3)) @ truth.loadings + rng.normal(size=(3000, 40)) * np.sqrt(truth.noise)
    found = FactorModel.fit(source(h), 3000.0, 3, seed=0)
    assert np.linalg.norm(dense(found) - dense(truth)) < 0.1 * np.linalg.norm(dense(truth))
    np.testing.assert_allclose(found.noise[1:], truth.noise[1:], rtol=0.4)
    assert found.noise[0] == 0
    assert not found.loadings[:, 0].any()
    assert (np.diff(np.linalg.norm(found.loadings, axis=1)) <= 0).all()


@given(seed=st.integers(0, 999), count=st.integers(1, 9))
def test_the_variance_of_every_column_is_kept(seed, count):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(50, 8)) @ rng.normal(size=(8, 8)) * np.array([0, *[1.0] * 7])
    found = FactorModel.fit(source(h), 50.0, count, seed=seed)
    # Where the factors explain more of a column than it varies, some noise is left to it all the same.
    assert (np.diag(dense(found)) >= (h**2).mean(axis=0) * (1 - 1e-9)).all()
    assert len(found.loadings) <= count
    np.testing.assert_array_equal(found.noise > 0, np.arange(8) > 0)
    again = FactorModel.fit(source(3 * h), 50.0, count, seed=seed)
    np.testing.assert_allclose(dense(again), 9 * dense(found), atol=1e-8 * np.abs(dense(again)).max())


@given(model=models(), ridge=st.sampled_from([0.0, 0.1, 2.0]), seed=st.integers(0, 99))
def test_solving_is_dividing_by_the_covariance(model, ridge, seed):
    columns = np.random.default_rng(seed).normal(size=(len(model.noise), 3))
    varies = model.noise > 0
    covariance = dense(model)[np.ix_(varies, varies)]
    expected = np.zeros_like(columns)
    expected[varies] = np.linalg.solve(
        covariance + ridge * np.trace(covariance) / varies.sum() * np.eye(varies.sum()), columns[varies]
    )
    np.testing.assert_allclose(model.solve(columns, ridge), expected, atol=1e-8)
    np.testing.assert_allclose(model.times(columns), dense(model) @ columns, atol=1e-10)
    np.testing.assert_allclose(model.solve(model.times(columns)), columns * varies[:, None], atol=1e-8)
    np.testing.assert_allclose(model.precision()[varies], 1 / model.noise[varies])


@given(model=models(), latents=st.integers(0, 4), beta=st.sampled_from([0.3, 1.0, 4.0]))
def test_the_posterior_is_that_of_joint_gaussians(model, latents, beta):
    loadings, rest = model.loadings[:latents], model.loadings[latents:]
    varies = model.noise > 0
    # beta on the KL term is the same as a decoder with beta times the variance.
    noise = beta * (model.noise + (rest**2).sum(axis=0))[varies]
    seen = loadings[:, varies]
    gain = seen @ np.linalg.inv(seen.T @ seen + np.diag(noise))
    encode, variance = model.posterior(latents, beta)
    np.testing.assert_allclose(encode[:, varies], gain, atol=1e-8)
    assert not encode[:, ~varies].any()
    np.testing.assert_allclose(variance, np.diag(np.eye(len(loadings)) - gain @ seen.T), atol=1e-8)


@pytest.mark.parametrize("eta", [1.0, 0.5])
@pytest.mark.parametrize("beta", [1.2, 2.0, 3.5, 5.5, 12.0])
def test_the_forecast_counts_conditional_eigenvalues_above_beta_times_the_decoders_variance(beta, eta):
    rng = np.random.default_rng(1)
    values = np.array([10.0, 5.0, 3.0, 1.7, *[1.0] * 16]) * eta**2
    turn = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    h = rng.normal(size=(20_000, 20)) * np.sqrt(values) @ turn.T
    found = FactorModel.fit(source(h), 20_000.0, 20, seed=0, noise=eta)
    active = found.active(beta)
    assert active == (values > beta * eta**2).sum()
    assert active == (np.linalg.eigvalsh(h.T @ h / 20_000) > beta * eta**2).sum()
    learnt = FactorModel.fit(source(h), 20_000.0, 4, seed=0)
    assert learnt.active(beta) == active


def test_a_column_is_in_units_of_its_own_noise_for_the_forecast():
    model = FactorModel(np.array([[2.0, 0.0], [0.0, 0.2]]), np.array([4.0, 0.01]))
    assert [model.active(beta) for beta in (1.0, 1.9, 2.1, 4.9, 5.1)] == [2, 2, 1, 1, 0]


def test_noise_alone_has_no_factors():
    rng = np.random.default_rng(0)
    found = FactorModel.fit(source(rng.normal(size=(5000, 10)) * 0.9), 5000.0, 4, seed=0, noise=1.0)
    assert len(found.loadings) == found.active(1.0) == 0
    np.testing.assert_array_equal(found.noise, 1.0)
    encode, variance = found.posterior(4, 1.0)
    assert (encode.shape, variance.shape) == ((0, 10), (0,))
