import numpy as np
import pandas as pd
import pytest

from medrep.audit.counterfactuals import Predictor, counterfactual_fairness, outcome_predictor
from medrep.audit.predictors import split
from medrep.errors import CohortError
from tests.audit.test_counterfactuals import AGE_EFFECT, DATA, PEOPLE, WHO, faulty

MODEL = faulty("none")


def fairness(predict, **options):
    found = counterfactual_fairness(
        Predictor(predict), MODEL, MODEL.dataset(DATA, PEOPLE), 0, **{"draws": 200, **options}
    )
    return {f.group: f for f in found}


def test_a_constant_is_fair():
    found = fairness(lambda data: np.ones(len(data)))
    assert set(found) == {"age", "sex", "site"}
    assert all((f.estimate, f.ci_high, f.status) == (0, 0, "ok") for f in found.values())


def test_the_change_is_the_effect_that_was_planted():
    found = fairness(lambda data: data[:, 0], targets={"age": (40.0, 60.0)})
    own = PEOPLE["age"].to_numpy()
    expected = np.mean([np.abs(own - 40), np.abs(own - 60)]) / 10 * abs(AGE_EFFECT[0])
    assert found["age"].estimate == pytest.approx(expected, rel=0.15)
    assert found["age"].ci_low < found["age"].estimate < found["age"].ci_high
    assert found["age"].n == 260


def test_a_predictor_that_looks_at_age_alone_is_unfair_to_age_alone():
    # A direction that age moves, and sex and site do not.
    beside = np.stack([MODEL.coefficients[-1], *(MODEL.batches.location - MODEL.batches.location[0])[1:]])
    direction = AGE_EFFECT - np.linalg.pinv(beside) @ (beside @ AGE_EFFECT)
    found = fairness(lambda data: data @ direction, targets={"age": (40.0, 60.0), "sex": ("F", "M")})
    assert found["age"].ci_low > 5 * found["sex"].ci_high


def test_shares_of_classes_change_by_the_total_variation():
    def predict(data):
        p = 1 / (1 + np.exp(-data[:, 0]))
        return np.stack([p, 1 - p], axis=1)

    one = fairness(lambda data: predict(data)[:, 0])
    for name, finding in fairness(predict).items():
        assert finding.estimate == pytest.approx(one[name].estimate)


def test_the_default_predictor():
    train, test = split(MODEL.dataset(DATA, PEOPLE), 0)
    outcome = pd.Series(np.where(DATA[:, 0] > np.median(DATA[:, 0]), "ill", "well"), name="diagnosis")
    predict = outcome_predictor(DATA[train], outcome.iloc[train], WHO[train], 0)
    shares = predict.answers(DATA[test])
    assert shares.shape == (len(test), 2)
    assert ((shares[:, 0] > 0.5) == (outcome.iloc[test] == "ill")).mean() > 0.85
    number = outcome_predictor(DATA[train], pd.Series(DATA[train, 1], name="score"), WHO[train], 0, continuous=True)
    assert np.corrcoef(number.answers(DATA[test]), DATA[test, 1])[0, 1] > 0.95
    with pytest.raises(CohortError, match="score cannot be learned"):
        outcome_predictor(DATA[:4], pd.Series(DATA[:4, 1], name="score"), WHO[:4], 0, continuous=True)


def test_few_people_say_nothing():
    found = counterfactual_fairness(
        Predictor(lambda data: data[:, 0]), MODEL, MODEL.dataset(DATA[:5], PEOPLE.iloc[:5]), 0
    )
    assert {f.status for f in found} == {"insufficient"}
