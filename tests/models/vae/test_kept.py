"""Kept covariates of three kinds, read from the data of people whose labels nobody looks at."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.models import LinearModel
from medrep.models.vae.components import FactorModel
from medrep.models.vae.latents import Discriminants
from medrep.models.vae.residuals import standardise
from tests.models.planted import Case, draw_people

COLUMNS = 40
KEPT = [("age",), ("sex",), ("site",), ("age", "sex"), ("age", "sex", "site")]


@dataclass(frozen=True)
class World:
    """Effects of age (curved), sex and site in units of each column's residual deviation, and factors in common."""

    age: np.ndarray
    sex: np.ndarray
    site: np.ndarray
    loadings: np.ndarray

    @classmethod
    def plant(cls, seed: int, size: float = 0.4) -> "World":
        rng = np.random.default_rng(seed)
        site = rng.normal(0, size, (3, COLUMNS))
        draw = [rng.normal(0, size, (rows, COLUMNS)) for rows in (2, 1, 3)]
        return cls(draw[0], draw[1], site - site.mean(axis=0), draw[2])

    def effect(self, frame: pd.DataFrame, kept: tuple[str, ...]) -> np.ndarray:
        """Return the part of the data that is due to the kept covariates, centred on these people."""
        age = (frame["age"].to_numpy(float)[:, None] - 53) / 17
        parts = {
            "age": np.concatenate([age, age**2 - 1], axis=1) @ self.age,
            "sex": ((frame["sex"] == "M").to_numpy(float)[:, None] - 0.5) @ self.sex,
            "site": self.site[[int(level[1:]) for level in frame["site"]]],
        }
        whole = sum((parts[name] for name in kept), np.zeros((len(frame), COLUMNS)))
        return whole - whole.mean(axis=0)

    def draw(self, n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
        frame, rng = draw_people(n, 3, seed), np.random.default_rng([seed, 3])
        noise = rng.normal(size=(n, 3)) @ self.loadings + 0.6 * rng.normal(size=(n, COLUMNS))
        return frame, 5 + self.effect(frame, ("age", "sex", "site")) + noise


@dataclass(frozen=True)
class Fitted:
    linear: LinearModel
    factors: FactorModel
    covariance: np.ndarray

    @classmethod
    def on(cls, frame: pd.DataFrame, data: np.ndarray) -> "Fitted":
        linear = Case(frame, data).fit()
        factors = FactorModel.fit(linear.residuals(linear.dataset(data, frame)), len(frame) - 10.0, 6, seed=0)
        return cls(linear, factors, np.cov(linear.design.effects(frame)[:, 1:], rowvar=False))

    def readout(self, kept: tuple[str, ...]) -> Discriminants:
        return Discriminants.of(self.linear, self.factors, self.covariance, kept)


@pytest.fixture(scope="module")
def world() -> World:
    return World.plant(0)


@pytest.fixture(scope="module")
def fitted(world) -> Fitted:
    return Fitted.on(*world.draw(600, 0))


@pytest.fixture(scope="module")
def unknown(world) -> tuple[pd.DataFrame, np.ndarray]:
    return world.draw(600, 1)


@pytest.mark.parametrize("kept", KEPT, ids="+".join)
def test_planted_effects_are_read_from_the_data_of_new_people(world, fitted, unknown, kept):
    frame, data = unknown
    removed = [name for name in ("age", "sex", "site") if name not in kept]
    h = standardise(fitted.linear, data, frame, removed).astype(np.float64)
    found = fitted.readout(kept).effect(h) * fitted.linear.sd
    truth = world.effect(frame, kept)
    found = found - found.mean(axis=0)
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.8
    # It is an expectation: on average the truth is as large as what is read.
    assert (found * truth).sum() / (found**2).sum() == pytest.approx(1, abs=0.15)


def test_what_is_read_of_one_covariate_does_not_move_with_another_that_is_removed(world, fitted, unknown):
    frame, data = unknown
    found = fitted.readout(("age",)).effect(standardise(fitted.linear, data, frame, ["sex", "site"]))
    male = (frame["sex"] == "M").to_numpy()
    age = frame["age"].to_numpy(float)
    design = np.stack([np.ones(len(frame)), age, age**2, male], axis=1)
    difference = np.linalg.lstsq(design, found)[0][3]
    assert np.abs(difference).max() < 0.1 * np.abs(world.effect(frame, ("age",)) / fitted.linear.sd).max()


@pytest.mark.parametrize("kept", KEPT, ids="+".join)
@given(seed=st.integers(0, 999))
def test_restoring_gives_back_what_lies_in_the_span_of_kept_effects(fitted, kept, seed):
    readout, rng = fitted.readout(kept), np.random.default_rng(seed)
    h, transformed = rng.normal(size=(2, 5, COLUMNS))
    assert len(readout.span) > 0
    back = readout.restore(transformed, h)
    np.testing.assert_allclose(back @ readout.span.T, h @ readout.span.T, atol=1e-9)
    np.testing.assert_allclose(readout.restore(back, h), back, atol=1e-9)
    np.testing.assert_allclose(readout.restore(h, h), h)
    across = np.eye(COLUMNS) - readout.span.T @ readout.span
    np.testing.assert_allclose(back @ across, transformed @ across, atol=1e-9)


@pytest.mark.parametrize("kept", [("age",), ("sex",), ("age", "sex")], ids="+".join)
def test_kept_effects_keep_their_size_whatever_else_is_dropped(world, fitted, unknown, kept):
    frame, data = unknown
    removed = [name for name in ("age", "sex", "site") if name not in kept]
    h = standardise(fitted.linear, data, frame, removed).astype(np.float64)
    restored = fitted.readout(kept).restore(np.zeros_like(h), h) * fitted.linear.sd
    truth = world.effect(frame, kept)
    restored = restored - restored.mean(axis=0)
    assert (restored * truth).sum() / (truth**2).sum() == pytest.approx(1, abs=0.15)


def test_nothing_kept_restores_nothing(fitted):
    readout = fitted.readout(())
    h, transformed = np.random.default_rng(0).normal(size=(2, 5, COLUMNS))
    assert readout.functionals.shape == (COLUMNS, 0)
    np.testing.assert_array_equal(readout.effect(h), 0)
    np.testing.assert_array_equal(readout.restore(transformed, h), transformed)


def test_columns_that_never_vary_carry_nothing(world):
    frame, data = world.draw(200, 2)
    data[:, 3] = 1.0
    readout = Fitted.on(frame, data).readout(("age", "sex"))
    assert not readout.functionals[3].any()
    np.testing.assert_allclose(readout.expected[:, 3], 0, atol=1e-12)
    np.testing.assert_allclose(readout.span[:, 3], 0, atol=1e-9)
