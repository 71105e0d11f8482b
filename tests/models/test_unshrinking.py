import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep._persisted import to_json
from medrep._structuring import from_json
from medrep.errors import EvidenceError
from medrep.models.prediction import BiasCorrection


def pairs(n: int, slope: float, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(50, 15, n)
    return truth, 50 + slope * (truth - 50) + rng.normal(0, noise, n)


def slope_of(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(np.polyfit(truth, predicted, 1)[0])


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 0.9), st.floats(0.5, 6), st.integers(0, 1000))
def test_a_line_takes_the_shrinkage_of_unseen_people_away(slope: float, noise: float, seed: int) -> None:
    fitted = BiasCorrection.fit(*pairs(2000, slope, noise, seed))
    truth, predicted = pairs(4000, slope, noise, seed + 1)
    undone = fitted.undo(predicted, "linear")
    # Both slopes are known to their own standard errors: of 2000 people here and 4000 there, over a spread of 15 years.
    assert slope_of(undone, truth) == pytest.approx(1, abs=5 * noise / slope / 15 * (1 / 2000 + 1 / 4000) ** 0.5)
    np.testing.assert_array_equal(fitted.undo(predicted, "none"), predicted)


def test_tweedie_agrees_with_the_line_where_everything_is_normal() -> None:
    # A regression's own predictions: y given yhat is right on average, so that errors have the variance that shrinkage took.
    rng = np.random.default_rng(0)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        truth = rng.normal(50, 15, n)
        seen = truth + rng.normal(0, 12, n)
        return truth, 50 + 15**2 / (15**2 + 12**2) * (seen - 50)

    fitted = BiasCorrection.fit(*drawn(5000))
    truth, predicted = drawn(5000)
    inner = np.abs(predicted - 50) < 15
    line, tweedie = (fitted.undo(predicted, how) for how in ("linear", "tweedie"))
    assert slope_of(predicted, truth) < 0.65
    assert slope_of(tweedie, truth) == pytest.approx(1, abs=0.1)
    assert np.abs(line - tweedie)[inner].mean() < 0.2 * np.abs(line - predicted)[inner].mean()


def test_tweedie_mends_the_tails_of_a_distribution_that_is_not_normal() -> None:
    rng = np.random.default_rng(1)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return children and adults, and the best guess of somebody who sees them with noise of 8 years."""
        groups = np.array([25.0, 70.0])
        truth = rng.choice(groups, n, p=[0.7, 0.3]) + rng.normal(0, 8, n)
        seen = truth + rng.normal(0, 8, n)
        odds = np.array([0.7, 0.3]) * np.exp(-((seen[:, None] - groups) ** 2) / (4 * 8**2))
        return truth, ((odds / odds.sum(axis=1, keepdims=True)) * (groups + seen[:, None]) / 2).sum(axis=1)

    fitted = BiasCorrection.fit(*drawn(5000))
    truth, predicted = drawn(5000)
    young = truth < 15
    before, after = (abs((found - truth)[young].mean()) for found in (predicted, fitted.undo(predicted, "tweedie")))
    assert after < 0.5 * before


@pytest.mark.parametrize("how", ["linear", "tweedie"])
def test_predictions_without_error_stay_as_they_are(how: str) -> None:
    truth = np.random.default_rng(2).uniform(20, 80, 300)
    fitted = BiasCorrection.fit(truth, truth.copy())
    np.testing.assert_allclose(fitted.undo(truth, how), truth, atol=1e-6)  # type: ignore[arg-type]


def test_far_from_what_was_seen_the_correction_stays_what_it_was_at_the_end() -> None:
    fitted = BiasCorrection.fit(*pairs(300, 0.5, 3, 3))
    far = np.array([fitted.high, fitted.high + 50, fitted.high + 500])
    np.testing.assert_allclose(np.diff(fitted.undo(far, "tweedie")), np.diff(far))


def test_what_cannot_be_known_is_refused() -> None:
    with pytest.raises(EvidenceError, match="3 people"):
        BiasCorrection.fit(np.arange(3.0), np.arange(3.0))
    with pytest.raises(EvidenceError, match="one value"):
        BiasCorrection.fit(np.ones(50), np.arange(50.0))
    truth = np.random.default_rng(4).normal(size=200)
    flat = BiasCorrection.fit(truth, np.random.default_rng(5).normal(size=200))
    with pytest.raises(EvidenceError, match="too little to be stretched; use --unshrink none"):
        flat.undo(truth, "linear")


def test_it_comes_back_from_json() -> None:
    fitted = BiasCorrection.fit(*pairs(100, 0.6, 2, 6))
    assert from_json(BiasCorrection, to_json(fitted)) == fitted
