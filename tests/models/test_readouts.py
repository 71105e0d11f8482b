import numpy as np
import pytest
from sklearn.linear_model import Ridge

from medrep._persisted import to_state
from medrep._structuring import from_state
from medrep.errors import CovariateError, ModelError
from medrep.models import prediction
from medrep.models.prediction import Prediction, refuse_other_columns


def people(n: int, columns: int, seed: int, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 80, n)
    effect = np.random.default_rng(99).normal(size=columns)
    return 100 + signal * np.outer((age - 50) / 17, effect) + rng.normal(0, 4, (n, columns)), age


def test_the_dual_form_is_the_ridge_regression_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    data, age = people(80, 30, 0)
    monkeypatch.setattr(prediction, "_PENALTIES", np.array([0.7]))
    fitted = Prediction.fit("age", data, age)
    z = (data - data.mean(0)) / data.std(0)
    gram_mean = float(np.linalg.eigvalsh(z @ z.T / 30).mean())
    direct = Ridge(alpha=0.7 * gram_mean * 30).fit(z, age)
    np.testing.assert_allclose(fitted.predict(data), direct.predict(z), rtol=1e-8)


def test_unseen_people_are_predicted_as_well_as_was_forecast() -> None:
    data, age = people(300, 200, 1)
    fitted = Prediction.fit("age", data, age)
    unseen, truth = people(1000, 200, 2)
    error = np.abs(fitted.predict(unseen) - truth).mean()
    assert error == pytest.approx(fitted.mae, rel=0.15)
    gap = fitted.predict(unseen) - truth
    corrected = fitted.predict(unseen, "linear") - truth
    assert np.polyfit(truth, gap, 1)[0] < -0.05
    assert abs(np.polyfit(truth, corrected, 1)[0]) < 0.05


def test_nothing_is_found_where_nothing_is() -> None:
    data, age = people(120, 500, 3)
    shuffled = np.random.default_rng(0).permutation(age)
    assert Prediction.fit("age", data, shuffled).r2 < 0.1
    assert Prediction.fit("age", data, age).r2 > 0.5


def test_missing_and_constant_columns_do_no_harm() -> None:
    data, age = people(100, 40, 4)
    data[:, 3] = 7.0
    data[5, 10] = np.nan
    data[:, 20] = np.nan
    fitted = Prediction.fit("age", data, age)
    assert np.isfinite(fitted.predict(data)).all()
    hole = data[:1].copy()
    hole[0, 0] = np.nan
    filled = hole.copy()
    filled[0, 0] = np.nanmean(data[:, 0])
    np.testing.assert_allclose(fitted.predict(hole), fitted.predict(filled))


def test_the_order_of_people_and_the_units_of_columns_do_not_matter() -> None:
    data, age = people(60, 20, 5)
    fitted = Prediction.fit("age", data, age)
    scaled = Prediction.fit("age", data * 1000 + 5, age)
    np.testing.assert_allclose(fitted.predict(data), scaled.predict(data * 1000 + 5), rtol=1e-8)


def test_it_comes_back_from_its_state_and_refuses_another_models_columns() -> None:
    data, age = people(60, 20, 6)
    fitted = Prediction.fit("age", data, age)
    back = from_state(Prediction, *to_state(fitted))
    for how in ("none", "linear", "tweedie"):
        np.testing.assert_array_equal(back.predict(data, how), fitted.predict(data, how))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"weights of \(20,\), the model has 21 columns"):
        refuse_other_columns(back, 21)
    with pytest.raises(CovariateError, match="predict age: 10 people of training; 20 are needed"):
        Prediction.fit("age", data[:10], age[:10])


@pytest.mark.parametrize(("people", "scans"), [(60, 3), (40, 4), (80, 2)])
def test_scans_of_a_person_do_not_vouch_for_each_other(people, scans):
    rng = np.random.default_rng(people)
    who = np.repeat(np.arange(people), scans)
    data = rng.normal(size=(people, 90))[who] + 0.2 * rng.normal(size=(len(who), 90))
    age = rng.uniform(20, 80, people)[who]
    names = [f"sub-{k}" for k in who]
    assert Prediction.fit("age", data, age).r2 > 0.3
    honest = Prediction.fit("age", data, age, participants=names)
    assert honest.r2 < 0.1
    assert honest.shrinkage.people == people


def test_rows_that_are_people_are_predicted_as_without_saying_so():
    rng = np.random.default_rng(1)
    data, age = rng.normal(size=(40, 6)), rng.uniform(20, 80, 40)
    plain, named = (
        Prediction.fit("age", data, age),
        Prediction.fit("age", data, age, participants=[f"p{k}" for k in range(40)]),
    )
    np.testing.assert_array_equal(plain.weights, named.weights)
    assert plain.r2 == named.r2


def test_twenty_scans_of_few_people_are_too_few():
    rng = np.random.default_rng(2)
    with pytest.raises(CovariateError, match="8 people of training; 20 are needed"):
        Prediction.fit(
            "age", rng.normal(size=(24, 3)), rng.normal(size=24), participants=[str(k % 8) for k in range(24)]
        )
